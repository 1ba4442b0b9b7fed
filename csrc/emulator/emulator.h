// CUDA for g++, as far as the kernels of csrc/cuda use it: the words of csrc/cuda/launch.h, thread indices, barriers,
// warp operations, atomics and intrinsics. Kernels include launch.h, not this file; machine.h tells how threads run.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>
#include <tuple>
#include <type_traits>

#include "machine.h"

#ifndef SPLATLEARN_NAMESPACE
#define SPLATLEARN_NAMESPACE splatlearn
#endif

#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define SPLATLEARN_KERNEL
#define SPLATLEARN_DEVICE inline
#define SPLATLEARN_SHARED(Type, name, count) \
    static ::splatlearn_emulator::SharedArray name##_array; \
    Type(&name)[count] = *static_cast<Type(*)[count]>( \
        ::splatlearn_emulator::machine.shared(name##_array, sizeof(Type[count]), alignof(Type)))
#define SPLATLEARN_LAUNCH(kernel, grid, block, stream, ...) \
    ::SPLATLEARN_NAMESPACE::launch(#kernel, kernel, grid, block, stream, __VA_ARGS__)

#define threadIdx (::splatlearn_emulator::machine.current->index)
#define blockIdx (::splatlearn_emulator::machine.block_index)
#define blockDim (::splatlearn_emulator::machine.block_dim)
#define gridDim (::splatlearn_emulator::machine.grid_dim)
#define warpSize 32

namespace SPLATLEARN_NAMESPACE {

constexpr int kDeviceFailure = -1000;

inline int failure_of(cudaError_t error) { return error == cudaSuccess ? 0 : kDeviceFailure - int(error); }

inline const char *device_error(int code) {
    if (code > kDeviceFailure) return nullptr;
    if (code == failure_of(cudaErrorLaunchFailure)) return ::splatlearn_emulator::Machine::message();
    return "the emulator was called with a device, a count or scratch memory that a GPU would refuse";
}

template <class... Formal, class... Actual>
int launch(const char *name, void (*kernel)(Formal...), dim3 grid, dim3 block, cudaStream_t, const Actual &...actual) {
    if (!grid.x || !grid.y || !grid.z) return 0;
    struct Call {
        void (*kernel)(Formal...);
        std::tuple<std::decay_t<Formal>...> arguments;
    };
    const Call call{kernel, std::tuple<std::decay_t<Formal>...>(actual...)};
    const auto run = [](const void *p) {
        const Call &c = *static_cast<const Call *>(p);
        std::apply(c.kernel, c.arguments);
    };
    const bool ran = ::splatlearn_emulator::machine.run(name, grid, block, run, &call);
    return failure_of(ran ? cudaSuccess : cudaErrorLaunchFailure);
}

}  // namespace SPLATLEARN_NAMESPACE

// ---- barriers; the place of the call is a default argument, so that reports can name it ----

#define SPLATLEARN_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(SPLATLEARN_SITE) {
    ::splatlearn_emulator::machine.barrier(false, {"__syncthreads", file, line});
}
inline int __syncthreads_count(int predicate, SPLATLEARN_SITE) {
    return ::splatlearn_emulator::machine.barrier(predicate != 0, {"__syncthreads_count", file, line});
}
inline int __syncthreads_or(int predicate, SPLATLEARN_SITE) {
    return ::splatlearn_emulator::machine.barrier(predicate != 0, {"__syncthreads_or", file, line}) != 0;
}
inline int __syncthreads_and(int predicate, SPLATLEARN_SITE) {
    return ::splatlearn_emulator::machine.barrier(predicate == 0, {"__syncthreads_and", file, line}) == 0;
}
inline void __threadfence() {}
inline void __threadfence_block() {}

// ---- warp operations ----

namespace splatlearn_emulator {

template <class T> T shuffle(unsigned mask, T value, int source, const Site &site) {
    static_assert(std::is_arithmetic<T>::value && (sizeof(T) == 4 || sizeof(T) == 8), "shuffles take 4 or 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    bits = machine.exchange(Exchange::kShuffle, mask, bits, source, site);
    memcpy(&value, &bits, sizeof value);
    return value;
}

inline int lane() { return machine.current->lane; }

}  // namespace splatlearn_emulator

inline void __syncwarp(unsigned mask = 0xffffffffu, SPLATLEARN_SITE) {
    ::splatlearn_emulator::machine.exchange(::splatlearn_emulator::Exchange::kSync, mask, 0, 0,
                                            {"__syncwarp", file, line});
}
template <class T> T __shfl_sync(unsigned mask, T value, int source, int width = 32, SPLATLEARN_SITE) {
    const int from = (::splatlearn_emulator::lane() & -width) | (source & (width - 1));
    return ::splatlearn_emulator::shuffle(mask, value, from, {"__shfl_sync", file, line});
}
template <class T> T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, SPLATLEARN_SITE) {
    const int lane = ::splatlearn_emulator::lane(), source = lane - int(delta);
    const int from = source < (lane & -width) ? lane : source;
    return ::splatlearn_emulator::shuffle(mask, value, from, {"__shfl_up_sync", file, line});
}
template <class T> T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, SPLATLEARN_SITE) {
    const int lane = ::splatlearn_emulator::lane(), source = lane + int(delta);
    const int from = source > (lane | (width - 1)) ? lane : source;
    return ::splatlearn_emulator::shuffle(mask, value, from, {"__shfl_down_sync", file, line});
}
template <class T> T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, SPLATLEARN_SITE) {
    const int lane = ::splatlearn_emulator::lane(), source = lane ^ bits;
    const int from = source > (lane | (width - 1)) ? lane : source;
    return ::splatlearn_emulator::shuffle(mask, value, from, {"__shfl_xor_sync", file, line});
}

// name(mask, value): what all lanes of the mask get from the exchange, as `result` of `all`.
#define SPLATLEARN_WARP(Result, name, Value, what, result) \
    inline Result name(unsigned mask, Value value, SPLATLEARN_SITE) { \
        using ::splatlearn_emulator::Exchange; \
        auto &machine = ::splatlearn_emulator::machine; \
        const uint32_t all = uint32_t(machine.exchange(what, mask, uint32_t(value), 0, {#name, file, line})); \
        return result; \
    }
SPLATLEARN_WARP(unsigned, __ballot_sync, int, Exchange::kBallot, all)
SPLATLEARN_WARP(int, __any_sync, int, Exchange::kBallot, all != 0)
SPLATLEARN_WARP(int, __all_sync, int, Exchange::kBallot, all == mask)
SPLATLEARN_WARP(unsigned, __match_any_sync, unsigned, Exchange::kMatch, all)
SPLATLEARN_WARP(unsigned, __reduce_add_sync, unsigned, Exchange::kAdd, all)
SPLATLEARN_WARP(unsigned, __reduce_min_sync, unsigned, Exchange::kMin, all)
SPLATLEARN_WARP(unsigned, __reduce_max_sync, unsigned, Exchange::kMax, all)
SPLATLEARN_WARP(unsigned, __reduce_and_sync, unsigned, Exchange::kAnd, all)
SPLATLEARN_WARP(unsigned, __reduce_or_sync, unsigned, Exchange::kOr, all)
SPLATLEARN_WARP(unsigned, __reduce_xor_sync, unsigned, Exchange::kXor, all)
#undef SPLATLEARN_WARP
#undef SPLATLEARN_SITE

// ---- atomics: real ones, so that TSan knows them; T as on the device ----

namespace splatlearn_emulator {

template <class T> struct Same { using type = T; };
template <class T> using Exactly = typename Same<T>::type;  // the pointer alone decides T
template <class T, class... Allowed> constexpr bool is_one_of = (std::is_same<T, Allowed>::value || ...);

template <class T, class Change> T atomically(T *place, Change change) {
    T old, changed;
    __atomic_load(place, &old, __ATOMIC_RELAXED);
    do changed = change(old);
    while (!__atomic_compare_exchange(place, &old, &changed, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return old;
}

}  // namespace splatlearn_emulator

#define SPLATLEARN_ATOMIC(name, changed, ...) \
    template <class T> T name(T *place, ::splatlearn_emulator::Exactly<T> value) { \
        static_assert(::splatlearn_emulator::is_one_of<T, __VA_ARGS__>, "no such atomic on a GPU"); \
        return ::splatlearn_emulator::atomically(place, [value](T old) -> T { \
            (void)old; \
            return changed; \
        }); \
    }
SPLATLEARN_ATOMIC(atomicAdd, old + value, int, unsigned, unsigned long long, float, double)
SPLATLEARN_ATOMIC(atomicSub, old - value, int, unsigned)
SPLATLEARN_ATOMIC(atomicMin, old < value ? old : value, int, unsigned, long long, unsigned long long)
SPLATLEARN_ATOMIC(atomicMax, old > value ? old : value, int, unsigned, long long, unsigned long long)
SPLATLEARN_ATOMIC(atomicAnd, old &value, int, unsigned, unsigned long long)
SPLATLEARN_ATOMIC(atomicOr, old | value, int, unsigned, unsigned long long)
SPLATLEARN_ATOMIC(atomicXor, old ^ value, int, unsigned, unsigned long long)
SPLATLEARN_ATOMIC(atomicExch, value, int, unsigned, unsigned long long, float)
#undef SPLATLEARN_ATOMIC
template <class T, class Same = ::splatlearn_emulator::Exactly<T>> T atomicCAS(T *place, Same expected, Same value) {
    using namespace splatlearn_emulator;
    static_assert(is_one_of<T, int, unsigned, unsigned long long, unsigned short>, "no such atomic on a GPU");
    __atomic_compare_exchange(place, &expected, &value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return expected;
}

// ---- intrinsics ----

template <class T> T __ldg(const T *place) { return *place; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
inline unsigned __brev(unsigned x) {
    unsigned reversed = 0;
    for (int bit = 0; bit < 32; ++bit) reversed |= (x >> bit & 1u) << (31 - bit);
    return reversed;
}

#define SPLATLEARN_BITS(name, From, To) \
    inline To name(From from) { \
        To to; \
        memcpy(&to, &from, sizeof to); \
        return to; \
    }
SPLATLEARN_BITS(__float_as_int, float, int)
SPLATLEARN_BITS(__float_as_uint, float, unsigned)
SPLATLEARN_BITS(__int_as_float, int, float)
SPLATLEARN_BITS(__uint_as_float, unsigned, float)
SPLATLEARN_BITS(__double_as_longlong, double, long long)
SPLATLEARN_BITS(__longlong_as_double, long long, double)
#undef SPLATLEARN_BITS

// GPUs compute these two less exactly.
inline float __expf(float x) { return expf(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float rsqrtf(float x) { return 1 / sqrtf(x); }
inline double rsqrt(double x) { return 1 / sqrt(x); }

#define SPLATLEARN_EXTREMES(Type) \
    inline Type min(Type a, Type b) { return b < a ? b : a; } \
    inline Type max(Type a, Type b) { return a < b ? b : a; }
SPLATLEARN_EXTREMES(int)
SPLATLEARN_EXTREMES(unsigned)
SPLATLEARN_EXTREMES(long)
SPLATLEARN_EXTREMES(unsigned long)
SPLATLEARN_EXTREMES(long long)
SPLATLEARN_EXTREMES(unsigned long long)
#undef SPLATLEARN_EXTREMES
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
