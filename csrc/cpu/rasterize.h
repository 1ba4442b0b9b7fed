// What the forward and the backward of the blend share on the CPU: packed splats, where a tile lies, the rows that a splat reaches in
// it, and the order of tiles. A tile is the unit of work, its pixel rows are SIMD lanes, and the Gaussians of its list pass over it.
#pragma once
#include "cpu.h"

#include "../math/blend.h"
#include "../math/tile.h"

namespace SPLATLEARN_NAMESPACE {

constexpr int kPixels = kTile * kTile;
constexpr int kMoments = 6;               // columns of a gradient row: 6 moments, D colours, 2 absolute mean gradients

template <class S> struct Scene {
    const splatlearn_RasterizeInputs &in;
    Buffer<Splat<S>> splats;
    S log2_cut, stop_below;
    int tiles_x, tiles_y;
    int64_t tiles;

    explicit Scene(const splatlearn_RasterizeInputs &inputs)
        : in(inputs), splats(inputs.n_rows), log2_cut(log2_threshold(S(inputs.alpha_threshold))),
          // Backward recovers T by division, so a pixel always stops before T leaves the range of normal numbers.
          stop_below(maximum(S(inputs.transmittance_threshold), sizeof(S) == 4 ? S(1e-35) : S(1e-300))), tiles_x(tiles_across(inputs.width)),
          tiles_y(tiles_across(inputs.height)), tiles(inputs.n_cameras * tiles_x * tiles_y) {
        const S *means = static_cast<const S *>(in.means2d), *conics = static_cast<const S *>(in.conics), *opacities = static_cast<const S *>(in.opacities);
        if (!splats) return;
#pragma omp parallel for schedule(static) num_threads(in.context.threads)
        for (int64_t row = 0; row < in.n_rows; ++row)
            if (opacities[row] > S(0)) splats[row] = pack_splat(means + 2 * row, conics + 3 * row, opacities[row]);
    }
};

// Where a tile lies, and its list.
struct TilePlace {
    int64_t camera, begin, count;
    int x, y, width, height;  // first pixel and extent, px

    template <class S> TilePlace(const Scene<S> &scene, int64_t tile) {
        const int64_t per_image = int64_t(scene.tiles_x) * scene.tiles_y;
        camera = tile / per_image;
        begin = scene.in.tile_offsets[tile];
        count = scene.in.tile_offsets[tile + 1] - begin;
        x = int(tile % per_image % scene.tiles_x) * kTile;
        y = int(tile % per_image / scene.tiles_x) * kTile;
        width = scene.in.width - x < kTile ? scene.in.width - x : kTile;
        height = scene.in.height - y < kTile ? scene.in.height - y : kTile;
    }
    int64_t pixel(int image_width, int image_height, int row) const { return (camera * image_height + y + row) * image_width + x; }
};

// The rows of a tile that each of up to one register of splats reaches.
template <class S> struct RowRanges {
    int first[Lanes<S>::count], last[Lanes<S>::count];

    RowRanges(const Scene<S> &scene, const TilePlace &place, const int32_t *ids, int n) {
        constexpr int L = Lanes<S>::count;
        S field[6][L];
        for (int i = 0; i < L; ++i) {
            const Splat<S> &splat = scene.splats[ids[i < n ? i : 0]];
            field[0][i] = splat.x; field[1][i] = splat.y;
            field[2][i] = splat.a; field[3][i] = splat.b; field[4][i] = splat.c;
            field[5][i] = splat.log2_opacity;
        }
        Lanes<S> x = load(field[0]), half_b = S(0.5) * load(field[3]);
        Interval<Lanes<S>> rows = ellipse_in_slab(load(field[4]), half_b, load(field[2]), load(field[5]) - scene.log2_cut,
                                                  S(place.x) + S(0.5) - x, S(place.x + place.width) - S(0.5) - x);
        S low[L], high[L];
        store(low, rows.low);
        store(high, rows.high);
        for (int i = 0; i < n; ++i) pixels_of_interval(low[i], high[i], field[1][i] - S(place.y), place.height, first[i], last[i]);
    }
};

// A splat over the columns of a tile: what does not change from row to row.
template <class S> struct Columns {
    static constexpr int count = kTile / Lanes<S>::count;
    Lanes<S> dx[count], constant[count], linear[count];

    Columns(const Splat<S> &splat, const TilePlace &place) {
        for (int v = 0; v < count; ++v) {
            dx[v] = ramp<S>() + (S(place.x + v * Lanes<S>::count) + S(0.5) - splat.x);
            constant[v] = splat.log2_opacity - splat.a * dx[v] * dx[v];
            linear[v] = -splat.b * dx[v];
        }
    }
    // log2 alpha on the row dy below the mean
    SPLATLEARN_HD Lanes<S> log2_alpha(int v, Lanes<S> dy, Lanes<S> c_dy) const { return constant[v] + dy * (linear[v] - c_dy); }
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
