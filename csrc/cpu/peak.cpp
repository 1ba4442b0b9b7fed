// The most float32 multiply-adds that the cores can make: what the benchmark holds the stages against. No stage calls
// it.
#include "cpu.h"

namespace SPLATLEARN_NAMESPACE {

// Operations made: `rounds` of kChains independent multiply-adds of a register each, on every thread.
double multiply_adds(int threads, int64_t rounds) {
    constexpr int kChains = 12;  // more than a core has under way at once, fewer than there are registers
    using Register = Lanes<float>;
    float kept = 0;
#pragma omp parallel num_threads(threads) reduction(+ : kept)
    {
        Register a[kChains], scale(0.999f), shift(0.001f);
#pragma GCC unroll 16
        for (int i = 0; i < kChains; ++i) a[i] = Register(0.1f * float(i));
        for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 16
            for (int i = 0; i < kChains; ++i) a[i] = a[i] * scale + shift;
        }
        Register total{};
#pragma GCC unroll 16
        for (int i = 0; i < kChains; ++i) total = total + a[i];
        float lanes[Register::count];
        store(lanes, total);
        kept += lanes[0];
    }
    const double made = 2.0 * kChains * Register::count * double(rounds) * threads;
    return kept > 0 ? made : 0;  // always positive; read, so that no compiler leaves the work out
}

}  // namespace SPLATLEARN_NAMESPACE
