// What the files of stage rasterize share: where the threads of a tile stand, what they bring in, and what its backward
// hands on.
//
// A block is a 16x16 tile. Its pixels are eight units of 8x4, four in the left half and four in the right; a warp has P
// of them, one above the other, and so each of its threads has P pixels in a column. The tile's list passes through
// shared memory in batches; the thread that brings a record in also finds the units that it reaches (units.h). Ballots
// over these masks then name what a warp walks, and what it evaluates of each splat.
//
// P is 2 forward: the longest list is waited for, and so gets four warps. Backward walks a long list in spans, side by
// side, for forward has kept the transmittance and colour of the pixels between them; it has the more work that pixels
// can share, and P is 4.
#pragma once
#include "../math/blend.h"
#include "record.h"
#include "units.h"

namespace SPLATLEARN_NAMESPACE {

// Sums made by atomic additions, in fours: the moments, 2 absolute mean gradients, D colours.
template <class Primitive> constexpr int kSumsBefore = (Primitive::kMoments + 2 + 3) / 4 * 4;
constexpr int kSpan = SPLATLEARN_SPAN;

template <int P> constexpr int kThreads = kTile *kTile / P;
template <int P> constexpr int kWarps = kThreads<P> / kWarp;
// Blocks that a multiprocessor is to hold at once: up to 72 registers a thread of two pixels, 80 of four, 168 for
// double.
template <class S, int P> constexpr int kResident = (sizeof(S) == 8 ? 12 : P == 2 ? 28 : 24) / kWarps<P>;

SPLATLEARN_HD int64_t tiles_of(const splatlearn_RasterizeInputs &in) {
    return in.n_cameras * tiles_across(in.width) * tiles_across(in.height);
}

// A block's tile, its list, and this thread's pixels.
template <int P> struct TileThread {
    int64_t camera, begin;
    int count;             // instances of the list, or of the span of it that is walked
    int x, y;              // first pixel of the tile
    int lane, warp, unit;  // unit: the uppermost of the warp
    int pixel_x, pixel_y;  // the uppermost of the thread
    int width, height;
    bool last = true;  // the list ends with what is walked

    SPLATLEARN_DEVICE TileThread(const splatlearn_RasterizeInputs &in, int tile) : width(in.width), height(in.height) {
        const int tiles_x = tiles_across(width), per_image = tiles_x * tiles_across(height);
        const int in_image = tile % per_image;
        camera = tile / per_image;
        begin = in.tile_offsets[tile];
        count = int(in.tile_offsets[tile + 1] - begin);
        lane = threadIdx.x % kWarp;
        warp = threadIdx.x / kWarp;
        unit = warp % 2 * kUnitRows + warp / 2 * P;
        x = in_image % tiles_x * kTile;
        y = in_image / tiles_x * kTile;
        pixel_x = x + warp % 2 * kUnitWidth + lane % kUnitWidth;
        pixel_y = y + warp / 2 * P * kUnitHeight + lane / kUnitWidth;
    }
    // Of the list only up to `length` instances from `first` on.
    SPLATLEARN_DEVICE void narrow(int first, int length) {
        begin += first;
        count -= first;
        last = count <= length;
        if (!last) count = length;
    }
    SPLATLEARN_DEVICE bool inside(int r) const { return pixel_x < width && pixel_y + r * kUnitHeight < height; }
    SPLATLEARN_DEVICE int64_t pixel(int r) const {
        return (camera * height + pixel_y + r * kUnitHeight) * width + pixel_x;
    }
    // What a pixel has where instance `at` of the lists begins a span but no list: 1 + D numbers
    // (RasterizeForward.checkpoints).
    template <class S> SPLATLEARN_DEVICE S *checkpoint(S *checkpoints, int64_t at, int r, int channels) const {
        const int in_tile = (pixel_y - y + r * kUnitHeight) * kTile + pixel_x - x;
        return checkpoints + (at / kSpan * (kTile * kTile) + in_tile) * (1 + channels);
    }
};

// A batch of a tile's list in shared memory.
template <class S, class Primitive, int Size> struct SplatBatch {
    Record<S, Primitive> *records;  // [Size]
    uint8_t *reached;               // [Size] the units that each reaches

    // The block's threads load n records from position `first` of the list on, each a whole one in vector loads.
    template <int P> SPLATLEARN_DEVICE void load(const splatlearn_RasterizeInputs &in, const TileThread<P> &tile,
                                                 int first, int n, S log2_cut) const {
        static_assert(Size <= kThreads<P>, "a thread loads one record");
        const int i = threadIdx.x;
        if (i >= n) return;
        records[i] = static_cast<const Record<S, Primitive> *>(in.records)[in.row_ids[tile.begin + first + i]];
        const auto splat = records[i].splat();
        reached[i] = uint8_t(reached_units(Primitive::ellipse(splat, log2_cut), splat.x, splat.y, tile.x, tile.y));
    }
};

// Writes tile_order and spans (rasterize_order.cu).
int order_tiles(const splatlearn_RasterizeForward &out);

// ---- what backward hands from its walk (rasterize_backward.cu) to its sums (rasterize_sums.cu) ----

template <class S> struct BackwardParams {
    splatlearn_RasterizeBackward grad;
    S log2_cut;
    int first_channel;  // of those whose colour gradients are summed
    Part<S> *sums;      // [M][parts_of(D)] for atomic additions, zero before; null: gradient rows are written
};

template <class Primitive> SPLATLEARN_HD int parts_of(int channels) {
    return (kSumsBefore<Primitive> + channels + 3) / 4;
}
template <class Primitive> SPLATLEARN_HD GradientRow<Primitive> gradient_row(const splatlearn_RasterizeInputs &in) {
    return {in.channels, in.absgrad != 0};
}

// Gradients of the 2D Gaussians from what the walk left, and of the backgrounds from the pixels.
template <class S, class Primitive> int gradients_of_rows(const BackwardParams<S> &params);
template <class S> int gradients_of_backgrounds(const splatlearn_RasterizeBackward &grad, S *tile_sums);

}  // namespace SPLATLEARN_NAMESPACE
