// Alpha compositing on the CPU, forward: the list of a tile passes over its pixels, front to back.
//
// Kept per pixel for backward: the final transmittance, and where in the list it stopped.
#include "rasterize.h"

namespace SPLATLEARN_NAMESPACE {
namespace {

// D > 0: channels known when compiled; D = 0: any number.
template <class S, class Primitive, int D> struct ForwardTile {
    static constexpr int L = Lanes<S>::count, kFixed = D ? D : 1;
    const splatlearn_RasterizeForward &out;
    const BlendInputs<S, Primitive> &in;
    const PixelCenters<S> &centers;
    const Tile tile;
    const int channels;
    S *const color;  // [D][kTilePixels]
    alignas(64) S transmittance[kTilePixels];
    alignas(64)
        S cut[kTilePixels];  // log2 of the alpha from which a splat is rendered; infinite where the pixel has stopped
    int32_t stops[kTilePixels];
    int live = 0, live_in[kBlocks] = {};
    SplatBatch<S, Primitive, D> batch;

    ForwardTile(const splatlearn_RasterizeForward &o, const BlendInputs<S, Primitive> &inputs,
                const PixelCenters<S> &pixel_centers, int64_t index, S *scratch)
        : out(o), in(inputs), centers(pixel_centers), tile(inputs, index), channels(D ? D : o.inputs.channels),
          color(scratch) {
        std::memset(color, 0, size_t(channels) * kTilePixels * sizeof(S));
        for (int i = 0; i < kTilePixels; ++i) stops[i] = INT32_MAX;
        for (int at = 0; at < kTilePixels; at += L) {
            const auto inside = (load(centers.x + at) < S(tile.width)) & (load(centers.y + at) < S(tile.height));
            store(transmittance + at, Lanes<S>(S(1)));
            store(cut + at, select(inside, Lanes<S>(in.log2_cut), Lanes<S>(S(INFINITY))));
            live_in[at / kBlockPixels] += __builtin_popcount(bits(inside));
        }
        live = tile.width * tile.height;
        tile.prefetch<true>(static_cast<S *>(out.render), channels);
        tile.prefetch<true>(static_cast<S *>(out.transmittance), 1);
        tile.prefetch<true>(static_cast<S *>(out.alphas), 1);
        tile.prefetch<true>(out.stops, 1);
    }

    void run() {
        const int32_t *ids = in.inputs.row_ids + tile.begin;
        for (int64_t k = 0; k < tile.count && live > 0; k += kBatch) {
            const int n = int(tile.count - k < kBatch ? tile.count - k : kBatch);
            batch.gather(in, tile, ids + k, n);
            const int64_t after = tile.count - k - kBatch;
            batch.prefetch(in, ids + k + kBatch, after < kBatch ? after : kBatch);
            uint64_t reaching[kBlocks] = {};  // bit i: splat i of the batch reaches the block
            for (int i = 0; i < n; i += L)
                batch.for_blocks(i, tile, in.log2_cut,
                                 [&](int block, Mask<S> those) { reaching[block] |= uint64_t(bits(those)) << i; });
            for (int block = 0; block < kBlocks; ++block) {
                if (!live_in[block]) continue;
                const uint64_t listed = reaching[block] & ~uint64_t(0) >> (kBatch - n);
                for (int at = block * kBlockPixels; at < (block + 1) * kBlockPixels; at += L)
                    walk(int32_t(k), at, listed);
            }
        }
        write();
    }

    __attribute__((noinline)) void walk(int32_t first, int at, uint64_t reaching) {
        const Lanes<S> x = load(centers.x + at), y = load(centers.y + at), stop_below(in.stop_below);
        const Lanes<S> largest{S(kAlphaMax)};
        Lanes<S> T = load(transmittance + at), here = load(cut + at), fixed[kFixed];
        const int n_channels = D ? D : channels;
        for (int d = 0; d < D; ++d) fixed[d] = load(color + d * kTilePixels + at);
        for (; reaching; reaching &= reaching - 1) {
            const int i = __builtin_ctzll(reaching);
            const auto splat = batch.splat(i);
            const Lanes<S> power = Primitive::log2_alpha(splat, x - splat.x, y - splat.y);
            const auto visible = power >= here;
            if (L < kTile && !any(visible)) continue;
            const Lanes<S> alpha = select(visible, minimum(exponential2(power), largest), Lanes<S>{});
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
                for (int d = 0; d < D; ++d) fixed[d] = fixed[d] + weight * batch.color[i * D + d];
            } else {
                const S *c = static_cast<const S *>(in.inputs.colors) +
                             int64_t(in.inputs.row_ids[tile.begin + first + i]) * channels;
                for (int d = 0; d < n_channels; ++d)
                    store(color + d * kTilePixels + at, load(color + d * kTilePixels + at) + weight * c[d]);
            }
        }
        store(transmittance + at, T);
        store(cut + at, here);
        for (int d = 0; d < D; ++d) store(color + d * kTilePixels + at, fixed[d]);
    }

    void stop(int32_t k, int at, uint32_t pixels) {
        const int n = __builtin_popcount(pixels);
        live -= n;
        live_in[at / kBlockPixels] -= n;
        for (; pixels; pixels &= pixels - 1) stops[at + __builtin_ctz(pixels)] = k;
    }

    void write() const {
        for (int row = 0; row < tile.height; ++row)
            for (int x = 0; x < tile.width; x += kBlock) {
                const int64_t pixel = tile.pixel(row) + x;
                const int at = in_blocks(x, row), n = tile.width - x;
                if (n >= kBlock)
                    put(pixel, at, kBlock);
                else
                    put(pixel, at, n);
            }
    }

    // Pixels beside each other in a block.
    SPLATLEARN_HD void put(int64_t pixel, int at, int n) const {
        const S *background =
            in.inputs.backgrounds ? static_cast<const S *>(in.inputs.backgrounds) + tile.camera * channels : nullptr;
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
            for (int i = 0; i < n; ++i) render[i * n_channels + d] = values[d * kTilePixels + i] + T[i] * behind;
        }
    }
};

template <class S, class Primitive, int D> int forward_channels(const splatlearn_RasterizeForward &out) {
    const BlendInputs<S, Primitive> in(out.inputs);
    const int64_t per_thread = int64_t(out.inputs.channels) * kTilePixels;
    Buffer<int64_t> order(in.tiles);
    Buffer<S> scratch(out.inputs.context.threads * per_thread);
    if (!in.records || !order || !scratch) return kOutOfMemory;
    const PixelCenters<S> centers;
    longest_first(out.inputs.tile_offsets, in.tiles, order.get());
#pragma omp parallel for schedule(dynamic, 1) num_threads(out.inputs.context.threads)
    for (int64_t i = 0; i < in.tiles; ++i) {
        S *const mine = scratch.get() + omp_get_thread_num() * per_thread;
        ForwardTile<S, Primitive, D>(out, in, centers, order[i], mine).run();
    }
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
    return by_primitive(out.inputs, [&](auto primitive) {
        using Primitive = decltype(primitive);
        switch (out.inputs.channels) {
            case 1: return forward_channels<S, Primitive, 1>(out);
            case 3: return forward_channels<S, Primitive, 3>(out);
            case 4: return forward_channels<S, Primitive, 4>(out);
            default: return forward_channels<S, Primitive, 0>(out);
        }
    });
}

}  // namespace

int rasterize_forward(const splatlearn_RasterizeForward &params) {
    return crowded(params.inputs) ? kCrowdedTile : SPLATLEARN_BY_SCALAR(params, params.inputs.context, forward);
}

}  // namespace SPLATLEARN_NAMESPACE
