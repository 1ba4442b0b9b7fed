// What the forward and the backward of the blend share on the CPU: packed splats, where a tile lies and its list, the
// order of pixels and of tiles. A tile is the unit of work, its blocks of 4x4 pixels are SIMD lanes, and its list
// passes over them 64 splats at a time.
#pragma once
#include "cpu.h"

#include "../math/blend.h"
#include "../math/tile.h"

namespace SPLATLEARN_NAMESPACE {

constexpr int kPixels = kTile * kTile;
constexpr int kBlock = 4, kAcross = kTile / kBlock, kBlocks = kAcross * kAcross,
              kBlockPixels = kBlock * kBlock;  // a tile is blocks of 4x4 pixels, 4x4 of them
constexpr int kChunk = 64;                     // splats at a time: one a bit of a mask
constexpr int kMoments = 6;  // columns of a gradient row: 6 moments, D colours, 2 absolute mean gradients

template <class S> struct Scene {
    const splatlearn_RasterizeInputs &in;
    Buffer<Splat<S>> splats;
    S log2_cut, stop_below;
    int tiles_x, tiles_y;
    int64_t tiles;

    explicit Scene(const splatlearn_RasterizeInputs &inputs)
        : in(inputs), splats(inputs.n_rows), log2_cut(log2_threshold(S(inputs.alpha_threshold))),
          // Backward recovers T by division, so a pixel always stops before T leaves the range of normal numbers.
          stop_below(maximum(S(inputs.transmittance_threshold), sizeof(S) == 4 ? S(1e-35) : S(1e-300))),
          tiles_x(tiles_across(inputs.width)), tiles_y(tiles_across(inputs.height)),
          tiles(inputs.n_cameras * tiles_x * tiles_y) {
        const S *means = static_cast<const S *>(in.means2d), *conics = static_cast<const S *>(in.conics),
                *opacities = static_cast<const S *>(in.opacities);
        if (!splats) return;
#pragma omp parallel for schedule(static) num_threads(in.context.threads)
        for (int64_t row = 0; row < in.n_rows; ++row)
            if (opacities[row] > S(0)) splats[row] = pack_splat(means + 2 * row, conics + 3 * row, opacities[row]);
    }
};

// Pixels of a tile are in memory block by block.
inline int in_blocks(int x, int y) {
    return (y / kBlock * kAcross + x / kBlock) * kBlock * kBlock + y % kBlock * kBlock + x % kBlock;
}

// The row of pixels of a tile.
template <class T> SPLATLEARN_HD void row_of_blocks(const T *pixels, int row, T *out) {
    for (int column = 0; column < kAcross; ++column)
        std::memcpy(out + column * kBlock, pixels + in_blocks(column * kBlock, row), kBlock * sizeof(T));
}

// Where a tile lies, and its list.
struct TilePlace {
    int64_t camera, begin, count;
    int x, y, width, height;  // first pixel and extent, px
    int image_width, image_height;

    template <class S> TilePlace(const Scene<S> &scene, int64_t tile)
        : image_width(scene.in.width), image_height(scene.in.height) {
        const int64_t per_image = int64_t(scene.tiles_x) * scene.tiles_y;
        camera = tile / per_image;
        begin = scene.in.tile_offsets[tile];
        count = scene.in.tile_offsets[tile + 1] - begin;
        x = int(tile % per_image % scene.tiles_x) * kTile;
        y = int(tile % per_image / scene.tiles_x) * kTile;
        width = image_width - x < kTile ? image_width - x : kTile;
        height = image_height - y < kTile ? image_height - y : kTile;
    }
    int64_t pixel(int row) const { return (camera * image_height + y + row) * image_width + x; }

    // Has the tile's part of an image of so many scalars a pixel on its way into the cache: its rows lie too far apart
    // for the machine to foresee.
    template <bool written, class T> void prefetch(const T *pixels, int scalars) const {
        for (int row = 0; row < height; ++row) {
            const char *const begin = reinterpret_cast<const char *>(pixels + pixel(row) * scalars);
            for (int64_t at = 0; at < int64_t(width) * scalars * int64_t(sizeof(T)); at += 64)
                __builtin_prefetch(begin + at, written);
        }
    }
};

// Centres of a tile's pixels from its corner, in their order.
template <class S> struct Centres {
    alignas(64) S x[kPixels], y[kPixels];
    Centres() {
        for (int i = 0; i < kTile; ++i)
            for (int j = 0; j < kTile; ++j) {
                x[in_blocks(j, i)] = S(j) + S(0.5);
                y[in_blocks(j, i)] = S(i) + S(0.5);
            }
    }
};

// Up to kChunk splats of a tile's list, gathered into the first cache as arrays, relative to the tile's corner.
template <class S, int D> struct Chunk {
    static constexpr int L = Lanes<S>::count;
    alignas(64) S x[kChunk], y[kChunk], a[kChunk], b[kChunk], c[kChunk], log2_opacity[kChunk];
    S color[kChunk * (D ? D : 1)];  // [kChunk][D]

    // Has what a list names on its way into the cache, while something else is worked on: on its own each would be
    // waited for.
    static void prefetch(const Scene<S> &scene, const int32_t *ids, int64_t n) {
        const S *const colors = static_cast<const S *>(scene.in.colors);
        for (int64_t i = 0; i < n; ++i) {
            __builtin_prefetch(&scene.splats[ids[i]]);
            if (D) __builtin_prefetch(colors + int64_t(ids[i]) * D);
        }
    }

    void gather(const Scene<S> &scene, const TilePlace &place, const int32_t *ids, int n) {
        const S *const colors = static_cast<const S *>(scene.in.colors);
        for (int i = 0; i < n; ++i) {
            const Splat<S> &splat = scene.splats[ids[i]];
            x[i] = splat.x - S(place.x);
            y[i] = splat.y - S(place.y);
            a[i] = splat.a;
            b[i] = splat.b;
            c[i] = splat.c;
            log2_opacity[i] = splat.log2_opacity;
            for (int d = 0; d < D; ++d) color[i * D + d] = colors[int64_t(ids[i]) * D + d];
        }
        for (int i = n; i % L; ++i) {  // whole registers; what is behind the end reaches nothing
            x[i] = y[i] = b[i] = S(0);
            a[i] = c[i] = S(1);
            log2_opacity[i] = scene.log2_cut - S(1);
        }
    }

    // Calls visit(block, mask) with the splats i..i+L-1 that reach pixels of a block: of a row of blocks an ellipse
    // covers one interval.
    template <class F> SPLATLEARN_HD void for_blocks(int i, const TilePlace &place, S log2_cut, F visit) const {
        const Lanes<S> at_x = load(x + i), at_y = load(y + i), A = load(a + i), half_b = S(0.5) * load(b + i),
                       C = load(c + i);
        const Lanes<S> level = load(log2_opacity + i) - log2_cut;
        for (int row = 0; row * kBlock < place.height; ++row) {
            const S top = S(row * kBlock) + S(0.5), bottom = minimum(top + S(kBlock - 1), S(place.height) - S(0.5));
            Interval<Lanes<S>> span = ellipse_in_slab(A, half_b, C, level, top - at_y, bottom - at_y);
            const auto some = (span.low <= span.high) & (level >= Lanes<S>());
            span.low = span.low + at_x;
            span.high = span.high + at_x;
            for (int column = 0; column * kBlock < place.width; ++column) {
                const S left = S(column * kBlock) + S(0.5),
                        right = minimum(left + S(kBlock - 1), S(place.width) - S(0.5));
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

// Adds the rows of each Gaussian in their order and turns moments into gradients (rasterize_sums.cpp).
template <class S> void sum_rows(const splatlearn_RasterizeBackward &grad, const Scene<S> &scene, int columns_of_row);

}  // namespace SPLATLEARN_NAMESPACE
