// Adam on the CPU: one pass over a parameter group, SIMD lanes over scalars, threads over chunks.
#include "cpu.h"

#include "../math/adam.h"

namespace SPLATLEARN_NAMESPACE {
namespace {

template <class S> int update(const splatlearn_Adam &p) {
    constexpr int L = Lanes<S>::count;
    constexpr int64_t kChunk = 16384;
    const AdamRates<S> rates = {S(1 - p.beta1), S(p.beta2), S(1 - p.beta2), S(p.eps),
                                S(p.learning_rate / (1 - pow(p.beta1, double(p.step)))), S(sqrt(1 - pow(p.beta2, double(p.step))))};
    S *parameter = static_cast<S *>(p.parameter), *m = static_cast<S *>(p.exp_avg), *v = static_cast<S *>(p.exp_avg_sq);
    const S *gradient = static_cast<const S *>(p.gradient);
    const int64_t chunks = (p.count + kChunk - 1) / kChunk;
#pragma omp parallel for schedule(static) num_threads(p.context.threads)
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        const int64_t end = (chunk + 1) * kChunk < p.count ? (chunk + 1) * kChunk : p.count;
        int64_t i = chunk * kChunk;
        for (; i + L <= end; i += L) {
            Lanes<S> x = load(parameter + i), mi = load(m + i), vi = load(v + i);
            adam_update(rates, load(gradient + i), x, mi, vi);
            store(parameter + i, x);
            store(m + i, mi);
            store(v + i, vi);
        }
        for (; i < end; ++i) adam_update<S>(rates, gradient[i], parameter[i], m[i], v[i]);
    }
    return 0;
}

}  // namespace

int adam(const splatlearn_Adam &params) { return SPLATLEARN_BY_SCALAR(params, params.context, update); }

}  // namespace SPLATLEARN_NAMESPACE
