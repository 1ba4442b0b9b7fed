// Structural similarity at one pixel from five window means, and its gradient to the three that hold the image.
//
//   S = (2 mx my + C1)(2 sxy + C2) / ((mx^2 + my^2 + C1)(sxx + syy + C2)),  sxx = E[xx] - mx^2, sxy = E[xy] - mx my
//   (Wang et al. 2004). Window: 11 x 11 Gaussian, sigma 1.5, zeros outside the image; C1 = 0.01^2, C2 = 0.03^2 for values in 0..1.
#pragma once
#include "scalar.h"

namespace SPLATLEARN_NAMESPACE {

constexpr int kWindowRadius = 5;
// exp(-d^2 / (2 * 1.5^2)) for d = 0..5, divided by the sum over d = -5..5.
constexpr double kWindow[kWindowRadius + 1] = {0.2660117248617943, 0.21300553771125366, 0.1093606895097,
                                               0.03600077212843082, 0.007598758135239184, 0.0010283800844791099};

template <class R> struct WindowMeans { R x, y, xx, yy, xy; };

template <class R> SPLATLEARN_HD R ssim(const WindowMeans<R> &mean) {
    using S = Scalar<R>;
    const S c1 = S(1e-4), c2 = S(9e-4);
    R mxx = mean.x * mean.x, myy = mean.y * mean.y, mxy = mean.x * mean.y;
    R a1 = S(2) * mxy + c1, a2 = S(2) * (mean.xy - mxy) + c2;
    R b1 = mxx + myy + c1, b2 = (mean.xx - mxx) + (mean.yy - myy) + c2;
    return (a1 * a2) / (b1 * b2);
}

// Gradients of S to E[x], E[xx] and E[xy].
template <class R> SPLATLEARN_HD R ssim_with_backward(const WindowMeans<R> &mean, R &v_x, R &v_xx, R &v_xy) {
    using S = Scalar<R>;
    const S c1 = S(1e-4), c2 = S(9e-4);
    R mxx = mean.x * mean.x, myy = mean.y * mean.y, mxy = mean.x * mean.y;
    R a1 = S(2) * mxy + c1, a2 = S(2) * (mean.xy - mxy) + c2;
    R b1 = mxx + myy + c1, b2 = (mean.xx - mxx) + (mean.yy - myy) + c2;
    R inverse = S(1) / (b1 * b2);
    R value = a1 * a2 * inverse;
    v_xx = -value * (b1 * inverse);  // -S / b2
    v_xy = S(2) * a1 * inverse;
    R v_mean = S(2) * (mean.y * a2 * inverse - mean.x * value * (b2 * inverse));
    v_x = v_mean - S(2) * mean.x * v_xx - mean.y * v_xy;
    return value;
}

}  // namespace SPLATLEARN_NAMESPACE
