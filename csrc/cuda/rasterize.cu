// Alpha compositing on CUDA, forward: see rasterize.h for how a tile's threads work; backward is in
// rasterize_backward.cu.
#include "rasterize.h"

namespace SPLATLEARN_NAMESPACE {
namespace {

// ---- records of tensors that do not come from stage project ----

constexpr int kPackThreads = 128;
constexpr int kThreadPixels = 2;  // pixels per thread

template <class S, class Primitive, int D>
SPLATLEARN_KERNEL __launch_bounds__(kPackThreads) void pack_kernel(splatlearn_RasterizeForward out) {
    const int64_t row = int64_t(blockIdx.x) * kPackThreads + threadIdx.x;
    if (row >= out.inputs.n_rows) return;
    const S opacity = static_cast<const S *>(out.inputs.opacities)[row];
    if (!(opacity > S(0))) return;  // in no list
    const S *mean = static_cast<const S *>(out.inputs.means2d) + 2 * row;
    const S *shape = static_cast<const S *>(out.inputs.conics) + Primitive::kShape * row;
    const S *color = static_cast<const S *>(out.inputs.colors) + out.inputs.channels * row;
    store_record<Primitive, S, D>(out.new_records, row, mean, shape, opacity, color);
}

// ---- forward ----

template <class S> struct ForwardParams {
    splatlearn_RasterizeForward out;
    S log2_cut, stop_below;
};

// The state of a pixel. D > 0: its colour is held in registers; D = 0: any number of channels, added to the image at
// once.
template <class S, int D> struct ForwardPixel {
    S transmittance, color[D > 0 ? D : 1];
    int stop;  // the first splat that is not rendered; 0 beyond the image

    SPLATLEARN_DEVICE bool live() const { return stop == INT32_MAX; }

    // Splat k of the list, without a branch. c: its colour; `pixel`: where it is added if it is not held.
    SPLATLEARN_DEVICE void draw(const ForwardParams<S> &p, S power, int k, const S *c, int64_t pixel) {
        const bool visible = (power >= p.log2_cut) & (k < stop);
        const S alpha = minimum(exponential2(power), S(kAlphaMax));
        S next = transmittance;
        const S weight = blend(alpha, next);
        const bool drawn = visible & (next >= p.stop_below);
        stop = visible & !drawn ? k : stop;
        if (!drawn) return;
        transmittance = next;
        if constexpr (D > 0) {
#pragma unroll
            for (int d = 0; d < D; ++d) color[d] += weight * c[d];
        } else {
            S *render = static_cast<S *>(p.out.render) + pixel * p.out.inputs.channels;
            for (int d = 0; d < p.out.inputs.channels; ++d) render[d] += weight * c[d];
        }
    }
};

template <class S, class Primitive, int D>
SPLATLEARN_KERNEL __launch_bounds__(kThreads<kThreadPixels>,
                                    kResident<S, kThreadPixels>) void rasterize_forward_kernel(ForwardParams<S> p) {
    constexpr int P = kThreadPixels, kBatch = kThreads<P>;
    static_assert(kSpan % kBatch == 0, "spans end where batches do");
    using Record = Record<S, Primitive>;
    SPLATLEARN_SHARED(Record, records, kBatch);
    SPLATLEARN_SHARED(uint8_t, reached, kBatch);
    const splatlearn_RasterizeInputs &in = p.out.inputs;
    const TileThread<P> tile(in, p.out.tile_order[blockIdx.x]);
    const SplatBatch<S, Primitive, kBatch> batch = {records, reached};
    const int channels = D > 0 ? D : in.channels;
    ForwardPixel<S, D> pixels[P];
#pragma unroll
    for (int r = 0; r < P; ++r) {
        pixels[r] = {S(1), {}, tile.inside(r) ? INT32_MAX : 0};
        for (int d = 0; D == 0 && tile.inside(r) && d < channels; ++d)
            static_cast<S *>(p.out.render)[tile.pixel(r) * channels + d] = S(0);
    }
    for (int first = 0; first < tile.count; first += kBatch) {
        bool live = false;
#pragma unroll
        for (int r = 0; r < P; ++r) live = live || pixels[r].live();
        if (!__syncthreads_or(live)) break;  // also keeps this batch from overwriting the one before while it is read
        if constexpr (D > 0) {
            if (p.out.checkpoints && first > 0 && first % kSpan == 0) {
#pragma unroll
                for (int r = 0; r < P; ++r) {
                    S *const to = tile.checkpoint(static_cast<S *>(p.out.checkpoints), tile.begin + first, r, D);
                    to[0] = pixels[r].transmittance;
                    for (int d = 0; d < D; ++d) to[1 + d] = pixels[r].color[d];
                }
            }
        }
        const int n = tile.count - first < kBatch ? tile.count - first : kBatch;
        batch.template load<P>(in, tile, first, n, p.log2_cut);
        __syncthreads();
        for (int part = 0; part < n; part += kWarp) {
            const unsigned mine = part + tile.lane < n ? reached[part + tile.lane] >> tile.unit : 0;
            unsigned hits[P], rest = 0;
#pragma unroll
            for (int r = 0; r < P; ++r) {
                const bool any = __any_sync(kFull, pixels[r].live());
                hits[r] = __ballot_sync(kFull, any && (mine >> r & 1));
                rest |= hits[r];
            }
            for (; rest; rest &= rest - 1) {
                const int bit = __ffs(int(rest)) - 1, i = part + bit;
                const Record &record = records[i];
                const auto splat = record.splat();
                const S dx = S(tile.pixel_x) + S(0.5) - splat.x;
                const typename Primitive::template Column<S> column(splat, dx);
                const S dy = S(tile.pixel_y) + S(0.5) - splat.y;
                S held[D > 0 ? D : 1];
#pragma unroll
                for (int d = 0; d < D; ++d) held[d] = record.color(d);
                const S *c =
                    D > 0 ? held
                          : static_cast<const S *>(in.colors) + int64_t(in.row_ids[tile.begin + first + i]) * channels;
#pragma unroll
                for (int r = 0; r < P; ++r) {
                    if (!(hits[r] >> bit & 1)) continue;
                    const S power = column.log2_alpha(splat, r > 0 ? dy + S(r * kUnitHeight) : dy);
                    pixels[r].draw(p, power, first + i, c, tile.pixel(r));
                }
            }
        }
    }
    const S *background = in.backgrounds ? static_cast<const S *>(in.backgrounds) + tile.camera * channels : nullptr;
#pragma unroll
    for (int r = 0; r < P; ++r) {
        if (!tile.inside(r)) continue;
        const S T = pixels[r].transmittance;
        const int64_t pixel = tile.pixel(r);
        static_cast<S *>(p.out.transmittance)[pixel] = T;
        static_cast<S *>(p.out.alphas)[pixel] = S(1) - T;
        p.out.stops[pixel] = pixels[r].stop;
        S *render = static_cast<S *>(p.out.render) + pixel * channels;
        for (int d = 0; d < channels; ++d) {
            const S drawn = D > 0 ? pixels[r].color[D > 0 ? d : 0] : render[d];
            render[d] = drawn + (background ? T * background[d] : S(0));
        }
    }
}

template <class S, class Primitive, int D> int forward_channels(const splatlearn_RasterizeForward &out) {
    const cudaStream_t stream = stream_of(out.inputs.context);
    if (tiles_of(out.inputs) >= INT32_MAX) return kTooMany;
    if (out.new_records)
        SPLATLEARN_TRY(SPLATLEARN_LAUNCH((pack_kernel<S, Primitive, D>), blocks_for(out.inputs.n_rows, kPackThreads),
                                         kPackThreads, stream, out));
    SPLATLEARN_TRY(order_tiles(out));
    const ForwardParams<S> params = {out, log2_threshold(S(out.inputs.alpha_threshold)),
                                     transmittance_floor<S>(out.inputs.transmittance_threshold)};
    return SPLATLEARN_LAUNCH((rasterize_forward_kernel<S, Primitive, D>), unsigned(tiles_of(out.inputs)),
                             kThreads<kThreadPixels>, stream, params);
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
    return SPLATLEARN_BY_SCALAR(params, params.inputs.context, forward);
}
int64_t rasterize_forward_scratch(const splatlearn_RasterizeForward &) { return 0; }

}  // namespace SPLATLEARN_NAMESPACE
