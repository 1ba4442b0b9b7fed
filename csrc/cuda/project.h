// What forward and backward of stage project share: a Gaussian, a camera and coefficients of colours, from memory.
#pragma once
#include <type_traits>

#include "../math/activation.h"
#include "../math/project.h"
#include "../math/sh.h"
#include "stage.h"

namespace SPLATLEARN_NAMESPACE {

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

template <class S>
SPLATLEARN_DEVICE void look(const splatlearn_ProjectInputs &in, const Pinhole<S> &camera, const Gaussian<S> &g, S rot[9], S factor[9],
                            Sight<S> &seen) {
    rotation(g.quat, rot);
    covariance_factor(rot, g.scale, factor);
    sight(camera, g.mean, factor, S(in.eps2d), seen);
}

template <class S> SPLATLEARN_DEVICE const S *coefficients(const splatlearn_ProjectInputs &in, int64_t n, int basis) {
    return basis == 0 ? static_cast<const S *>(in.sh0) + n * in.sh0_stride
                      : static_cast<const S *>(in.shN) + n * in.shN_stride + (basis - 1) * 3;
}

// Calls f with the degree as a constant; -1 where there are no colours.
template <class F> int by_degree(int degree, F f) {
    switch (degree) {
        case 0: return f(std::integral_constant<int, 0>{});
        case 1: return f(std::integral_constant<int, 1>{});
        case 2: return f(std::integral_constant<int, 2>{});
        case 3: return f(std::integral_constant<int, 3>{});
        case 4: return f(std::integral_constant<int, 4>{});
        default: return f(std::integral_constant<int, -1>{});
    }
}

}  // namespace SPLATLEARN_NAMESPACE
