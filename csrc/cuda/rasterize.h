// What the files of stage rasterize share: where the threads of a tile stand, what they load, and what its backward hands on.
//
// A block is a 16x16 tile of 128 threads; a warp has 8x8 of its pixels, a thread two of them. The tile's list passes through
// shared memory in batches of records. Each lane of a warp first tests one of them against the warp's two 8x4 halves, with
// the ellipse test that made the lists; ballots then name those that the warp walks.
#pragma once
#include "../math/tile.h"
#include "record.h"

namespace SPLATLEARN_NAMESPACE {

constexpr int kTileThreads = 128;
constexpr int kTileWarps = kTileThreads / kWarp;
constexpr int kHalfWidth = 8, kHalfHeight = 4;  // the pixels of a warp are two halves of this size, one above the other
constexpr int kMoments = 6;                     // of a gradient row: 6 moments, D colours, 2 absolute mean gradients
constexpr int kSumsBefore = 8;                  // of sums made by atomic additions: 6 moments, 2 absolute, D colours, in fours

// Blocks that a multiprocessor is to hold at once: up to 72 registers a thread, 168 for double.
template <class S> constexpr int kResident = sizeof(S) == 4 ? 7 : 3;

SPLATLEARN_HD int64_t tiles_of(const splatlearn_RasterizeInputs &in) {
    return in.n_cameras * tiles_across(in.width) * tiles_across(in.height);
}

// Where a block's tile lies, its list, and this thread's two pixels.
struct Place {
    int64_t camera, begin;
    int count;        // instances of the list
    int x, y;         // first pixel of the warp's upper half
    int lane, warp;
    int pixel_x, pixel_y;
    bool inside[2];
    int64_t pixel[2];

    SPLATLEARN_DEVICE explicit Place(const splatlearn_RasterizeInputs &in) {
        const int tiles_x = tiles_across(in.width);
        const int64_t tile = blockIdx.x, per_image = int64_t(tiles_x) * tiles_across(in.height);
        const int64_t in_image = tile % per_image;
        camera = tile / per_image;
        begin = in.tile_offsets[tile];
        count = int(in.tile_offsets[tile + 1] - begin);
        lane = threadIdx.x % kWarp;
        warp = threadIdx.x / kWarp;
        x = int(in_image % tiles_x) * kTile + warp % 2 * kHalfWidth;
        y = int(in_image / tiles_x) * kTile + warp / 2 * 2 * kHalfHeight;
        pixel_x = x + lane % kHalfWidth;
        pixel_y = y + lane / kHalfWidth;
        for (int half = 0; half < 2; ++half) {
            const int row = pixel_y + half * kHalfHeight;
            inside[half] = pixel_x < in.width && row < in.height;
            pixel[half] = (camera * in.height + row) * in.width + pixel_x;
        }
    }
};

// The block's threads copy the records of n rows, at most their own number, each a whole one in vector loads.
template <class S> SPLATLEARN_DEVICE void load_records(const splatlearn_RasterizeInputs &in, int64_t first, int n, Record<S> *to) {
    if (int(threadIdx.x) < n) to[threadIdx.x] = static_cast<const Record<S> *>(in.records)[in.row_ids[first + threadIdx.x]];
}

// Whether the ellipse reaches pixel centres of the 8x4 half whose first pixel is (x, y).
template <class S> SPLATLEARN_DEVICE bool reaches(const Splat<S> &splat, S log2_cut, int x, int y) {
    const S top = S(y) + S(0.5) - splat.y, left = S(x) + S(0.5) - splat.x;
    const S level = splat.log2_opacity - log2_cut, bottom = top + S(kHalfHeight - 1);
    const Interval<S> span = ellipse_in_slab(splat.a, S(0.5) * splat.b, splat.c, level, top, bottom);
    return span.low <= span.high && span.high >= left && span.low <= left + S(kHalfWidth - 1);
}

// What of log2 alpha a thread's two pixels share, for they lie in one column.
template <class S> struct Column {
    S dx, constant, linear;
    SPLATLEARN_DEVICE Column(const Splat<S> &splat, int pixel_x) {
        dx = S(pixel_x) + S(0.5) - splat.x;
        constant = splat.log2_opacity - splat.a * dx * dx;
        linear = -splat.b * dx;
    }
    SPLATLEARN_DEVICE S log2_alpha(const Splat<S> &splat, S dy) const { return constant + dy * (linear - splat.c * dy); }
};

// ---- what backward hands from its walk (rasterize_backward.cu) to its sums (rasterize_sums.cu) ----

template <class S> struct BackwardParams {
    splatlearn_RasterizeBackward grad;
    S log2_cut;
    int first_channel;  // of those whose colour gradients are summed
    Part<S> *sums;      // [M][parts_of(D)] for atomic additions, zero before; null: rows of gradients are written
};

SPLATLEARN_HD int parts_of(int channels) { return (kSumsBefore + channels + 3) / 4; }

// Gradients of the 2D Gaussians from what the walk left, and of the backgrounds from the pixels.
template <class S> int gradients_of_rows(const BackwardParams<S> &params);
template <class S> int gradients_of_backgrounds(const splatlearn_RasterizeBackward &grad, S *tile_sums);

}  // namespace SPLATLEARN_NAMESPACE
