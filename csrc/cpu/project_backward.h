// Gradients of a register of Gaussians, for the stages that write them (project_backward.cpp) or use them up
// (project_update.cpp).
#pragma once
#include "project.h"

namespace SPLATLEARN_NAMESPACE {
namespace {

// Where the gradients of a group's coefficients are added up, in dense rows; null: not wanted.
template <class S> struct CoefficientGradients {
    S *sh0, *shN;
    int64_t shN_width;  // scalars of a row of shN

    S *of(int row, int basis) const {
        if (basis == 0) return sh0 ? sh0 + row * 3 : nullptr;
        return shN ? shN + row * shN_width + (basis - 1) * 3 : nullptr;
    }
};

// Adds the colours' part to v_mean [3], to v_center [3] and to the coefficients' gradients of each visible row.
template <class S> SPLATLEARN_HD void colors_backward(const splatlearn_ProjectBackward &grad, int64_t c, int64_t first,
                                                      const Lanes<S> mean[3], int rows, uint32_t mask,
                                                      const CoefficientGradients<S> &to, Lanes<S> v_mean[3],
                                                      Lanes<S> v_center[3]) {
    constexpr int L = Lanes<S>::count;
    const splatlearn_ProjectInputs &in = grad.inputs;
    Lanes<S> d[3], basis[kMaxBases];
    Lanes<S> inverse = direction(mean, static_cast<const S *>(in.camera_centers) + c * 3, d);
    sh_basis(in.sh_degree, d, basis);
    const int bases = bases_of_degree(in.sh_degree);
    S value[kMaxBases][L], v_value[kMaxBases][L] = {};
    for (int k = 0; k < bases; ++k) store(value[k], basis[k]);
    for (int i = 0; i < rows; ++i) {
        if (!(mask >> i & 1)) continue;
        const int64_t at = (c * in.n_gaussians + first + i) * 3;
        const S *color = static_cast<const S *>(grad.colors) + at,
                *v_color = static_cast<const S *>(grad.v_colors) + at;
        S v[3];
        for (int j = 0; j < 3; ++j) v[j] = sh_color_backward(color[j], v_color[j]);
        for (int k = 0; k < bases; ++k) {
            v_value[k][i] = sh_basis_value_backward(coefficients<S>(in, first + i, k), v);
            if (S *v_f = to.of(i, k)) sh_coefficients_backward(value[k][i], v, v_f);
        }
    }
    Lanes<S> v_basis[kMaxBases], v_d[3], v[3];
    for (int k = 0; k < bases; ++k) v_basis[k] = load(v_value[k]);
    sh_basis_backward(in.sh_degree, d, v_basis, v_d);
    direction_backward(d, inverse, v_d, v);
    auto visible = mask_of_bits<S>(mask);
    for (int j = 0; j < 3; ++j) {
        Lanes<S> part = select(visible, v[j], Lanes<S>{});
        v_mean[j] = v_mean[j] + part;
        v_center[j] = v_center[j] - part;
    }
}

// The visible rows, as bits.
inline uint32_t visible_rows(const splatlearn_ProjectBackward &grad, int64_t row, int rows) {
    uint32_t mask = 0;
    for (int i = 0; i < rows; ++i) mask |= uint32_t(grad.radii[(row + i) * 2] > 0) << i;
    return mask;
}

template <class S, int W> void load_optional(const real *from, int64_t row, int rows, Lanes<S> out[W]) {
    if (from) {
        load_rows<S, W>(static_cast<const S *>(from) + row * W, rows, out);
    } else {
        for (int j = 0; j < W; ++j) out[j] = Lanes<S>{};
    }
}

// Adds a group's gradients of one camera to its sums over cameras, and those of the camera to `camera_sums`
// [kCameraGradients][kWide], lane by lane, null: not wanted. A function of its own, so that every caller gets the same
// bits.
template <class Primitive, class Camera, class S>
__attribute__((noinline)) void group_backward(const splatlearn_ProjectBackward &grad, const PosedCamera<Camera> &view,
                                              int64_t c, int64_t first, const Group<Primitive, S> &group,
                                              const CoefficientGradients<S> &to,
                                              typename Primitive::template Gradients<Lanes<S>> &sums, S *camera_sums) {
    using R = Lanes<S>;
    const ProjectOptions<S> options = project_options<S>(grad.inputs);
    const int rows = group.rows;
    const int64_t row = c * grad.inputs.n_gaussians + first;
    const uint32_t mask = visible_rows(grad, row, rows);
    if (!mask) return;
    const auto visible = mask_of_bits<S>(mask);
    const R zero{};

    typename Primitive::template ProjectedGradients<R> v;
    R v_conic[3];
    load_optional<S, 2>(grad.v_means2d, row, rows, v.mean);
    load_optional<S, 3>(grad.v_conics, row, rows, v_conic);
    load_optional<S, 1>(grad.v_depths, row, rows, &v.depth);
    load_optional<S, 1>(grad.v_opacities2d, row, rows, &v.opacity);
    v.conic = {v_conic[0], v_conic[1], v_conic[2]};

    typename Primitive::template Projected<Camera> projected;
    typename Primitive::template Gradients<R> v_g;
    R v_translation[3], v_rotation[9], v_parameters[Camera::kParameters], v_center[3];
    Primitive::project(options, view, group.gaussian, group.shape, projected);
    Primitive::project_backward(options, view, group.gaussian, group.shape, projected, v, v_g, v_translation,
                                v_rotation, v_parameters);
    for (int j = 0; j < 3; ++j) v_g.mean[j] = select(visible, v_g.mean[j], zero);
    if (grad.v_colors) colors_backward(grad, c, first, group.gaussian.mean, rows, mask, to, v_g.mean, v_center);

    for (int j = 0; j < 3; ++j) {
        sums.mean[j] = sums.mean[j] + v_g.mean[j];
        sums.scale[j] = sums.scale[j] + select(visible, v_g.scale[j], zero);
    }
    for (int j = 0; j < 9; ++j) sums.rotation[j] = sums.rotation[j] + select(visible, v_g.rotation[j], zero);
    sums.opacity = sums.opacity + select(visible, v_g.opacity, zero);
    if (!camera_sums) return;
    const auto add = [&](int j, R value) {
        S *const to = camera_sums + j * kWide<S> + first % kWide<S>;
        store(to, load(to) + select(visible, value, zero));
    };
    for (int j = 0; j < 9; ++j) add(kOfRotation + j, v_rotation[j]);
    for (int j = 0; j < 3; ++j) add(kOfTranslation + j, v_translation[j]);
    for (int j = 0; j < 3; ++j) add(kOfCenter + j, v_center[j]);
    for (int j = 0; j < Camera::kParameters; ++j) add(kOfParameters + j, v_parameters[j]);
}

// From sums over cameras to the gradients of the parameters as they were given. A function of its own, likewise.
template <class Primitive, class S>
__attribute__((noinline)) void finish_gradients(const splatlearn_ProjectInputs &in, const Group<Primitive, S> &group,
                                                typename Primitive::template Gradients<Lanes<S>> &v,
                                                Lanes<S> v_quat[4]) {
    Primitive::finish(in.raw != 0, group.gaussian, v, v_quat);
}

}  // namespace
}  // namespace SPLATLEARN_NAMESPACE
