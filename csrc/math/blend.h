// Front-to-back alpha compositing of one splat over one pixel, and its inverse with gradients. A primitive gives log2
// alpha.
//
//   alpha = min(kAlphaMax, 2^(log2 alpha)), rendered where log2 alpha >= log2(threshold)
//   render = sum_i T_i alpha_i c_i + T_n background,   T_{i+1} = T_i (1 - alpha_i),   T_0 = 1          (Kerbl et al.
//   2023, eq. 3) a pixel stops before the splat that would take T below the transmittance threshold.
//
// Backward walks from the last rendered splat to the first with two numbers per pixel: the transmittance, recovered by
// division, and `behind`, the gradient-weighted colour of all that lies behind (background first):
//   T_i = T_{i+1} / (1 - alpha_i);  dL/dalpha_i = T_i (q_i - behind),  q_i = c_i . dL/drender;  behind += alpha_i (q_i
//   - behind)
#pragma once
#include "../abi.h"
#include "scalar.h"

namespace SPLATLEARN_NAMESPACE {

constexpr double kAlphaMax = SPLATLEARN_ALPHA_MAX;

// Where a pixel stops. Backward recovers T by division, so a pixel always stops before T leaves the range of normal
// numbers.
template <class S> SPLATLEARN_HD S transmittance_floor(double threshold) {
    return maximum(S(threshold), sizeof(S) == 4 ? S(1e-35) : S(1e-300));
}

// ---- one splat over a pixel: alpha must be 0 where it is not rendered. Returns its weight T alpha. ----
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

}  // namespace SPLATLEARN_NAMESPACE
