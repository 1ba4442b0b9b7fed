// Adam on the CPU: one pass over a parameter group, SIMD lanes over scalars, threads over chunks.
#include "adam.h"

namespace SPLATLEARN_NAMESPACE {
namespace {

template <class S> int update(const splatlearn_Adam &p) {
    constexpr int64_t kChunk = 16384;
    const AdamRates<S> rates = adam_rates<S>(p.learning_rate, p.beta1, p.beta2, p.eps, p.step);
    S *parameter = static_cast<S *>(p.parameter), *m = static_cast<S *>(p.exp_avg), *v = static_cast<S *>(p.exp_avg_sq);
    const S *gradient = static_cast<const S *>(p.gradient);
    const int64_t chunks = (p.count + kChunk - 1) / kChunk;
#pragma omp parallel for schedule(static) num_threads(p.context.threads)
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        const int64_t begin = chunk * kChunk, count = p.count - begin < kChunk ? p.count - begin : kChunk;
        adam_span(rates, gradient + begin, count, parameter + begin, m + begin, v + begin);
    }
    return 0;
}

}  // namespace

int adam(const splatlearn_Adam &params) { return SPLATLEARN_BY_SCALAR(params, params.context, update); }

}  // namespace SPLATLEARN_NAMESPACE
