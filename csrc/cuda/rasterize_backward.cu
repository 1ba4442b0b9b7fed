// Alpha compositing on CUDA, backward: each tile's list in reverse (math/blend.h), moments summed over its pixels.
//
// Sums go by recursive halving over a warp, in fixed order over the four warps, and then, once an instance, either into a
// row of gradients of its own, the same bits at every run, or by atomic additions to its Gaussian, which needs no memory for
// rows. rasterize_sums.cu makes gradients of either.
#include "atomics.h"
#include "rasterize.h"

namespace SPLATLEARN_NAMESPACE {
namespace {

constexpr int kBatch = 64;
constexpr int kChunk = 4;  // channels summed at a time where D is not known when compiled

// What a walk sums for each splat. D: channels whose colour gradients are summed; All: they are all the channels there are, else the
// others are read from memory where q needs them; Moments, Abs: the moments, the absolute mean gradients.
template <int D_, bool All_, bool Moments_, bool Abs_> struct Walk {
    static constexpr int D = D_;
    static constexpr bool All = All_, Moments = Moments_, Abs = Abs_;
    static constexpr int kHeld = D > 0 ? D : 1;
    static constexpr int kColor = Moments ? kMoments : 0, kAbs = kColor + D, kSums = kAbs + (Abs ? 2 : 0);
    static constexpr int kBefore = Moments ? kSumsBefore : 0, kParts = (kBefore + D + 3) / 4;  // for atomic additions

    // Column of a gradient row where sum j belongs, or -1.
    static SPLATLEARN_DEVICE int column_of(int j, int channels, int first_channel) {
        if (Moments && j < kMoments) return j;
        if (j < kAbs) return first_channel + j - kColor < channels ? kMoments + first_channel + j - kColor : -1;
        return kMoments + channels + j - kAbs;
    }
    // The sum that is number j among those for atomic additions, or -1.
    static SPLATLEARN_DEVICE int sum_of(int j) {
        if (j >= kBefore) return j - kBefore < D ? kColor + j - kBefore : -1;
        return j < kMoments ? j : Abs ? kAbs + j - kMoments : -1;
    }
};

// The state of a pixel while its list is undone.
template <class S, class W> struct Pixel {
    S transmittance, behind, v_color[W::kHeld];
    int stop;  // splats from this position on are not drawn on the pixel

    SPLATLEARN_DEVICE Pixel(const BackwardParams<S> &p, const Place &place, int half)
        : transmittance(S(1)), behind(S(0)), v_color{}, stop(0) {
        if (!place.inside[half]) return;
        const splatlearn_RasterizeInputs &in = p.grad.in;
        const int64_t pixel = place.pixel[half];
        const S *v = static_cast<const S *>(p.grad.v_render) + pixel * in.channels;
        const S *background = in.backgrounds ? static_cast<const S *>(in.backgrounds) + place.camera * in.channels : nullptr;
        transmittance = static_cast<const S *>(p.grad.transmittance)[pixel];
        behind = p.grad.v_alphas ? -static_cast<const S *>(p.grad.v_alphas)[pixel] : S(0);
        for (int d = 0; background && d < in.channels; ++d) behind += background[d] * v[d];
        for (int d = 0; d < W::D; ++d) v_color[d] = p.first_channel + d < in.channels ? v[p.first_channel + d] : S(0);
        stop = p.grad.stops[pixel] < place.count ? p.grad.stops[pixel] : place.count;
    }

    // Undoes splat k here and adds what it says to the sums; true where it was drawn.
    SPLATLEARN_DEVICE bool undo(const BackwardParams<S> &p, const Record<S> &record, const Splat<S> &splat, int k,
                                const Column<S> &column, S dy, const S *c, int64_t pixel, S *sums) {
        const S power = column.log2_alpha(splat, dy), dx = column.dx;
        if (!(power >= p.log2_cut) || k >= stop) return false;
        const S raw = exponential2(power), alpha = minimum(raw, S(kAlphaMax));
        S q = S(0), g;
        if constexpr (W::All) {
#pragma unroll
            for (int d = 0; d < W::D; ++d) q += record.color(d) * v_color[d];
        } else if constexpr (W::Moments) {
            const S *v = static_cast<const S *>(p.grad.v_render) + pixel * p.grad.in.channels;
            for (int d = 0; d < p.grad.in.channels; ++d) q += c[d] * v[d];
        }
        const S weight = unblend(alpha, q, transmittance, behind, g);
#pragma unroll
        for (int d = 0; d < W::D; ++d) sums[W::kColor + d] += weight * v_color[d];
        if constexpr (W::Moments) {
            if (!(raw <= S(kAlphaMax))) return true;  // a clamped alpha does not move
            const S g_dx = g * dx, g_dy = g * dy;
            sums[0] += g;
            sums[1] += g_dx;
            sums[2] += g_dy;
            sums[3] += g_dx * dx;
            sums[4] += g_dx * dy;
            sums[5] += g_dy * dy;
            if constexpr (W::Abs) {
                sums[W::kAbs] += S(1 / kLog2E) * absolute(S(2) * splat.a * g_dx + splat.b * g_dy);
                sums[W::kAbs + 1] += S(1 / kLog2E) * absolute(splat.b * g_dx + S(2) * splat.c * g_dy);
            }
        }
        return true;
    }
};

// The end of what any pixel of the warp drew.
template <class S, class W> SPLATLEARN_DEVICE int end_of_warp(const Pixel<S, W> &upper, const Pixel<S, W> &lower) {
    int end = upper.stop > lower.stop ? upper.stop : lower.stop;
    for (int offset = kWarp / 2; offset > 0; offset /= 2) {
        const int other = __shfl_xor_sync(kFull, end, offset);
        end = other > end ? other : end;
    }
    return end;
}

// What the warps have summed for the n splats of a batch, and where their gradients go.
template <class S, class W> struct Batch {
    static constexpr int kMasks = kBatch / kWarp;
    const S *partial;       // [splat][warp][sum]
    const unsigned *drawn;  // bits of the splats that a warp drew
    const int64_t *slots;
    const int32_t *ids;
    int n;

    // Sum j of splat i, over the warps in their order.
    SPLATLEARN_DEVICE S total(int i, int j) const {
        S sum = S(0);
        for (int w = 0; w < kTileWarps; ++w)
            if (drawn[w * kMasks + i / kWarp] >> (i % kWarp) & 1) sum += partial[(i * kTileWarps + w) * W::kSums + j];
        return sum;
    }
    SPLATLEARN_DEVICE bool any(int i) const {
        unsigned bits = 0;
        for (int w = 0; w < kTileWarps; ++w) bits |= drawn[w * kMasks + i / kWarp] >> (i % kWarp);
        return bits & 1;
    }
    SPLATLEARN_DEVICE void store_rows(const BackwardParams<S> &p, int columns) const {
        S *const rows = static_cast<S *>(p.grad.instance_rows);
        for (int k = threadIdx.x; k < n * W::kSums; k += kTileThreads) {
            const int i = k / W::kSums, j = k % W::kSums, column = W::column_of(j, p.grad.in.channels, p.first_channel);
            const S sum = total(i, j);
            if (column >= 0) rows[slots[i] * columns + column] = sum;
        }
    }
    SPLATLEARN_DEVICE void add_sums(const BackwardParams<S> &p) const {
        const int first = W::Moments ? 0 : (kSumsBefore + p.first_channel) / 4;
        for (int k = threadIdx.x; k < n * W::kParts; k += kTileThreads) {
            const int i = k / W::kParts, part = k % W::kParts;
            if (!any(i)) continue;
            Part<S> sums;
            for (int j = 0; j < 4; ++j) sums.v[j] = W::sum_of(4 * part + j) >= 0 ? total(i, W::sum_of(4 * part + j)) : S(0);
            add_atomically(p.sums + int64_t(ids[i]) * parts_of(p.grad.in.channels) + first + part, sums);
        }
    }
};

template <class S, class W>
SPLATLEARN_KERNEL __launch_bounds__(kTileThreads, kResident<S>) void rasterize_backward_kernel(BackwardParams<S> p) {
    constexpr int kSums = W::kSums, kMasks = kBatch / kWarp;
    SPLATLEARN_SHARED(Record<S>, records, kBatch);
    SPLATLEARN_SHARED(int32_t, ids, kBatch);
    SPLATLEARN_SHARED(int64_t, slots, kBatch);
    SPLATLEARN_SHARED(S, partial, kBatch * kTileWarps * kSums);
    SPLATLEARN_SHARED(unsigned, drawn, kTileWarps * kMasks);
    SPLATLEARN_SHARED(int, ends, kTileWarps);
    const splatlearn_RasterizeInputs &in = p.grad.in;
    const Place place(in);
    const int channels = in.channels, columns = kMoments + channels + (in.absgrad ? 2 : 0);
    Pixel<S, W> upper_pixel(p, place, 0), lower_pixel(p, place, 1);

    const int warp_end = end_of_warp(upper_pixel, lower_pixel);
    if (place.lane == 0) ends[place.warp] = warp_end;
    __syncthreads();
    int end = 0;
    for (int w = 0; w < kTileWarps; ++w) end = ends[w] > end ? ends[w] : end;
    for (int64_t j = threadIdx.x; !p.sums && j < int64_t(place.count - end) * kSums; j += kTileThreads) {  // what no pixel drew
        const int column = W::column_of(int(j % kSums), channels, p.first_channel);
        const int64_t slot = p.grad.slots[place.begin + end + j / kSums];
        if (column >= 0) static_cast<S *>(p.grad.instance_rows)[slot * columns + column] = S(0);
    }

    const int sum_of_lane = WarpSums<kSums>::index(place.lane);
    for (int first = end > 0 ? (end - 1) / kBatch * kBatch : -1; first >= 0; first -= kBatch) {
        const int n = end - first < kBatch ? end - first : kBatch;
        __syncthreads();  // the sums of the batch before have been read
        load_records(in, place.begin + first, n, records);
        if (int(threadIdx.x) < n) {
            ids[threadIdx.x] = in.row_ids[place.begin + first + threadIdx.x];
            if (!p.sums) slots[threadIdx.x] = p.grad.slots[place.begin + first + threadIdx.x];
        }
        __syncthreads();
        for (int part = kBatch - kWarp; part >= 0; part -= kWarp) {
            const int mine = part + place.lane;
            const bool there = mine < n && first + mine < warp_end;
            const Splat<S> tested = records[there ? mine : 0].splat();
            const unsigned upper = __ballot_sync(kFull, there && reaches(tested, p.log2_cut, place.x, place.y));
            const unsigned lower = __ballot_sync(kFull, there && reaches(tested, p.log2_cut, place.x, place.y + kHalfHeight));
            unsigned summed = 0;
            for (unsigned rest = upper | lower; rest;) {
                const int bit = kWarp - 1 - __clz(int(rest)), i = part + bit;
                rest ^= 1u << bit;
                const Record<S> &record = records[i];
                const Splat<S> splat = record.splat();
                const Column<S> column(splat, place.pixel_x);
                const S dy = S(place.pixel_y) + S(0.5) - splat.y, lower_dy = dy + S(kHalfHeight);
                const S *c = W::All ? nullptr : static_cast<const S *>(in.colors) + int64_t(ids[i]) * channels;
                S sums[kSums] = {};
                bool any = false;
                if (upper >> bit & 1)
                    any = upper_pixel.undo(p, record, splat, first + i, column, dy, c, place.pixel[0], sums);
                if (lower >> bit & 1)
                    any = lower_pixel.undo(p, record, splat, first + i, column, lower_dy, c, place.pixel[1], sums) || any;
                if (!__any_sync(kFull, any)) continue;
                summed |= 1u << bit;
                WarpSums<kSums>::run(sums, place.lane);
                if (sum_of_lane >= 0) partial[(i * kTileWarps + place.warp) * kSums + sum_of_lane] = sums[0];
            }
            if (place.lane == 0) drawn[place.warp * kMasks + part / kWarp] = summed;
        }
        __syncthreads();
        const Batch<S, W> batch = {partial, drawn, slots, ids, n};
        if (p.sums) batch.add_sums(p);
        else batch.store_rows(p, columns);
    }
}

template <class S, class W> int walk(const BackwardParams<S> &params) {
    const splatlearn_RasterizeInputs &in = params.grad.in;
    return SPLATLEARN_LAUNCH((rasterize_backward_kernel<S, W>), unsigned(tiles_of(in)), kTileThreads, stream_of(in.context), params);
}

// Any number of channels: the moments in one walk, the colours a few at a time in others, for their weights do not depend on colours.
template <class S> int walk_wide(BackwardParams<S> params) {
    if (params.grad.in.absgrad) SPLATLEARN_TRY((walk<S, Walk<0, false, true, true>>(params)));
    else SPLATLEARN_TRY((walk<S, Walk<0, false, true, false>>(params)));
    for (; params.first_channel < params.grad.in.channels; params.first_channel += kChunk)
        SPLATLEARN_TRY((walk<S, Walk<kChunk, false, false, false>>(params)));
    return 0;
}

template <class S> int walk_channels(const BackwardParams<S> &params) {
    const int channels = params.grad.in.channels;
    if (params.grad.in.absgrad) return channels == 3 ? walk<S, Walk<3, true, true, true>>(params) : walk_wide(params);
    switch (channels) {
        case 1: return walk<S, Walk<1, true, true, false>>(params);
        case 3: return walk<S, Walk<3, true, true, false>>(params);
        case 4: return walk<S, Walk<4, true, true, false>>(params);
        default: return walk_wide(params);
    }
}

template <class S> struct BackwardScratch {
    Part<S> *sums;
    int64_t sums_size;
    S *tile_backgrounds;
    BackwardScratch(Arena &arena, const splatlearn_RasterizeBackward &grad)
        : sums(nullptr), sums_size(grad.atomic ? grad.in.n_rows * parts_of(grad.in.channels) : 0), tile_backgrounds(nullptr) {
        if (sums_size) sums = arena.take<Part<S>>(sums_size);
        if (grad.v_backgrounds) tile_backgrounds = arena.take<S>(tiles_of(grad.in) * grad.in.channels);
    }
};

template <class S> int backward(const splatlearn_RasterizeBackward &grad) {
    const splatlearn_RasterizeInputs &in = grad.in;
    const cudaStream_t stream = stream_of(in.context);
    Arena arena(in.context.scratch);
    const BackwardScratch<S> scratch(arena, grad);
    if (!fits(arena, in.context)) return kScratchTooSmall;
    if (tiles_of(in) >= INT32_MAX) return kTooMany;
    if (scratch.sums) SPLATLEARN_TRY(failure_of(cudaMemsetAsync(scratch.sums, 0, size_t(scratch.sums_size) * sizeof(Part<S>), stream)));
    const BackwardParams<S> params = {grad, log2_threshold(S(in.alpha_threshold)), 0, scratch.sums};
    SPLATLEARN_TRY(walk_channels(params));
    SPLATLEARN_TRY(gradients_of_rows(params));
    return grad.v_backgrounds ? gradients_of_backgrounds(grad, scratch.tile_backgrounds) : 0;
}

template <class S> int64_t scratch_of(const splatlearn_RasterizeBackward &grad) {
    Arena arena(nullptr);
    (void)BackwardScratch<S>(arena, grad);
    return arena.used();
}

}  // namespace

int rasterize_backward(const splatlearn_RasterizeBackward &params) { return SPLATLEARN_BY_SCALAR(params, params.in.context, backward); }
int64_t rasterize_backward_scratch(const splatlearn_RasterizeBackward &params) {
    return params.in.context.scalar_bytes == 4 ? scratch_of<float>(params) : scratch_of<double>(params);
}

}  // namespace SPLATLEARN_NAMESPACE
