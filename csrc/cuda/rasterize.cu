// Alpha compositing on CUDA, forward: see rasterize.h for how a tile's threads work; backward is in rasterize_backward.cu.
#include "rasterize.h"

namespace SPLATLEARN_NAMESPACE {
namespace {

constexpr int kBatch = kTileThreads;

// ---- records of tensors that do not come from stage project ----

template <class S, int D> SPLATLEARN_KERNEL __launch_bounds__(kTileThreads) void pack_kernel(splatlearn_RasterizeForward out) {
    const int64_t row = int64_t(blockIdx.x) * kTileThreads + threadIdx.x;
    if (row >= out.in.n_rows) return;
    const S opacity = static_cast<const S *>(out.in.opacities)[row];
    if (!(opacity > S(0))) return;  // in no list
    const S *mean = static_cast<const S *>(out.in.means2d) + 2 * row, *conic = static_cast<const S *>(out.in.conics) + 3 * row;
    const S *color = static_cast<const S *>(out.in.colors) + out.in.channels * row;
    store_record<S, D>(out.new_records, row, mean, conic, opacity, color);
}

// ---- forward ----

template <class S> struct ForwardParams {
    splatlearn_RasterizeForward out;
    S log2_cut, stop_below;
};

// One splat over one pixel. D > 0: the colour is held in registers; D = 0: any number of channels, added to the image at once.
template <class S, int D>
SPLATLEARN_DEVICE void composite(const ForwardParams<S> &p, S power, int k, const Record<S> &record, const S *c, S &transmittance,
                                 S *color, int32_t &stop, int64_t pixel) {
    if (!(power >= p.log2_cut) || !(transmittance > S(0))) return;
    const S alpha = minimum(exponential2(power), S(kAlphaMax));
    S next = transmittance;
    const S weight = blend(alpha, next);
    if (next < p.stop_below) {  // the sign marks a pixel that has stopped
        transmittance = -transmittance;
        stop = k;
        return;
    }
    transmittance = next;
    if constexpr (D > 0) {
#pragma unroll
        for (int d = 0; d < D; ++d) color[d] += weight * record.color(d);
    } else {
        S *render = static_cast<S *>(p.out.render) + pixel * p.out.in.channels;
        for (int d = 0; d < p.out.in.channels; ++d) render[d] += weight * c[d];
    }
}

template <class S, int D>
SPLATLEARN_KERNEL __launch_bounds__(kTileThreads, kResident<S>) void rasterize_forward_kernel(ForwardParams<S> p) {
    constexpr int kHeld = D > 0 ? D : 1;
    SPLATLEARN_SHARED(Record<S>, records, kBatch);
    const splatlearn_RasterizeInputs &in = p.out.in;
    const Place place(in);
    const int channels = D > 0 ? D : in.channels;
    S transmittance[2], color[2][kHeld] = {};
    int32_t stops[2] = {INT32_MAX, INT32_MAX};
    for (int half = 0; half < 2; ++half) {
        transmittance[half] = place.inside[half] ? S(1) : S(-1);
        for (int d = 0; D == 0 && place.inside[half] && d < channels; ++d)
            static_cast<S *>(p.out.render)[place.pixel[half] * channels + d] = S(0);
    }
    for (int first = 0; first < place.count; first += kBatch) {
        const bool live = transmittance[0] > S(0) || transmittance[1] > S(0);
        if (!__syncthreads_or(live)) break;  // also keeps this batch from overwriting the one before while it is read
        const int n = place.count - first < kBatch ? place.count - first : kBatch;
        load_records(in, place.begin + first, n, records);
        __syncthreads();
        for (int part = 0; part < n; part += kWarp) {
            if (!__any_sync(kFull, transmittance[0] > S(0) || transmittance[1] > S(0))) break;
            const int mine = part + place.lane;
            const bool there = mine < n;
            const Splat<S> tested = records[there ? mine : 0].splat();
            const unsigned upper = __ballot_sync(kFull, there && reaches(tested, p.log2_cut, place.x, place.y));
            const unsigned lower = __ballot_sync(kFull, there && reaches(tested, p.log2_cut, place.x, place.y + kHalfHeight));
            for (unsigned rest = upper | lower; rest; rest &= rest - 1) {
                const int bit = __ffs(int(rest)) - 1, i = part + bit;
                const Record<S> &record = records[i];
                const Splat<S> splat = record.splat();
                const Column<S> column(splat, place.pixel_x);
                const S dy = S(place.pixel_y) + S(0.5) - splat.y;
                const S *c = D > 0 ? nullptr : static_cast<const S *>(in.colors) + int64_t(in.row_ids[place.begin + first + i]) * channels;
                if (upper >> bit & 1) {
                    const S power = column.log2_alpha(splat, dy);
                    composite<S, D>(p, power, first + i, record, c, transmittance[0], color[0], stops[0], place.pixel[0]);
                }
                if (lower >> bit & 1) {
                    const S power = column.log2_alpha(splat, dy + S(kHalfHeight));
                    composite<S, D>(p, power, first + i, record, c, transmittance[1], color[1], stops[1], place.pixel[1]);
                }
            }
        }
    }
    const S *background = in.backgrounds ? static_cast<const S *>(in.backgrounds) + place.camera * channels : nullptr;
    for (int half = 0; half < 2; ++half) {
        if (!place.inside[half]) continue;
        const S T = absolute(transmittance[half]);
        const int64_t pixel = place.pixel[half];
        static_cast<S *>(p.out.transmittance)[pixel] = T;
        static_cast<S *>(p.out.alphas)[pixel] = S(1) - T;
        p.out.stops[pixel] = stops[half];
        S *render = static_cast<S *>(p.out.render) + pixel * channels;
        for (int d = 0; d < channels; ++d) {
            const S drawn = D > 0 ? color[half][D > 0 ? d : 0] : render[d];
            render[d] = drawn + (background ? T * background[d] : S(0));
        }
    }
}

template <class S, int D> int forward_channels(const splatlearn_RasterizeForward &out) {
    const cudaStream_t stream = stream_of(out.in.context);
    if (tiles_of(out.in) >= INT32_MAX) return kTooMany;
    if (out.new_records)
        SPLATLEARN_TRY(SPLATLEARN_LAUNCH((pack_kernel<S, D>), blocks_for(out.in.n_rows, kTileThreads), kTileThreads, stream, out));
    // Backward recovers T by division, so a pixel always stops before T leaves the range of normal numbers.
    const S stop_below = maximum(S(out.in.transmittance_threshold), sizeof(S) == 4 ? S(1e-35) : S(1e-300));
    const ForwardParams<S> params = {out, log2_threshold(S(out.in.alpha_threshold)), stop_below};
    return SPLATLEARN_LAUNCH((rasterize_forward_kernel<S, D>), unsigned(tiles_of(out.in)), kTileThreads, stream, params);
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

int rasterize_forward(const splatlearn_RasterizeForward &params) { return SPLATLEARN_BY_SCALAR(params, params.in.context, forward); }
int64_t rasterize_forward_scratch(const splatlearn_RasterizeForward &) { return 0; }

}  // namespace SPLATLEARN_NAMESPACE
