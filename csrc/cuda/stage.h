// What every CUDA stage needs: entry points, scratch memory that the caller allocates, and sums over a warp.
//
// A stage's kernels only schedule the equations of csrc/math. One thread is one Gaussian, one tile or a few pixels.
// Nothing is summed by atomics unless a caller asks for it (RasterizeBackward.atomic), so results have the same bits at
// every run.
#pragma once
#include <cstdint>

#include "../abi.h"
#include "../math/scalar.h"
#include "launch.h"

namespace SPLATLEARN_NAMESPACE {

// Negative return values; splatlearn_error() in api.cu has their sentences. Those of the device are in launch.h.
enum Failure { kScratchTooSmall = -1, kBadScalar = -2, kTooMany = -3, kUnknownCamera = -4 };

// Each stage is defined in the file of its name. NAME_scratch: bytes of scratch memory that NAME wants in its context.
#define SPLATLEARN_DECLARE(name, Params) \
    int name(const Params &params); \
    int64_t name##_scratch(const Params &params);
SPLATLEARN_STAGES(SPLATLEARN_DECLARE)
SPLATLEARN_CUDA_STAGES(SPLATLEARN_DECLARE)
#undef SPLATLEARN_DECLARE

constexpr int kWarp = 32;
constexpr unsigned kFull = 0xffffffffu;

// Hands out pieces of the scratch memory. Without memory it only counts, so that one function also gives the size.
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

inline bool fits(const Arena &arena, const splatlearn_Context &context) {
    return arena.used() <= context.scratch_bytes;
}
inline cudaStream_t stream_of(const splatlearn_Context &context) { return static_cast<cudaStream_t>(context.stream); }
inline unsigned blocks_for(int64_t items, int threads) { return unsigned((items + threads - 1) / threads); }

// Calls f<float>() or f<double>() as the context says.
#define SPLATLEARN_BY_SCALAR(params, context, function) \
    ((context).scalar_bytes == 4   ? function<float>(params) \
     : (context).scalar_bytes == 8 ? function<double>(params) \
                                   : kBadScalar)

// Returns from the enclosing function with the code of a launch or call that failed.
#define SPLATLEARN_TRY(call) \
    do { \
        if (const int failure = (call)) return failure; \
    } while (0)

// ---- sums over a warp, always in the same order; every lane takes part ----

template <class S> SPLATLEARN_DEVICE S warp_sum(S value) {
    for (int offset = kWarp / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(kFull, value, offset);
    return value;
}

// Keeps the number in a register from here on. Otherwise the compiler recomputes some numbers at every use.
SPLATLEARN_DEVICE int kept(int number) {
#if defined(__CUDA_ARCH__)
    asm volatile("" : "+r"(number));
#endif
    return number;
}

// The bits of a lane's number, each as the sign of a register, so that a test is one instruction.
struct LaneBits {
    int signs[5];
    SPLATLEARN_DEVICE explicit LaneBits(int lane) {
#pragma unroll
        for (int bit = 0; bit < 5; ++bit) signs[bit] = kept(int(unsigned(lane) << (31 - bit)));
    }
    template <int Value> SPLATLEARN_DEVICE bool has() const {
        constexpr int bit = Value == 16 ? 4 : Value == 8 ? 3 : Value == 4 ? 2 : Value - 1;
        return signs[bit] < 0;
    }
};

// Sums each of N numbers over the lanes that differ in the bits Offset to Last, by recursive halving: at each step a
// lane hands half of its numbers to its partner and takes the partner's part of the other half, so nine numbers cost 12
// exchanges over a warp instead of 45. Afterwards a lane holds kLeft sums; index(lane, i) is the number of its v[i], or
// -1.
template <int N, int Offset = kWarp / 2, int Last = 1, bool Done = (Offset < Last)> struct WarpSums {
    static constexpr int kHalf = (N + 1) / 2;
    using Rest = WarpSums<kHalf, Offset / 2, Last>;
    static constexpr int kLeft = Rest::kLeft;
    template <class S> static SPLATLEARN_DEVICE void run(S *v, const LaneBits &lane) {
        const bool upper = lane.has<Offset>();
#pragma unroll
        for (int i = 0; i < kHalf; ++i) {
            const S low = v[i], high = kHalf + i < N ? v[kHalf + i < N ? kHalf + i : 0] : S(0);
            if constexpr (N == 1)
                v[i] = low + __shfl_xor_sync(kFull, low, Offset);
            else
                v[i] = (upper ? high : low) + __shfl_xor_sync(kFull, upper ? low : high, Offset);
        }
        Rest::run(v, lane);
    }
    static SPLATLEARN_DEVICE int index(int lane, int i) {
        const int rest = Rest::index(lane, i), here = rest + ((lane & Offset) ? kHalf : 0);
        return rest >= 0 && here < N ? here : -1;
    }
};
template <int N, int Offset, int Last> struct WarpSums<N, Offset, Last, true> {
    static constexpr int kLeft = N;
    template <class S> static SPLATLEARN_DEVICE void run(S *, const LaneBits &) {}
    static SPLATLEARN_DEVICE int index(int, int i) { return i; }
};

}  // namespace SPLATLEARN_NAMESPACE
