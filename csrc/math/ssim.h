// Structural similarity at one pixel from five window means, and its gradient to the three that hold the image.
//
//   S = (2 mx my + C1)(2 sxy + C2) / ((mx^2 + my^2 + C1)(sxx + syy + C2)),  sxx = E[xx] - mx^2, sxy = E[xy] - mx my
//   (Wang et al. 2004). Window: 11 x 11 Gaussian, sigma 1.5, zeros outside the image; C1 = 0.01^2, C2 = 0.03^2 for
//   values in 0..1.
#pragma once
#include "scalar.h"

namespace SPLATLEARN_NAMESPACE {

constexpr int kWindowRadius = 5;
// exp(-d^2 / (2 * 1.5^2)) for d = 0..5, divided by the sum over d = -5..5.
constexpr double kWindow[kWindowRadius + 1] = {0.2660117248617943,  0.21300553771125366,  0.1093606895097,
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

// The same of s = x + y and d = x - y, which needs four means instead of five: with u = E[ss] - E[s]^2, v = E[dd] -
// E[d]^2
//   S = (E[s]^2 - E[d]^2 + 2 C1)(u - v + 2 C2) / ((E[s]^2 + E[d]^2 + 2 C1)(u + v + 2 C2)).
template <class R> struct SumMeans { R s, d, ss, dd; };

// The gradient to x at a pixel is F[v] + s F[v_s] + d F[v_d], where F is the window's mean of what is returned here.
template <class R> SPLATLEARN_HD R ssim_with_backward(const SumMeans<R> &mean, R &v, R &v_s, R &v_d) {
    using S = Scalar<R>;
    const S c1 = S(2e-4), c2 = S(18e-4);
    R p = mean.s * mean.s, q = mean.d * mean.d, var_s = mean.ss - p, var_d = mean.dd - q;
    R a1 = (p - q) + c1, a2 = (var_s - var_d) + c2;
    R b1 = (p + q) + c1, b2 = (var_s + var_d) + c2;
    R inverse = quotient(R(1), b1 * b2);
    R value = a1 * a2 * inverse;
    R v_a1 = a2 * inverse, v_a2 = a1 * inverse, minus_v_b1 = value * (b2 * inverse),
      minus_v_b2 = value * (b1 * inverse);
    R v_var_s = v_a2 - minus_v_b2, v_var_d = -v_a2 - minus_v_b2;
    R v_p = (v_a1 - minus_v_b1) - v_var_s, v_q = -(v_a1 + minus_v_b1) - v_var_d;
    v = S(2) * (mean.s * v_p + mean.d * v_q);  // both of s and of d grow by one with x
    v_s = S(2) * v_var_s;
    v_d = S(2) * v_var_d;
    return value;
}

}  // namespace SPLATLEARN_NAMESPACE
