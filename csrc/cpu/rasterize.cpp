// Alpha compositing on the CPU, forward: the list of a tile passes over its pixels, front to back.
//
// Kept per pixel for backward: the final transmittance, and where in the list it stopped.
#include "rasterize.h"

namespace SPLATLEARN_NAMESPACE {
namespace {

// D > 0: channels known when compiled; D = 0: any number.
template <class S, int D> struct ForwardTile {
    static constexpr int L = Lanes<S>::count, kFixed = D ? D : 1;
    const splatlearn_RasterizeForward &out;
    const Scene<S> &scene;
    const TilePlace place;
    const int channels;
    S *const color;                         // [D][kPixels]
    alignas(64) S transmittance[kPixels];   // negative: stopped there, the sign marks it
    int32_t stops[kPixels];
    int live = 0, live_in_row[kTile] = {};

    ForwardTile(const splatlearn_RasterizeForward &o, const Scene<S> &s, int64_t tile, S *scratch)
        : out(o), scene(s), place(s, tile), channels(D ? D : o.in.channels), color(scratch) {
        std::memset(color, 0, size_t(channels) * kPixels * sizeof(S));
        for (int i = 0; i < kPixels; ++i) {
            const bool inside = i % kTile < place.width && i / kTile < place.height;
            transmittance[i] = inside ? S(1) : S(-1);
            stops[i] = INT32_MAX;
            live += inside;
            live_in_row[i / kTile] += inside;
        }
    }

    void run() {
        const int32_t *ids = scene.in.row_ids + place.begin;
        for (int64_t k = 0; k < place.count && live > 0; k += L) {
            const int n = int(place.count - k < L ? place.count - k : L);
            RowRanges<S> rows(scene, place, ids + k, n);
            for (int i = 0; i < n; ++i) composite(int32_t(k) + i, ids[k + i], rows.first[i], rows.last[i]);
        }
        write();
    }

    void composite(int32_t k, int32_t id, int first, int last) {
        const Splat<S> &splat = scene.splats[id];
        const Columns<S> columns(splat, place);
        // Copies in registers: what is stored through pointers of S below could be any other S in memory.
        const S log2_cut = scene.log2_cut, stop_below = scene.stop_below, *c = static_cast<const S *>(scene.in.colors) + int64_t(id) * channels;
        S fixed[kFixed], *const colors = color, *const T_at = transmittance;
        for (int d = 0; d < D; ++d) fixed[d] = c[d];
        const int n_channels = D ? D : channels;  // a constant where it can be
        const Lanes<S> from_mean(S(place.y) + S(0.5) - splat.y), one(S(1)), c_of(splat.c);
        Lanes<S> row_index(static_cast<S>(first));
        for (int row = first; row < last; ++row, row_index = row_index + one) {
            if (!live_in_row[row]) continue;
            const Lanes<S> dy = row_index + from_mean, c_dy = c_of * dy;
            for (int v = 0; v < Columns<S>::count; ++v) {
                const int at = row * kTile + v * L;
                Lanes<S> power = columns.log2_alpha(v, dy, c_dy), T = load(T_at + at);
                auto drawn = (power >= log2_cut) & (T > S(0));
                if (L < kTile && !any(drawn)) continue;  // a whole row of a tile is hardly ever missed
                Lanes<S> alpha = select(drawn, minimum(exponential2(power), Lanes<S>(S(kAlphaMax))), Lanes<S>{});
                Lanes<S> next = T, weight = blend(alpha, next);
                auto stopped = (next < stop_below) & drawn;
                if (__builtin_expect(any(stopped), 0)) {
                    stop(k, row, at, bits(stopped));
                    weight = select(stopped, Lanes<S>{}, weight);
                    next = select(stopped, -T, next);
                }
                store(T_at + at, next);
#pragma GCC unroll 4
                for (int d = 0; d < n_channels; ++d)
                    store(colors + d * kPixels + at, load(colors + d * kPixels + at) + weight * (D ? fixed[d] : c[d]));
            }
        }
    }

    void stop(int32_t k, int row, int at, uint32_t pixels) {
        const int n = __builtin_popcount(pixels);
        live -= n;
        live_in_row[row] -= n;
        for (; pixels; pixels &= pixels - 1) stops[at + __builtin_ctz(pixels)] = k;
    }

    void write() const {
        const S *background = scene.in.backgrounds ? static_cast<const S *>(scene.in.backgrounds) + place.camera * channels : nullptr;
        const int n_channels = D ? D : channels;
        for (int row = 0; row < place.height; ++row) {
            const int64_t pixel = place.pixel(scene.in.width, scene.in.height, row);
            const S *__restrict T_row = transmittance + row * kTile, *__restrict colors = color + row * kTile;
            S *__restrict T_out = static_cast<S *>(out.transmittance) + pixel, *__restrict alphas = static_cast<S *>(out.alphas) + pixel;
            S *__restrict render = static_cast<S *>(out.render) + pixel * n_channels;
            for (int x = 0; x < place.width; ++x) {
                const S T = absolute(T_row[x]);
                T_out[x] = T;
                alphas[x] = S(1) - T;
            }
            std::memcpy(out.stops + pixel, stops + row * kTile, size_t(place.width) * sizeof(int32_t));
            for (int d = 0; d < n_channels; ++d) {
                const S behind = background ? background[d] : S(0);
                for (int x = 0; x < place.width; ++x) render[x * n_channels + d] = colors[d * kPixels + x] + absolute(T_row[x]) * behind;
            }
        }
    }
};

template <class S, int D> int forward_channels(const splatlearn_RasterizeForward &out) {
    Scene<S> scene(out.in);
    Buffer<int64_t> order(scene.tiles);
    Buffer<S> scratch(int64_t(out.in.context.threads) * out.in.channels * kPixels);
    if (!scene.splats || !order || !scratch) return kOutOfMemory;
    longest_first(out.in.tile_offsets, scene.tiles, order.get());
#pragma omp parallel for schedule(dynamic, 1) num_threads(out.in.context.threads)
    for (int64_t i = 0; i < scene.tiles; ++i)
        ForwardTile<S, D>(out, scene, order[i], scratch.get() + int64_t(omp_get_thread_num()) * out.in.channels * kPixels).run();
    return 0;
}

constexpr int64_t kListMax = 1 << 24;  // positions in a list are compared as float32

bool crowded(const splatlearn_RasterizeInputs &in) {
    const int64_t tiles = in.n_cameras * tiles_across(in.width) * tiles_across(in.height);
    for (int64_t tile = 0; tile < tiles; ++tile)
        if (in.tile_offsets[tile + 1] - in.tile_offsets[tile] > kListMax) return true;
    return false;
}

template <class S> int forward(const splatlearn_RasterizeForward &out) {
    switch (out.in.channels) {
        case 1: return forward_channels<S, 1>(out);
        case 3: return forward_channels<S, 3>(out);
        case 4: return forward_channels<S, 4>(out);
        default: return forward_channels<S, 0>(out);
    }
}

}  // namespace

int rasterize_forward(const splatlearn_RasterizeForward &params) {
    return crowded(params.in) ? kCrowdedTile : SPLATLEARN_BY_SCALAR(params, params.in.context, forward);
}

}  // namespace SPLATLEARN_NAMESPACE
