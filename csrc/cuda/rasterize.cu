// Alpha compositing on CUDA. A block is a 16x16 tile of 128 threads; a warp has 8x8 of its pixels, a thread two of them.
//
// The tile's list passes through shared memory in batches. Each lane of a warp first tests one splat of the batch against the
// warp's two 8x4 halves, with the ellipse test that made the lists; ballots then name the splats that the warp walks.
// Backward walks the list in reverse and sums moments over pixels: recursive halving over a warp, fixed order over the four
// warps, one row of gradients per instance; a second kernel adds each Gaussian's rows in their order. No atomics.
#include "stage.h"

#include "../math/blend.h"
#include "../math/tile.h"

namespace SPLATLEARN_NAMESPACE {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;
constexpr int kHalfWidth = 8, kHalfHeight = 4;  // the pixels of a warp are two halves of this size, one above the other
constexpr int kForwardBatch = kThreads;
constexpr int kBackwardBatch = 64;
constexpr int kMoments = 6;                     // columns of a gradient row: 6 moments, D colours, 2 absolute mean gradients
constexpr int kOwnRows = 64;                    // the rows of a Gaussian that has more are summed by a warp
constexpr int kChunk = 4;                       // channels summed at a time where D is not known when compiled

// Blocks that a multiprocessor is to hold at once: up to 72 registers a thread, 128 for double.
template <class S> constexpr int kResident = sizeof(S) == 4 ? 7 : 4;

// ---- what forward and backward share ----

// A splat as the tiles read it, in one 32-byte sector for float.
template <class S> struct alignas(16) Packed {
    Splat<S> splat;
    S unused[2];
};

template <class S> struct PackParams {
    splatlearn_RasterizeInputs in;
    Packed<S> *packed;  // [M]
};

template <class S> SPLATLEARN_KERNEL __launch_bounds__(kThreads) void pack_kernel(PackParams<S> p) {
    const int64_t row = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    if (row >= p.in.n_rows) return;
    const S opacity = static_cast<const S *>(p.in.opacities)[row];
    if (!(opacity > S(0))) return;  // in no list
    const S *mean = static_cast<const S *>(p.in.means2d) + 2 * row, *conic = static_cast<const S *>(p.in.conics) + 3 * row;
    p.packed[row] = {pack_splat(mean, conic, opacity), {}};
}

template <class S> int pack(const splatlearn_RasterizeInputs &in, Packed<S> *packed) {
    const PackParams<S> params = {in, packed};
    return SPLATLEARN_LAUNCH((pack_kernel<S>), blocks_for(in.n_rows, kThreads), kThreads, stream_of(in.context), params);
}

// Where a block's tile lies, its list, and this thread's two pixels.
struct Place {
    int64_t camera, begin;
    int count;        // instances of the list
    int x, y;         // first pixel of the warp's upper half
    int lane, warp;
    int pixel_x, pixel_y;
    bool inside[2];
    int64_t pixel[2];

    SPLATLEARN_DEVICE explicit Place(const splatlearn_RasterizeInputs &in) {
        const int tiles_x = tiles_across(in.width);
        const int64_t tile = blockIdx.x, per_image = int64_t(tiles_x) * tiles_across(in.height);
        const int64_t in_image = tile % per_image;
        camera = tile / per_image;
        begin = in.tile_offsets[tile];
        count = int(in.tile_offsets[tile + 1] - begin);
        lane = threadIdx.x % kWarp;
        warp = threadIdx.x / kWarp;
        x = int(in_image % tiles_x) * kTile + warp % 2 * kHalfWidth;
        y = int(in_image / tiles_x) * kTile + warp / 2 * 2 * kHalfHeight;
        pixel_x = x + lane % kHalfWidth;
        pixel_y = y + lane / kHalfWidth;
        for (int half = 0; half < 2; ++half) {
            const int row = pixel_y + half * kHalfHeight;
            inside[half] = pixel_x < in.width && row < in.height;
            pixel[half] = (camera * in.height + row) * in.width + pixel_x;
        }
    }
};

// Whether the ellipse reaches pixel centres of the 8x4 half whose first pixel is (x, y).
template <class S> SPLATLEARN_DEVICE bool reaches(const Splat<S> &splat, S log2_cut, int x, int y) {
    const S top = S(y) + S(0.5) - splat.y, left = S(x) + S(0.5) - splat.x;
    const S level = splat.log2_opacity - log2_cut, bottom = top + S(kHalfHeight - 1);
    const Interval<S> span = ellipse_in_slab(splat.a, S(0.5) * splat.b, splat.c, level, top, bottom);
    return span.low <= span.high && span.high >= left && span.low <= left + S(kHalfWidth - 1);
}

// What of log2 alpha a thread's two pixels share, for they lie in one column.
template <class S> struct Column {
    S dx, constant, linear;
    SPLATLEARN_DEVICE Column(const Splat<S> &splat, int pixel_x) {
        dx = S(pixel_x) + S(0.5) - splat.x;
        constant = splat.log2_opacity - splat.a * dx * dx;
        linear = -splat.b * dx;
    }
    SPLATLEARN_DEVICE S log2_alpha(const Splat<S> &splat, S dy) const { return constant + dy * (linear - splat.c * dy); }
};

// ---- forward ----

template <class S> struct ForwardParams {
    splatlearn_RasterizeForward out;
    const Packed<S> *packed;
    S log2_cut, stop_below;
};

// One splat over one pixel. D > 0: the colour is held in registers; D = 0: any number of channels, added to the image at once.
template <class S, int D>
SPLATLEARN_DEVICE void composite(const ForwardParams<S> &p, S power, int k, const S *c, S &transmittance, S *color,
                                 int32_t &stop, int64_t pixel) {
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
        for (int d = 0; d < D; ++d) color[d] += weight * c[d];
    } else {
        S *render = static_cast<S *>(p.out.render) + pixel * p.out.in.channels;
        for (int d = 0; d < p.out.in.channels; ++d) render[d] += weight * c[d];
    }
}

template <class S, int D>
SPLATLEARN_KERNEL __launch_bounds__(kThreads, kResident<S>) void rasterize_forward_kernel(ForwardParams<S> p) {
    constexpr int kHeld = D > 0 ? D : 1;
    SPLATLEARN_SHARED(Packed<S>, splats, kForwardBatch);
    SPLATLEARN_SHARED(S, colors, kForwardBatch * kHeld);
    SPLATLEARN_SHARED(int32_t, ids, kForwardBatch);
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
    for (int first = 0; first < place.count; first += kForwardBatch) {
        const bool live = transmittance[0] > S(0) || transmittance[1] > S(0);
        if (!__syncthreads_or(live)) break;  // also keeps this batch from overwriting the one before while it is read
        if (first + int(threadIdx.x) < place.count) {
            const int32_t id = in.row_ids[place.begin + first + threadIdx.x];
            splats[threadIdx.x] = p.packed[id];
            ids[threadIdx.x] = id;
            const S *c = static_cast<const S *>(in.colors) + int64_t(id) * channels;
            for (int d = 0; d < D; ++d) colors[threadIdx.x * kHeld + d] = c[d];
        }
        __syncthreads();
        const int n = place.count - first < kForwardBatch ? place.count - first : kForwardBatch;
        for (int part = 0; part < n; part += kWarp) {
            if (!__any_sync(kFull, transmittance[0] > S(0) || transmittance[1] > S(0))) break;
            const int mine = part + place.lane;
            const bool there = mine < n;
            const Splat<S> &tested = splats[there ? mine : 0].splat;
            const unsigned upper = __ballot_sync(kFull, there && reaches(tested, p.log2_cut, place.x, place.y));
            const unsigned lower = __ballot_sync(kFull, there && reaches(tested, p.log2_cut, place.x, place.y + kHalfHeight));
            for (unsigned rest = upper | lower; rest; rest &= rest - 1) {
                const int bit = __ffs(int(rest)) - 1, i = part + bit;
                const Splat<S> splat = splats[i].splat;
                const Column<S> column(splat, place.pixel_x);
                const S dy = S(place.pixel_y) + S(0.5) - splat.y;
                const S *c = D > 0 ? &colors[i * kHeld] : static_cast<const S *>(in.colors) + int64_t(ids[i]) * channels;
                if (upper >> bit & 1) {
                    const S power = column.log2_alpha(splat, dy);
                    composite<S, D>(p, power, first + i, c, transmittance[0], color[0], stops[0], place.pixel[0]);
                }
                if (lower >> bit & 1) {
                    const S power = column.log2_alpha(splat, dy + S(kHalfHeight));
                    composite<S, D>(p, power, first + i, c, transmittance[1], color[1], stops[1], place.pixel[1]);
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

int64_t tiles_of(const splatlearn_RasterizeInputs &in) { return in.n_cameras * tiles_across(in.width) * tiles_across(in.height); }

template <class S, int D> int forward_channels(const splatlearn_RasterizeForward &out) {
    Arena arena(out.in.context.scratch);
    Packed<S> *packed = arena.take<Packed<S>>(out.in.n_rows);
    if (!fits(arena, out.in.context)) return kScratchTooSmall;
    if (tiles_of(out.in) >= INT32_MAX) return kTooMany;
    SPLATLEARN_TRY(pack(out.in, packed));
    // Backward recovers T by division, so a pixel always stops before T leaves the range of normal numbers.
    const S stop_below = maximum(S(out.in.transmittance_threshold), sizeof(S) == 4 ? S(1e-35) : S(1e-300));
    const ForwardParams<S> params = {out, packed, log2_threshold(S(out.in.alpha_threshold)), stop_below};
    const unsigned blocks = unsigned(tiles_of(out.in));
    return SPLATLEARN_LAUNCH((rasterize_forward_kernel<S, D>), blocks, kThreads, stream_of(out.in.context), params);
}

template <class S> int forward(const splatlearn_RasterizeForward &out) {
    switch (out.in.channels) {
        case 1: return forward_channels<S, 1>(out);
        case 3: return forward_channels<S, 3>(out);
        case 4: return forward_channels<S, 4>(out);
        default: return forward_channels<S, 0>(out);
    }
}

// ---- backward ----

template <class S> struct BackwardParams {
    splatlearn_RasterizeBackward grad;
    const Packed<S> *packed;
    S log2_cut;
    int first_channel;  // of those whose colour gradients are summed
};

// What a walk sums for each splat. D: channels whose colour gradients are summed; All: they are all the channels there are, else the
// others are read from memory where q needs them; Moments, Abs: the moments, the absolute mean gradients.
template <int D_, bool All_, bool Moments_, bool Abs_> struct Walk {
    static constexpr int D = D_;
    static constexpr bool All = All_, Moments = Moments_, Abs = Abs_;
    static constexpr int kHeld = D > 0 ? D : 1;
    static constexpr int kColor = Moments ? kMoments : 0, kAbs = kColor + D, kSums = kAbs + (Abs ? 2 : 0);
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
        behind = -static_cast<const S *>(p.grad.v_alphas)[pixel];
        for (int d = 0; background && d < in.channels; ++d) behind += background[d] * v[d];
        for (int d = 0; d < W::D; ++d) v_color[d] = p.first_channel + d < in.channels ? v[p.first_channel + d] : S(0);
        stop = p.grad.stops[pixel] < place.count ? p.grad.stops[pixel] : place.count;
    }

    // Undoes splat k here and adds what it says to the sums; true where it was drawn.
    SPLATLEARN_DEVICE bool undo(const BackwardParams<S> &p, const Splat<S> &splat, int k, const Column<S> &column, S dy,
                                const S *c, int64_t pixel, S *sums) {
        const S power = column.log2_alpha(splat, dy), dx = column.dx;
        if (!(power >= p.log2_cut) || k >= stop) return false;
        const S raw = exponential2(power), alpha = minimum(raw, S(kAlphaMax));
        S q = S(0), g;
        if constexpr (W::All) {
#pragma unroll
            for (int d = 0; d < W::D; ++d) q += c[d] * v_color[d];
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

// Column of a gradient row where sum j of a walk belongs, or -1.
template <class W> SPLATLEARN_DEVICE int column_of(int j, int channels, int first_channel) {
    if (W::Moments && j < kMoments) return j;
    if (j < W::kAbs) return first_channel + j - W::kColor < channels ? kMoments + first_channel + j - W::kColor : -1;
    return kMoments + channels + j - W::kAbs;
}

template <class S, class W>
SPLATLEARN_KERNEL __launch_bounds__(kThreads, kResident<S>) void rasterize_backward_kernel(BackwardParams<S> p) {
    constexpr int kSums = W::kSums, kMasks = kBackwardBatch / kWarp;
    SPLATLEARN_SHARED(Packed<S>, splats, kBackwardBatch);
    SPLATLEARN_SHARED(S, colors, kBackwardBatch * W::kHeld);
    SPLATLEARN_SHARED(int32_t, ids, kBackwardBatch);
    SPLATLEARN_SHARED(int64_t, slots, kBackwardBatch);
    SPLATLEARN_SHARED(S, partial, kBackwardBatch * kWarps * kSums);  // [splat][warp][sum]
    SPLATLEARN_SHARED(unsigned, drawn, kWarps * kMasks);             // bits of the splats of the batch that a warp drew
    SPLATLEARN_SHARED(int, ends, kWarps);
    const splatlearn_RasterizeInputs &in = p.grad.in;
    const Place place(in);
    const int channels = in.channels, columns = kMoments + channels + (in.absgrad ? 2 : 0);
    Pixel<S, W> upper_pixel(p, place, 0), lower_pixel(p, place, 1);
    S *const rows = static_cast<S *>(p.grad.instance_rows);

    // The end of what any pixel of the warp drew.
    int warp_end = upper_pixel.stop > lower_pixel.stop ? upper_pixel.stop : lower_pixel.stop;
    for (int offset = kWarp / 2; offset > 0; offset /= 2) {
        const int other = __shfl_xor_sync(kFull, warp_end, offset);
        warp_end = other > warp_end ? other : warp_end;
    }
    if (place.lane == 0) ends[place.warp] = warp_end;
    __syncthreads();
    int end = 0;
    for (int w = 0; w < kWarps; ++w) end = ends[w] > end ? ends[w] : end;
    for (int64_t j = threadIdx.x; j < int64_t(place.count - end) * kSums; j += kThreads) {  // rows of what no pixel drew
        const int column = column_of<W>(int(j % kSums), channels, p.first_channel);
        if (column >= 0) rows[p.grad.slots[place.begin + end + j / kSums] * columns + column] = S(0);
    }

    const int sum_of_lane = WarpSums<kSums>::index(place.lane);
    for (int first = end > 0 ? (end - 1) / kBackwardBatch * kBackwardBatch : -1; first >= 0; first -= kBackwardBatch) {
        const int n = end - first < kBackwardBatch ? end - first : kBackwardBatch;
        __syncthreads();  // the sums of the batch before have been read
        if (int(threadIdx.x) < n) {
            const int32_t id = in.row_ids[place.begin + first + threadIdx.x];
            splats[threadIdx.x] = p.packed[id];
            ids[threadIdx.x] = id;
            slots[threadIdx.x] = p.grad.slots[place.begin + first + threadIdx.x];
            const S *c = static_cast<const S *>(in.colors) + int64_t(id) * channels;
            for (int d = 0; W::All && d < W::D; ++d) colors[threadIdx.x * W::kHeld + d] = c[d];
        }
        __syncthreads();
        for (int part = kBackwardBatch - kWarp; part >= 0; part -= kWarp) {
            const int mine = part + place.lane;
            const bool there = mine < n && first + mine < warp_end;
            const Splat<S> &tested = splats[there ? mine : 0].splat;
            const unsigned upper = __ballot_sync(kFull, there && reaches(tested, p.log2_cut, place.x, place.y));
            const unsigned lower = __ballot_sync(kFull, there && reaches(tested, p.log2_cut, place.x, place.y + kHalfHeight));
            unsigned summed = 0;
            for (unsigned rest = upper | lower; rest;) {
                const int bit = kWarp - 1 - __clz(int(rest)), i = part + bit;
                rest ^= 1u << bit;
                const Splat<S> splat = splats[i].splat;
                const Column<S> column(splat, place.pixel_x);
                const S dy = S(place.pixel_y) + S(0.5) - splat.y, lower_dy = dy + S(kHalfHeight);
                const S *c = W::All ? &colors[i * W::kHeld] : static_cast<const S *>(in.colors) + int64_t(ids[i]) * channels;
                S sums[kSums] = {};
                bool any = false;
                if (upper >> bit & 1)
                    any = upper_pixel.undo(p, splat, first + i, column, dy, c, place.pixel[0], sums);
                if (lower >> bit & 1)
                    any = lower_pixel.undo(p, splat, first + i, column, lower_dy, c, place.pixel[1], sums) || any;
                if (!__any_sync(kFull, any)) continue;
                summed |= 1u << bit;
                WarpSums<kSums>::run(sums, place.lane);
                if (sum_of_lane >= 0) partial[(i * kWarps + place.warp) * kSums + sum_of_lane] = sums[0];
            }
            if (place.lane == 0) drawn[place.warp * kMasks + part / kWarp] = summed;
        }
        __syncthreads();
        for (int j = threadIdx.x; j < n * kSums; j += kThreads) {
            const int i = j / kSums, sum = j % kSums, column = column_of<W>(sum, channels, p.first_channel);
            S total = S(0);
            for (int w = 0; w < kWarps; ++w)
                if (drawn[w * kMasks + i / kWarp] >> (i % kWarp) & 1) total += partial[(i * kWarps + w) * kSums + sum];
            if (column >= 0) rows[slots[i] * columns + column] = total;
        }
    }
}

// Whether the lists had room; else no Gaussian has a row.
SPLATLEARN_DEVICE bool had_room(const splatlearn_RasterizeBackward &grad) { return grad.row_offsets[grad.in.n_rows] <= grad.in.n_instances; }

// Sums columns first..first+N-1 of a Gaussian's rows from `begin`, every `stride`th.
template <class S, int N>
SPLATLEARN_DEVICE void sum_columns(const S *rows, int64_t begin, int64_t end, int stride, int columns, int first, S *sums) {
    for (int j = 0; j < N; ++j) sums[j] = S(0);
    for (int64_t slot = begin; slot < end; slot += stride) {
        const S *row = rows + slot * columns + first;
#pragma unroll
        for (int j = 0; j < N; ++j) sums[j] += first + j < columns ? row[j] : S(0);
    }
}

// Writes what the summed columns first..first+N-1 of a Gaussian say.
template <class S, int N> SPLATLEARN_DEVICE void store_columns(const BackwardParams<S> &p, int64_t row, int first, const S *sums) {
    const splatlearn_RasterizeBackward &grad = p.grad;
    const int channels = grad.in.channels;
    int done = 0;
    if (first == 0) {
        S *v_mean = static_cast<S *>(grad.v_means2d) + 2 * row, *v_conic = static_cast<S *>(grad.v_conics) + 3 * row;
        S &v_opacity = static_cast<S *>(grad.v_opacities)[row];
        if (had_room(grad) && grad.row_offsets[row] < grad.row_offsets[row + 1]) {
            const Moments<S> moments = {sums[0], sums[1], sums[2], sums[3], sums[4], sums[5]};
            moments_backward<S>(p.packed[row].splat, moments, v_mean, v_conic, v_opacity);
        } else {  // in no list, and never packed
            v_mean[0] = v_mean[1] = v_conic[0] = v_conic[1] = v_conic[2] = v_opacity = S(0);
        }
        done = kMoments;
    }
#pragma unroll
    for (int j = 0; j < N; ++j) {
        const int column = first + j - kMoments;
        if (j < done || column >= channels + (grad.in.absgrad ? 2 : 0)) continue;
        if (column < channels) static_cast<S *>(grad.v_colors)[row * channels + column] = sums[j];
        else static_cast<S *>(grad.v_means2d_abs)[2 * row + column - channels] = sums[j];
    }
}

// Adds the rows of each Gaussian in a fixed order and turns moments into gradients: a thread a Gaussian, but a warp for those
// of many rows.
template <class S> SPLATLEARN_KERNEL __launch_bounds__(kThreads) void sum_rows_kernel(BackwardParams<S> p) {
    constexpr int N = kMoments + 3;  // columns at a time: all of them where there are three channels
    const splatlearn_RasterizeBackward &grad = p.grad;
    const int64_t mine = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    const int lane = threadIdx.x % kWarp, columns = kMoments + grad.in.channels + (grad.in.absgrad ? 2 : 0);
    const bool exists = mine < grad.in.n_rows, listed = exists && had_room(grad);
    const int64_t begin = listed ? grad.row_offsets[mine] : 0, end = listed ? grad.row_offsets[mine + 1] : 0;
    const bool large = end - begin > kOwnRows;
    const S *rows = static_cast<const S *>(grad.instance_rows);
    for (int first = 0; exists && !large && first < columns; first += N) {
        S sums[N];
        sum_columns<S, N>(rows, begin, end, 1, columns, first, sums);
        store_columns<S, N>(p, mine, first, sums);
    }
    for (unsigned rest = __ballot_sync(kFull, large); rest; rest &= rest - 1) {
        const int64_t row = mine - lane + __ffs(int(rest)) - 1;
        for (int first = 0; first < columns; first += N) {
            S sums[N];
            sum_columns<S, N>(rows, grad.row_offsets[row] + lane, grad.row_offsets[row + 1], kWarp, columns, first, sums);
            for (int j = 0; j < N; ++j) sums[j] = warp_sum(sums[j]);
            if (lane == 0) store_columns<S, N>(p, row, first, sums);
        }
    }
}

// ---- gradient to the backgrounds: sum over pixels of T dL/drender, by tiles, then over the tiles of a camera ----

template <class S> struct BackgroundParams {
    splatlearn_RasterizeBackward grad;
    S *tiles;  // [C*B][D]
    int64_t tiles_per_image;
};

template <class S> SPLATLEARN_KERNEL __launch_bounds__(kThreads) void tile_backgrounds_kernel(BackgroundParams<S> p) {
    SPLATLEARN_SHARED(S, warps, kWarps);
    const Place place(p.grad.in);
    const int channels = p.grad.in.channels;
    for (int d = 0; d < channels; ++d) {
        const S *T = static_cast<const S *>(p.grad.transmittance), *v = static_cast<const S *>(p.grad.v_render);
        S mine = S(0);
        for (int half = 0; half < 2; ++half)
            if (place.inside[half]) mine += T[place.pixel[half]] * v[place.pixel[half] * channels + d];
        mine = warp_sum(mine);
        if (place.lane == 0) warps[place.warp] = mine;
        __syncthreads();
        if (threadIdx.x == 0) {
            S total = S(0);
            for (int w = 0; w < kWarps; ++w) total += warps[w];
            p.tiles[int64_t(blockIdx.x) * channels + d] = total;
        }
        __syncthreads();
    }
}

template <class S> SPLATLEARN_KERNEL __launch_bounds__(kThreads) void backgrounds_kernel(BackgroundParams<S> p) {
    SPLATLEARN_SHARED(S, warps, kWarps);
    const int channels = p.grad.in.channels;
    const int64_t camera = blockIdx.x / channels, d = blockIdx.x % channels;
    S mine = S(0);
    for (int64_t tile = threadIdx.x; tile < p.tiles_per_image; tile += kThreads)
        mine += p.tiles[(camera * p.tiles_per_image + tile) * channels + d];
    mine = warp_sum(mine);
    if (threadIdx.x % kWarp == 0) warps[threadIdx.x / kWarp] = mine;
    __syncthreads();
    if (threadIdx.x != 0) return;
    S total = S(0);
    for (int w = 0; w < kWarps; ++w) total += warps[w];
    static_cast<S *>(p.grad.v_backgrounds)[blockIdx.x] = total;
}

template <class S> struct BackwardScratch {
    Packed<S> *packed;
    S *tile_backgrounds;
    BackwardScratch(Arena &arena, const splatlearn_RasterizeBackward &grad)
        : packed(arena.take<Packed<S>>(grad.in.n_rows)),
          tile_backgrounds(grad.v_backgrounds ? arena.take<S>(tiles_of(grad.in) * grad.in.channels) : nullptr) {}
};

template <class S, class W> int walk(const BackwardParams<S> &params) {
    const splatlearn_RasterizeInputs &in = params.grad.in;
    return SPLATLEARN_LAUNCH((rasterize_backward_kernel<S, W>), unsigned(tiles_of(in)), kThreads, stream_of(in.context), params);
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

template <class S> int backward(const splatlearn_RasterizeBackward &grad) {
    const splatlearn_RasterizeInputs &in = grad.in;
    const cudaStream_t stream = stream_of(in.context);
    Arena arena(in.context.scratch);
    const BackwardScratch<S> scratch(arena, grad);
    if (!fits(arena, in.context)) return kScratchTooSmall;
    if (tiles_of(in) >= INT32_MAX) return kTooMany;
    SPLATLEARN_TRY(pack(in, scratch.packed));
    const BackwardParams<S> params = {grad, scratch.packed, log2_threshold(S(in.alpha_threshold)), 0};
    SPLATLEARN_TRY(walk_channels(params));
    SPLATLEARN_TRY(SPLATLEARN_LAUNCH((sum_rows_kernel<S>), blocks_for(in.n_rows, kThreads), kThreads, stream, params));
    if (!grad.v_backgrounds) return 0;
    const BackgroundParams<S> background = {grad, scratch.tile_backgrounds, tiles_of(in) / in.n_cameras};
    SPLATLEARN_TRY(SPLATLEARN_LAUNCH((tile_backgrounds_kernel<S>), unsigned(tiles_of(in)), kThreads, stream, background));
    return SPLATLEARN_LAUNCH((backgrounds_kernel<S>), unsigned(in.n_cameras * in.channels), kThreads, stream, background);
}

}  // namespace

int rasterize_forward(const splatlearn_RasterizeForward &params) { return SPLATLEARN_BY_SCALAR(params, params.in.context, forward); }
int64_t rasterize_forward_scratch(const splatlearn_RasterizeForward &params) {
    Arena arena(nullptr);
    arena.take<Packed<double>>(params.in.n_rows);
    return arena.used();
}
int rasterize_backward(const splatlearn_RasterizeBackward &params) { return SPLATLEARN_BY_SCALAR(params, params.in.context, backward); }
int64_t rasterize_backward_scratch(const splatlearn_RasterizeBackward &params) {
    Arena arena(nullptr);
    (void)BackwardScratch<double>(arena, params);
    return arena.used();
}

}  // namespace SPLATLEARN_NAMESPACE
