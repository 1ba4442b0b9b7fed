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
    const Centres<S> &centres;
    const TilePlace place;
    const int channels;
    S *const color;  // [D][kPixels]
    alignas(64) S transmittance[kPixels];
    alignas(64) S cut[kPixels];  // log2 of the alpha from which a splat is drawn; infinite where the pixel has stopped
    int32_t stops[kPixels];
    int live = 0, live_in[kBlocks] = {};
    Chunk<S, D> chunk;

    ForwardTile(const splatlearn_RasterizeForward &o, const Scene<S> &s, const Centres<S> &pixels, int64_t tile,
                S *scratch)
        : out(o), scene(s), centres(pixels), place(s, tile), channels(D ? D : o.inputs.channels), color(scratch) {
        std::memset(color, 0, size_t(channels) * kPixels * sizeof(S));
        for (int i = 0; i < kPixels; ++i) stops[i] = INT32_MAX;
        for (int at = 0; at < kPixels; at += L) {
            const auto inside = (load(centres.x + at) < S(place.width)) & (load(centres.y + at) < S(place.height));
            store(transmittance + at, Lanes<S>(S(1)));
            store(cut + at, select(inside, Lanes<S>(scene.log2_cut), Lanes<S>(S(INFINITY))));
            live_in[at / kBlockPixels] += __builtin_popcount(bits(inside));
        }
        live = place.width * place.height;
        place.prefetch<true>(static_cast<S *>(out.render), channels);
        place.prefetch<true>(static_cast<S *>(out.transmittance), 1);
        place.prefetch<true>(static_cast<S *>(out.alphas), 1);
        place.prefetch<true>(out.stops, 1);
    }

    void run() {
        const int32_t *ids = scene.in.row_ids + place.begin;
        for (int64_t k = 0; k < place.count && live > 0; k += kChunk) {
            const int n = int(place.count - k < kChunk ? place.count - k : kChunk);
            chunk.gather(scene, place, ids + k, n);
            const int64_t after = place.count - k - kChunk;
            chunk.prefetch(scene, ids + k + kChunk, after < kChunk ? after : kChunk);
            uint64_t reaching[kBlocks] = {};  // bit i: splat i of the chunk reaches the block
            for (int i = 0; i < n; i += L)
                chunk.for_blocks(i, place, scene.log2_cut,
                                 [&](int block, Mask<S> those) { reaching[block] |= uint64_t(bits(those)) << i; });
            for (int block = 0; block < kBlocks; ++block) {
                if (!live_in[block]) continue;
                for (int at = block * kBlockPixels; at < (block + 1) * kBlockPixels; at += L)
                    walk(int32_t(k), at, reaching[block]);
            }
        }
        write();
    }

    __attribute__((noinline)) void walk(int32_t first, int at, uint64_t reaching) {
        const Lanes<S> x = load(centres.x + at), y = load(centres.y + at), stop_below(scene.stop_below),
                       largest{S(kAlphaMax)};
        Lanes<S> T = load(transmittance + at), here = load(cut + at), fixed[kFixed];
        const int n_channels = D ? D : channels;
        for (int d = 0; d < D; ++d) fixed[d] = load(color + d * kPixels + at);
        for (; reaching; reaching &= reaching - 1) {
            const int i = __builtin_ctzll(reaching);
            const Lanes<S> dx = x - chunk.x[i], dy = y - chunk.y[i];
            const Lanes<S> power =
                chunk.log2_opacity[i] - dx * (chunk.a[i] * dx + chunk.b[i] * dy) - dy * (chunk.c[i] * dy);
            const auto drawn = power >= here;
            if (L < kTile && !any(drawn)) continue;
            const Lanes<S> alpha = select(drawn, minimum(exponential2(power), largest), Lanes<S>{});
            Lanes<S> next = T, weight = blend(alpha, next);
            const auto stopped = next < stop_below;
            if (__builtin_expect(any(stopped), 0)) {
                stop(first + i, at, bits(stopped));
                here = select(stopped, Lanes<S>(S(INFINITY)), here);
                weight = select(stopped, Lanes<S>{}, weight);
                next = select(stopped, T, next);
            }
            T = next;
            if (D) {
#pragma GCC unroll 4
                for (int d = 0; d < D; ++d) fixed[d] = fixed[d] + weight * chunk.color[i * D + d];
            } else {
                const S *c = static_cast<const S *>(scene.in.colors) +
                             int64_t(scene.in.row_ids[place.begin + first + i]) * channels;
                for (int d = 0; d < n_channels; ++d)
                    store(color + d * kPixels + at, load(color + d * kPixels + at) + weight * c[d]);
            }
        }
        store(transmittance + at, T);
        store(cut + at, here);
        for (int d = 0; d < D; ++d) store(color + d * kPixels + at, fixed[d]);
    }

    void stop(int32_t k, int at, uint32_t pixels) {
        const int n = __builtin_popcount(pixels);
        live -= n;
        live_in[at / kBlockPixels] -= n;
        for (; pixels; pixels &= pixels - 1) stops[at + __builtin_ctz(pixels)] = k;
    }

    void write() const {
        for (int row = 0; row < place.height; ++row)
            for (int x = 0; x < place.width; x += kBlock) {
                const int64_t pixel = place.pixel(row) + x;
                const int at = in_blocks(x, row), n = place.width - x;
                if (n >= kBlock)
                    put(pixel, at, kBlock);
                else
                    put(pixel, at, n);
            }
    }

    // Pixels beside each other in a block.
    SPLATLEARN_HD void put(int64_t pixel, int at, int n) const {
        const S *background =
            scene.in.backgrounds ? static_cast<const S *>(scene.in.backgrounds) + place.camera * channels : nullptr;
        const int n_channels = D ? D : channels;
        const S *__restrict T = transmittance + at, *__restrict values = color + at;
        S *__restrict T_out = static_cast<S *>(out.transmittance) + pixel, *__restrict alphas =
                                                                               static_cast<S *>(out.alphas) + pixel;
        S *__restrict render = static_cast<S *>(out.render) + pixel * n_channels;
        for (int i = 0; i < n; ++i) T_out[i] = T[i];
        for (int i = 0; i < n; ++i) alphas[i] = S(1) - T[i];
        for (int i = 0; i < n; ++i) out.stops[pixel + i] = stops[at + i];
#pragma GCC unroll 4
        for (int d = 0; d < n_channels; ++d) {
            const S behind = background ? background[d] : S(0);
            for (int i = 0; i < n; ++i) render[i * n_channels + d] = values[d * kPixels + i] + T[i] * behind;
        }
    }
};

template <class S, int D> int forward_channels(const splatlearn_RasterizeForward &out) {
    Scene<S> scene(out.inputs);
    Buffer<int64_t> order(scene.tiles);
    Buffer<S> scratch(int64_t(out.inputs.context.threads) * out.inputs.channels * kPixels);
    if (!scene.splats || !order || !scratch) return kOutOfMemory;
    const Centres<S> centres;
    longest_first(out.inputs.tile_offsets, scene.tiles, order.get());
#pragma omp parallel for schedule(dynamic, 1) num_threads(out.inputs.context.threads)
    for (int64_t i = 0; i < scene.tiles; ++i)
        ForwardTile<S, D>(out, scene, centres, order[i],
                          scratch.get() + int64_t(omp_get_thread_num()) * out.inputs.channels * kPixels)
            .run();
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
    switch (out.inputs.channels) {
        case 1: return forward_channels<S, 1>(out);
        case 3: return forward_channels<S, 3>(out);
        case 4: return forward_channels<S, 4>(out);
        default: return forward_channels<S, 0>(out);
    }
}

}  // namespace

int rasterize_forward(const splatlearn_RasterizeForward &params) {
    return crowded(params.inputs) ? kCrowdedTile : SPLATLEARN_BY_SCALAR(params, params.inputs.context, forward);
}

}  // namespace SPLATLEARN_NAMESPACE
