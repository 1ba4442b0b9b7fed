// Gradients of a Gaussian, for the kernels that write them (project_backward.cu) or use them up (project_update.cu).
//
// How its coefficients are kept is up to the kernel. It passes a `row` with
//
//   S *take(int k, S f[3])    sets f to the coefficients of basis k, and returns where their gradients are added up
#pragma once
#include "project.h"

namespace SPLATLEARN_NAMESPACE {

// A block holds the rows of its Gaussians in shared memory; an odd pitch keeps lanes on different banks.
template <class S> constexpr int kBackwardThreads = sizeof(S) == 4 ? 128 : 64;
template <int Degree> constexpr int kCoefficients = Degree > 0 ? 3 * ((Degree + 1) * (Degree + 1) - 1) : 0;
template <int Degree> constexpr int kPitch = kCoefficients<Degree> | 1;

template <class S> SPLATLEARN_DEVICE S optional(const real *from, int64_t at) {
    return from ? static_cast<const S *>(from)[at] : S(0);
}

// Adds the colours' part to v_mean [3] and, by `row`, to the gradients of the coefficients, and sets v_center [3].
template <class S, int Degree, class Row>
SPLATLEARN_DEVICE void color_backward(const splatlearn_ProjectBackward &grad, int64_t c, int64_t n, const S mean[3],
                                      S v_mean[3], S v_center[3], const Row &row) {
    const splatlearn_ProjectInputs &in = grad.inputs;
    const int64_t at = 3 * (c * in.n_gaussians + n);
    S d[3], basis[kMaxBases], v_basis[kMaxBases], v[3], v_d[3], v_direction[3];
    const S inverse = direction(mean, static_cast<const S *>(in.camera_centers) + 3 * c, d);
    sh_basis(Degree, d, basis);
    const S *colors = static_cast<const S *>(grad.colors) + at, *v_colors = static_cast<const S *>(grad.v_colors) + at;
    for (int j = 0; j < 3; ++j) v[j] = sh_color_backward(colors[j], v_colors[j]);
#pragma unroll
    for (int k = 0; k < (Degree + 1) * (Degree + 1); ++k) {
        S f[3], *const v_f = row.take(k, f);
        v_basis[k] = sh_basis_value_backward(f, v);
        sh_coefficients_backward(basis[k], v, v_f);
    }
    sh_basis_backward(Degree, d, v_basis, v_d);
    direction_backward(d, inverse, v_d, v_direction);
    for (int j = 0; j < 3; ++j) {
        v_mean[j] += v_direction[j];
        v_center[j] = -v_direction[j];
    }
}

// Adds the gradients of one visible Gaussian in one camera to its sums over cameras, and sets those of the camera,
// v_camera [kCameraGradients], which must be zeros. Colours go first: then they hold no registers during the geometry.
template <class Primitive, class Camera, int Degree, class S, class Row>
SPLATLEARN_DEVICE void view_backward(const splatlearn_ProjectBackward &grad, int64_t c, int64_t n,
                                     const Gaussian3d<S> &g, typename Primitive::template Gradients<S> &sums,
                                     const Row &coefficients, S *v_camera) {
    const splatlearn_ProjectInputs &in = grad.inputs;
    const int64_t row = c * in.n_gaussians + n;
    if constexpr (Degree >= 0)
        color_backward<S, Degree>(grad, c, n, g.mean, sums.mean, v_camera + kOfCenter, coefficients);
    const ProjectOptions<S> options = project_options<S>(in);
    PosedCamera<Camera> view;
    load_view<Camera, S>(in, c, view);
    typename Primitive::template Shape<S> shape;
    typename Primitive::template Projected<Camera> projected;
    Primitive::shape(g, shape);
    Primitive::project(options, view, g, shape, projected);
    const typename Primitive::template ProjectedGradients<S> v = {
        {optional<S>(grad.v_means2d, 2 * row), optional<S>(grad.v_means2d, 2 * row + 1)},
        {optional<S>(grad.v_conics, 3 * row), optional<S>(grad.v_conics, 3 * row + 1),
         optional<S>(grad.v_conics, 3 * row + 2)},
        optional<S>(grad.v_depths, row),
        optional<S>(grad.v_opacities2d, row)};
    typename Primitive::template Gradients<S> v_g;
    Primitive::project_backward(options, view, g, shape, projected, v, v_g, v_camera + kOfTranslation,
                                v_camera + kOfRotation, v_camera + kOfParameters);
    for (int j = 0; j < 3; ++j) {
        sums.mean[j] += v_g.mean[j];
        sums.scale[j] += v_g.scale[j];
    }
    for (int j = 0; j < 9; ++j) sums.rotation[j] += v_g.rotation[j];
    sums.opacity += v_g.opacity;
}

}  // namespace SPLATLEARN_NAMESPACE
