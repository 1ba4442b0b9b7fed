// What forward and backward of stage rasterize share on the CPU: packed splats, a tile and its list, the order of
// pixels and of tiles. A tile is the unit of work. Its pixels lie in blocks of 4x4, which are SIMD lanes. Its list
// passes over them in batches of 64 splats.
#pragma once
#include "cpu.h"

#include "../math/blend.h"
#include "../math/primitive/primitive.h"
#include "../math/tile.h"

namespace SPLATLEARN_NAMESPACE {

constexpr int kTilePixels = kTile * kTile;
// A tile is 4x4 blocks of 4x4 pixels.
constexpr int kBlock = 4, kAcross = kTile / kBlock, kBlocks = kAcross * kAcross, kBlockPixels = kBlock * kBlock;
constexpr int kBatch = 64;  // splats of a batch: one per bit of a mask

// The inputs of a call with the records of its listed splats.
template <class S, class Primitive> struct BlendInputs {
    const splatlearn_RasterizeInputs &inputs;
    Buffer<S> records;  // [M][kScalars]
    S log2_cut, stop_below;
    int tiles_x, tiles_y;
    int64_t tiles;

    explicit BlendInputs(const splatlearn_RasterizeInputs &in)
        : inputs(in), records(in.n_rows * Primitive::kScalars), log2_cut(log2_threshold(S(in.alpha_threshold))),
          stop_below(transmittance_floor<S>(in.transmittance_threshold)), tiles_x(tiles_across(in.width)),
          tiles_y(tiles_across(in.height)), tiles(in.n_cameras * tiles_x * tiles_y) {
        const S *means = static_cast<const S *>(in.means2d), *shapes = static_cast<const S *>(in.conics);
        const S *opacities = static_cast<const S *>(in.opacities);
        if (!records) return;
#pragma omp parallel for schedule(static) num_threads(in.context.threads)
        for (int64_t row = 0; row < in.n_rows; ++row)
            if (opacities[row] > S(0))
                Primitive::pack(means + 2 * row, shapes + Primitive::kShape * row, opacities[row], record(row));
    }

    S *record(int64_t row) const { return records.get() + row * Primitive::kScalars; }
};

// The place of a tile's pixel in memory, which is block by block.
inline int in_blocks(int x, int y) {
    return (y / kBlock * kAcross + x / kBlock) * kBlock * kBlock + y % kBlock * kBlock + x % kBlock;
}

// A tile: its pixels and its list.
struct Tile {
    int64_t camera, begin, count;
    int x, y, width, height;  // first pixel and extent, px
    int image_width, image_height;

    template <class S, class Primitive> Tile(const BlendInputs<S, Primitive> &in, int64_t tile)
        : image_width(in.inputs.width), image_height(in.inputs.height) {
        const int64_t per_image = int64_t(in.tiles_x) * in.tiles_y;
        camera = tile / per_image;
        begin = in.inputs.tile_offsets[tile];
        count = in.inputs.tile_offsets[tile + 1] - begin;
        x = int(tile % per_image % in.tiles_x) * kTile;
        y = int(tile % per_image / in.tiles_x) * kTile;
        width = image_width - x < kTile ? image_width - x : kTile;
        height = image_height - y < kTile ? image_height - y : kTile;
    }
    int64_t pixel(int row) const { return (camera * image_height + y + row) * image_width + x; }

    // Prefetches the tile's part of an image of `scalars` scalars per pixel: its rows lie too far apart for the
    // hardware to foresee.
    template <bool written, class T> void prefetch(const T *pixels, int scalars) const {
        for (int row = 0; row < height; ++row) {
            const char *const begin = reinterpret_cast<const char *>(pixels + pixel(row) * scalars);
            for (int64_t at = 0; at < int64_t(width) * scalars * int64_t(sizeof(T)); at += 64)
                __builtin_prefetch(begin + at, written);
        }
    }
};

// Centres of a tile's pixels from its corner, in their order.
template <class S> struct PixelCenters {
    alignas(64) S x[kTilePixels], y[kTilePixels];
    PixelCenters() {
        for (int i = 0; i < kTile; ++i)
            for (int j = 0; j < kTile; ++j) {
                x[in_blocks(j, i)] = S(j) + S(0.5);
                y[in_blocks(j, i)] = S(i) + S(0.5);
            }
    }
};

// Up to kBatch splats of a tile's list, gathered into the first cache as arrays, relative to the tile's corner.
template <class S, class Primitive, int D> struct SplatBatch {
    static constexpr int L = Lanes<S>::count, kScalars = Primitive::kScalars;
    template <class R> using Splat = typename Primitive::template Splat<R>;
    alignas(64) S scalars[kScalars][kBatch];
    S color[kBatch * (D ? D : 1)];  // [kBatch][D]

    Splat<S> splat(int i) const {
        return Primitive::template unpack<S>([&](int j) { return scalars[j][i]; });
    }
    Splat<Lanes<S>> broadcast(int i) const {
        return Primitive::template unpack<Lanes<S>>([&](int j) { return Lanes<S>(scalars[j][i]); });
    }
    Splat<Lanes<S>> lanes(int i) const {  // splats i..i+L-1
        return Primitive::template unpack<Lanes<S>>([&](int j) { return load(scalars[j] + i); });
    }

    // Prefetches the n splats of a list while others are worked on.
    static void prefetch(const BlendInputs<S, Primitive> &in, const int32_t *ids, int64_t n) {
        const S *const colors = static_cast<const S *>(in.inputs.colors);
        for (int64_t i = 0; i < n; ++i) {
            __builtin_prefetch(in.record(ids[i]));
            if (D) __builtin_prefetch(colors + int64_t(ids[i]) * D);
        }
    }

    void gather(const BlendInputs<S, Primitive> &in, const Tile &tile, const int32_t *ids, int n) {
        const S *const colors = static_cast<const S *>(in.inputs.colors);
        for (int i = 0; i < n; ++i) {
            const S *const record = in.record(ids[i]);
            scalars[0][i] = record[0] - S(tile.x);
            scalars[1][i] = record[1] - S(tile.y);
            for (int j = 2; j < kScalars; ++j) scalars[j][i] = record[j];
            for (int d = 0; d < D; ++d) color[i * D + d] = colors[int64_t(ids[i]) * D + d];
        }
        for (int i = n; i % L; ++i)  // whole registers: the last splat again, which callers leave out
            for (int j = 0; j < kScalars; ++j) scalars[j][i] = scalars[j][n - 1];
    }

    // Calls visit(block, mask) with the splats i..i+L-1 that reach pixels of a block.
    template <class F> SPLATLEARN_HD void for_blocks(int i, const Tile &tile, S log2_cut, F visit) const {
        const Splat<Lanes<S>> those = lanes(i);
        const Ellipse<Lanes<S>> ellipse = Primitive::ellipse(those, log2_cut);
        for (int row = 0; row * kBlock < tile.height; ++row) {
            const S top = S(row * kBlock) + S(0.5), bottom = minimum(top + S(kBlock - 1), S(tile.height) - S(0.5));
            Interval<Lanes<S>> span = ellipse_in_slab(ellipse, top - those.y, bottom - those.y);
            const auto some = (span.low <= span.high) & (ellipse.level >= Lanes<S>());
            span.low = span.low + those.x;
            span.high = span.high + those.x;
            for (int column = 0; column * kBlock < tile.width; ++column) {
                const S left = S(column * kBlock) + S(0.5);
                const S right = minimum(left + S(kBlock - 1), S(tile.width) - S(0.5));
                visit(row * kAcross + column, some & (span.low <= right) & (span.high >= left));
            }
        }
    }
};

// Tiles by falling length of their lists, so that the last ones to be worked on are short.
inline void longest_first(const int64_t *tile_offsets, int64_t tiles, int64_t *order) {
    constexpr int kBuckets = 2048;
    int64_t starts[kBuckets + 1] = {};
    auto bucket = [&](int64_t tile) {
        int64_t length = (tile_offsets[tile + 1] - tile_offsets[tile]) / 4;
        return kBuckets - 1 - int(length < kBuckets ? length : kBuckets - 1);
    };
    for (int64_t tile = 0; tile < tiles; ++tile) ++starts[bucket(tile) + 1];
    for (int b = 0; b < kBuckets; ++b) starts[b + 1] += starts[b];
    for (int64_t tile = 0; tile < tiles; ++tile) order[starts[bucket(tile)]++] = tile;
}

// Adds the gradient rows of each Gaussian in their order and turns moments into gradients (rasterize_sums.cpp).
template <class S, class Primitive>
void sum_rows(const splatlearn_RasterizeBackward &grad, const BlendInputs<S, Primitive> &in);

}  // namespace SPLATLEARN_NAMESPACE
