// Projection of 3D Gaussians to 2D on CUDA, forward: a thread a (camera, Gaussian); backward is in project_backward.cu.
//
// Beside its tensors it writes what the blend reads of each visible Gaussian (record.h). Which rows are visible it says by
// their radii; stage bin, which alone knows which of them touch a tile, brings those together.
#include "project.h"
#include "record.h"

#include "../math/tile.h"

namespace SPLATLEARN_NAMESPACE {
namespace {

constexpr int kThreads = 128;

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
    const splatlearn_ProjectInputs &in = out.inputs;
    const int64_t row = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    if (row >= in.n_cameras * in.n_gaussians) return;
    const int64_t c = row / in.n_gaussians, n = row - c * in.n_gaussians;
    Gaussian<S> g;
    Pinhole<S> camera;
    load_gaussian(in, n, g);
    load_camera(in, c, camera);
    S rot[9], factor[9];
    Sight<S> seen;
    look(in, camera, g, rot, factor, seen);
    const S depth = seen.p[2];
    const PixelMap<S> &pixel = seen.pixel;
    const Image2d<S> &image = seen.image;
    const S opacity = in.antialiased ? g.opacity * image.compensation : g.opacity;
    const S level = ellipse_level(opacity, log2_threshold(S(in.alpha_threshold)));
    const S rx = square_root(level * image.xx), ry = square_root(level * image.yy);
    bool shown = depth > S(in.near_plane) && depth < S(in.far_plane) && level >= S(0) && opacity >= S(in.alpha_threshold);
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
    static_cast<S *>(out.depths)[row] = shown ? depth : S(0);
    static_cast<S *>(out.opacities2d)[row] = shown ? opacity : S(0);
    if (out.records && shown) {
        const S conic[3] = {image.conic.a, image.conic.b, image.conic.c};
        store_record<EwaGaussian, S, Degree >= 0 ? 3 : 0>(out.records, row, pixel.mean, conic, opacity, color);
    }
    out.radii[2 * row] = shown ? int32_t(ceil(minimum(rx, S(kRadiusMax)))) : 0;
    out.radii[2 * row + 1] = shown ? int32_t(ceil(minimum(ry, S(kRadiusMax)))) : 0;
}

template <class S> int forward(const splatlearn_ProjectForward &out) {
    const int64_t rows = out.inputs.n_cameras * out.inputs.n_gaussians;
    if (rows == 0) return 0;
    const cudaStream_t stream = stream_of(out.inputs.context);
    return by_degree(out.colors ? out.inputs.sh_degree : -1, [&](auto degree) {
        return SPLATLEARN_LAUNCH((project_forward_kernel<S, decltype(degree)::value>), blocks_for(rows, kThreads), kThreads, stream, out);
    });
}

}  // namespace

int project_forward(const splatlearn_ProjectForward &params) { return SPLATLEARN_BY_SCALAR(params, params.inputs.context, forward); }
int64_t project_forward_scratch(const splatlearn_ProjectForward &) { return 0; }

}  // namespace SPLATLEARN_NAMESPACE
