// What every CUDA stage needs: entry points, scratch memory that the caller allocates, and sums over a warp.
//
// A stage's kernels only schedule the equations of csrc/math. One thread is one Gaussian, one tile or two pixels. Nothing is
// summed by atomics unless a caller asks for it (RasterizeBackward.atomic), so results have the same bits at every run.
#pragma once
#include <cstdint>

#include "../abi.h"
#include "../math/scalar.h"
#include "launch.h"

namespace SPLATLEARN_NAMESPACE {

// Negative return values; splatlearn_error() in api.cu has their sentences. Those of the device are in launch.h.
enum Failure { kScratchTooSmall = -1, kBadScalar = -2, kTooMany = -3 };

// Each stage is defined in the file of its name. NAME_scratch: bytes of scratch memory that NAME wants in its context.
#define SPLATLEARN_DECLARE(name, Params)                                                                                    \
    int name(const Params &params);                                                                                         \
    int64_t name##_scratch(const Params &params);
SPLATLEARN_STAGES(SPLATLEARN_DECLARE)
#undef SPLATLEARN_DECLARE
int adam_groups(const splatlearn_AdamGroups &params);

constexpr int kWarp = 32;
constexpr unsigned kFull = 0xffffffffu;

// Deals out pieces of the scratch memory; without memory it only counts, so that one function says what a stage needs.
class Arena {
public:
    explicit Arena(void *memory) : memory_(static_cast<char *>(memory)) {}
    template <class T> T *take(int64_t count) {
        char *piece = memory_ ? memory_ + used_ : nullptr;
        used_ += (count * int64_t(sizeof(T)) + 255) / 256 * 256;
        return reinterpret_cast<T *>(piece);
    }
    int64_t used() const { return used_; }

private:
    char *memory_;
    int64_t used_ = 0;
};

inline bool fits(const Arena &arena, const splatlearn_Context &context) { return arena.used() <= context.scratch_bytes; }
inline cudaStream_t stream_of(const splatlearn_Context &context) { return static_cast<cudaStream_t>(context.stream); }
inline unsigned blocks_for(int64_t items, int threads) { return unsigned((items + threads - 1) / threads); }

// Calls f<float>() or f<double>() as the context says.
#define SPLATLEARN_BY_SCALAR(params, context, function)                                                                     \
    ((context).scalar_bytes == 4 ? function<float>(params) : (context).scalar_bytes == 8 ? function<double>(params) : kBadScalar)

// Returns from the enclosing function with the code of a launch or call that failed.
#define SPLATLEARN_TRY(call)                                                                                                \
    do {                                                                                                                    \
        if (const int failure = (call)) return failure;                                                                     \
    } while (0)

// ---- sums over a warp, always in the same order; every lane takes part ----

template <class S> SPLATLEARN_DEVICE S warp_sum(S value) {
    for (int offset = kWarp / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(kFull, value, offset);
    return value;
}

// Sums each of N numbers over the warp by recursive halving: at each step a lane hands half of its numbers to its partner and takes
// the partner's part of the other half, so nine numbers cost 12 exchanges instead of 45. Afterwards v[0] of the
// lane with `index` = j holds sum j; a lane without a sum has index -1.
template <int N, int Offset = kWarp / 2> struct WarpSums {
    static constexpr int kHalf = (N + 1) / 2;
    template <class S> static SPLATLEARN_DEVICE void run(S *v, int lane) {
        const bool upper = (lane & Offset) != 0;
#pragma unroll
        for (int i = 0; i < kHalf; ++i) {
            const S low = v[i], high = kHalf + i < N ? v[kHalf + i < N ? kHalf + i : 0] : S(0);
            v[i] = (upper ? high : low) + __shfl_xor_sync(kFull, upper ? low : high, Offset);
        }
        WarpSums<kHalf, Offset / 2>::run(v, lane);
    }
    static SPLATLEARN_DEVICE int index(int lane) {
        const int rest = WarpSums<kHalf, Offset / 2>::index(lane), here = rest + ((lane & Offset) ? kHalf : 0);
        return rest >= 0 && here < N ? here : -1;
    }
};
template <int N> struct WarpSums<N, 0> {
    template <class S> static SPLATLEARN_DEVICE void run(S *, int) {}
    static SPLATLEARN_DEVICE int index(int) { return 0; }
};

}  // namespace SPLATLEARN_NAMESPACE
