// What the equations are written in: a "real" R that is float, double or a CPU vector of them, and the few functions on
// it that are not operators. Masks answer `select`; bool is the mask of a plain scalar. No threads, no torch, host and
// device.
#pragma once
#include <math.h>
#include <stdint.h>

#include "../abi.h"

#if defined(__CUDACC__)
#define SPLATLEARN_HD __host__ __device__ __forceinline__
#else
#define SPLATLEARN_HD inline __attribute__((always_inline))
#endif

// Asks nvcc to unroll the loop that follows; other compilers decide for themselves.
#if defined(__CUDACC__)
#define SPLATLEARN_UNROLL _Pragma("unroll")
#else
#define SPLATLEARN_UNROLL
#endif

// Every translation unit chooses the namespace: the CPU library is compiled once per instruction set, and functions of
// the same name compiled for different processors must not be merged by the linker.
#ifndef SPLATLEARN_NAMESPACE
#define SPLATLEARN_NAMESPACE splatlearn
#endif

namespace SPLATLEARN_NAMESPACE {

template <class R> struct ScalarOf { using type = R; };
template <class R> using Scalar = typename ScalarOf<R>::type;

// R, for a parameter whose argument may be an expression that becomes R (cpu/lanes.h).
template <class R> struct PlainOf { using type = R; };
template <class R> using Plain = typename PlainOf<R>::type;

SPLATLEARN_HD float select(bool mask, float yes, float no) { return mask ? yes : no; }
SPLATLEARN_HD double select(bool mask, double yes, double no) { return mask ? yes : no; }
SPLATLEARN_HD float square_root(float x) { return sqrtf(x); }
SPLATLEARN_HD double square_root(double x) { return sqrt(x); }
#if defined(__CUDA_ARCH__)
// One or two instructions on a GPU, to two units in the last place: 2^x for x of at least -126, a / b for b from 2^-126
// to 2^126.
SPLATLEARN_HD float exponential2(float x) {
    float out;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
    return out;
}
SPLATLEARN_HD float quotient(float a, float b) {
    float out;
    asm("div.approx.ftz.f32 %0, %1, %2;" : "=f"(out) : "f"(a), "f"(b));
    return out;
}
#else
SPLATLEARN_HD float quotient(float a, float b) { return a / b; }
#endif
#if !defined(SPLATLEARN_OWN_FUNCTIONS)  // the CPU library has its own: cpu/functions.h
SPLATLEARN_HD float logarithm(float x) { return logf(x); }
SPLATLEARN_HD double logarithm(double x) { return log(x); }
SPLATLEARN_HD float logarithm2(float x) { return log2f(x); }
SPLATLEARN_HD double logarithm2(double x) { return log2(x); }
SPLATLEARN_HD float exponential(float x) { return expf(x); }
SPLATLEARN_HD double exponential(double x) { return exp(x); }
#if !defined(__CUDA_ARCH__)
SPLATLEARN_HD float exponential2(float x) { return exp2f(x); }
#endif
SPLATLEARN_HD double exponential2(double x) { return exp2(x); }
#endif
template <class R> SPLATLEARN_HD R quotient(R a, R b) { return a / b; }
SPLATLEARN_HD float absolute(float x) { return fabsf(x); }
SPLATLEARN_HD double absolute(double x) { return fabs(x); }
SPLATLEARN_HD float minimum(float a, float b) { return a < b ? a : b; }
SPLATLEARN_HD double minimum(double a, double b) { return a < b ? a : b; }
SPLATLEARN_HD float maximum(float a, float b) { return a > b ? a : b; }
SPLATLEARN_HD double maximum(double a, double b) { return a > b ? a : b; }
SPLATLEARN_HD bool is_finite(float x) { return fabsf(x) <= 3.4028234e38f; }
SPLATLEARN_HD bool is_finite(double x) { return fabs(x) <= 1.7976931348623157e308; }

// The largest magnitude of a number of a Gaussian, and of its colours: those with a larger one, or NaN, are culled.
constexpr double kLargest = SPLATLEARN_LARGEST;
template <class R> SPLATLEARN_HD auto is_in_range(R x) { return absolute(x) <= Scalar<R>(kLargest); }

// What a comparison of reals gives, which select() takes.
template <class R> using MaskOf = decltype(R{} > R{});

template <class R> SPLATLEARN_HD R clamp(R x, R low, R high) { return minimum(maximum(x, low), high); }

}  // namespace SPLATLEARN_NAMESPACE
