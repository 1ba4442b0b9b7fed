// One Adam update of one scalar (Kingma & Ba 2015), in the arithmetic of torch.optim.Adam: epsilon outside the root,
// both biases corrected.
//
//   m <- m + (1 - beta1)(g - m);  v <- beta2 v + (1 - beta2) g^2;  p <- p - lr/(1 - beta1^t) m / (sqrt(v)/sqrt(1 -
//   beta2^t) + eps)
#pragma once
#include "scalar.h"

namespace SPLATLEARN_NAMESPACE {

template <class S> struct AdamRates {
    S one_minus_beta1, beta2, one_minus_beta2, eps;
    S step_size;   // lr / (1 - beta1^t)
    S root_bias2;  // sqrt(1 - beta2^t)
};

// beta^step by squaring: libm's pow is rounded differently from machine to machine.
SPLATLEARN_HD double power(double beta, int64_t step) {
    double out = 1;
    for (; step > 0; step /= 2, beta *= beta)
        if (step % 2) out *= beta;
    return out;
}

// The rates of update `step`, 1 for the first.
template <class S>
SPLATLEARN_HD AdamRates<S> adam_rates(double learning_rate, double beta1, double beta2, double eps, int64_t step) {
    return {S(1 - beta1),
            S(beta2),
            S(1 - beta2),
            S(eps),
            S(learning_rate / (1 - power(beta1, step))),
            S(sqrt(1 - power(beta2, step)))};
}

template <class R>
SPLATLEARN_HD void adam_update(const AdamRates<Scalar<R>> &rates, R gradient, R &parameter, R &m, R &v) {
    m = m + rates.one_minus_beta1 * (gradient - m);
    v = rates.beta2 * v + rates.one_minus_beta2 * gradient * gradient;
    parameter = parameter - rates.step_size * (m / (square_root(v) / rates.root_bias2 + rates.eps));
}

}  // namespace SPLATLEARN_NAMESPACE
