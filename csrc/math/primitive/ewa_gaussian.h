// The 3D Gaussian by EWA splatting (Zwicker et al. 2001): a 2D Gaussian with an inverse covariance, the conic (a, b,
// c).
//
//   log2 alpha = log2 o - (A dx^2 + B dx dy + C dy^2),  A = a log2(e)/2, B = b log2(e), C = c log2(e)/2
//
// The exponent receives g = alpha dL/dalpha. Its sums over pixels are (g, g dx, g dy, g dx^2, g dx dy, g dy^2); the
// algebra from these moments to mean, conic and opacity is done once per 2D Gaussian. interface: primitive.h.
#pragma once
#include "../../abi.h"
#include "../scalar.h"
#include "../tile.h"

namespace SPLATLEARN_NAMESPACE {

constexpr double kLog2E = 1.4426950408889634;

struct EwaGaussian {
    // ---- record ----

    static constexpr int kShape = 3, kScalars = 6;

    template <class R> struct Splat {
        R x, y;     // mean, px
        R a, b, c;  // A, B, C
        R log2_opacity;
    };

    template <class S>
    static SPLATLEARN_HD void pack(const S mean[2], const S conic[3], S opacity, S record[kScalars]) {
        record[0] = mean[0];
        record[1] = mean[1];
        record[2] = S(0.5 * kLog2E) * conic[0];
        record[3] = S(kLog2E) * conic[1];
        record[4] = S(0.5 * kLog2E) * conic[2];
        record[5] = logarithm2(opacity);
    }
    template <class R, class F> static SPLATLEARN_HD Splat<R> unpack(F scalar) {
        return {scalar(0), scalar(1), scalar(2), scalar(3), scalar(4), scalar(5)};
    }

    // ---- exponent ----

    template <class P, class R> static SPLATLEARN_HD R log2_alpha(const Splat<P> &splat, R dx, R dy) {
        return splat.log2_opacity - dx * (splat.a * dx + splat.b * dy) - dy * (splat.c * dy);
    }

    template <class S> struct Column {
        S constant, linear;
        SPLATLEARN_HD Column(const Splat<S> &splat, S dx)
            : constant(splat.log2_opacity - splat.a * dx * dx), linear(-splat.b * dx) {}
        SPLATLEARN_HD S log2_alpha(const Splat<S> &splat, S dy) const {
            return constant + dy * (linear - splat.c * dy);
        }
    };

    // ---- reach ----

    template <class R> static SPLATLEARN_HD Ellipse<R> ellipse(const Splat<R> &splat, Scalar<R> log2_cut) {
        return {splat.a, Scalar<R>(0.5) * splat.b, splat.c, splat.log2_opacity - log2_cut};
    }
    template <class R> static SPLATLEARN_HD Ellipse<R> ellipse(const R conic[3], R opacity, Scalar<R> log2_cut) {
        return {conic[0], conic[1], conic[2], ellipse_level(opacity, log2_cut)};
    }

    // ---- gradients ----

    static constexpr int kMoments = 6;  // g, g dx, g dy, g dx^2, g dx dy, g dy^2
    static_assert(kMoments == SPLATLEARN_MOMENTS, "the caller allocates gradient rows by it");

    template <class P, class R>
    static SPLATLEARN_HD void add_moments(const Splat<P> &, R, Plain<R> g, R dx, R dy, R m[kMoments]) {
        const R g_dx = g * dx, g_dy = g * dy;
        m[0] = m[0] + g;
        m[1] = m[1] + g_dx;
        m[2] = m[2] + g_dy;
        m[3] = m[3] + g_dx * dx;
        m[4] = m[4] + g_dx * dy;
        m[5] = m[5] + g_dy * dy;
    }
    template <class P, class R>
    static SPLATLEARN_HD void moments(const Splat<P> &splat, R power, Plain<R> g, R dx, R dy, R m[kMoments]) {
        for (int j = 0; j < kMoments; ++j) m[j] = R{};
        add_moments(splat, power, g, dx, dy, m);
    }

    static constexpr int kColumnMoments = 3;  // g dy, g, g dy^2

    template <class S>
    static SPLATLEARN_HD void column_moments(const Splat<S> &, S, S g, S, S dy, S m[kColumnMoments]) {
        const S g_dy = g * dy;
        m[0] = g_dy;
        m[1] = g;
        m[2] = g_dy * dy;
    }
    static constexpr SPLATLEARN_HD int moment_of(int j, int power) {
        return j == 0   ? (power == 0   ? 2
                           : power == 1 ? 4
                                        : -1)
               : j == 1 ? (power == 0   ? 0
                           : power == 1 ? 1
                                        : 3)
                        : (power == 0 ? 5 : -1);
    }

    template <class S> static SPLATLEARN_HD void moments_backward(const Splat<S> &splat, const S m[kMoments],
                                                                  S v_mean[2], S v_conic[3], S &v_opacity) {
        const S a = splat.a * S(2 / kLog2E), b = splat.b * S(1 / kLog2E), c = splat.c * S(2 / kLog2E);
        v_mean[0] = a * m[1] + b * m[2];
        v_mean[1] = b * m[1] + c * m[2];
        v_conic[0] = S(-0.5) * m[3];
        v_conic[1] = -m[4];
        v_conic[2] = S(-0.5) * m[5];
        v_opacity = m[0] * exponential2(-splat.log2_opacity);
    }

    static constexpr double kMeanUnit = 1 / kLog2E;  // the mean's gradient is this times v_mean

    template <class P, class R>
    static SPLATLEARN_HD void v_mean(const Splat<P> &splat, R, Plain<R> g, R dx, R dy, R v[2]) {
        const R g_dx = g * dx, g_dy = g * dy;
        v[0] = Scalar<R>(2) * splat.a * g_dx + splat.b * g_dy;
        v[1] = splat.b * g_dx + Scalar<R>(2) * splat.c * g_dy;
    }
};

}  // namespace SPLATLEARN_NAMESPACE
