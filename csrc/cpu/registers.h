// One SIMD register of float or double: its types for the instruction set of this translation unit, and the operations
// that compilers do not find by themselves. Each operation has the same bits on every instruction set.
//
//   fused(a, b, c)        a b + c, rounded once
//   fused_minus(a, b, c)  a b - c, rounded once
//   minus_fused(a, b, c)  c - a b, rounded once
//
// x86-64-v2 has no such instruction. There a product is rounded before it is added, unless SPLATLEARN_EMULATE_FMA is
// defined, which makes fused operations exact and slow.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#include "../math/scalar.h"
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__)
#define SPLATLEARN_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define SPLATLEARN_VECTOR_BYTES 32
#else
#define SPLATLEARN_VECTOR_BYTES 16
#endif

namespace SPLATLEARN_NAMESPACE {

template <class S> struct LaneTypes;
template <> struct LaneTypes<float> {
    typedef float Vector __attribute__((vector_size(SPLATLEARN_VECTOR_BYTES)));
    typedef int32_t Integers __attribute__((vector_size(SPLATLEARN_VECTOR_BYTES)));
    typedef uint32_t Unsigned __attribute__((vector_size(SPLATLEARN_VECTOR_BYTES)));  // its sums and shifts wrap
    using Integer = int32_t;
    using Word = uint32_t;
    static constexpr int mantissa = 23;
    static constexpr float magic = 12582912.f;  // 1.5 * 2^23: adding it rounds to an integer held in the low bits
};
template <> struct LaneTypes<double> {
    typedef double Vector __attribute__((vector_size(SPLATLEARN_VECTOR_BYTES)));
    typedef int64_t Integers __attribute__((vector_size(SPLATLEARN_VECTOR_BYTES)));
    typedef uint64_t Unsigned __attribute__((vector_size(SPLATLEARN_VECTOR_BYTES)));
    using Integer = int64_t;
    using Word = uint64_t;
    static constexpr int mantissa = 52;
    static constexpr double magic = 6755399441055744.;
};
using Floats = LaneTypes<float>::Vector;
using Doubles = LaneTypes<double>::Vector;

// ---- the intrinsics of x86, by the width of the register ----

#if defined(__AVX512F__)
#define SPLATLEARN_X86(op) _mm512_##op
typedef __m512 NativeFloats;
typedef __m512d NativeDoubles;
#elif defined(__AVX2__)
#define SPLATLEARN_X86(op) _mm256_##op
typedef __m256 NativeFloats;
typedef __m256d NativeDoubles;
#elif defined(__x86_64__)
#define SPLATLEARN_X86(op) _mm_##op
typedef __m128 NativeFloats;
typedef __m128d NativeDoubles;
#endif

#if defined(SPLATLEARN_X86)
#define SPLATLEARN_BINARY(name, op) \
    SPLATLEARN_HD Floats name(Floats a, Floats b) { \
        return (Floats)SPLATLEARN_X86(op##_ps)((NativeFloats)a, (NativeFloats)b); \
    } \
    SPLATLEARN_HD Doubles name(Doubles a, Doubles b) { \
        return (Doubles)SPLATLEARN_X86(op##_pd)((NativeDoubles)a, (NativeDoubles)b); \
    }
SPLATLEARN_BINARY(lesser, min)
SPLATLEARN_BINARY(greater, max)
#undef SPLATLEARN_BINARY
SPLATLEARN_HD Floats root(Floats a) { return (Floats)SPLATLEARN_X86(sqrt_ps)((NativeFloats)a); }
SPLATLEARN_HD Doubles root(Doubles a) { return (Doubles)SPLATLEARN_X86(sqrt_pd)((NativeDoubles)a); }
#else  // b where either is NaN, and where both are zero, as x86 has it
template <class V> SPLATLEARN_HD V lesser(V a, V b) { return a < b ? a : b; }
template <class V> SPLATLEARN_HD V greater(V a, V b) { return a > b ? a : b; }
#if defined(__aarch64__)
SPLATLEARN_HD Floats root(Floats a) { return (Floats)vsqrtq_f32((float32x4_t)a); }
SPLATLEARN_HD Doubles root(Doubles a) { return (Doubles)vsqrtq_f64((float64x2_t)a); }
#else
template <class V> SPLATLEARN_HD V root(V a) {
    for (unsigned i = 0; i < sizeof a / sizeof a[0]; ++i) a[i] = square_root(a[i]);
    return a;
}
#endif
#endif

// ---- multiply-adds ----

#if defined(__FMA__)
#define SPLATLEARN_FUSED(name, op) \
    SPLATLEARN_HD Floats name(Floats a, Floats b, Floats c) { \
        return (Floats)SPLATLEARN_X86(op##_ps)((NativeFloats)a, (NativeFloats)b, (NativeFloats)c); \
    } \
    SPLATLEARN_HD Doubles name(Doubles a, Doubles b, Doubles c) { \
        return (Doubles)SPLATLEARN_X86(op##_pd)((NativeDoubles)a, (NativeDoubles)b, (NativeDoubles)c); \
    }
SPLATLEARN_FUSED(fused, fmadd)
SPLATLEARN_FUSED(fused_minus, fmsub)
SPLATLEARN_FUSED(minus_fused, fnmadd)
#undef SPLATLEARN_FUSED
#else
#if defined(__aarch64__)
SPLATLEARN_HD Floats fused(Floats a, Floats b, Floats c) {
    return (Floats)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}
SPLATLEARN_HD Doubles fused(Doubles a, Doubles b, Doubles c) {
    return (Doubles)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
}
#elif defined(SPLATLEARN_EMULATE_FMA)
__attribute__((noinline)) inline void fused_slowly(const float *a, const float *b, float *c) {
    for (int i = 0; i < 4; ++i) c[i] = fmaf(a[i], b[i], c[i]);
}
// In double precision the product is exact and the sum is rounded, so that rounding it again to float is wrong only
// where the first rounding ended in the middle between two floats, or where floats lose digits.
SPLATLEARN_HD Floats fused(Floats a, Floats b, Floats c) {
    const __m128 x = (__m128)a, y = (__m128)b, z = (__m128)c;
    const __m128d low = _mm_add_pd(_mm_mul_pd(_mm_cvtps_pd(x), _mm_cvtps_pd(y)), _mm_cvtps_pd(z));
    const __m128d high = _mm_add_pd(_mm_mul_pd(_mm_cvtps_pd(_mm_movehl_ps(x, x)), _mm_cvtps_pd(_mm_movehl_ps(y, y))),
                                    _mm_cvtps_pd(_mm_movehl_ps(z, z)));
    const __m128 sum = _mm_movelh_ps(_mm_cvtpd_ps(low), _mm_cvtpd_ps(high));
    const __m128i tails = _mm_castps_si128(_mm_shuffle_ps(_mm_castpd_ps(low), _mm_castpd_ps(high), 0x88));
    const __m128i size = _mm_and_si128(_mm_castps_si128(sum), _mm_set1_epi32(0x7fffffff));
    const __m128i middle =
        _mm_cmpeq_epi32(_mm_and_si128(tails, _mm_set1_epi32(0x1fffffff)), _mm_set1_epi32(0x10000000));
    const __m128i tiny =
        _mm_and_si128(_mm_cmpgt_epi32(_mm_set1_epi32(0x00800001), size), _mm_cmpgt_epi32(size, _mm_setzero_si128()));
    if (__builtin_expect(_mm_movemask_epi8(_mm_or_si128(middle, tiny)) != 0, 0)) {
        fused_slowly(reinterpret_cast<const float *>(&a), reinterpret_cast<const float *>(&b),
                     reinterpret_cast<float *>(&c));
        return c;
    }
    return (Floats)sum;
}
SPLATLEARN_HD Doubles fused(Doubles a, Doubles b, Doubles c) {
    return Doubles{fma(a[0], b[0], c[0]), fma(a[1], b[1], c[1])};
}
#else
template <class V> SPLATLEARN_HD V fused(V a, V b, V c) { return a * b + c; }
#endif
template <class V> SPLATLEARN_HD V fused_minus(V a, V b, V c) { return fused(a, b, -c); }
template <class V> SPLATLEARN_HD V minus_fused(V a, V b, V c) { return fused(-a, b, c); }
#endif

// ---- shuffles ----

template <class S> constexpr int kLanes = SPLATLEARN_VECTOR_BYTES / int(sizeof(S));

// The lanes index(0), index(1), ... of a and b, which lie behind each other.
template <class S, class Index, int... i>
SPLATLEARN_HD typename LaneTypes<S>::Vector shuffled(typename LaneTypes<S>::Vector a, typename LaneTypes<S>::Vector b,
                                                     Index, std::integer_sequence<int, i...>) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, Index::at(i)...);
#else
    return __builtin_shuffle(a, b, typename LaneTypes<S>::Integers{Index::at(i)...});
#endif
}
template <class S, class Index> SPLATLEARN_HD typename LaneTypes<S>::Vector shuffled(typename LaneTypes<S>::Vector a,
                                                                                     typename LaneTypes<S>::Vector b,
                                                                                     Index index) {
    return shuffled<S>(a, b, index, std::make_integer_sequence<int, kLanes<S>>());
}

}  // namespace SPLATLEARN_NAMESPACE
