// From the parameters that a model trains to those of the equations: any number to a scale or an opacity, each with its
// backward (Kerbl et al. 2023).
//
//   scale = e^x,  dscale/dx = scale;    opacity = 1 / (1 + e^-x),  dopacity/dx = opacity (1 - opacity)
//
// A culled Gaussian has the output gradient 0, and its input gradient is 0 even where x is infinite or NaN. A number
// out of range (scalar.h) makes the opacity NaN, which culls the Gaussian in every camera.
#pragma once
#include "scalar.h"

namespace SPLATLEARN_NAMESPACE {

template <class R> SPLATLEARN_HD R scale_of_log(R x) { return exponential(x); }

template <class R> SPLATLEARN_HD R scale_of_log_backward(R scale, R v_scale) {
    return select(v_scale == R{}, R{}, v_scale * scale);
}

template <class R> SPLATLEARN_HD R opacity_of_logit(R x) { return Scalar<R>(1) / (Scalar<R>(1) + exponential(-x)); }

template <class R> SPLATLEARN_HD R opacity_of_logit_backward(R opacity, R v_opacity) {
    return select(v_opacity == R{}, R{}, v_opacity * (opacity * (Scalar<R>(1) - opacity)));
}

// The parameters of a 3D Gaussian, or their gradients.
template <class R> struct Gaussian3d {
    R mean[3];   // world
    R quat[4];   // wxyz
    R scale[3];  // standard deviations, world units
    R opacity;
};

// Activates logarithms of scales and logits of opacities, in place, if they are raw.
template <class R> SPLATLEARN_HD void activate(bool raw, Gaussian3d<R> &g) {
    auto in_range = is_in_range(g.opacity);
    for (int j = 0; j < 3; ++j) in_range = in_range & is_in_range(g.mean[j]) & is_in_range(g.scale[j]);
    if (raw) {
        for (int j = 0; j < 3; ++j) g.scale[j] = scale_of_log(g.scale[j]);
        g.opacity = opacity_of_logit(g.opacity);
    }
    g.opacity = select(in_range, g.opacity, R{} + Scalar<R>(NAN));
}

// From gradients to scales and opacities to those to their logarithms and logits, in place. g: activated.
template <class R> SPLATLEARN_HD void activate_backward(const Gaussian3d<R> &g, R v_scale[3], R &v_opacity) {
    for (int j = 0; j < 3; ++j) v_scale[j] = scale_of_log_backward(g.scale[j], v_scale[j]);
    v_opacity = opacity_of_logit_backward(g.opacity, v_opacity);
}

}  // namespace SPLATLEARN_NAMESPACE
