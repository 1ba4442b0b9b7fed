// Projection of 3D Gaussians to 2D on CUDA, backward: a thread a Gaussian, over all cameras.
#include "project_backward.h"

namespace SPLATLEARN_NAMESPACE {
namespace {

constexpr int kThreads = 128;

// Coefficients from memory, their gradients summed over cameras in shared memory, so that they leave it in whole lines.
template <class S> struct MemoryRow {
    const splatlearn_ProjectInputs &in;
    int64_t n;
    S *v_f0, *v_f;

    SPLATLEARN_DEVICE S *take(int k, S f[3]) const {
        const S *from = coefficients<S>(in, n, k);
        for (int j = 0; j < 3; ++j) f[j] = from[j];
        return k == 0 ? v_f0 : v_f + 3 * (k - 1);
    }
};

template <class S>
SPLATLEARN_DEVICE void store_gradients(const splatlearn_ProjectBackward &grad, int64_t n, const Gaussian<S> &g, Gradients<S> &v,
                                       const S v_sh0[3]) {
    S v_quat[4];
    finish_gradients(grad.inputs, g, v, v_quat);
    for (int j = 0; j < 3; ++j) {
        if (grad.v_means) static_cast<S *>(grad.v_means)[3 * n + j] = v.mean[j];
        if (grad.v_scales) static_cast<S *>(grad.v_scales)[3 * n + j] = v.scale[j];
        if (grad.v_sh0) static_cast<S *>(grad.v_sh0)[3 * n + j] = v_sh0[j];
    }
    if (grad.v_opacities) static_cast<S *>(grad.v_opacities)[n] = v.opacity;
    for (int j = 0; j < 4; ++j)
        if (grad.v_quats) static_cast<S *>(grad.v_quats)[4 * n + j] = v_quat[j];
}

// Sums a block's camera gradients and leaves them in camera_sums [C][kCameraGradients][blocks]. Every thread takes part.
template <class S> SPLATLEARN_DEVICE void sum_of_block(const S *mine, S (*warps)[kCameraGradients], S *camera_sums) {
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    constexpr int kWarps = kBackwardThreads<S> / kWarp;
    for (int j = 0; j < kCameraGradients; ++j) {
        const S total = warp_sum(mine[j]);
        if (lane == 0) warps[warp][j] = total;
    }
    __syncthreads();
    if (threadIdx.x < kCameraGradients) {
        S total = S(0);
        for (int w = 0; w < kWarps; ++w) total += warps[w][threadIdx.x];
        camera_sums[int64_t(threadIdx.x) * gridDim.x + blockIdx.x] = total;
    }
    __syncthreads();
}

template <class S> struct BackwardParams {
    splatlearn_ProjectBackward grad;
    S *camera_sums;  // [C][kCameraGradients][blocks] or null
};

template <class S, int Degree>
SPLATLEARN_KERNEL __launch_bounds__(kBackwardThreads<S>) void project_backward_kernel(BackwardParams<S> params) {
    constexpr int kThreadsHere = kBackwardThreads<S>, kPitchHere = kPitch<Degree>;
    SPLATLEARN_SHARED(S, warps, (kThreadsHere / kWarp) * kCameraGradients);
    SPLATLEARN_SHARED(S, v_coefficients, kThreadsHere * kPitchHere);
    const splatlearn_ProjectBackward &grad = params.grad;
    const splatlearn_ProjectInputs &in = grad.inputs;
    const int64_t first = int64_t(blockIdx.x) * kThreadsHere, n = first + threadIdx.x;
    const bool exists = n < in.n_gaussians;
    S *const v_f = &v_coefficients[threadIdx.x * kPitchHere];
    for (int j = 0; j < kCoefficients<Degree>; ++j) v_f[j] = S(0);
    Gaussian<S> g;
    Gradients<S> sums = {};
    S v_sh0[3] = {};
    const MemoryRow<S> row = {in, n, v_sh0, v_f};
    if (exists) load_gaussian(in, n, g);
    for (int64_t c = 0; c < in.n_cameras; ++c) {
        S of_camera[kCameraGradients] = {};
        if (exists && grad.radii[2 * (c * in.n_gaussians + n)] > 0) view_backward<S, Degree>(grad, c, n, g, sums, row, of_camera);
        if (!params.camera_sums) continue;
        sum_of_block(of_camera, reinterpret_cast<S(*)[kCameraGradients]>(&warps[0]),
                     params.camera_sums + c * kCameraGradients * gridDim.x);
    }
    if (exists) store_gradients(grad, n, g, sums, v_sh0);
    __syncthreads();
    if (!grad.v_shN) return;
    const int64_t rest = in.n_gaussians - first;
    const int width = int(3 * grad.n_shN), count = int(rest < kThreadsHere ? rest : kThreadsHere) * width;
    for (int j = threadIdx.x; j < count; j += kThreadsHere) {
        const int gaussian = j / width, k = j - gaussian * width;  // bases beyond the degree get zeros
        const S value = k < kCoefficients<Degree> ? v_coefficients[gaussian * kPitchHere + k] : S(0);
        static_cast<S *>(grad.v_shN)[first * width + j] = value;
    }
}

// One block a number of a camera: sums what the blocks left, in a fixed order, and writes it where it belongs.
template <class S> struct CameraParams {
    splatlearn_ProjectBackward grad;
    const S *camera_sums;
    int64_t blocks;
};

template <class S> SPLATLEARN_DEVICE void store_camera_gradient(const splatlearn_ProjectBackward &grad, int64_t c, int j, S total) {
    S *view = static_cast<S *>(grad.v_viewmats), *K = static_cast<S *>(grad.v_Ks);
    S *center = static_cast<S *>(grad.v_camera_centers);
    if (j < 9) {
        if (view) view[16 * c + 4 * (j / 3) + j % 3] = total;
    } else if (j < 12) {
        if (view) view[16 * c + 4 * (j - 9) + 3] = total;
    } else if (j < 16) {
        const int place = j == 12 ? 0 : j == 13 ? 4 : j == 14 ? 2 : 5;  // fx, fy, cx, cy
        if (K) K[9 * c + place] = total;
    } else if (center) {
        center[3 * c + j - 16] = total;
    }
    if (j < 4 && view) view[16 * c + 12 + j] = S(0);
    if (j < 5 && K) K[9 * c + (j == 0 ? 1 : j == 1 ? 3 : 4 + j)] = S(0);  // 1, 3, 6, 7, 8
}

template <class S> SPLATLEARN_KERNEL __launch_bounds__(kThreads) void camera_gradients_kernel(CameraParams<S> params) {
    SPLATLEARN_SHARED(S, warps, kThreads / kWarp);
    const S *from = params.camera_sums + int64_t(blockIdx.x) * params.blocks;
    S mine = S(0);
    for (int64_t block = threadIdx.x; block < params.blocks; block += kThreads) mine += from[block];
    mine = warp_sum(mine);
    if (threadIdx.x % kWarp == 0) warps[threadIdx.x / kWarp] = mine;
    __syncthreads();
    if (threadIdx.x != 0) return;
    S total = S(0);
    for (int w = 0; w < kThreads / kWarp; ++w) total += warps[w];
    store_camera_gradient(params.grad, blockIdx.x / kCameraGradients, int(blockIdx.x % kCameraGradients), total);
}

bool cameras_wanted(const splatlearn_ProjectBackward &grad) { return grad.v_viewmats || grad.v_Ks || grad.v_camera_centers; }

template <class S> S *camera_sums(const splatlearn_ProjectBackward &grad, Arena &arena) {
    if (!cameras_wanted(grad)) return nullptr;
    return arena.take<S>(grad.inputs.n_cameras * kCameraGradients * blocks_for(grad.inputs.n_gaussians, kBackwardThreads<S>));
}

template <class S> int backward(const splatlearn_ProjectBackward &grad) {
    Arena arena(grad.inputs.context.scratch);
    S *sums = camera_sums<S>(grad, arena);
    if (!fits(arena, grad.inputs.context)) return kScratchTooSmall;
    const unsigned blocks = blocks_for(grad.inputs.n_gaussians, kBackwardThreads<S>);
    const cudaStream_t stream = stream_of(grad.inputs.context);
    const BackwardParams<S> params = {grad, sums};
    SPLATLEARN_TRY(by_degree(grad.v_colors ? grad.inputs.sh_degree : -1, [&](auto degree) {
        constexpr int kDegree = decltype(degree)::value;
        return SPLATLEARN_LAUNCH((project_backward_kernel<S, kDegree>), blocks, kBackwardThreads<S>, stream, params);
    }));
    if (!cameras_wanted(grad)) return 0;
    const unsigned numbers = unsigned(grad.inputs.n_cameras * kCameraGradients);
    return SPLATLEARN_LAUNCH((camera_gradients_kernel<S>), numbers, kThreads, stream, (CameraParams<S>{grad, sums, blocks}));
}

}  // namespace

int project_backward(const splatlearn_ProjectBackward &params) { return SPLATLEARN_BY_SCALAR(params, params.inputs.context, backward); }
int64_t project_backward_scratch(const splatlearn_ProjectBackward &params) {
    Arena arena(nullptr);
    if (params.inputs.context.scalar_bytes == 4) camera_sums<float>(params, arena);
    else camera_sums<double>(params, arena);
    return arena.used();
}

}  // namespace SPLATLEARN_NAMESPACE
