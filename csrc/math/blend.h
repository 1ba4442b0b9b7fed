// Front-to-back alpha compositing of one splat over one pixel, and its inverse walk with gradients.
//
//   log2 alpha = log2 o - (A dx^2 + B dx dy + C dy^2),  A = a log2(e)/2, B = b log2(e), C = c log2(e)/2
//   alpha = min(0.999, 2^(log2 alpha)), drawn where log2 alpha >= log2(threshold)
//   render = sum_i T_i alpha_i c_i + T_n background,   T_{i+1} = T_i (1 - alpha_i),   T_0 = 1          (Kerbl et al.
//   2023, eq. 3) a pixel stops before the splat that would take T below the transmittance threshold.
//
// Backward walks from the last drawn splat to the first with two numbers a pixel: the transmittance, recovered by
// division, and `behind`, the gradient-weighted colour of all that lies behind (background first):
//   T_i = T_{i+1} / (1 - alpha_i);  dL/dalpha_i = T_i (q_i - behind),  q_i = c_i . dL/drender;  behind += alpha_i (q_i
//   - behind)
// What the exponent receives, g = alpha_i dL/dalpha_i, is summed over pixels as moments (g, g dx, g dy, g dx^2, g dx
// dy, g dy^2); the algebra from moments to mean, conic and opacity is done once a (Gaussian, tile).
#pragma once
#include "covariance.h"
#include "scalar.h"

namespace SPLATLEARN_NAMESPACE {

constexpr double kAlphaMax = 0.999;
constexpr double kLog2E = 1.4426950408889634;

SPLATLEARN_HD float log2_of(float x) { return log2f(x); }
SPLATLEARN_HD double log2_of(double x) { return log2(x); }

// A splat as the blend reads it.
template <class S> struct Splat {
    S x, y;     // mean, px
    S a, b, c;  // A, B, C
    S log2_opacity;
};

template <class S> SPLATLEARN_HD Splat<S> pack_splat(const S mean[2], const S conic[3], S opacity) {
    return {mean[0],         mean[1], S(0.5 * kLog2E) * conic[0], S(kLog2E) * conic[1], S(0.5 * kLog2E) * conic[2],
            log2_of(opacity)};
}

// ---- one splat over a pixel: alpha must be 0 where it is not drawn. Returns its weight T alpha. ----
template <class R> SPLATLEARN_HD R blend(R alpha, R &transmittance) {
    R weight = alpha * transmittance;
    transmittance = transmittance - weight;
    return weight;
}

// q: colour dot output gradient. Updates transmittance (to what it was before the splat) and behind.
// Returns weight = T alpha, and g = alpha dL/dalpha.
template <class R> SPLATLEARN_HD R unblend(R alpha, R q, R &transmittance, R &behind, R &g) {
    transmittance = quotient(transmittance, Scalar<R>(1) - alpha);
    R weight = alpha * transmittance;
    R difference = q - behind;
    behind = behind + alpha * difference;
    g = weight * difference;
    return weight;
}

// ---- from moments of g (dx, dy = pixel - mean) to the gradients of mean, conic and opacity ----
template <class S> struct Moments { S g, x, y, xx, xy, yy; };

template <class S> SPLATLEARN_HD void moments_backward(const Splat<S> &splat, const Moments<S> &m, S v_mean[2],
                                                       S v_conic[3], S &v_opacity) {
    const S a = splat.a * S(2 / kLog2E), b = splat.b * S(1 / kLog2E), c = splat.c * S(2 / kLog2E);
    v_mean[0] = a * m.x + b * m.y;
    v_mean[1] = b * m.x + c * m.y;
    v_conic[0] = S(-0.5) * m.xx;
    v_conic[1] = -m.xy;
    v_conic[2] = S(-0.5) * m.yy;
    v_opacity = m.g * exponential2(-splat.log2_opacity);
}

}  // namespace SPLATLEARN_NAMESPACE
