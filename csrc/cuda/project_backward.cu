// Projection of 3D Gaussians to 2D on CUDA, backward: a thread a Gaussian, over all cameras.
#include "project.h"

namespace SPLATLEARN_NAMESPACE {
namespace {

constexpr int kThreads = 128;
constexpr int kCameraGradients = 9 + 3 + 4 + 3;  // rotation, translation, (fx, fy, cx, cy), centre

template <class S> SPLATLEARN_DEVICE S optional(const real *from, int64_t at) {
    return from ? static_cast<const S *>(from)[at] : S(0);
}

// A block's gradients to the coefficients lie in shared memory while they are summed over cameras, so that they leave it in whole
// lines; an odd distance between Gaussians keeps lanes on different banks.
template <class S> constexpr int kBackwardThreads = sizeof(S) == 4 ? 128 : 64;
template <int Degree> constexpr int kCoefficients = Degree > 0 ? 3 * ((Degree + 1) * (Degree + 1) - 1) : 0;
template <int Degree> constexpr int kPitch = kCoefficients<Degree> | 1;

// Adds the colours' part to v_mean, v_f0 [3] and v_f (this Gaussian's gradients to sh0 and shN), and sets v_center [3].
template <class S, int Degree>
SPLATLEARN_DEVICE void color_backward(const splatlearn_ProjectBackward &grad, int64_t c, int64_t n, const S mean[3],
                                      S v_mean[3], S v_center[3], S v_f0[3], S *v_f) {
    const splatlearn_ProjectInputs &in = grad.in;
    const int64_t row = c * in.n_gaussians + n;
    S d[3], basis[kMaxBases], v_basis[kMaxBases], v[3], v_d[3], v_direction[3];
    const S inverse = direction(mean, static_cast<const S *>(in.camera_centers) + 3 * c, d);
    sh_basis(Degree, d, basis);
    for (int j = 0; j < 3; ++j) {  // max(0, .) lets nothing through below
        const S color = static_cast<const S *>(grad.colors)[3 * row + j];
        v[j] = color > S(0) ? static_cast<const S *>(grad.v_colors)[3 * row + j] : S(0);
    }
#pragma unroll
    for (int k = 0; k < (Degree + 1) * (Degree + 1); ++k) {
        const S *f = coefficients<S>(in, n, k);
        v_basis[k] = f[0] * v[0] + f[1] * v[1] + f[2] * v[2];
        for (int j = 0; j < 3; ++j) (k == 0 ? v_f0[j] : v_f[3 * (k - 1) + j]) += basis[k] * v[j];
    }
    sh_basis_backward(Degree, d, v_basis, v_d);
    direction_backward(d, inverse, v_d, v_direction);
    for (int j = 0; j < 3; ++j) {
        v_mean[j] += v_direction[j];
        v_center[j] = -v_direction[j];
    }
}

// What a thread sums over the cameras.
template <class S> struct Gradients {
    S mean[3], scale[3], rot[9], opacity, sh0[3];
};

// One drawn Gaussian in one camera. `of_camera` [kCameraGradients] comes as zeros. Colours go first: then they hold no registers
// while the geometry is undone.
template <class S, int Degree>
SPLATLEARN_DEVICE void view_backward(const splatlearn_ProjectBackward &grad, int64_t c, int64_t n, const Gaussian<S> &g,
                                     Gradients<S> &sums, S *v_f, S *of_camera) {
    const splatlearn_ProjectInputs &in = grad.in;
    const int64_t row = c * in.n_gaussians + n;
    if constexpr (Degree >= 0) color_backward<S, Degree>(grad, c, n, g.mean, sums.mean, of_camera + 16, sums.sh0, v_f);
    Pinhole<S> camera;
    load_camera(in, c, camera);
    S p[3], rot[9], factor[9];
    rotation(g.quat, rot);
    covariance_factor(rot, g.scale, factor);
    to_camera(camera, g.mean, p);
    const PixelMap<S> pixel = to_pixel(camera, p);
    const Image2d<S> image = image_of_covariance(pixel.map, factor, S(in.eps2d));
    const S v_mean2d[2] = {optional<S>(grad.v_means2d, 2 * row), optional<S>(grad.v_means2d, 2 * row + 1)};
    const Conic<S> v_conic = {optional<S>(grad.v_conics, 3 * row), optional<S>(grad.v_conics, 3 * row + 1),
                              optional<S>(grad.v_conics, 3 * row + 2)};
    const S v_opacity2d = optional<S>(grad.v_opacities2d, row);
    const S v_compensation = in.antialiased ? v_opacity2d * g.opacity : S(0);

    S v_map[6], v_factor[9], v_rot[9], v_scale[3], v_p[3], v_mean[3];
    S *v_view = of_camera, *v_K = of_camera + 12;
    image_of_covariance_backward(pixel.map, factor, image, v_conic, v_compensation, v_map, v_factor);
    covariance_factor_backward(rot, g.scale, v_factor, v_rot, v_scale);
    to_pixel_backward(camera, p, pixel, v_mean2d, v_map, v_p, v_view, v_K);
    v_p[2] += optional<S>(grad.v_depths, row);
    to_camera_backward(camera, g.mean, v_p, v_mean, v_view);
    for (int j = 0; j < 3; ++j) of_camera[9 + j] = v_p[j];
    for (int j = 0; j < 3; ++j) {
        sums.mean[j] += v_mean[j];
        sums.scale[j] += v_scale[j];
    }
    for (int j = 0; j < 9; ++j) sums.rot[j] += v_rot[j];
    sums.opacity += in.antialiased ? v_opacity2d * image.compensation : v_opacity2d;
}

template <class S>
SPLATLEARN_DEVICE void store_gradients(const splatlearn_ProjectBackward &grad, int64_t n, const Gaussian<S> &g,
                                       const Gradients<S> &sums) {
    for (int j = 0; j < 3; ++j) {
        if (grad.v_means) static_cast<S *>(grad.v_means)[3 * n + j] = sums.mean[j];
        const S v_scale = grad.in.raw ? scale_of_log_backward(g.scale[j], sums.scale[j]) : sums.scale[j];
        if (grad.v_scales) static_cast<S *>(grad.v_scales)[3 * n + j] = v_scale;
        if (grad.v_sh0) static_cast<S *>(grad.v_sh0)[3 * n + j] = sums.sh0[j];
    }
    const S v_opacity = grad.in.raw ? opacity_of_logit_backward(g.opacity, sums.opacity) : sums.opacity;
    if (grad.v_opacities) static_cast<S *>(grad.v_opacities)[n] = v_opacity;
    if (!grad.v_quats) return;
    S v_quat[4];
    rotation_backward(g.quat, sums.rot, v_quat);
    for (int j = 0; j < 4; ++j)  // a culled quaternion may be zero or NaN
        static_cast<S *>(grad.v_quats)[4 * n + j] = is_finite(v_quat[j]) ? v_quat[j] : S(0);
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
    const splatlearn_ProjectInputs &in = grad.in;
    const int64_t first = int64_t(blockIdx.x) * kThreadsHere, n = first + threadIdx.x;
    const bool exists = n < in.n_gaussians;
    S *const v_f = &v_coefficients[threadIdx.x * kPitchHere];
    for (int j = 0; j < kCoefficients<Degree>; ++j) v_f[j] = S(0);
    Gaussian<S> g;
    Gradients<S> sums = {};
    if (exists) load_gaussian(in, n, g);
    for (int64_t c = 0; c < in.n_cameras; ++c) {
        S of_camera[kCameraGradients] = {};
        if (exists && grad.radii[2 * (c * in.n_gaussians + n)] > 0) view_backward<S, Degree>(grad, c, n, g, sums, v_f, of_camera);
        if (!params.camera_sums) continue;
        sum_of_block(of_camera, reinterpret_cast<S(*)[kCameraGradients]>(&warps[0]),
                     params.camera_sums + c * kCameraGradients * gridDim.x);
    }
    if (exists) store_gradients(grad, n, g, sums);
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
    return arena.take<S>(grad.in.n_cameras * kCameraGradients * blocks_for(grad.in.n_gaussians, kBackwardThreads<S>));
}

template <class S> int backward(const splatlearn_ProjectBackward &grad) {
    Arena arena(grad.in.context.scratch);
    S *sums = camera_sums<S>(grad, arena);
    if (!fits(arena, grad.in.context)) return kScratchTooSmall;
    const unsigned blocks = blocks_for(grad.in.n_gaussians, kBackwardThreads<S>);
    const cudaStream_t stream = stream_of(grad.in.context);
    const BackwardParams<S> params = {grad, sums};
    SPLATLEARN_TRY(by_degree(grad.v_colors ? grad.in.sh_degree : -1, [&](auto degree) {
        constexpr int kDegree = decltype(degree)::value;
        return SPLATLEARN_LAUNCH((project_backward_kernel<S, kDegree>), blocks, kBackwardThreads<S>, stream, params);
    }));
    if (!cameras_wanted(grad)) return 0;
    const unsigned numbers = unsigned(grad.in.n_cameras * kCameraGradients);
    return SPLATLEARN_LAUNCH((camera_gradients_kernel<S>), numbers, kThreads, stream, (CameraParams<S>{grad, sums, blocks}));
}

}  // namespace

int project_backward(const splatlearn_ProjectBackward &params) { return SPLATLEARN_BY_SCALAR(params, params.in.context, backward); }
int64_t project_backward_scratch(const splatlearn_ProjectBackward &params) {
    Arena arena(nullptr);
    if (params.in.context.scalar_bytes == 4) camera_sums<float>(params, arena);
    else camera_sums<double>(params, arena);
    return arena.used();
}

}  // namespace SPLATLEARN_NAMESPACE
