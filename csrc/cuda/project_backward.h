// Gradients of a Gaussian, for the kernels that write them (project_backward.cu) or use them up (project_update.cu).
//
// Those to its coefficients are the kernel's affair: it hands over a `row` with
//
//   S *take(int k, S f[3])    sets f to the coefficients of basis k, and says where their gradients are added up
#pragma once
#include "project.h"

namespace SPLATLEARN_NAMESPACE {

constexpr int kCameraGradients = 9 + 3 + 4 + 3;  // rotation, translation, (fx, fy, cx, cy), centre

// A block has a piece of shared memory for the rows of its Gaussians; an odd distance between them keeps lanes on different banks.
template <class S> constexpr int kBackwardThreads = sizeof(S) == 4 ? 128 : 64;
template <int Degree> constexpr int kCoefficients = Degree > 0 ? 3 * ((Degree + 1) * (Degree + 1) - 1) : 0;
template <int Degree> constexpr int kPitch = kCoefficients<Degree> | 1;

template <class S> SPLATLEARN_DEVICE S optional(const real *from, int64_t at) {
    return from ? static_cast<const S *>(from)[at] : S(0);
}

// Adds the colours' part to v_mean and, by `row`, to the gradients of the coefficients, and sets v_center [3].
template <class S, int Degree, class Row>
SPLATLEARN_DEVICE void color_backward(const splatlearn_ProjectBackward &grad, int64_t c, int64_t n, const S mean[3],
                                      S v_mean[3], S v_center[3], const Row &row) {
    const splatlearn_ProjectInputs &in = grad.inputs;
    const int64_t at = c * in.n_gaussians + n;
    S d[3], basis[kMaxBases], v_basis[kMaxBases], v[3], v_d[3], v_direction[3];
    const S inverse = direction(mean, static_cast<const S *>(in.camera_centers) + 3 * c, d);
    sh_basis(Degree, d, basis);
    for (int j = 0; j < 3; ++j) {  // max(0, .) lets nothing through below
        const S color = static_cast<const S *>(grad.colors)[3 * at + j];
        v[j] = color > S(0) ? static_cast<const S *>(grad.v_colors)[3 * at + j] : S(0);
    }
#pragma unroll
    for (int k = 0; k < (Degree + 1) * (Degree + 1); ++k) {
        S f[3], *const v_f = row.take(k, f);
        v_basis[k] = f[0] * v[0] + f[1] * v[1] + f[2] * v[2];
        for (int j = 0; j < 3; ++j) v_f[j] += basis[k] * v[j];
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
    S mean[3], scale[3], rot[9], opacity;
};

// One drawn Gaussian in one camera. `of_camera` [kCameraGradients] comes as zeros. Colours go first: then they hold no registers
// while the geometry is undone.
template <class S, int Degree, class Row>
SPLATLEARN_DEVICE void view_backward(const splatlearn_ProjectBackward &grad, int64_t c, int64_t n, const Gaussian<S> &g,
                                     Gradients<S> &sums, const Row &coefficients, S *of_camera) {
    const splatlearn_ProjectInputs &in = grad.inputs;
    const int64_t row = c * in.n_gaussians + n;
    if constexpr (Degree >= 0) color_backward<S, Degree>(grad, c, n, g.mean, sums.mean, of_camera + 16, coefficients);
    Pinhole<S> camera;
    load_camera(in, c, camera);
    S rot[9], factor[9];
    Sight<S> seen;
    look(in, camera, g, rot, factor, seen);
    const S v_opacity2d = optional<S>(grad.v_opacities2d, row);
    const SightGradients<S> v = {
        {optional<S>(grad.v_means2d, 2 * row), optional<S>(grad.v_means2d, 2 * row + 1)},
        {optional<S>(grad.v_conics, 3 * row), optional<S>(grad.v_conics, 3 * row + 1), optional<S>(grad.v_conics, 3 * row + 2)},
        optional<S>(grad.v_depths, row),
        in.antialiased ? v_opacity2d * g.opacity : S(0)};
    S v_mean[3], v_rot[9], v_scale[3];
    sight_backward(camera, g.mean, rot, g.scale, factor, seen, v, v_mean, v_rot, v_scale, of_camera + 9, of_camera, of_camera + 12);
    for (int j = 0; j < 3; ++j) {
        sums.mean[j] += v_mean[j];
        sums.scale[j] += v_scale[j];
    }
    for (int j = 0; j < 9; ++j) sums.rot[j] += v_rot[j];
    sums.opacity += in.antialiased ? v_opacity2d * seen.image.compensation : v_opacity2d;
}

// From gradients to what is drawn to those to what is trained, in place, and to the quaternion.
template <class S>
SPLATLEARN_DEVICE void finish_gradients(const splatlearn_ProjectInputs &in, const Gaussian<S> &g, Gradients<S> &v, S v_quat[4]) {
    if (in.raw) {
        for (int j = 0; j < 3; ++j) v.scale[j] = scale_of_log_backward(g.scale[j], v.scale[j]);
        v.opacity = opacity_of_logit_backward(g.opacity, v.opacity);
    }
    rotation_backward(g.quat, v.rot, v_quat);
    for (int j = 0; j < 4; ++j) v_quat[j] = is_finite(v_quat[j]) ? v_quat[j] : S(0);  // a culled one may be zero or NaN
}

}  // namespace SPLATLEARN_NAMESPACE
