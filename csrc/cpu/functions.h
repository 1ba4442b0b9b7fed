// Exponentials and logarithms of lanes, and of scalars by one lane. libm has several versions of each, which it chooses
// by the processor; these have the same bits everywhere. lanes.h includes this file.
#pragma once

namespace SPLATLEARN_NAMESPACE {

// c[0] + c[1] x + c[2] x^2 + ...
template <class S, int n> SPLATLEARN_HD Lanes<S> polynomial(Lanes<S> x, const S (&c)[n]) {
    Lanes<S> out(c[n - 1]);
#pragma GCC unroll 16
    for (int i = n - 2; i >= 0; --i) out = x * out + c[i];
    return out;
}

// x 2^n, n a whole number as magic + n; results that are no normal numbers have no meaning.
template <class S> SPLATLEARN_HD Lanes<S> scaled(Lanes<S> x, Lanes<S> magic_and_n) {
    using U = typename LaneTypes<S>::Unsigned;
    return (typename Lanes<S>::Vector)((U)x.v + ((U)magic_and_n.v << LaneTypes<S>::mantissa));
}

// 2^x for x in [-126, 127]: x = n + f, n the nearest whole number, and a minimax polynomial of degree 5 in f (relative
// error 8e-8 before rounding), scaled by 2^n. Above the range it is some large number; below it has no meaning, and
// callers mask it.
SPLATLEARN_HD Lanes<float> exponential2(Lanes<float> x) {
    constexpr float c[] = {1.000000119f,    6.931469440e-1f, 2.402212024e-1f,
                           5.550713092e-2f, 9.675540961e-3f, 1.327647129e-3f};
#if defined(__AVX512F__)
    const Lanes<float> f = (Floats)_mm512_reduce_ps((__m512)x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    return (Floats)_mm512_scalef_ps((__m512)polynomial(f, c).v, (__m512)(x - f).v);
#else
    x = minimum(x, Lanes<float>(127.f));
    const Lanes<float> shifted = x + LaneTypes<float>::magic;
    return scaled(polynomial(x - (shifted - LaneTypes<float>::magic), c), shifted);
#endif
}

// ln 2 in two parts, so that n times the first is exact; where e^x overflows, and where it would lose digits.
template <class S> struct Exponential;
template <> struct Exponential<float> {
    static constexpr float high = 0.693359375f, low = -2.12194440e-4f, largest = 88.72283f, smallest = -87.3f;
    // The Taylor polynomial of degree 7, for |x| <= 0.35: relative error 6e-9 before rounding.
    static SPLATLEARN_HD Lanes<float> near_zero(Lanes<float> x) {
        constexpr float c[] = {1.f, 1.f, 0.5f, 1.f / 6, 1.f / 24, 1.f / 120, 1.f / 720, 1.f / 5040};
        return polynomial(x, c);
    }
};
template <> struct Exponential<double> {
    static constexpr double high = 6.93147180369123816490e-01, low = 1.90821492927058770002e-10,
                            largest = 709.782712893384, smallest = -708.39;
    static SPLATLEARN_HD Lanes<double> near_zero(Lanes<double> x) {  // of degree 13: 4e-18
        constexpr double c[] = {
            1.,        1.,         0.5,         1. / 6,       1. / 24,       1. / 120,       1. / 720,
            1. / 5040, 1. / 40320, 1. / 362880, 1. / 3628800, 1. / 39916800, 1. / 479001600, 1. / 6227020800};
        return polynomial(x, c);
    }
};

// e^x for any x: x = n ln 2 + r. Infinite above the largest and 0 below the smallest.
template <class S> SPLATLEARN_HD Lanes<S> exponential_of(Lanes<S> x) {
    using U = typename LaneTypes<S>::Unsigned;
    using I = typename LaneTypes<S>::Integers;
    using E = Exponential<S>;
    constexpr int mantissa = LaneTypes<S>::mantissa;
    const Lanes<S> shifted = x * S(1.4426950408889634) + LaneTypes<S>::magic, n = shifted - LaneTypes<S>::magic;
    const Lanes<S> p = E::near_zero((x - n * E::high) - n * E::low);
    const I whole = (I)((U)shifted.v << mantissa) >> mantissa, half = whole >> 1;
    const Lanes<S> one{S(1)}, power = (typename Lanes<S>::Vector)((U)one.v + ((U)half << mantissa)),
                              other = (typename Lanes<S>::Vector)((U)one.v + ((U)(whole - half) << mantissa));
    Lanes<S> value = p * power * other;  // two factors, as 2^128 is no float
    value = select(x < E::smallest, Lanes<S>{}, select(x > E::largest, Lanes<S>(S(INFINITY)), value));
    return select(x == x, value, x);
}
SPLATLEARN_HD Lanes<float> exponential(Lanes<float> x) { return exponential_of(x); }
SPLATLEARN_HD Lanes<double> exponential(Lanes<double> x) { return exponential_of(x); }

SPLATLEARN_HD Lanes<double> exponential2(Lanes<double> x) {  // for x in [-1022, 1023], as that of floats
    x = minimum(x, Lanes<double>(1023.));
    const Lanes<double> shifted = x + LaneTypes<double>::magic, f = x - (shifted - LaneTypes<double>::magic);
    return scaled(Exponential<double>::near_zero(f * 0.6931471805599453), shifted);
}

// ---- logarithms ----

// x = m 2^e with m from sqrt(1/2) to sqrt(2), and ln m = f + rest, f = m - 1.
template <class S> struct LogarithmParts { Lanes<S> e, f, rest; };

SPLATLEARN_HD Lanes<float> logarithm_rest(Lanes<float> f) {  // Cephes
    constexpr float c[] = {3.3333331174e-1f,  -2.4999993993e-1f, 2.0000714765e-1f,  -1.6668057665e-1f, 1.4249322787e-1f,
                           -1.2420140846e-1f, 1.1676998740e-1f,  -1.1514610310e-1f, 7.0376836292e-2f};
    const Lanes<float> square = f * f;
    return f * square * polynomial(f, c) - 0.5f * square;
}
SPLATLEARN_HD Lanes<double> logarithm_rest(Lanes<double> f) {  // fdlibm
    constexpr double c[] = {6.666666666666735130e-01, 3.999999999940941908e-01, 2.857142874366239149e-01,
                            2.222219843214978396e-01, 1.818357216161805012e-01, 1.531383769920937332e-01,
                            1.479819860511658591e-01};
    const Lanes<double> s = f / (f + 2.), z = s * s, half = 0.5 * f * f;
    return s * (half + z * polynomial(z, c)) - half;
}

template <class S> SPLATLEARN_HD LogarithmParts<S> logarithm_parts(Lanes<S> x) {
    using U = typename LaneTypes<S>::Unsigned;
    using I = typename LaneTypes<S>::Integers;
    using V = typename Lanes<S>::Vector;
    constexpr int mantissa = LaneTypes<S>::mantissa;
    const Lanes<S> one{S(1)}, root_half{S(0.70710678118654752)}, many{S(uint64_t(1) << mantissa)};
    const auto small = x < Lanes<S>(sizeof(S) == 4 ? S(1.17549435e-38f) : S(2.2250738585072014e-308));
    x = select(small, x * many, x);
    const U shifted = (U)x.v + ((U)one.v - (U)root_half.v);
    const U mask = U{} + ((typename LaneTypes<S>::Word(1) << mantissa) - 1);
    const I exponent = (I)(shifted - (U)one.v) >> mantissa;
    const Lanes<S> e = __builtin_convertvector(exponent, V);
    const Lanes<S> f = Lanes<S>((V)((shifted & mask) + (U)root_half.v)) - one;
    return {e - select(small, Lanes<S>(S(mantissa)), Lanes<S>{}), f, logarithm_rest(f)};
}

// -inf for 0, inf for inf, NaN for what is negative or NaN.
template <class S> SPLATLEARN_HD Lanes<S> logarithm_ends(Lanes<S> x, Lanes<S> value) {
    const Lanes<S> zero{}, infinite{S(INFINITY)};
    value = select(x == zero, -infinite, select(x < zero, Lanes<S>(S(NAN)), value));
    return select(x < infinite, value, x);
}

template <class S> SPLATLEARN_HD Lanes<S> logarithm_of(Lanes<S> x) {
    const LogarithmParts<S> p = logarithm_parts(x);
    return logarithm_ends(x, p.e * Exponential<S>::high + (p.f + (p.e * Exponential<S>::low + p.rest)));
}
SPLATLEARN_HD Lanes<float> logarithm(Lanes<float> x) { return logarithm_of(x); }
SPLATLEARN_HD Lanes<double> logarithm(Lanes<double> x) { return logarithm_of(x); }

template <class S> SPLATLEARN_HD Lanes<S> logarithm2_of(Lanes<S> x) {
    const LogarithmParts<S> p = logarithm_parts(x);
    return logarithm_ends(x, (p.f + p.rest) * S(1.4426950408889634) + p.e);
}
SPLATLEARN_HD Lanes<float> logarithm2(Lanes<float> x) { return logarithm2_of(x); }
SPLATLEARN_HD Lanes<double> logarithm2(Lanes<double> x) { return logarithm2_of(x); }

// ---- scalars ----

#define SPLATLEARN_BY_LANE(S, name) \
    SPLATLEARN_HD S name(S x) { return name(Lanes<S>(x)).v[0]; }
SPLATLEARN_BY_LANE(float, logarithm)
SPLATLEARN_BY_LANE(double, logarithm)
SPLATLEARN_BY_LANE(float, logarithm2)
SPLATLEARN_BY_LANE(double, logarithm2)
SPLATLEARN_BY_LANE(float, exponential)
SPLATLEARN_BY_LANE(double, exponential)
#undef SPLATLEARN_BY_LANE
SPLATLEARN_HD float exponential2(float x) { return exponential2(Lanes<float>(clamp(x, -126.f, 127.f))).v[0]; }
SPLATLEARN_HD double exponential2(double x) { return exponential2(Lanes<double>(clamp(x, -1022., 1023.))).v[0]; }

}  // namespace SPLATLEARN_NAMESPACE
