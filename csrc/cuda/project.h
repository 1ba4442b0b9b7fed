// What forward and backward of stage project share on CUDA: a Gaussian and a camera from memory.
#pragma once
#include <type_traits>

#include "../math/primitive/projections.h"
#include "../math/sh.h"
#include "stage.h"

namespace SPLATLEARN_NAMESPACE {

template <class S>
SPLATLEARN_DEVICE void load_gaussian(const splatlearn_ProjectInputs &in, int64_t n, Gaussian3d<S> &g) {
    const S *means = static_cast<const S *>(in.means) + 3 * n, *quats = static_cast<const S *>(in.quats) + 4 * n;
    const S *scales = static_cast<const S *>(in.scales) + 3 * n;
    for (int j = 0; j < 3; ++j) {
        g.mean[j] = means[j];
        g.scale[j] = scales[j];
    }
    for (int j = 0; j < 4; ++j) g.quat[j] = quats[j];
    g.opacity = static_cast<const S *>(in.opacities)[n];
    activate(in.raw != 0, g);
}

template <class Camera, class S>
SPLATLEARN_DEVICE void load_view(const splatlearn_ProjectInputs &in, int64_t c, PosedCamera<Camera> &view) {
    const S *viewmat = static_cast<const S *>(in.viewmats) + 16 * c;
    load_view(viewmat, static_cast<const S *>(in.camera_params) + kParameterRow<Camera> * c, in.width, in.height, view);
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
