// Adam over a piece of memory, for the stages that update: adam.cpp, and project_update.cpp, whose gradients are its
// own.
#pragma once
#include "cpu.h"

#include "../math/adam.h"

namespace SPLATLEARN_NAMESPACE {
namespace {

template <class S> void adam_lanes(const AdamRates<S> &rates, const S *gradient, S *parameter, S *m, S *v) {
    Lanes<S> x = load(parameter), mi = load(m), vi = load(v);
    adam_update(rates, load(gradient), x, mi, vi);
    store(parameter, x);
    store(m, mi);
    store(v, vi);
}

// What is left over is done in lanes as well, so that a scalar's bits do not depend on where it lies.
template <class S>
void adam_span(const AdamRates<S> &rates, const S *gradient, int64_t count, S *parameter, S *m, S *v) {
    constexpr int L = Lanes<S>::count;
    int64_t i = 0;
    for (; i + L <= count; i += L) adam_lanes(rates, gradient + i, parameter + i, m + i, v + i);
    if (i == count) return;
    const size_t bytes = size_t(count - i) * sizeof(S);
    S rest[4][L] = {};
    const S *const from[4] = {gradient + i, parameter + i, m + i, v + i};
    for (int j = 0; j < 4; ++j) std::memcpy(rest[j], from[j], bytes);
    adam_lanes(rates, rest[0], rest[1], rest[2], rest[3]);
    S *const to[3] = {parameter + i, m + i, v + i};
    for (int j = 0; j < 3; ++j) std::memcpy(to[j], rest[j + 1], bytes);
}

}  // namespace
}  // namespace SPLATLEARN_NAMESPACE
