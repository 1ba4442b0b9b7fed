// The end of stage rasterize's backward on CUDA: from rows or sums of moments to the gradients of each 2D Gaussian, and
// the gradients of the backgrounds. Every sum but those that came by atomic additions has a fixed order.
#include "rasterize.h"

namespace SPLATLEARN_NAMESPACE {
namespace {

constexpr int kSumThreads = kThreads<2>;  // tiles with two pixels a thread, and Gaussians
constexpr int kOwnRows = 64;              // the rows of a Gaussian that has more are summed by a warp

// Whether a Gaussian is in a list: without one it was never packed. No tile has a list where the lists lacked room.
SPLATLEARN_DEVICE bool listed(const splatlearn_RasterizeBackward &grad, int64_t row) {
    return grad.inputs.tile_offsets[tiles_of(grad.inputs)] > 0 && grad.row_offsets[row] < grad.row_offsets[row + 1];
}

template <class S, class Primitive>
SPLATLEARN_DEVICE void store_moments(const BackwardParams<S> &p, int64_t row, bool listed, const S *sums) {
    constexpr int kShape = Primitive::kShape;
    const splatlearn_RasterizeBackward &grad = p.grad;
    S *v_mean = static_cast<S *>(grad.v_means2d) + 2 * row, *v_shape = static_cast<S *>(grad.v_conics) + kShape * row;
    S &v_opacity = static_cast<S *>(grad.v_opacities)[row];
    if (listed) {
        const auto splat = static_cast<const Record<S, Primitive> *>(grad.inputs.records)[row].splat();
        Primitive::moments_backward(splat, sums, v_mean, v_shape, v_opacity);
    } else {
        v_mean[0] = v_mean[1] = v_opacity = S(0);
        for (int j = 0; j < kShape; ++j) v_shape[j] = S(0);
    }
}

// ---- of rows ----

// Sums columns first..first+N-1 of a Gaussian's rows from `begin`, every `stride`th.
template <class S, int N> SPLATLEARN_DEVICE void sum_columns(const S *rows, int64_t begin, int64_t end, int stride,
                                                             int columns, int first, S *sums) {
    for (int j = 0; j < N; ++j) sums[j] = S(0);
    for (int64_t slot = begin; slot < end; slot += stride) {
        const S *row = rows + slot * columns + first;
#pragma unroll
        for (int j = 0; j < N; ++j) sums[j] += first + j < columns ? row[j] : S(0);
    }
}

// Writes what the summed columns first..first+N-1 of a Gaussian say.
template <class S, class Primitive, int N>
SPLATLEARN_DEVICE void store_columns(const BackwardParams<S> &p, int64_t row, bool listed, int first, const S *sums) {
    const GradientRow<Primitive> layout = gradient_row<Primitive>(p.grad.inputs);
    if (first == 0) store_moments<S, Primitive>(p, row, listed, sums);
#pragma unroll
    for (int j = 0; j < N; ++j) {
        const int column = first + j - layout.kColors;
        if (column < 0 || first + j >= layout.columns()) continue;
        if (column < layout.channels)
            static_cast<S *>(p.grad.v_colors)[row * layout.channels + column] = sums[j];
        else
            static_cast<S *>(p.grad.v_means2d_abs)[2 * row + column - layout.channels] = sums[j];
    }
}

// Adds the rows of each Gaussian in a fixed order and turns moments into gradients: one thread per Gaussian, but a warp
// for those of many rows.
template <class S, class Primitive>
SPLATLEARN_KERNEL __launch_bounds__(kSumThreads) void sum_rows_kernel(BackwardParams<S> p) {
    constexpr int N = Primitive::kMoments + 3;  // columns at a time: all of them where there are three channels
    const splatlearn_RasterizeBackward &grad = p.grad;
    const int64_t mine = int64_t(blockIdx.x) * kSumThreads + threadIdx.x;
    const int lane = threadIdx.x % kWarp, columns = gradient_row<Primitive>(grad.inputs).columns();
    const bool exists = mine < grad.inputs.n_rows, in_list = exists && listed(grad, mine);
    const int64_t begin = in_list ? grad.row_offsets[mine] : 0, end = in_list ? grad.row_offsets[mine + 1] : 0;
    const bool large = end - begin > kOwnRows;
    const S *rows = static_cast<const S *>(grad.instance_rows);
    for (int first = 0; exists && !large && first < columns; first += N) {
        S sums[N];
        sum_columns<S, N>(rows, begin, end, 1, columns, first, sums);
        store_columns<S, Primitive, N>(p, mine, in_list, first, sums);
    }
    for (unsigned rest = __ballot_sync(kFull, large); rest; rest &= rest - 1) {
        const int64_t row = mine - lane + __ffs(int(rest)) - 1;
        for (int first = 0; first < columns; first += N) {
            S sums[N];
            sum_columns<S, N>(rows, grad.row_offsets[row] + lane, grad.row_offsets[row + 1], kWarp, columns, first,
                              sums);
            for (int j = 0; j < N; ++j) sums[j] = warp_sum(sums[j]);
            if (lane == 0) store_columns<S, Primitive, N>(p, row, true, first, sums);
        }
    }
}

// ---- of sums that came by atomic additions ----

template <class S, class Primitive>
SPLATLEARN_KERNEL __launch_bounds__(kSumThreads, 8) void unpack_sums_kernel(BackwardParams<S> p) {
    constexpr int kMoments = Primitive::kMoments, kBefore = kSumsBefore<Primitive>;
    const splatlearn_RasterizeBackward &grad = p.grad;
    const int64_t row = int64_t(blockIdx.x) * kSumThreads + threadIdx.x;
    if (row >= grad.inputs.n_rows) return;
    const int channels = grad.inputs.channels;
    const Part<S> *sums = p.sums + row * parts_of<Primitive>(channels);
    S before[kBefore];  // moments, then absolute mean gradients
#pragma unroll
    for (int i = 0; i < kBefore / 4; ++i) {
        const Part<S> part = sums[i];
        for (int j = 0; j < 4; ++j) before[4 * i + j] = part.v[j];
    }
    store_moments<S, Primitive>(p, row, listed(grad, row), before);
    for (int j = 0; grad.inputs.absgrad && j < 2; ++j)
        static_cast<S *>(grad.v_means2d_abs)[2 * row + j] = before[kMoments + j];
    for (int d = 0; d < channels; ++d)
        static_cast<S *>(grad.v_colors)[row * channels + d] = sums[(kBefore + d) / 4].v[(kBefore + d) % 4];
}

// ---- to the backgrounds: sum over pixels of T dL/drender, by tiles, then over the tiles of a camera ----

template <class S> struct BackgroundParams {
    splatlearn_RasterizeBackward grad;
    S *tiles;  // [C*B][D]
    int64_t tiles_per_image;
};

template <class S>
SPLATLEARN_KERNEL __launch_bounds__(kSumThreads) void tile_backgrounds_kernel(BackgroundParams<S> p) {
    SPLATLEARN_SHARED(S, warps, kWarps<2>);
    const TileThread<2> tile(p.grad.inputs, int(blockIdx.x));
    const int channels = p.grad.inputs.channels;
    for (int d = 0; d < channels; ++d) {
        const S *T = static_cast<const S *>(p.grad.transmittance), *v = static_cast<const S *>(p.grad.v_render);
        S mine = S(0);
        for (int r = 0; r < 2; ++r)
            if (tile.inside(r)) mine += T[tile.pixel(r)] * v[tile.pixel(r) * channels + d];
        mine = warp_sum(mine);
        if (tile.lane == 0) warps[tile.warp] = mine;
        __syncthreads();
        if (threadIdx.x == 0) {
            S total = S(0);
            for (int w = 0; w < kWarps<2>; ++w) total += warps[w];
            p.tiles[int64_t(blockIdx.x) * channels + d] = total;
        }
        __syncthreads();
    }
}

template <class S> SPLATLEARN_KERNEL __launch_bounds__(kSumThreads) void backgrounds_kernel(BackgroundParams<S> p) {
    SPLATLEARN_SHARED(S, warps, kWarps<2>);
    const int channels = p.grad.inputs.channels;
    const int64_t camera = blockIdx.x / channels, d = blockIdx.x % channels;
    S mine = S(0);
    for (int64_t tile = threadIdx.x; tile < p.tiles_per_image; tile += kSumThreads)
        mine += p.tiles[(camera * p.tiles_per_image + tile) * channels + d];
    mine = warp_sum(mine);
    if (threadIdx.x % kWarp == 0) warps[threadIdx.x / kWarp] = mine;
    __syncthreads();
    if (threadIdx.x != 0) return;
    S total = S(0);
    for (int w = 0; w < kWarps<2>; ++w) total += warps[w];
    static_cast<S *>(p.grad.v_backgrounds)[blockIdx.x] = total;
}

}  // namespace

template <class S, class Primitive> int gradients_of_rows(const BackwardParams<S> &params) {
    const splatlearn_RasterizeInputs &in = params.grad.inputs;
    const unsigned blocks = blocks_for(in.n_rows, kSumThreads);
    if (params.sums)
        return SPLATLEARN_LAUNCH((unpack_sums_kernel<S, Primitive>), blocks, kSumThreads, stream_of(in.context),
                                 params);
    return SPLATLEARN_LAUNCH((sum_rows_kernel<S, Primitive>), blocks, kSumThreads, stream_of(in.context), params);
}

template <class S> int gradients_of_backgrounds(const splatlearn_RasterizeBackward &grad, S *tile_sums) {
    const cudaStream_t stream = stream_of(grad.inputs.context);
    const BackgroundParams<S> params = {grad, tile_sums, tiles_of(grad.inputs) / grad.inputs.n_cameras};
    SPLATLEARN_TRY(
        SPLATLEARN_LAUNCH((tile_backgrounds_kernel<S>), unsigned(tiles_of(grad.inputs)), kSumThreads, stream, params));
    return SPLATLEARN_LAUNCH((backgrounds_kernel<S>), unsigned(grad.inputs.n_cameras * grad.inputs.channels),
                             kSumThreads, stream, params);
}

#define SPLATLEARN_INSTANTIATE(P) \
    template int gradients_of_rows<float, P>(const BackwardParams<float> &); \
    template int gradients_of_rows<double, P>(const BackwardParams<double> &);
SPLATLEARN_PRIMITIVES(SPLATLEARN_INSTANTIATE)
#undef SPLATLEARN_INSTANTIATE
template int gradients_of_backgrounds(const splatlearn_RasterizeBackward &, float *);
template int gradients_of_backgrounds(const splatlearn_RasterizeBackward &, double *);

}  // namespace SPLATLEARN_NAMESPACE
