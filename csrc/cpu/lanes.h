// Lanes<S>: one SIMD register of S with the operators and functions that the equations in csrc/math use, for whatever
// instruction set this translation unit is compiled for. Include it before any math header.
#pragma once
#include <cstdint>
#include <cstring>

#include "../math/scalar.h"
#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
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
    using Integer = int32_t;
};
template <> struct LaneTypes<double> {
    typedef double Vector __attribute__((vector_size(SPLATLEARN_VECTOR_BYTES)));
    typedef int64_t Integers __attribute__((vector_size(SPLATLEARN_VECTOR_BYTES)));
    using Integer = int64_t;
};

template <class S> struct Mask;

template <class S> struct Lanes {
    using Vector = typename LaneTypes<S>::Vector;
    static constexpr int count = SPLATLEARN_VECTOR_BYTES / int(sizeof(S));
    Vector v{};
    Lanes() = default;
    SPLATLEARN_HD Lanes(Vector x) : v(x) {}
    SPLATLEARN_HD Lanes(S x) : v(Vector{} + x) {}
};

template <class S> struct ScalarOf<Lanes<S>> { using type = S; };

#define SPLATLEARN_OPERATOR(op) \
    template <class S> SPLATLEARN_HD Lanes<S> operator op(Lanes<S> a, Lanes<S> b) { return a.v op b.v; } \
    template <class S> SPLATLEARN_HD Lanes<S> operator op(Lanes<S> a, S b) { return a.v op b; } \
    template <class S> SPLATLEARN_HD Lanes<S> operator op(S a, Lanes<S> b) { return a op b.v; }
SPLATLEARN_OPERATOR(+)
SPLATLEARN_OPERATOR(-)
SPLATLEARN_OPERATOR(*)
SPLATLEARN_OPERATOR(/)
#undef SPLATLEARN_OPERATOR
template <class S> SPLATLEARN_HD Lanes<S> operator-(Lanes<S> a) { return -a.v; }

// ---- masks: a k-register with AVX-512, else a vector of 0 / -1 ----
#if defined(__AVX512F__)
template <> struct Mask<float> { __mmask16 m; };
template <> struct Mask<double> { __mmask8 m; };
#define SPLATLEARN_COMPARE(op, code) \
    SPLATLEARN_HD Mask<float> operator op(Lanes<float> a, Lanes<float> b) { \
        return {_mm512_cmp_ps_mask((__m512)a.v, (__m512)b.v, code)}; \
    } \
    SPLATLEARN_HD Mask<double> operator op(Lanes<double> a, Lanes<double> b) { \
        return {_mm512_cmp_pd_mask((__m512d)a.v, (__m512d)b.v, code)}; \
    }
SPLATLEARN_COMPARE(<, _CMP_LT_OQ)
SPLATLEARN_COMPARE(<=, _CMP_LE_OQ)
SPLATLEARN_COMPARE(>, _CMP_GT_OQ)
SPLATLEARN_COMPARE(>=, _CMP_GE_OQ)
SPLATLEARN_COMPARE(==, _CMP_EQ_OQ)
#undef SPLATLEARN_COMPARE
template <class S> SPLATLEARN_HD Mask<S> operator&(Mask<S> a, Mask<S> b) { return {decltype(a.m)(a.m & b.m)}; }
template <class S> SPLATLEARN_HD Mask<S> operator|(Mask<S> a, Mask<S> b) { return {decltype(a.m)(a.m | b.m)}; }
template <class S> SPLATLEARN_HD bool any(Mask<S> a) { return a.m != 0; }
template <class S> SPLATLEARN_HD uint32_t bits(Mask<S> a) { return a.m; }
template <class S> SPLATLEARN_HD Mask<S> mask_of_bits(uint32_t b) { return {decltype(Mask<S>::m)(b)}; }
SPLATLEARN_HD Lanes<float> select(Mask<float> k, Lanes<float> yes, Lanes<float> no) {
    return (Lanes<float>::Vector)_mm512_mask_blend_ps(k.m, (__m512)no.v, (__m512)yes.v);
}
SPLATLEARN_HD Lanes<double> select(Mask<double> k, Lanes<double> yes, Lanes<double> no) {
    return (Lanes<double>::Vector)_mm512_mask_blend_pd(k.m, (__m512d)no.v, (__m512d)yes.v);
}
#else
template <class S> struct Mask { typename LaneTypes<S>::Integers m; };
#define SPLATLEARN_COMPARE(op) \
    template <class S> SPLATLEARN_HD Mask<S> operator op(Lanes<S> a, Lanes<S> b) { return {a.v op b.v}; }
SPLATLEARN_COMPARE(<)
SPLATLEARN_COMPARE(<=)
SPLATLEARN_COMPARE(>)
SPLATLEARN_COMPARE(>=)
SPLATLEARN_COMPARE(==)
#undef SPLATLEARN_COMPARE
template <class S> SPLATLEARN_HD Mask<S> operator&(Mask<S> a, Mask<S> b) { return {a.m & b.m}; }
template <class S> SPLATLEARN_HD Mask<S> operator|(Mask<S> a, Mask<S> b) { return {a.m | b.m}; }
#if defined(__AVX2__)
SPLATLEARN_HD uint32_t bits(Mask<float> a) { return uint32_t(_mm256_movemask_ps((__m256)a.m)); }
SPLATLEARN_HD uint32_t bits(Mask<double> a) { return uint32_t(_mm256_movemask_pd((__m256d)a.m)); }
#else
template <class S> SPLATLEARN_HD uint32_t bits(Mask<S> a) {
    uint32_t out = 0;
    for (int i = 0; i < Lanes<S>::count; ++i) out |= uint32_t(a.m[i] & 1) << i;
    return out;
}
#endif
template <class S> SPLATLEARN_HD bool any(Mask<S> a) { return bits(a) != 0; }
template <class S> SPLATLEARN_HD Mask<S> mask_of_bits(uint32_t b) {
    Mask<S> out{};
    for (int i = 0; i < Lanes<S>::count; ++i) out.m[i] = -typename LaneTypes<S>::Integer((b >> i) & 1);
    return out;
}
template <class S> SPLATLEARN_HD Lanes<S> select(Mask<S> k, Lanes<S> yes, Lanes<S> no) { return k.m ? yes.v : no.v; }
#endif

template <class S> SPLATLEARN_HD Mask<S> operator>(Lanes<S> a, S b) { return a > Lanes<S>(b); }
template <class S> SPLATLEARN_HD Mask<S> operator<(Lanes<S> a, S b) { return a < Lanes<S>(b); }
template <class S> SPLATLEARN_HD Mask<S> operator>=(Lanes<S> a, S b) { return a >= Lanes<S>(b); }
template <class S> SPLATLEARN_HD Mask<S> operator<=(Lanes<S> a, S b) { return a <= Lanes<S>(b); }
#if defined(__AVX512F__)
#define SPLATLEARN_NATIVE(op) _mm512_##op
typedef __m512 NativeFloats;
typedef __m512d NativeDoubles;
#elif defined(__AVX2__)
#define SPLATLEARN_NATIVE(op) _mm256_##op
typedef __m256 NativeFloats;
typedef __m256d NativeDoubles;
#endif
#if defined(SPLATLEARN_NATIVE)  // an instruction each, which the compiler does not find by itself
#define SPLATLEARN_EITHER(name, op) \
    SPLATLEARN_HD Lanes<float> name(Lanes<float> a, Lanes<float> b) { \
        return (Lanes<float>::Vector)SPLATLEARN_NATIVE(op##_ps)((NativeFloats)a.v, (NativeFloats)b.v); \
    } \
    SPLATLEARN_HD Lanes<double> name(Lanes<double> a, Lanes<double> b) { \
        return (Lanes<double>::Vector)SPLATLEARN_NATIVE(op##_pd)((NativeDoubles)a.v, (NativeDoubles)b.v); \
    }
SPLATLEARN_EITHER(minimum, min)
SPLATLEARN_EITHER(maximum, max)
#undef SPLATLEARN_EITHER
#else
template <class S> SPLATLEARN_HD Lanes<S> minimum(Lanes<S> a, Lanes<S> b) { return a.v < b.v ? a.v : b.v; }
template <class S> SPLATLEARN_HD Lanes<S> maximum(Lanes<S> a, Lanes<S> b) { return a.v > b.v ? a.v : b.v; }
#endif
template <class S> SPLATLEARN_HD Lanes<S> absolute(Lanes<S> a) { return maximum(a, -a); }
template <class S> SPLATLEARN_HD Mask<S> is_finite(Lanes<S> a) { return a - a == Lanes<S>(); }

// ---- functions without an operator ----
template <class S, class F> SPLATLEARN_HD Lanes<S> each(Lanes<S> a, F f) {
    Lanes<S> out;
    for (int i = 0; i < Lanes<S>::count; ++i) out.v[i] = f(a.v[i]);
    return out;
}
#if defined(SPLATLEARN_NATIVE)
SPLATLEARN_HD Lanes<float> square_root(Lanes<float> a) {
    return (Lanes<float>::Vector)SPLATLEARN_NATIVE(sqrt_ps)((NativeFloats)a.v);
}
SPLATLEARN_HD Lanes<double> square_root(Lanes<double> a) {
    return (Lanes<double>::Vector)SPLATLEARN_NATIVE(sqrt_pd)((NativeDoubles)a.v);
}
#else
template <class S> SPLATLEARN_HD Lanes<S> square_root(Lanes<S> a) {
    return each(a, [](S x) { return square_root(x); });
}
#endif
template <class S> SPLATLEARN_HD Lanes<S> logarithm(Lanes<S> a) {
    return each(a, [](S x) { return logarithm(x); });
}

// 2^x for x in [-126, 127]: x = n + f, and a minimax polynomial of degree 5 in f (relative error 8e-8 before rounding),
// scaled by 2^n. Outside the range the result has no meaning; callers mask it.
#if defined(__AVX512F__)
SPLATLEARN_HD Lanes<float> exponential2(Lanes<float> x) {
    typedef Lanes<float>::Vector V;
    const V f = (V)_mm512_reduce_ps((__m512)x.v, 9);  // x - floor(x)
    V p = f * 1.877576695e-3f + 8.989339694e-3f;
    p = f * p + 5.582631752e-2f;
    p = f * p + 2.401536107e-1f;
    p = f * p + 6.931530833e-1f;
    p = f * p + 9.999999404e-1f;
    return (V)_mm512_scalef_ps((__m512)p, (__m512)x.v);  // p 2^floor(x)
}
#else
SPLATLEARN_HD Lanes<float> exponential2(Lanes<float> x) {
    typedef Lanes<float>::Vector V;
    typedef LaneTypes<float>::Integers I;
    const V magic = V{} + 12582912.f;  // 1.5 * 2^23: adding it rounds to an integer held in the low bits
    V shifted = x.v + magic;
    V f = x.v - (shifted - magic);
    V p = f * 1.327647129e-3f + 9.675540961e-3f;
    p = f * p + 5.550713092e-2f;
    p = f * p + 2.402212024e-1f;
    p = f * p + 6.931469440e-1f;
    p = f * p + 1.000000119f;
    return (V)((I)p + ((I)shifted << 23));
}
#endif
SPLATLEARN_HD Lanes<double> exponential2(Lanes<double> x) {
    return each(x, [](double y) { return exp2(y); });
}

// e^x for any x: x = n ln 2 + r, where ln 2 is split in two so that r keeps its digits, and the Taylor polynomial of
// degree 7 in r, |r| <= 0.35 (relative error 6e-9 before rounding). Above 88.7 it is infinite, below -87.3, where
// floats lose digits, 0.
SPLATLEARN_HD Lanes<float> exponential(Lanes<float> x) {
    typedef Lanes<float>::Vector V;
    typedef LaneTypes<float>::Integers I;
    const V magic = V{} + 12582912.f;
    V shifted = x.v * 1.44269504f + magic, n = shifted - magic;
    V r = (x.v - n * 0.693359375f) - n * -2.12194440e-4f;
    V p = r * (1.f / 5040) + 1.f / 720;
    p = r * p + 1.f / 120;
    p = r * p + 1.f / 24;
    p = r * p + 1.f / 6;
    p = r * p + 0.5f;
    p = r * p + 1.f;
    p = r * p + 1.f;
    const I half = ((I)shifted << 23) >> 24,
            rest = ((I)shifted << 23 >> 23) - half;  // two factors, as 2^128 is no float
    V power = (V)((half + 127) << 23), other = (V)((rest + 127) << 23);
    Lanes<float> value = Lanes<float>(p * power * other), zero{};
    value = select(x < -87.3f, zero, select(x > 88.72283f, zero + 1.f / 0.f, value));
    return select(x == x, value, x);
}
SPLATLEARN_HD Lanes<double> exponential(Lanes<double> x) {
    return each(x, [](double y) { return exp(y); });
}

template <class S> SPLATLEARN_HD Lanes<S> load(const S *p) {
    Lanes<S> out;
    std::memcpy(&out.v, p, sizeof out.v);
    return out;
}
template <class S> SPLATLEARN_HD void store(S *p, Lanes<S> a) { std::memcpy(p, &a.v, sizeof a.v); }

// Sums over the lanes, of n registers at once, by halving and always in the same order: two registers exchange halves
// and are added, so that each level leaves half as many. Shuffles, as a way through memory would keep the registers
// there.
template <class S, int half>
SPLATLEARN_HD typename Lanes<S>::Vector fold(typename Lanes<S>::Vector a, typename Lanes<S>::Vector b) {
    constexpr int L = Lanes<S>::count;
    typename LaneTypes<S>::Integers own{}, partner{};  // lanes whose bit `half` is clear add up a, the others b
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) {
        own[i] = i & half ? L + i : i;
        partner[i] = own[i] ^ half;
    }
    return __builtin_shuffle(a, b, own) + __builtin_shuffle(a, b, partner);
}

// After it lane i of v[0] holds the sum of register reversed(i), the bits of i in opposite order.
template <class S, int n, int half> SPLATLEARN_HD void fold_all(typename Lanes<S>::Vector *v) {
    if constexpr (half > 0) {
#pragma GCC unroll 16
        for (int i = 0; i < n / 2; ++i) v[i] = fold<S, half>(v[2 * i], v[2 * i + 1]);
        if (n % 2) v[n / 2] = fold<S, half>(v[n - 1], v[n - 1]);
        fold_all<S, (n + 1) / 2, half / 2>(v);
    }
}

template <class S, int n> SPLATLEARN_HD void sums(const Lanes<S> *registers, S *out) {
    constexpr int L = Lanes<S>::count, now = n < L ? n : L;
    typename Lanes<S>::Vector v[now];
#pragma GCC unroll 16
    for (int i = 0; i < now; ++i) v[i] = registers[i].v;
    fold_all<S, now, L / 2>(v);
    typename LaneTypes<S>::Integers reversed{};
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i)
        for (int low = 1, high = L / 2; high > 0; low *= 2, high /= 2) reversed[i] |= i & low ? high : 0;
    v[0] = __builtin_shuffle(v[0], reversed);
    std::memcpy(out, &v[0], now * sizeof(S));
    if constexpr (n > L) sums<S, n - L>(registers + L, out + L);
}

template <class S> SPLATLEARN_HD S sum(Lanes<S> a) {
    S out;
    sums<S, 1>(&a, &out);
    return out;
}

template <class S> SPLATLEARN_HD Lanes<S> ramp() {  // 0, 1, 2, ...
    Lanes<S> out;
    for (int i = 0; i < Lanes<S>::count; ++i) out.v[i] = S(i);
    return out;
}

}  // namespace SPLATLEARN_NAMESPACE
