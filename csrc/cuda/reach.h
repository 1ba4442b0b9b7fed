// Which tiles a 2D Gaussian touches, for counting and for writing alike, so that the two cannot disagree.
#pragma once
#include "../math/tile.h"
#include "stage.h"

namespace SPLATLEARN_NAMESPACE {

SPLATLEARN_DEVICE int64_t camera_of(const splatlearn_BinInputs &in, int64_t row) {
    return in.camera_ids ? in.camera_ids[row] : row / (in.n_rows / in.n_cameras);
}

// The rows of tiles that it reaches, and its span in each. A row of no camera reaches none.
template <class S> struct Reach {
    S a, b, c, level, x, y;
    int width, height;
    int first, last;  // rows of tiles, half-open

    SPLATLEARN_DEVICE Reach(const splatlearn_BinInputs &in, int64_t row) : width(in.width), height(in.height), first(0), last(0) {
        if (in.radii[2 * row] <= 0 || in.radii[2 * row + 1] <= 0) return;
        if (in.camera_ids && (in.camera_ids[row] < 0 || in.camera_ids[row] >= in.n_cameras)) return;
        const S *mean = static_cast<const S *>(in.means2d) + 2 * row, *conic = static_cast<const S *>(in.conics) + 3 * row;
        a = conic[0]; b = conic[1]; c = conic[2];
        x = mean[0]; y = mean[1];
        level = ellipse_level(static_cast<const S *>(in.opacities)[row], log2_threshold(S(in.alpha_threshold)));
        if (!(level >= S(0))) return;
        const Interval<S> pixels = ellipse_in_slab(c, b, a, level, S(-1e9), S(1e9));
        int top, bottom;
        pixels_of_interval(pixels.low, pixels.high, y, height, top, bottom);
        if (top >= bottom) return;
        first = top / kTile;
        last = (bottom - 1) / kTile + 1;
    }

    // The tiles of one camera that it reaches in a row of tiles, half-open.
    SPLATLEARN_DEVICE void span(int row, int &begin, int &end) const {
        const int below = (row + 1) * kTile < height ? (row + 1) * kTile : height;
        const Interval<S> pixels = ellipse_in_slab(a, b, c, level, S(row * kTile) + S(0.5) - y, S(below) - S(0.5) - y);
        int left, right;
        pixels_of_interval(pixels.low, pixels.high, x, width, left, right);
        begin = end = row * tiles_across(width);
        if (left >= right) return;
        end = begin + (right - 1) / kTile + 1;
        begin += left / kTile;
    }
};

}  // namespace SPLATLEARN_NAMESPACE
