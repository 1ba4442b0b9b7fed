// Projection of 3D Gaussians to 2D on CUDA, backward: one thread per Gaussian, over all cameras.
#include "project_backward.h"

namespace SPLATLEARN_NAMESPACE {
namespace {

constexpr int kThreads = 128;

// Coefficients come from memory. Their gradients are summed over cameras in shared memory, so that they are written in
// whole lines.
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

template <class Primitive, class S>
SPLATLEARN_DEVICE void store_gradients(const splatlearn_ProjectBackward &grad, int64_t n, const Gaussian3d<S> &g,
                                       typename Primitive::template Gradients<S> &v, const S v_sh0[3]) {
    S v_quat[4];
    Primitive::finish(grad.inputs.raw != 0, g, v, v_quat);
    for (int j = 0; j < 3; ++j) {
        if (grad.v_means) static_cast<S *>(grad.v_means)[3 * n + j] = v.mean[j];
        if (grad.v_scales) static_cast<S *>(grad.v_scales)[3 * n + j] = v.scale[j];
        if (grad.v_sh0) static_cast<S *>(grad.v_sh0)[3 * n + j] = v_sh0[j];
    }
    if (grad.v_opacities) static_cast<S *>(grad.v_opacities)[n] = v.opacity;
    for (int j = 0; j < 4; ++j)
        if (grad.v_quats) static_cast<S *>(grad.v_quats)[4 * n + j] = v_quat[j];
}

// Adds up the block's gradients of one camera, and writes the sums to camera_sums [K][blocks]. Every thread takes part.
template <int K, class S> SPLATLEARN_DEVICE void sum_of_block(const S *mine, S (*warps)[K], S *camera_sums) {
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    constexpr int kWarps = kBackwardThreads<S> / kWarp;
    static_assert(K <= kBackwardThreads<S>, "one thread per sum");
    for (int j = 0; j < K; ++j) {
        const S total = warp_sum(mine[j]);
        if (lane == 0) warps[warp][j] = total;
    }
    __syncthreads();
    if (threadIdx.x < K) {
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

template <class Primitive, class Camera, int Degree, class S = typename Camera::Real>
SPLATLEARN_KERNEL __launch_bounds__(kBackwardThreads<S>) void project_backward_kernel(BackwardParams<S> params) {
    constexpr int T = kBackwardThreads<S>, kPitchHere = kPitch<Degree>, K = kCameraGradients<Camera>;
    SPLATLEARN_SHARED(S, warps, (T / kWarp) * K);
    SPLATLEARN_SHARED(S, v_coefficients, T * kPitchHere);
    const splatlearn_ProjectBackward &grad = params.grad;
    const splatlearn_ProjectInputs &in = grad.inputs;
    const int64_t first = int64_t(blockIdx.x) * T, n = first + threadIdx.x;
    const bool exists = n < in.n_gaussians;
    S *const v_f = &v_coefficients[threadIdx.x * kPitchHere];
    for (int j = 0; j < kCoefficients<Degree>; ++j) v_f[j] = S(0);
    Gaussian3d<S> g;
    typename Primitive::template Gradients<S> sums = {};
    S v_sh0[3] = {};
    const MemoryRow<S> row = {in, n, v_sh0, v_f};
    if (exists) load_gaussian(in, n, g);
    for (int64_t c = 0; c < in.n_cameras; ++c) {
        S v_camera[K] = {};
        if (exists && grad.radii[2 * (c * in.n_gaussians + n)] > 0)
            view_backward<Primitive, Camera, Degree>(grad, c, n, g, sums, row, v_camera);
        if (!params.camera_sums) continue;
        sum_of_block(v_camera, reinterpret_cast<S(*)[K]>(&warps[0]), params.camera_sums + c * K * gridDim.x);
    }
    if (exists) store_gradients<Primitive>(grad, n, g, sums, v_sh0);
    __syncthreads();
    if (!grad.v_shN) return;
    const int64_t rest = in.n_gaussians - first;
    const int width = int(3 * grad.n_shN), count = int(rest < T ? rest : T) * width;
    for (int j = threadIdx.x; j < count; j += T) {
        const int gaussian = j / width, k = j - gaussian * width;  // bases beyond the degree get zeros
        const S value = k < kCoefficients<Degree> ? v_coefficients[gaussian * kPitchHere + k] : S(0);
        static_cast<S *>(grad.v_shN)[first * width + j] = value;
    }
}

template <class S> struct CameraParams {
    splatlearn_ProjectBackward grad;
    const S *camera_sums;
    int64_t blocks;
};

// One block per number of a camera: adds up the sums of the blocks of Gaussians in a fixed order, and writes the total.
template <class Camera, class S = typename Camera::Real>
SPLATLEARN_KERNEL __launch_bounds__(kThreads) void camera_gradients_kernel(CameraParams<S> params) {
    constexpr int K = kCameraGradients<Camera>;
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
    const int64_t c = blockIdx.x / K;
    S *const viewmats = static_cast<S *>(params.grad.v_viewmats);
    S *const centers = static_cast<S *>(params.grad.v_camera_centers);
    S *const parameters = static_cast<S *>(params.grad.v_camera_params);
    store_camera_gradient(int(blockIdx.x % K), total, viewmats ? viewmats + 16 * c : nullptr,
                          centers ? centers + 3 * c : nullptr,
                          parameters ? parameters + kParameterRow<Camera> * c : nullptr);
}

bool cameras_wanted(const splatlearn_ProjectBackward &grad) {
    return grad.v_viewmats || grad.v_camera_params || grad.v_camera_centers;
}

template <class Camera, class S = typename Camera::Real>
S *camera_sums(const splatlearn_ProjectBackward &grad, Arena &arena) {
    if (!cameras_wanted(grad)) return nullptr;
    const int64_t blocks = blocks_for(grad.inputs.n_gaussians, kBackwardThreads<S>);
    return arena.take<S>(grad.inputs.n_cameras * kCameraGradients<Camera> * blocks);
}

template <class Primitive, class Camera, class S = typename Camera::Real>
int backward_of(const splatlearn_ProjectBackward &grad) {
    Arena arena(grad.inputs.context.scratch);
    S *sums = camera_sums<Camera>(grad, arena);
    if (!fits(arena, grad.inputs.context)) return kScratchTooSmall;
    const unsigned blocks = blocks_for(grad.inputs.n_gaussians, kBackwardThreads<S>);
    const cudaStream_t stream = stream_of(grad.inputs.context);
    const BackwardParams<S> params = {grad, sums};
    SPLATLEARN_TRY(by_degree(grad.v_colors ? grad.inputs.sh_degree : -1, [&](auto degree) {
        constexpr int kDegree = decltype(degree)::value;
        return SPLATLEARN_LAUNCH((project_backward_kernel<Primitive, Camera, kDegree>), blocks, kBackwardThreads<S>,
                                 stream, params);
    }));
    if (!cameras_wanted(grad)) return 0;
    const unsigned numbers = unsigned(grad.inputs.n_cameras * kCameraGradients<Camera>);
    const CameraParams<S> camera_params = {grad, sums, blocks};
    return SPLATLEARN_LAUNCH((camera_gradients_kernel<Camera>), numbers, kThreads, stream, camera_params);
}

template <class S> int backward(const splatlearn_ProjectBackward &grad) {
    return by_projection<S>(grad.inputs.camera_model, kUnknownCamera, [&](auto primitive, auto camera) {
        return backward_of<decltype(primitive), decltype(camera)>(grad);
    });
}

template <class S> int scratch(const splatlearn_ProjectBackward &grad, Arena &arena) {
    return by_camera<S>(grad.inputs.camera_model, kUnknownCamera, [&](auto camera) {
        camera_sums<decltype(camera)>(grad, arena);
        return 0;
    });
}

}  // namespace

int project_backward(const splatlearn_ProjectBackward &params) {
    return SPLATLEARN_BY_SCALAR(params, params.inputs.context, backward);
}
int64_t project_backward_scratch(const splatlearn_ProjectBackward &params) {
    Arena arena(nullptr);
    const int failure =
        params.inputs.context.scalar_bytes == 4 ? scratch<float>(params, arena) : scratch<double>(params, arena);
    return failure ? failure : arena.used();
}

}  // namespace SPLATLEARN_NAMESPACE
