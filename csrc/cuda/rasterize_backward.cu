// Alpha compositing on CUDA, backward: each tile's list in reverse (math/blend.h), moments summed over its pixels.
//
// A block walks one span of a list. Behind a span that is not the list's last it begins with the transmittance that
// forward has kept, and with the colour that is still to come: the whole picture's less what was drawn before.
//
// A thread sums what its column of pixels says of a splat, a warp what its threads do (splat_sums.h), and the warps
// follow in fixed order. Then, once an instance, sums go either into a row of gradients of its own, the same bits at
// every run, or by atomic additions to its Gaussian, which needs no memory for rows. rasterize_sums.cu makes gradients
// of either.
#include "atomics.h"
#include "splat_sums.h"

namespace SPLATLEARN_NAMESPACE {
namespace {

constexpr int kThreadPixels = 4;  // pixels per thread
constexpr int kBatch = kThreads<kThreadPixels>;
constexpr int kChannelsAtOnce = 4;  // channels summed at a time where D is not known when compiled

// The state of a pixel while its list is walked in reverse. W: the SplatSums of the walk.
template <class S, class W> struct BackwardPixel {
    S transmittance, behind, v_color[W::kHeld];
    int stop;  // splats from this position on are not drawn on the pixel

    // `span`: the first instance that is walked, of the tile's list.
    template <int P>
    SPLATLEARN_DEVICE void begin(const BackwardParams<S> &p, const TileThread<P> &tile, int span, int r) {
        transmittance = S(1);
        behind = S(0);
        for (int d = 0; d < W::kHeld; ++d) v_color[d] = S(0);
        stop = 0;
        if (!tile.inside(r)) return;
        const splatlearn_RasterizeInputs &in = p.grad.inputs;
        const int channels = W::All ? W::D : in.channels, first = W::All ? 0 : p.first_channel;
        const int64_t pixel = tile.pixel(r);
        stop = p.grad.stops[pixel] - span;
        if (stop <= 0) return;
        const S *v = static_cast<const S *>(p.grad.v_render) + pixel * channels;
#pragma unroll
        for (int d = 0; d < W::D; ++d) v_color[d] = first + d < channels ? v[first + d] : S(0);
        transmittance = static_cast<const S *>(p.grad.transmittance)[pixel];
        const S *background =
            in.backgrounds ? static_cast<const S *>(in.backgrounds) + tile.camera * channels : nullptr;
        behind = p.grad.v_alphas ? -static_cast<const S *>(p.grad.v_alphas)[pixel] : S(0);
        if (tile.last || stop <= tile.count) {
            for (int d = 0; background && d < channels; ++d) behind += background[d] * v[d];
            stop = stop < tile.count ? stop : tile.count;
            return;
        }
        const S *kept =
            tile.checkpoint(static_cast<const S *>(p.grad.checkpoints), tile.begin + tile.count, r, channels);
        const S *render = static_cast<const S *>(p.grad.render) + pixel * channels;
        S rest = transmittance * behind;
        for (int d = 0; d < channels; ++d) rest += (render[d] - kept[1 + d]) * v[d];
        transmittance = kept[0];
        behind = quotient(rest, transmittance);
        stop = tile.count;
    }

    // Takes a splat that was rendered here from the pixel, and adds its gradients to the thread's sums. c: its colour;
    // v: the pixel's dL/drender, where the channels are not held.
    template <class Splat> SPLATLEARN_DEVICE void unblend_splat(const BackwardParams<S> &p, const Splat &splat, S power,
                                                                S dx, S dy, const S *c, const S *v, S *sums) {
        const S raw = exponential2(power), alpha = minimum(raw, S(kAlphaMax));
        S q = S(0), g;
        if constexpr (W::All) {
#pragma unroll
            for (int d = 0; d < W::D; ++d) q += c[d] * v_color[d];
        } else if constexpr (W::Moments) {
            for (int d = 0; d < p.grad.inputs.channels; ++d) q += c[d] * v[d];
        }
        const S weight = unblend(alpha, q, transmittance, behind, g);
#pragma unroll
        for (int d = 0; d < W::D; ++d) sums[W::kRawColor + d] += weight * v_color[d];
        if constexpr (W::Moments) {
            using Primitive = typename W::Primitive;
            g = raw <= S(kAlphaMax) ? g : S(0);  // a clamped alpha does not move
            S moments[W::kColumnMoments];
            Primitive::column_moments(splat, power, g, dx, dy, moments);
#pragma unroll
            for (int j = 0; j < W::kColumnMoments; ++j) sums[W::place_of(j)] += moments[j];
            if constexpr (W::Abs) {
                S v_mean[2];
                Primitive::v_mean(splat, power, g, dx, dy, v_mean);
                for (int j = 0; j < 2; ++j) sums[W::kRawAbs + j] += S(Primitive::kMeanUnit) * absolute(v_mean[j]);
            }
        }
    }
};

// The greatest of a number over the warp, in all of its lanes.
SPLATLEARN_DEVICE int warp_max(int value) {
    for (int offset = kWarp / 2; offset > 0; offset /= 2) value = max(value, __shfl_xor_sync(kFull, value, offset));
    return value;
}

// What the warps have summed for the n splats of a batch, and where their gradients go.
template <class S, class W> struct BatchSums {
    static constexpr int P = kThreadPixels;
    static constexpr int kMasks = kBatch / kWarp;
    const S *partial;       // [splat][warp][sum]
    const unsigned *drawn;  // bits of the splats that a warp drew
    const int64_t *slots;
    const int32_t *ids;
    int n;

    // Sum j of splat i, over the warps in their order.
    SPLATLEARN_DEVICE S total(int i, int j) const {
        S sum = S(0);
#pragma unroll
        for (int w = 0; w < kWarps<P>; ++w)
            if (drawn[w * kMasks + i / kWarp] >> (i % kWarp) & 1) sum += partial[(i * kWarps<P> + w) * W::kSums + j];
        return sum;
    }
    SPLATLEARN_DEVICE bool any(int i) const {
        unsigned bits = 0;
        for (int w = 0; w < kWarps<P>; ++w) bits |= drawn[w * kMasks + i / kWarp] >> (i % kWarp);
        return bits & 1;
    }
    SPLATLEARN_DEVICE void store_rows(const BackwardParams<S> &p, GradientRow<typename W::Primitive> row,
                                      int columns) const {
        S *const rows = static_cast<S *>(p.grad.instance_rows);
        for (int k = threadIdx.x; k < n * W::kSums; k += kThreads<P>) {
            const int i = k / W::kSums, j = k % W::kSums, column = W::column_of(j, row, p.first_channel);
            const S sum = total(i, j);
            if (column >= 0) rows[slots[i] * columns + column] = sum;
        }
    }
    SPLATLEARN_DEVICE void add_sums(const BackwardParams<S> &p) const {
        const int first = W::Moments ? 0 : (kSumsBefore<typename W::Primitive> + p.first_channel) / 4;
        for (int k = threadIdx.x; k < n * W::kParts; k += kThreads<P>) {
            const int i = k / W::kParts, part = k % W::kParts;
            if (!any(i)) continue;
            Part<S> sums;
            for (int j = 0; j < 4; ++j)
                sums.v[j] = W::sum_of(4 * part + j) >= 0 ? total(i, W::sum_of(4 * part + j)) : S(0);
            add_atomically(
                p.sums + int64_t(ids[i]) * parts_of<typename W::Primitive>(p.grad.inputs.channels) + first + part,
                sums);
        }
    }
};

template <class S, class W>
SPLATLEARN_KERNEL __launch_bounds__(kThreads<kThreadPixels>,
                                    kResident<S, kThreadPixels>) void rasterize_backward_kernel(BackwardParams<S> p) {
    using Primitive = typename W::Primitive;
    using Record = Record<S, Primitive>;
    constexpr int P = kThreadPixels, kSums = W::kSums, kMasks = kBatch / kWarp;
    SPLATLEARN_SHARED(Record, records, kBatch);
    SPLATLEARN_SHARED(uint8_t, reached, kBatch);
    SPLATLEARN_SHARED(int32_t, ids, kBatch);
    SPLATLEARN_SHARED(int64_t, slots, kBatch);
    SPLATLEARN_SHARED(S, partial, kBatch * kWarps<P> * kSums);
    SPLATLEARN_SHARED(unsigned, drawn, kWarps<P> *kMasks);
    SPLATLEARN_SHARED(int, ends, kWarps<P>);
    const splatlearn_RasterizeInputs &in = p.grad.inputs;
    const int64_t span = p.grad.spans[blockIdx.x];
    if (span < 0) return;
    TileThread<P> tile(in, int(span >> 32));
    tile.narrow(int(span), p.grad.checkpoints ? kSpan : INT32_MAX);
    const SplatBatch<S, Primitive, kBatch> batch = {records, reached};
    const int channels = W::All ? W::D : in.channels;
    const GradientRow<Primitive> row_layout = {channels, W::All ? W::Abs : in.absgrad != 0};
    const int columns = row_layout.columns();
    BackwardPixel<S, W> pixels[P];
    int unit_ends[P], end = 0;  // of what any pixel of a unit drew, and then of the block
#pragma unroll
    for (int r = 0; r < P; ++r) {
        pixels[r].begin(p, tile, int(span), r);
        unit_ends[r] = warp_max(pixels[r].stop);
        end = max(end, unit_ends[r]);
    }
    if (tile.lane == 0) ends[tile.warp] = end;
    __syncthreads();
    for (int w = 0; w < kWarps<P>; ++w) end = max(end, ends[w]);
    for (int64_t j = threadIdx.x; !p.sums && j < int64_t(tile.count - end) * kSums;
         j += kThreads<P>) {  // what no pixel drew
        const int column = W::column_of(int(j % kSums), row_layout, p.first_channel);
        const int64_t slot = p.grad.slots[tile.begin + end + j / kSums];
        if (column >= 0) static_cast<S *>(p.grad.instance_rows)[slot * columns + column] = S(0);
    }

    const LaneBits bits(tile.lane);
    const int sum_of_lane = W::sum_of_lane(tile.lane),
              own = kept(sum_of_lane < 0 ? -1 : tile.warp * kSums + sum_of_lane);
    for (int first = end > 0 ? (end - 1) / kBatch * kBatch : -1; first >= 0; first -= kBatch) {
        const int n = end - first < kBatch ? end - first : kBatch;
        __syncthreads();  // the sums of the batch before have been read
        batch.load(in, tile, first, n, p.log2_cut);
        if (int(threadIdx.x) < n) {
            ids[threadIdx.x] = in.row_ids[tile.begin + first + threadIdx.x];
            if (!p.sums) slots[threadIdx.x] = p.grad.slots[tile.begin + first + threadIdx.x];
        }
        __syncthreads();
        for (int part = kBatch - kWarp; part >= 0; part -= kWarp) {
            const int at = part + tile.lane;
            const unsigned mine = at < n ? reached[at] >> tile.unit : 0;
            unsigned hits[P], rest = 0, summed = 0;
#pragma unroll
            for (int r = 0; r < P; ++r) {
                hits[r] = __ballot_sync(kFull, (mine >> r & 1) && first + at < unit_ends[r]);
                rest |= hits[r];
            }
            while (rest) {
                const int bit = kWarp - 1 - __clz(int(rest)), i = part + bit, k = first + i;
                rest ^= 1u << bit;
                const Record &record = records[i];
                const auto splat = record.splat();
                const S dx = S(tile.pixel_x) + S(0.5) - splat.x;
                const typename Primitive::template Column<S> column(splat, dx);
                const S dy = S(tile.pixel_y) + S(0.5) - splat.y;
                S held[W::kHeld], sums[W::kRaw] = {};
#pragma unroll
                for (int d = 0; W::All && d < W::D; ++d) held[d] = record.color(d);
                const S *c = W::All ? held : static_cast<const S *>(in.colors) + int64_t(ids[i]) * channels;
#pragma unroll
                for (int r = 0; r < P; ++r) {
                    if (!(hits[r] >> bit & 1)) continue;
                    const S row = r > 0 ? dy + S(r * kUnitHeight) : dy, power = column.log2_alpha(splat, row);
                    const S *v = W::All || !W::Moments
                                     ? nullptr
                                     : static_cast<const S *>(p.grad.v_render) + tile.pixel(r) * channels;
                    if ((power >= p.log2_cut) & (k < pixels[r].stop))
                        pixels[r].unblend_splat(p, splat, power, dx, row, c, v, sums);
                }
                bool any = false;
#pragma unroll
                for (int j = 0; j < W::kRaw; ++j) any |= sums[j] != S(0);
                if (!__any_sync(kFull, any)) continue;
                summed |= 1u << bit;
                const S sum = W::sum(sums, dx, bits);
                if (own >= 0) partial[i * kWarps<P> * kSums + own] = sum;
            }
            if (tile.lane == 0) drawn[tile.warp * kMasks + part / kWarp] = summed;
        }
        __syncthreads();
        const BatchSums<S, W> done = {partial, drawn, slots, ids, n};
        if (p.sums)
            done.add_sums(p);
        else
            done.store_rows(p, row_layout, columns);
    }
}

template <class S, class W> int walk(const BackwardParams<S> &params) {
    const splatlearn_RasterizeInputs &in = params.grad.inputs;
    const unsigned spans = unsigned(tiles_of(in) + in.n_instances / kSpan);
    return SPLATLEARN_LAUNCH((rasterize_backward_kernel<S, W>), spans, kThreads<kThreadPixels>, stream_of(in.context),
                             params);
}

// Any number of channels: the moments in one walk, the colours a few at a time in others, for their weights do not
// depend on colours.
template <class S, class Primitive> int walk_wide(BackwardParams<S> params) {
    if (params.grad.inputs.absgrad)
        SPLATLEARN_TRY((walk<S, SplatSums<Primitive, 0, false, true, true>>(params)));
    else
        SPLATLEARN_TRY((walk<S, SplatSums<Primitive, 0, false, true, false>>(params)));
    for (; params.first_channel < params.grad.inputs.channels; params.first_channel += kChannelsAtOnce)
        SPLATLEARN_TRY((walk<S, SplatSums<Primitive, kChannelsAtOnce, false, false, false>>(params)));
    return 0;
}

template <class S, class Primitive> int walk_channels(const BackwardParams<S> &params) {
    const bool absgrad = params.grad.inputs.absgrad;
    switch (params.grad.inputs.channels) {
        case 1:
            if (!absgrad) return walk<S, SplatSums<Primitive, 1, true, true, false>>(params);
            break;
        case 3:
            return absgrad ? walk<S, SplatSums<Primitive, 3, true, true, true>>(params)
                           : walk<S, SplatSums<Primitive, 3, true, true, false>>(params);
        case 4:
            if (!absgrad) return walk<S, SplatSums<Primitive, 4, true, true, false>>(params);
            break;
        default: break;
    }
    return walk_wide<S, Primitive>(params);
}

template <class S, class Primitive> struct BackwardScratch {
    Part<S> *sums;
    int64_t sums_size;
    S *tile_backgrounds;
    BackwardScratch(Arena &arena, const splatlearn_RasterizeBackward &grad)
        : sums(nullptr), sums_size(grad.atomic ? grad.inputs.n_rows * parts_of<Primitive>(grad.inputs.channels) : 0),
          tile_backgrounds(nullptr) {
        if (sums_size) sums = arena.take<Part<S>>(sums_size);
        if (grad.v_backgrounds) tile_backgrounds = arena.take<S>(tiles_of(grad.inputs) * grad.inputs.channels);
    }
};

template <class S, class Primitive> int backward_primitive(const splatlearn_RasterizeBackward &grad) {
    const splatlearn_RasterizeInputs &in = grad.inputs;
    const cudaStream_t stream = stream_of(in.context);
    Arena arena(in.context.scratch);
    const BackwardScratch<S, Primitive> scratch(arena, grad);
    if (!fits(arena, in.context)) return kScratchTooSmall;
    if (tiles_of(in) + in.n_instances / kSpan >= INT32_MAX) return kTooMany;
    if (scratch.sums) {
        const size_t bytes = size_t(scratch.sums_size) * sizeof(Part<S>);
        SPLATLEARN_TRY(failure_of(cudaMemsetAsync(scratch.sums, 0, bytes, stream)));
    }
    const BackwardParams<S> params = {grad, log2_threshold(S(in.alpha_threshold)), 0, scratch.sums};
    SPLATLEARN_TRY((walk_channels<S, Primitive>(params)));
    SPLATLEARN_TRY((gradients_of_rows<S, Primitive>(params)));
    return grad.v_backgrounds ? gradients_of_backgrounds(grad, scratch.tile_backgrounds) : 0;
}

template <class S> int backward(const splatlearn_RasterizeBackward &grad) {
    return by_primitive(grad.inputs, [&](auto primitive) { return backward_primitive<S, decltype(primitive)>(grad); });
}

template <class S> int64_t scratch_of(const splatlearn_RasterizeBackward &grad) {
    Arena arena(nullptr);
    by_primitive(grad.inputs, [&](auto primitive) { return BackwardScratch<S, decltype(primitive)>(arena, grad), 0; });
    return arena.used();
}

}  // namespace

int rasterize_backward(const splatlearn_RasterizeBackward &params) {
    return SPLATLEARN_BY_SCALAR(params, params.inputs.context, backward);
}
int64_t rasterize_backward_scratch(const splatlearn_RasterizeBackward &params) {
    return params.inputs.context.scalar_bytes == 4 ? scratch_of<float>(params) : scratch_of<double>(params);
}

}  // namespace SPLATLEARN_NAMESPACE
