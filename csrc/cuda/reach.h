// Which tiles a 2D Gaussian touches, for counting and for writing alike; and how a warp shares the work on 32 of them,
// so that a huge one does not delay the others.
#pragma once
#include "../math/primitive/primitive.h"
#include "../math/tile.h"
#include "stage.h"

namespace SPLATLEARN_NAMESPACE {

SPLATLEARN_DEVICE int64_t camera_of(const splatlearn_BinInputs &in, int64_t row) {
    return in.camera_ids ? in.camera_ids[row] : row / (in.n_rows / in.n_cameras);
}

// The rows of tiles that a 2D Gaussian reaches, and its span in each. A row of no camera reaches none.
template <class S> struct Reach {
    S a = S(0), b = S(0), c = S(0), level = S(0), x = S(0), y = S(0);
    int width, height;
    int first = 0, last = 0;  // rows of tiles, half-open

    // Of row `row`; empty where there is no such row.
    template <class Primitive> SPLATLEARN_DEVICE Reach(Primitive, const splatlearn_BinInputs &in, int64_t row)
        : width(in.width), height(in.height) {
        if (row >= in.n_rows || in.radii[2 * row] <= 0 || in.radii[2 * row + 1] <= 0) return;
        if (in.camera_ids && (in.camera_ids[row] < 0 || in.camera_ids[row] >= in.n_cameras)) return;
        const S *mean = static_cast<const S *>(in.means2d) + 2 * row;
        const S *shape = static_cast<const S *>(in.conics) + Primitive::kShape * row;
        const S opacity = static_cast<const S *>(in.opacities)[row];
        const Ellipse<S> ellipse = Primitive::ellipse(shape, opacity, log2_threshold(S(in.alpha_threshold)));
        a = ellipse.a;
        b = ellipse.b;
        c = ellipse.c;
        level = ellipse.level;
        x = mean[0];
        y = mean[1];
        if (!(level >= S(0))) return;
        const Interval<S> pixels = ellipse_in_slab(transposed(ellipse), S(-1e9), S(1e9));
        int top, bottom;
        pixels_of_interval(pixels.low, pixels.high, y, height, top, bottom);
        if (top < bottom) tiles_of_pixels(top, bottom, first, last);
    }

    // The tiles of one camera that it reaches in a row of tiles, half-open.
    SPLATLEARN_DEVICE void span(int row, int &begin, int &end) const {
        S low, high;
        int left, right;
        slab_of_tiles(row, height, y, low, high);
        const Interval<S> pixels = ellipse_in_slab(a, b, c, level, low, high);
        pixels_of_interval(pixels.low, pixels.high, x, width, left, right);
        tiles_of_pixels(left, right, begin, end);
        begin += row * tiles_across(width);
        end += row * tiles_across(width);
    }

    // That of another lane.
    SPLATLEARN_DEVICE Reach of(int lane) const {
        Reach other = *this;
        other.a = __shfl_sync(kFull, a, lane);
        other.b = __shfl_sync(kFull, b, lane);
        other.c = __shfl_sync(kFull, c, lane);
        other.level = __shfl_sync(kFull, level, lane);
        other.x = __shfl_sync(kFull, x, lane);
        other.y = __shfl_sync(kFull, y, lane);
        other.first = __shfl_sync(kFull, first, lane);
        return other;
    }
};

// ---- the work of a warp, shared evenly; every lane takes part in all of it ----

// Sum over this lane and those below it.
template <class T> SPLATLEARN_DEVICE T warp_scan(T value) {
    const int lane = threadIdx.x % kWarp;
    for (int offset = 1; offset < kWarp; offset *= 2) {
        const T other = __shfl_up_sync(kFull, value, offset);
        if (lane >= offset) value += other;
    }
    return value;
}

// The last lane whose number is at most `wanted`; numbers ascend, and lane 0 has one that is.
SPLATLEARN_DEVICE int last_lane_at_most(int number, int wanted) {
    int found = 0;
    for (int step = kWarp / 2; step > 0; step /= 2)
        if (__shfl_sync(kFull, number, found + step) <= wanted) found += step;
    return found;
}

// Calls f(k, owner, begin, end) for the spans of the lanes' Gaussians in order, 32 at a time, one per lane: k counts
// the spans, owner is the lane of the Gaussian, begin..end-1 are the tiles. A lane without a span calls f with an empty
// one.
template <class S, class F> SPLATLEARN_DEVICE void for_spans(const Reach<S> &mine, F f) {
    const int lane = threadIdx.x % kWarp, rows = mine.last - mine.first;
    const int behind = warp_scan(rows), start = behind - rows, total = __shfl_sync(kFull, behind, kWarp - 1);
    for (int k = lane; k - lane < total; k += kWarp) {
        const int owner = last_lane_at_most(start, k);
        const int row = k - __shfl_sync(kFull, start, owner);
        const Reach<S> reach = mine.of(owner);
        int begin = 0, end = 0;
        if (k < total) reach.span(reach.first + row, begin, end);
        f(k, owner, begin, end);
    }
}

SPLATLEARN_DEVICE int clamp_to_warp(int lane) { return lane < 0 ? 0 : lane > kWarp ? kWarp : lane; }

// The number of tiles that this lane's Gaussian touches.
template <class S> SPLATLEARN_DEVICE int count_tiles(const Reach<S> &mine) {
    const int lane = threadIdx.x % kWarp, rows = mine.last - mine.first, first = warp_scan(rows) - rows;
    int tiles = 0;
    for_spans(mine, [&](int k, int, int begin, int end) {
        // Of this round's spans, low..high-1 are this lane's.
        const int sums = warp_scan(end - begin), round = k - lane;
        const int low = clamp_to_warp(first - round), high = clamp_to_warp(first + rows - round);
        const int upper = __shfl_sync(kFull, sums, high > 0 ? high - 1 : 0),
                  lower = __shfl_sync(kFull, sums, low > 0 ? low - 1 : 0);
        if (high > low) tiles += upper - (low > 0 ? lower : 0);
    });
    return tiles;
}

// Calls f(i, owner, tile) for the instances of the lanes' Gaussians in order, 32 at a time, one per lane: i counts the
// instances, tile is a tile of the owner's camera. A lane without an instance calls f with a negative i.
template <class S, class F> SPLATLEARN_DEVICE void for_instances(const Reach<S> &mine, F f) {
    const int lane = threadIdx.x % kWarp;
    int done = 0;
    for_spans(mine, [&](int, int span_owner, int begin, int end) {
        const int behind = warp_scan(end - begin), start = behind - (end - begin),
                  total = __shfl_sync(kFull, behind, kWarp - 1);
        for (int i = lane; i - lane < total; i += kWarp) {
            const int span = last_lane_at_most(start, i);
            const int owner = __shfl_sync(kFull, span_owner, span), tile = i + __shfl_sync(kFull, begin - start, span);
            f(i < total ? done + i : -1, owner, tile);
        }
        done += total;
    });
}

}  // namespace SPLATLEARN_NAMESPACE
