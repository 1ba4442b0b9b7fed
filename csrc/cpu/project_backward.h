// Gradients of a register of Gaussians, for the stages that write them (project_backward.cpp) or use them up (project_update.cpp).
#pragma once
#include "project.h"

namespace SPLATLEARN_NAMESPACE {
namespace {

constexpr int kCameraGradients = 9 + 3 + 4 + 3;  // rotation, translation, (fx, fy, cx, cy), centre

// Gradients of a group over all cameras.
template <class S> struct GroupGradients {
    Lanes<S> mean[3], scale[3], rot[9], opacity;
};

// Where the gradients to a group's coefficients are added up, dense rows; null: not wanted.
template <class S> struct CoefficientGradients {
    S *sh0, *shN;
    int64_t shN_width;  // scalars a row of shN
};

// Adds the colours' part to v_mean, to v_center [3] and to the coefficients' gradients of each drawn row.
template <class S>
void colors_backward(const splatlearn_ProjectBackward &grad, int64_t c, int64_t first, const Group<S> &g, uint32_t mask,
                     const CoefficientGradients<S> &to, Lanes<S> v_mean[3], Lanes<S> v_center[3]) {
    constexpr int L = Lanes<S>::count;
    const splatlearn_ProjectInputs &in = grad.inputs;
    Lanes<S> d[3], basis[kMaxBases];
    Lanes<S> inverse = direction(g.mean, static_cast<const S *>(in.camera_centers) + c * 3, d);
    sh_basis(in.sh_degree, d, basis);
    const int bases = bases_of_degree(in.sh_degree);
    S value[kMaxBases][L], v_value[kMaxBases][L] = {};
    for (int k = 0; k < bases; ++k) store(value[k], basis[k]);
    for (int i = 0; i < g.rows; ++i) {
        if (!(mask >> i & 1)) continue;
        const int64_t row = c * in.n_gaussians + first + i;
        const S *color = static_cast<const S *>(grad.colors) + row * 3, *v_color = static_cast<const S *>(grad.v_colors) + row * 3;
        S v[3];
        for (int j = 0; j < 3; ++j) v[j] = color[j] > S(0) ? v_color[j] : S(0);  // max(0, .) lets nothing through below
        for (int k = 0; k < bases; ++k) {
            const S *f = coefficients<S>(in, first + i, k);
            v_value[k][i] = f[0] * v[0] + f[1] * v[1] + f[2] * v[2];
            S *v_f = k == 0 ? to.sh0 : to.shN;
            if (!v_f) continue;
            v_f += k == 0 ? i * 3 : i * to.shN_width + (k - 1) * 3;
            for (int j = 0; j < 3; ++j) v_f[j] += value[k][i] * v[j];
        }
    }
    Lanes<S> v_basis[kMaxBases], v_d[3], v[3];
    for (int k = 0; k < bases; ++k) v_basis[k] = load(v_value[k]);
    sh_basis_backward(in.sh_degree, d, v_basis, v_d);
    direction_backward(d, inverse, v_d, v);
    auto shown = mask_of_bits<S>(mask);
    for (int j = 0; j < 3; ++j) {
        Lanes<S> part = select(shown, v[j], Lanes<S>{});
        v_mean[j] = v_mean[j] + part;
        v_center[j] = v_center[j] - part;
    }
}

// The rows that were drawn, as bits.
inline uint32_t drawn(const splatlearn_ProjectBackward &grad, int64_t row, int rows) {
    uint32_t mask = 0;
    for (int i = 0; i < rows; ++i) mask |= uint32_t(grad.radii[(row + i) * 2] > 0) << i;
    return mask;
}

template <class S, int W> void load_optional(const real *from, int64_t row, int rows, Lanes<S> out[W]) {
    if (from) load_rows<S, W>(static_cast<const S *>(from) + row * W, rows, out);
    else
        for (int j = 0; j < W; ++j) out[j] = Lanes<S>{};
}

// Gradients of what of a group a camera shows, added to those of other cameras. A function of its own, so that every caller gets the same bits.
template <class S>
__attribute__((noinline)) void group_backward(const splatlearn_ProjectBackward &grad, const Pinhole<Lanes<S>> &camera, int64_t c,
                                              int64_t first, const Group<S> &g, const CoefficientGradients<S> &to,
                                              GroupGradients<S> &sum_over_cameras, S *camera_sums) {
    using R = Lanes<S>;
    const splatlearn_ProjectInputs &in = grad.inputs;
    const int64_t row = c * in.n_gaussians + first;
    const uint32_t mask = drawn(grad, row, g.rows);
    if (!mask) return;
    const auto shown = mask_of_bits<S>(mask);
    const R zero{};

    SightGradients<R> v;
    R v_conic[3], v_opacity2d;
    load_optional<S, 2>(grad.v_means2d, row, g.rows, v.mean2d);
    load_optional<S, 3>(grad.v_conics, row, g.rows, v_conic);
    load_optional<S, 1>(grad.v_depths, row, g.rows, &v.depth);
    load_optional<S, 1>(grad.v_opacities2d, row, g.rows, &v_opacity2d);
    v.conic = {v_conic[0], v_conic[1], v_conic[2]};
    v.compensation = in.antialiased ? v_opacity2d * g.opacity : zero;

    Sight<R> seen;
    sight(camera, g.mean, g.factor, S(in.eps2d), seen);
    R v_opacity = in.antialiased ? v_opacity2d * seen.image.compensation : v_opacity2d;
    R v_rot[9], v_scale[3], v_p[3], v_view[9], v_K[4], v_mean[3], v_center[3];
    sight_backward(camera, g.mean, g.rot, g.scale, g.factor, seen, v, v_mean, v_rot, v_scale, v_p, v_view, v_K);
    for (int j = 0; j < 3; ++j) v_mean[j] = select(shown, v_mean[j], zero);
    if (grad.v_colors) colors_backward(grad, c, first, g, mask, to, v_mean, v_center);

    for (int j = 0; j < 3; ++j) {
        sum_over_cameras.mean[j] = sum_over_cameras.mean[j] + v_mean[j];
        sum_over_cameras.scale[j] = sum_over_cameras.scale[j] + select(shown, v_scale[j], zero);
    }
    for (int j = 0; j < 9; ++j) sum_over_cameras.rot[j] = sum_over_cameras.rot[j] + select(shown, v_rot[j], zero);
    sum_over_cameras.opacity = sum_over_cameras.opacity + select(shown, v_opacity, zero);
    if (!camera_sums) return;
    for (int j = 0; j < 9; ++j) camera_sums[j] += sum(select(shown, v_view[j], zero));
    for (int j = 0; j < 3; ++j) camera_sums[9 + j] += sum(select(shown, v_p[j], zero));
    for (int j = 0; j < 4; ++j) camera_sums[12 + j] += sum(select(shown, v_K[j], zero));
    for (int j = 0; j < 3; ++j) camera_sums[16 + j] += sum(v_center[j]);
}

// From gradients to what is drawn to those to what is trained, in place, and to the quaternions. A function of its own, likewise.
template <class S>
__attribute__((noinline)) void finish_gradients(const splatlearn_ProjectInputs &in, const Group<S> &g, GroupGradients<S> &v, Lanes<S> v_quat[4]) {
    if (in.raw) {
        for (int j = 0; j < 3; ++j) v.scale[j] = scale_of_log_backward(g.scale[j], v.scale[j]);
        v.opacity = opacity_of_logit_backward(g.opacity, v.opacity);
    }
    rotation_backward(g.quat, v.rot, v_quat);
    for (int j = 0; j < 4; ++j) v_quat[j] = select(is_finite(v_quat[j]), v_quat[j], Lanes<S>{});  // a culled zero or NaN quaternion
}

}  // namespace
}  // namespace SPLATLEARN_NAMESPACE
