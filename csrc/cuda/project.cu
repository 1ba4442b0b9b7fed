// Projection of 3D Gaussians to 2D on CUDA: a thread a (camera, Gaussian) forward, a thread a Gaussian over all cameras backward.
#include "stage.h"

#include "../math/activation.h"
#include "../math/camera.h"
#include "../math/covariance.h"
#include "../math/sh.h"
#include "../math/tile.h"

namespace SPLATLEARN_NAMESPACE {
namespace {

constexpr int kThreads = 128;
constexpr int kCameraGradients = 9 + 3 + 4 + 3;  // rotation, translation, (fx, fy, cx, cy), centre

template <class S> struct Gaussian {
    S mean[3], quat[4], scale[3], opacity;
};

template <class S> SPLATLEARN_DEVICE void load_gaussian(const splatlearn_ProjectInputs &in, int64_t n, Gaussian<S> &g) {
    const S *means = static_cast<const S *>(in.means) + 3 * n, *quats = static_cast<const S *>(in.quats) + 4 * n;
    const S *scales = static_cast<const S *>(in.scales) + 3 * n;
    for (int j = 0; j < 3; ++j) { g.mean[j] = means[j]; g.scale[j] = scales[j]; }
    for (int j = 0; j < 4; ++j) g.quat[j] = quats[j];
    g.opacity = static_cast<const S *>(in.opacities)[n];
    if (!in.raw) return;
    for (int j = 0; j < 3; ++j) g.scale[j] = scale_of_log(g.scale[j]);
    g.opacity = opacity_of_logit(g.opacity);
}

template <class S> SPLATLEARN_DEVICE void load_camera(const splatlearn_ProjectInputs &in, int64_t c, Pinhole<S> &camera) {
    const S *viewmat = static_cast<const S *>(in.viewmats) + 16 * c, *K = static_cast<const S *>(in.Ks) + 9 * c;
    load_pinhole<S>(viewmat, K, in.width, in.height, camera);
}

template <class S> SPLATLEARN_DEVICE const S *coefficients(const splatlearn_ProjectInputs &in, int64_t n, int basis) {
    return basis == 0 ? static_cast<const S *>(in.sh0) + n * in.sh0_stride
                      : static_cast<const S *>(in.shN) + n * in.shN_stride + (basis - 1) * 3;
}

// ---- forward ----

// Degree -1: no colours. False where a coefficient is not finite.
template <class S, int Degree>
SPLATLEARN_DEVICE bool color_forward(const splatlearn_ProjectInputs &in, int64_t c, int64_t n, const Gaussian<S> &g, S color[3]) {
    S d[3], basis[kMaxBases];
    direction(g.mean, static_cast<const S *>(in.camera_centers) + 3 * c, d);
    sh_basis(Degree, d, basis);
    for (int j = 0; j < 3; ++j) color[j] = S(0.5);
#pragma unroll
    for (int k = 0; k < (Degree + 1) * (Degree + 1); ++k) {
        const S *f = coefficients<S>(in, n, k);
        for (int j = 0; j < 3; ++j) color[j] += basis[k] * f[j];
    }
    const bool finite = is_finite(color[0] + color[1] + color[2]);
    for (int j = 0; j < 3; ++j) color[j] = maximum(color[j], S(0));
    return finite;
}

template <class S, int Degree>
SPLATLEARN_KERNEL __launch_bounds__(kThreads) void project_forward_kernel(splatlearn_ProjectForward out) {
    const splatlearn_ProjectInputs &in = out.in;
    const int64_t row = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    if (row >= in.n_cameras * in.n_gaussians) return;
    const int64_t c = row / in.n_gaussians, n = row - c * in.n_gaussians;
    Gaussian<S> g;
    Pinhole<S> camera;
    load_gaussian(in, n, g);
    load_camera(in, c, camera);
    S p[3], rot[9], factor[9];
    rotation(g.quat, rot);
    covariance_factor(rot, g.scale, factor);
    to_camera(camera, g.mean, p);
    const PixelMap<S> pixel = to_pixel(camera, p);
    const Image2d<S> image = image_of_covariance(pixel.map, factor, S(in.eps2d));
    const S opacity = in.antialiased ? g.opacity * image.compensation : g.opacity;
    const S level = ellipse_level(opacity, log2_threshold(S(in.alpha_threshold)));
    const S rx = square_root(level * image.xx), ry = square_root(level * image.yy);
    bool shown = p[2] > S(in.near_plane) && p[2] < S(in.far_plane) && level >= S(0) && opacity >= S(in.alpha_threshold);
    shown = shown && pixel.mean[0] + rx >= S(0.5) && pixel.mean[0] - rx <= S(in.width) - S(0.5);
    shown = shown && pixel.mean[1] + ry >= S(0.5) && pixel.mean[1] - ry <= S(in.height) - S(0.5);
    shown = shown && (rx > S(in.radius_clip) || ry > S(in.radius_clip));
    // A finite sum of squares means finite terms; overflow culls as well, which is what an Inf scale should do.
    shown = shown && is_finite(image.conic.a + image.conic.b + image.conic.c) && is_finite(image.xx + image.yy);
    shown = shown && is_finite(opacity);
    shown = shown && image.conic.a > S(0) && image.conic.c > S(0) && camera.fx > S(0) && camera.fy > S(0);
    S color[3] = {};
    if constexpr (Degree >= 0) {
        if (shown) shown = color_forward<S, Degree>(in, c, n, g, color);
        for (int j = 0; j < 3; ++j) static_cast<S *>(out.colors)[3 * row + j] = shown ? color[j] : S(0);
    }
    S *means2d = static_cast<S *>(out.means2d) + 2 * row, *conics = static_cast<S *>(out.conics) + 3 * row;
    means2d[0] = shown ? pixel.mean[0] : S(0);
    means2d[1] = shown ? pixel.mean[1] : S(0);
    conics[0] = shown ? image.conic.a : S(0);
    conics[1] = shown ? image.conic.b : S(0);
    conics[2] = shown ? image.conic.c : S(0);
    static_cast<S *>(out.depths)[row] = shown ? p[2] : S(0);
    static_cast<S *>(out.opacities2d)[row] = shown ? opacity : S(0);
    out.radii[2 * row] = shown ? int32_t(ceil(minimum(rx, S(kRadiusMax)))) : 0;
    out.radii[2 * row + 1] = shown ? int32_t(ceil(minimum(ry, S(kRadiusMax)))) : 0;
}

template <class S, int Degree> int forward_of_degree(const splatlearn_ProjectForward &out) {
    const int64_t rows = out.in.n_cameras * out.in.n_gaussians;
    if (rows == 0) return 0;
    const cudaStream_t stream = stream_of(out.in.context);
    return SPLATLEARN_LAUNCH((project_forward_kernel<S, Degree>), blocks_for(rows, kThreads), kThreads, stream, out);
}

template <class S> int forward(const splatlearn_ProjectForward &out) {
    switch (out.colors ? out.in.sh_degree : -1) {
        case 0: return forward_of_degree<S, 0>(out);
        case 1: return forward_of_degree<S, 1>(out);
        case 2: return forward_of_degree<S, 2>(out);
        case 3: return forward_of_degree<S, 3>(out);
        case 4: return forward_of_degree<S, 4>(out);
        default: return forward_of_degree<S, -1>(out);
    }
}

// ---- backward ----

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

template <class S, int Degree> int backward_of_degree(const splatlearn_ProjectBackward &grad) {
    Arena arena(grad.in.context.scratch);
    S *sums = camera_sums<S>(grad, arena);
    if (!fits(arena, grad.in.context)) return kScratchTooSmall;
    const unsigned blocks = blocks_for(grad.in.n_gaussians, kBackwardThreads<S>);
    const cudaStream_t stream = stream_of(grad.in.context);
    const BackwardParams<S> params = {grad, sums};
    SPLATLEARN_TRY(SPLATLEARN_LAUNCH((project_backward_kernel<S, Degree>), blocks, kBackwardThreads<S>, stream, params));
    if (!cameras_wanted(grad)) return 0;
    const unsigned numbers = unsigned(grad.in.n_cameras * kCameraGradients);
    return SPLATLEARN_LAUNCH((camera_gradients_kernel<S>), numbers, kThreads, stream, (CameraParams<S>{grad, sums, blocks}));
}

template <class S> int backward(const splatlearn_ProjectBackward &grad) {
    switch (grad.v_colors ? grad.in.sh_degree : -1) {
        case 0: return backward_of_degree<S, 0>(grad);
        case 1: return backward_of_degree<S, 1>(grad);
        case 2: return backward_of_degree<S, 2>(grad);
        case 3: return backward_of_degree<S, 3>(grad);
        case 4: return backward_of_degree<S, 4>(grad);
        default: return backward_of_degree<S, -1>(grad);
    }
}

}  // namespace

int project_forward(const splatlearn_ProjectForward &params) { return SPLATLEARN_BY_SCALAR(params, params.in.context, forward); }
int64_t project_forward_scratch(const splatlearn_ProjectForward &) { return 0; }
int project_backward(const splatlearn_ProjectBackward &params) { return SPLATLEARN_BY_SCALAR(params, params.in.context, backward); }
int64_t project_backward_scratch(const splatlearn_ProjectBackward &params) {
    Arena arena(nullptr);
    if (params.in.context.scalar_bytes == 4) camera_sums<float>(params, arena);
    else camera_sums<double>(params, arena);
    return arena.used();
}

}  // namespace SPLATLEARN_NAMESPACE
