// Lanes<S>: one SIMD register of S with the operators and functions that the equations in csrc/math use, for whatever
// instruction set this translation unit is compiled for. Include it before any math header.
//
// The bits of a result do not depend on the instruction set:
// - A product of lanes that is added to or subtracted from something is a fused multiply-add (registers.h), by the type
//   of the expression: a * b is a Product, which rounds when it becomes Lanes. So no compiler chooses what it
//   contracts, and all are told to contract nothing themselves (-ffp-contract=off).
// - Sums over lanes run over kWide lanes whatever the register (WideSums below).
// - Functions that libm rounds as it pleases are in functions.h.
#pragma once
#define SPLATLEARN_OWN_FUNCTIONS  // instead of those of scalar.h
#include "registers.h"

namespace SPLATLEARN_NAMESPACE {

template <class S> struct Lanes;
template <class S> struct ScalarOf<Lanes<S>> { using type = S; };

// ---- masks: a k-register with AVX-512, else a vector of 0 / -1 ----

#if defined(__AVX512F__)
template <class S> struct Mask;
template <> struct Mask<float> { __mmask16 m; };
template <> struct Mask<double> { __mmask8 m; };
#define SPLATLEARN_COMPARE(name, code) \
    SPLATLEARN_HD Mask<float> name(Floats a, Floats b) { return {_mm512_cmp_ps_mask((__m512)a, (__m512)b, code)}; } \
    SPLATLEARN_HD Mask<double> name(Doubles a, Doubles b) { return {_mm512_cmp_pd_mask((__m512d)a, (__m512d)b, code)}; }
SPLATLEARN_COMPARE(is_less, _CMP_LT_OQ)
SPLATLEARN_COMPARE(is_at_most, _CMP_LE_OQ)
SPLATLEARN_COMPARE(is_equal, _CMP_EQ_OQ)
#undef SPLATLEARN_COMPARE
template <class S> SPLATLEARN_HD uint32_t bits(Mask<S> a) { return a.m; }
template <class S> SPLATLEARN_HD Mask<S> mask_of_bits(uint32_t b) { return {decltype(Mask<S>::m)(b)}; }
SPLATLEARN_HD Floats choose(Mask<float> k, Floats yes, Floats no) {
    return (Floats)_mm512_mask_blend_ps(k.m, (__m512)no, (__m512)yes);
}
SPLATLEARN_HD Doubles choose(Mask<double> k, Doubles yes, Doubles no) {
    return (Doubles)_mm512_mask_blend_pd(k.m, (__m512d)no, (__m512d)yes);
}
#else
template <class S> struct Mask { typename LaneTypes<S>::Integers m; };
#define SPLATLEARN_COMPARE(name, op) \
    SPLATLEARN_HD Mask<float> name(Floats a, Floats b) { return {a op b}; } \
    SPLATLEARN_HD Mask<double> name(Doubles a, Doubles b) { return {a op b}; }
SPLATLEARN_COMPARE(is_less, <)
SPLATLEARN_COMPARE(is_at_most, <=)
SPLATLEARN_COMPARE(is_equal, ==)
#undef SPLATLEARN_COMPARE
#if defined(SPLATLEARN_X86)
SPLATLEARN_HD uint32_t bits(Mask<float> a) { return uint32_t(SPLATLEARN_X86(movemask_ps)((NativeFloats)a.m)); }
SPLATLEARN_HD uint32_t bits(Mask<double> a) { return uint32_t(SPLATLEARN_X86(movemask_pd)((NativeDoubles)a.m)); }
#else
template <class S> SPLATLEARN_HD uint32_t bits(Mask<S> a) {
    uint32_t out = 0;
    for (int i = 0; i < kLanes<S>; ++i) out |= uint32_t(a.m[i] & 1) << i;
    return out;
}
#endif
template <class S> SPLATLEARN_HD Mask<S> mask_of_bits(uint32_t b) {
    Mask<S> out{};
    for (int i = 0; i < kLanes<S>; ++i) out.m[i] = -typename LaneTypes<S>::Integer((b >> i) & 1);
    return out;
}
template <class S> SPLATLEARN_HD typename LaneTypes<S>::Vector choose(Mask<S> k, typename LaneTypes<S>::Vector yes,
                                                                      typename LaneTypes<S>::Vector no) {
    return k.m ? yes : no;
}
#endif
template <class S> SPLATLEARN_HD Mask<S> operator&(Mask<S> a, Mask<S> b) { return {decltype(a.m)(a.m & b.m)}; }
template <class S> SPLATLEARN_HD Mask<S> operator|(Mask<S> a, Mask<S> b) { return {decltype(a.m)(a.m | b.m)}; }
template <class S> SPLATLEARN_HD bool any(Mask<S> a) {
#if defined(__aarch64__)
    return vmaxvq_u32((uint32x4_t)a.m) != 0;
#else
    return bits(a) != 0;
#endif
}

// ---- lanes ----

// a b, not rounded yet.
template <class R> struct Product {
    R a, b;
    SPLATLEARN_HD operator R() const { return a.v * b.v; }
};

// The operators take scalars as well, on either side, and products.
template <class S> struct Lanes {
    using Vector = typename LaneTypes<S>::Vector;
    static constexpr int count = kLanes<S>;
    Vector v{};
    Lanes() = default;
    SPLATLEARN_HD Lanes(Vector x) : v(x) {}
    SPLATLEARN_HD Lanes(S x) : v(x - Vector{}) {}  // unlike x + 0 always x, which compilers know

    using P = Product<Lanes>;
    friend SPLATLEARN_HD Lanes operator+(Lanes a, Lanes b) { return a.v + b.v; }
    friend SPLATLEARN_HD Lanes operator-(Lanes a, Lanes b) { return a.v - b.v; }
    friend SPLATLEARN_HD P operator*(Lanes a, Lanes b) { return {a, b}; }
    friend SPLATLEARN_HD Lanes operator/(Lanes a, Lanes b) { return a.v / b.v; }
    friend SPLATLEARN_HD Lanes operator-(Lanes a) { return -a.v; }
    friend SPLATLEARN_HD P operator-(P p) { return {-p.a, p.b}; }
    friend SPLATLEARN_HD Lanes operator+(P p, Lanes c) { return fused(p.a.v, p.b.v, c.v); }
    friend SPLATLEARN_HD Lanes operator+(Lanes c, P p) { return fused(p.a.v, p.b.v, c.v); }
    friend SPLATLEARN_HD Lanes operator+(P p, P q) { return p + Lanes(q); }
    friend SPLATLEARN_HD Lanes operator-(P p, Lanes c) { return fused_minus(p.a.v, p.b.v, c.v); }
    friend SPLATLEARN_HD Lanes operator-(Lanes c, P p) { return minus_fused(p.a.v, p.b.v, c.v); }
    friend SPLATLEARN_HD Lanes operator-(P p, P q) { return p - Lanes(q); }

    friend SPLATLEARN_HD Mask<S> operator<(Lanes a, Lanes b) { return is_less(a.v, b.v); }
    friend SPLATLEARN_HD Mask<S> operator>(Lanes a, Lanes b) { return is_less(b.v, a.v); }
    friend SPLATLEARN_HD Mask<S> operator<=(Lanes a, Lanes b) { return is_at_most(a.v, b.v); }
    friend SPLATLEARN_HD Mask<S> operator>=(Lanes a, Lanes b) { return is_at_most(b.v, a.v); }
    friend SPLATLEARN_HD Mask<S> operator==(Lanes a, Lanes b) { return is_equal(a.v, b.v); }
    friend SPLATLEARN_HD Lanes select(Mask<S> k, Lanes yes, Lanes no) { return choose(k, yes.v, no.v); }

    friend SPLATLEARN_HD Lanes minimum(Lanes a, Lanes b) { return lesser(a.v, b.v); }
    friend SPLATLEARN_HD Lanes maximum(Lanes a, Lanes b) { return greater(a.v, b.v); }
    friend SPLATLEARN_HD Lanes absolute(Lanes a) { return greater(a.v, -a.v); }
    friend SPLATLEARN_HD Lanes square_root(Lanes a) { return root(a.v); }
    friend SPLATLEARN_HD Mask<S> is_finite(Lanes a) { return a - a == Lanes(); }
};

template <class S> SPLATLEARN_HD Lanes<S> load(const S *p) {
    Lanes<S> out;
    std::memcpy(&out.v, p, sizeof out.v);
    return out;
}
template <class S> SPLATLEARN_HD void store(S *p, Lanes<S> a) { std::memcpy(p, &a.v, sizeof a.v); }

template <class S> SPLATLEARN_HD Lanes<S> ramp() {  // 0, 1, 2, ...
    Lanes<S> out;
    for (int i = 0; i < Lanes<S>::count; ++i) out.v[i] = S(i);
    return out;
}

// ---- sums over the lanes ----

// Of n registers at once, by halving and always in the same order: two registers exchange halves and are added, so that
// each level leaves half as many. Shuffles, as a way through memory would keep the registers there.
template <int count, int half> struct OwnHalf {  // lanes whose bit `half` is clear add up the first register
    static constexpr int at(int i) { return i & half ? count + i : i; }
};
template <int count, int half> struct OtherHalf {
    static constexpr int at(int i) { return OwnHalf<count, half>::at(i) ^ half; }
};
template <int count> struct Reversed {  // the bits of i in opposite order
    static constexpr int at(int i) {
        int out = 0;
        for (int low = 1, high = count / 2; high > 0; low *= 2, high /= 2) out |= i & low ? high : 0;
        return out;
    }
};

template <class S, int half>
SPLATLEARN_HD typename Lanes<S>::Vector fold(typename Lanes<S>::Vector a, typename Lanes<S>::Vector b) {
    constexpr int L = Lanes<S>::count;
    return shuffled<S>(a, b, OwnHalf<L, half>()) + shuffled<S>(a, b, OtherHalf<L, half>());
}

// After it lane i of v[0] holds the sum of register reversed(i).
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
    v[0] = shuffled<S>(v[0], v[0], Reversed<L>());
    std::memcpy(out, &v[0], now * sizeof(S));
    if constexpr (n > L) sums<S, n - L>(registers + L, out + L);
}

// A sum over many items adds item i to lane i % kWide, and the lanes are added at the end. kParts registers hold them,
// register `part` the items whose i / count % kParts is `part`.
template <class S> constexpr int kWide = 64 / int(sizeof(S));
template <class S> constexpr int kParts = kWide<S> / kLanes<S>;

// The sums of n such groups of registers; parts[part * stride + i] is of the i-th. Overwrites them.
template <class S, int n> SPLATLEARN_HD void wide_sums(Lanes<S> *parts, int stride, S *out) {
#pragma GCC unroll 4
    for (int half = kParts<S> / 2; half > 0; half /= 2)
#pragma GCC unroll 4
        for (int part = 0; part < half; ++part)
#pragma GCC unroll 16
            for (int i = 0; i < n; ++i)
                parts[part * stride + i] = parts[part * stride + i] + parts[(part + half) * stride + i];
    sums<S, n>(parts, out);
}
template <class S> SPLATLEARN_HD S wide_sum(Lanes<S> *parts, int stride = 1) {
    S out;
    wide_sums<S, 1>(parts, stride, &out);
    return out;
}
template <class S> SPLATLEARN_HD S wide_sum_of(const S *lanes) {  // [kWide]
    Lanes<S> parts[kParts<S>];
    for (int part = 0; part < kParts<S>; ++part) parts[part] = load(lanes + part * Lanes<S>::count);
    return wide_sum(parts);
}

}  // namespace SPLATLEARN_NAMESPACE

#include "functions.h"
