// L1 + SSIM and the gradient to the image on CUDA: a block is a 16x16 tile of one channel.
//
// The first kernel filters the five window means, gives SSIM and its gradients to three of them; the second filters those
// once more, which is the gradient to the image. Sums go block by block into scratch memory and are added in a fixed order.
#include "stage.h"

#include "../math/ssim.h"

namespace SPLATLEARN_NAMESPACE {
namespace {

constexpr int kSide = 16;
constexpr int kThreads = kSide * kSide;
constexpr int kWide = kSide + 2 * kWindowRadius;
constexpr int kFinalThreads = 256;

template <class S> struct Params {
    splatlearn_Photometric p;
    int tiles_x, tiles_y;
    S *maps;         // [3][images*H*W*D] gradients of SSIM to the window means; null: not wanted
    double *sums;    // [2][blocks]
};

// A block's tile and channel.
struct Place {
    int64_t image;
    int channel, x, y;
    template <class S> SPLATLEARN_DEVICE explicit Place(const Params<S> &params) {
        int64_t rest = blockIdx.x;
        x = int(rest % params.tiles_x) * kSide;
        rest /= params.tiles_x;
        y = int(rest % params.tiles_y) * kSide;
        rest /= params.tiles_y;
        channel = int(rest % params.p.channels);
        image = rest / params.p.channels;
    }
    SPLATLEARN_DEVICE int64_t at(const splatlearn_Photometric &p, int row, int column) const {
        return ((image * p.height + row) * p.width + column) * p.channels + channel;
    }
};

template <class S> SPLATLEARN_DEVICE S target(const splatlearn_Photometric &p, int64_t at) {
    return p.target_is_uint8 ? S(static_cast<const uint8_t *>(p.target)[at]) / S(255) : static_cast<const S *>(p.target)[at];
}

// Weighted sum of 11 numbers `stride` apart around `centre`, in the order of the CPU backend.
template <class S> SPLATLEARN_DEVICE S window(const S *centre, int stride) {
    constexpr S weights[kWindowRadius + 1] = {S(kWindow[0]), S(kWindow[1]), S(kWindow[2]), S(kWindow[3]), S(kWindow[4]), S(kWindow[5])};
    S out = weights[0] * centre[0];
#pragma unroll
    for (int k = 1; k <= kWindowRadius; ++k) out += weights[k] * (centre[-k * stride] + centre[k * stride]);
    return out;
}

template <class S> SPLATLEARN_DEVICE S window_of_product(const S *a, const S *b) {
    constexpr S weights[kWindowRadius + 1] = {S(kWindow[0]), S(kWindow[1]), S(kWindow[2]), S(kWindow[3]), S(kWindow[4]), S(kWindow[5])};
    S out = weights[0] * (a[0] * b[0]);
#pragma unroll
    for (int k = 1; k <= kWindowRadius; ++k) out += weights[k] * (a[-k] * b[-k] + a[k] * b[k]);
    return out;
}

// ---- value, and what its gradient needs ----

template <class S> SPLATLEARN_KERNEL __launch_bounds__(kThreads) void similarity_kernel(Params<S> params) {
    SPLATLEARN_SHARED(S, xs, kWide * kWide);
    SPLATLEARN_SHARED(S, ys, kWide * kWide);
    SPLATLEARN_SHARED(S, filtered, 5 * kWide * kSide);
    SPLATLEARN_SHARED(double, warps, 2 * kThreads / kWarp);
    const splatlearn_Photometric &p = params.p;
    const Place place(params);
    for (int i = threadIdx.x; i < kWide * kWide; i += kThreads) {
        const int row = place.y + i / kWide - kWindowRadius, column = place.x + i % kWide - kWindowRadius;
        const bool inside = row >= 0 && row < p.height && column >= 0 && column < p.width;
        const int64_t at = inside ? place.at(p, row, column) : 0;
        xs[i] = inside ? static_cast<const S *>(p.image)[at] : S(0);
        ys[i] = inside ? target<S>(p, at) : S(0);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < kWide * kSide; i += kThreads) {
        const S *x = &xs[i / kSide * kWide + i % kSide + kWindowRadius], *y = &ys[i / kSide * kWide + i % kSide + kWindowRadius];
        filtered[i] = window(x, 1);
        filtered[kWide * kSide + i] = window(y, 1);
        filtered[2 * kWide * kSide + i] = window_of_product(x, x);
        filtered[3 * kWide * kSide + i] = window_of_product(y, y);
        filtered[4 * kWide * kSide + i] = window_of_product(x, y);
    }
    __syncthreads();
    const int row = threadIdx.x / kSide, column = threadIdx.x % kSide;
    const S *centre = &filtered[(row + kWindowRadius) * kSide + column];
    const WindowMeans<S> mean = {window(centre, kSide), window(centre + kWide * kSide, kSide), window(centre + 2 * kWide * kSide, kSide),
                                 window(centre + 3 * kWide * kSide, kSide), window(centre + 4 * kWide * kSide, kSide)};
    S v_x, v_xx, v_xy, similarity = ssim_with_backward(mean, v_x, v_xx, v_xy), difference = S(0);
    if (place.y + row < p.height && place.x + column < p.width) {
        const int at_shared = (row + kWindowRadius) * kWide + column + kWindowRadius;
        difference = absolute(xs[at_shared] - ys[at_shared]);
        if (params.maps) {
            const int64_t at = place.at(p, place.y + row, place.x + column);
            const int64_t count = p.n_images * p.height * p.width * p.channels;
            params.maps[at] = v_x;
            params.maps[count + at] = v_xx;
            params.maps[2 * count + at] = v_xy;
        }
    } else {
        similarity = S(0);
    }
    const double sums[2] = {double(warp_sum(difference)), double(warp_sum(similarity))};
    if (threadIdx.x % kWarp == 0)
        for (int j = 0; j < 2; ++j) warps[j * (kThreads / kWarp) + threadIdx.x / kWarp] = sums[j];
    __syncthreads();
    if (threadIdx.x >= 2) return;
    double total = 0;
    for (int w = 0; w < kThreads / kWarp; ++w) total += warps[threadIdx.x * (kThreads / kWarp) + w];
    params.sums[int64_t(threadIdx.x) * gridDim.x + blockIdx.x] = total;
}

struct MeanParams {
    const double *sums;  // [2][blocks]
    int64_t blocks;
    double count;
    double *l1, *ssim;
};

SPLATLEARN_KERNEL __launch_bounds__(kFinalThreads) void mean_kernel(MeanParams p) {
    SPLATLEARN_SHARED(double, warps, kFinalThreads / kWarp);
    const double *from = p.sums + blockIdx.x * p.blocks;
    double mine = 0;
    for (int64_t i = threadIdx.x; i < p.blocks; i += kFinalThreads) mine += from[i];
    mine = warp_sum(mine);
    if (threadIdx.x % kWarp == 0) warps[threadIdx.x / kWarp] = mine;
    __syncthreads();
    if (threadIdx.x != 0) return;
    double total = 0;
    for (int w = 0; w < kFinalThreads / kWarp; ++w) total += warps[w];
    *(blockIdx.x == 0 ? p.l1 : p.ssim) = total / p.count;
}

// ---- gradient to the image ----

template <class S> SPLATLEARN_KERNEL __launch_bounds__(kThreads) void image_gradient_kernel(Params<S> params) {
    SPLATLEARN_SHARED(S, maps, 3 * kWide * kWide);
    SPLATLEARN_SHARED(S, filtered, 3 * kWide * kSide);
    const splatlearn_Photometric &p = params.p;
    const Place place(params);
    const int64_t count = p.n_images * p.height * p.width * p.channels;
    for (int i = threadIdx.x; i < kWide * kWide; i += kThreads) {
        const int row = place.y + i / kWide - kWindowRadius, column = place.x + i % kWide - kWindowRadius;
        const bool inside = row >= 0 && row < p.height && column >= 0 && column < p.width;
        const int64_t at = inside ? place.at(p, row, column) : 0;
        for (int map = 0; map < 3; ++map) maps[map * kWide * kWide + i] = inside ? params.maps[map * count + at] : S(0);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < 3 * kWide * kSide; i += kThreads)
        filtered[i] = window(&maps[i / kSide * kWide + i % kSide + kWindowRadius], 1);
    __syncthreads();
    const int row = threadIdx.x / kSide, column = threadIdx.x % kSide;
    if (place.y + row >= p.height || place.x + column >= p.width) return;
    const S *centre = &filtered[(row + kWindowRadius) * kSide + column];
    const int64_t at = place.at(p, place.y + row, place.x + column);
    const S x = static_cast<const S *>(p.image)[at], y = target<S>(p, at);
    const S l1_scale = S((1 - p.lambda_dssim) / double(count)), ssim_scale = S(-p.lambda_dssim / double(count));
    const S chain = window(centre, kSide) + S(2) * x * window(centre + kWide * kSide, kSide) + y * window(centre + 2 * kWide * kSide, kSide);
    const S sign = x > y ? l1_scale : x < y ? -l1_scale : S(0);
    static_cast<S *>(p.v_image)[at] = sign + ssim_scale * chain;
}

int64_t blocks_of(const splatlearn_Photometric &p) {
    return p.n_images * p.channels * blocks_for(p.width, kSide) * blocks_for(p.height, kSide);
}
int64_t values_of(const splatlearn_Photometric &p) { return p.n_images * p.height * p.width * p.channels; }

template <class S> Params<S> layout(const splatlearn_Photometric &p, Arena &arena) {
    S *maps = p.v_image ? arena.take<S>(3 * values_of(p)) : nullptr;
    return {p, int(blocks_for(p.width, kSide)), int(blocks_for(p.height, kSide)), maps, arena.take<double>(2 * blocks_of(p))};
}

template <class S> int evaluate(const splatlearn_Photometric &p) {
    Arena arena(p.context.scratch);
    const Params<S> params = layout<S>(p, arena);
    if (!fits(arena, p.context)) return kScratchTooSmall;
    if (blocks_of(p) > INT32_MAX) return kTooMany;
    const cudaStream_t stream = stream_of(p.context);
    const unsigned blocks = unsigned(blocks_of(p));
    SPLATLEARN_TRY(SPLATLEARN_LAUNCH((similarity_kernel<S>), blocks, kThreads, stream, params));
    SPLATLEARN_TRY(SPLATLEARN_LAUNCH((mean_kernel), 2, kFinalThreads, stream, (MeanParams{params.sums, blocks, double(values_of(p)), p.l1, p.ssim})));
    return p.v_image ? SPLATLEARN_LAUNCH((image_gradient_kernel<S>), blocks, kThreads, stream, params) : 0;
}

}  // namespace

int photometric(const splatlearn_Photometric &params) { return SPLATLEARN_BY_SCALAR(params, params.context, evaluate); }
int64_t photometric_scratch(const splatlearn_Photometric &params) {
    Arena arena(nullptr);
    if (params.context.scalar_bytes == 4) layout<float>(params, arena);
    else layout<double>(params, arena);
    return arena.used();
}

}  // namespace SPLATLEARN_NAMESPACE
