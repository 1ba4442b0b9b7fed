// Projection of 3D Gaussians to 2D on CUDA, forward: one thread per (camera, Gaussian). The backward is in
// project_backward.cu.
//
// It also writes the record that the blend reads of each visible Gaussian (record.h). The radii say which rows are
// visible; stage bin finds out which of these touch a tile, and gathers them.
#include "project.h"
#include "record.h"

namespace SPLATLEARN_NAMESPACE {
namespace {

constexpr int kThreads = 128;
// Blocks per multiprocessor: without the number the compiler spills in some kernels that use few registers.
template <class S> constexpr int kBlocks = sizeof(S) == 4 ? 9 : 4;

// Returns whether the colour is in range.
template <class S, int Degree> SPLATLEARN_DEVICE bool color_forward(const splatlearn_ProjectInputs &in, int64_t c,
                                                                    int64_t n, const S mean[3], S color[3]) {
    S d[3], basis[kMaxBases];
    direction(mean, static_cast<const S *>(in.camera_centers) + 3 * c, d);
    sh_basis(Degree, d, basis);
    const auto value_of = [&](int k) { return basis[k]; };
    const auto coefficients_of = [&](int k) { return coefficients<S>(in, n, k); };
    return sh_color((Degree + 1) * (Degree + 1), value_of, coefficients_of, color);
}

// Degree -1: no colours.
template <class Primitive, class Camera, int Degree, class S = typename Camera::Real>
SPLATLEARN_KERNEL __launch_bounds__(kThreads, kBlocks<S>) void project_forward_kernel(splatlearn_ProjectForward out) {
    const splatlearn_ProjectInputs &in = out.inputs;
    const int64_t row = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    if (row >= in.n_cameras * in.n_gaussians) return;
    const int64_t c = row / in.n_gaussians, n = row - c * in.n_gaussians;
    const ProjectOptions<S> options = project_options<S>(in);
    Gaussian3d<S> g;
    PosedCamera<Camera> view;
    load_gaussian(in, n, g);
    load_view<Camera, S>(in, c, view);
    typename Primitive::template Shape<S> shape;
    typename Primitive::template Projected<Camera> projected;
    Extent<S> box;
    Primitive::shape(g, shape);
    Primitive::project(options, view, g, shape, projected);
    bool visible = Primitive::is_visible(options, view, projected, box);
    const S(&mean)[2] = projected.affine.mean;
    const S conic[3] = {projected.cov2d.conic.a, projected.cov2d.conic.b, projected.cov2d.conic.c};
    S color[3] = {};
    if constexpr (Degree >= 0) {
        if (visible) visible = color_forward<S, Degree>(in, c, n, g.mean, color);
        for (int j = 0; j < 3; ++j) static_cast<S *>(out.colors)[3 * row + j] = visible ? color[j] : S(0);
    }
    if (Degree < 0 && visible && in.features) visible = features_in_range<S>(in, c, n);
    for (int j = 0; j < 2; ++j) static_cast<S *>(out.means2d)[2 * row + j] = visible ? mean[j] : S(0);
    for (int j = 0; j < 3; ++j) static_cast<S *>(out.conics)[3 * row + j] = visible ? conic[j] : S(0);
    static_cast<S *>(out.depths)[row] = visible ? projected.p[2] : S(0);
    static_cast<S *>(out.opacities2d)[row] = visible ? projected.opacity : S(0);
    if (out.records && visible)
        store_record<typename Primitive::Blended, S, Degree >= 0 ? 3 : 0>(out.records, row, mean, conic,
                                                                          projected.opacity, color);
    for (int j = 0; j < 2; ++j) out.radii[2 * row + j] = visible ? whole_radius(box.radius[j]) : 0;
}

template <class S> int forward(const splatlearn_ProjectForward &out) {
    const int64_t rows = out.inputs.n_cameras * out.inputs.n_gaussians;
    if (rows == 0) return 0;
    const cudaStream_t stream = stream_of(out.inputs.context);
    return by_projection<S>(out.inputs.camera_model, kUnknownCamera, [&](auto primitive, auto camera) {
        return by_degree(out.colors ? out.inputs.sh_degree : -1, [&](auto degree) {
            return SPLATLEARN_LAUNCH(
                (project_forward_kernel<decltype(primitive), decltype(camera), decltype(degree)::value>),
                blocks_for(rows, kThreads), kThreads, stream, out);
        });
    });
}

}  // namespace

int project_forward(const splatlearn_ProjectForward &params) {
    return SPLATLEARN_BY_SCALAR(params, params.inputs.context, forward);
}
int64_t project_forward_scratch(const splatlearn_ProjectForward &) { return 0; }

}  // namespace SPLATLEARN_NAMESPACE
