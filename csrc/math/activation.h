// From what a model trains to what is drawn: any number to a scale or an opacity, each with its backward (Kerbl et al. 2023).
//
//   scale = e^x,  dscale/dx = scale;    opacity = 1 / (1 + e^-x),  dopacity/dx = opacity (1 - opacity)
//
// What is not drawn has the output gradient 0, and passes 0 on even where x is infinite or NaN.
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

}  // namespace SPLATLEARN_NAMESPACE
