// Real spherical harmonics to degree 4 in the sign convention of 3D Gaussian splatting: basis, colour, and their
// backward.
//
//   colour = max(0, 1/2 + sum_k Y_k(d) f_k),  d = (mean - camera centre) / |mean - camera centre|
//
// for every camera model, the orthographic one included, as gsplat has it.
//
// Y_k are polynomials in the unit direction d = (x, y, z) (P.-P. Sloan, "Efficient spherical harmonic evaluation",
// 2013); k runs over degrees l = 0..4 and orders -l..l. The backward differentiates the polynomials and then the
// normalisation, which keeps only the part tangent to the sphere.
#pragma once
#include "scalar.h"

namespace SPLATLEARN_NAMESPACE {

constexpr int kMaxBases = 25;
constexpr int kMaxDegree = 4;
SPLATLEARN_HD int bases_of_degree(int degree) { return (degree + 1) * (degree + 1); }

// ---- basis ----
template <class R> SPLATLEARN_HD void sh_basis(int degree, const R d[3], R basis[kMaxBases]) {
    using S = Scalar<R>;
    const R x = d[0], y = d[1], z = d[2];
    basis[0] = R{} + S(0.28209479177387814);
    if (degree < 1) return;
    basis[1] = S(-0.4886025119029199) * y;
    basis[2] = S(0.4886025119029199) * z;
    basis[3] = S(-0.4886025119029199) * x;
    if (degree < 2) return;
    const R xx = x * x, yy = y * y, zz = z * z;
    basis[4] = S(1.0925484305920792) * x * y;
    basis[5] = S(-1.0925484305920792) * y * z;
    basis[6] = S(0.31539156525252005) * (S(2) * zz - xx - yy);
    basis[7] = S(-1.0925484305920792) * x * z;
    basis[8] = S(0.5462742152960396) * (xx - yy);
    if (degree < 3) return;
    basis[9] = S(-0.5900435899266435) * y * (S(3) * xx - yy);
    basis[10] = S(2.890611442640554) * x * y * z;
    basis[11] = S(-0.4570457994644658) * y * (S(4) * zz - xx - yy);
    basis[12] = S(0.3731763325901154) * z * (S(2) * zz - S(3) * (xx + yy));
    basis[13] = S(-0.4570457994644658) * x * (S(4) * zz - xx - yy);
    basis[14] = S(1.445305721320277) * z * (xx - yy);
    basis[15] = S(-0.5900435899266435) * x * (xx - S(3) * yy);
    if (degree < 4) return;
    basis[16] = S(2.5033429417967046) * x * y * (xx - yy);
    basis[17] = S(-1.7701307697799304) * y * z * (S(3) * xx - yy);
    basis[18] = S(0.9461746957575601) * x * y * (S(7) * zz - S(1));
    basis[19] = S(-0.6690465435572892) * y * z * (S(7) * zz - S(3));
    basis[20] = S(0.10578554691520431) * (zz * (S(35) * zz - S(30)) + S(3));
    basis[21] = S(-0.6690465435572892) * x * z * (S(7) * zz - S(3));
    basis[22] = S(0.47308734787878004) * (xx - yy) * (S(7) * zz - S(1));
    basis[23] = S(-1.7701307697799304) * x * z * (xx - S(3) * yy);
    basis[24] = S(0.6258357354491761) * (xx * (xx - S(3) * yy) - yy * (S(3) * xx - yy));
}

// v: gradient to each basis value. v_d [3]: gradient to the direction, overwritten.
template <class R> SPLATLEARN_HD void sh_basis_backward(int degree, const R d[3], const R v[kMaxBases], R v_d[3]) {
    using S = Scalar<R>;
    const R x = d[0], y = d[1], z = d[2];
    R gx{}, gy{}, gz{};
    if (degree >= 1) {
        gy = S(-0.4886025119029199) * v[1];
        gz = S(0.4886025119029199) * v[2];
        gx = S(-0.4886025119029199) * v[3];
    }
    const R xx = x * x, yy = y * y, zz = z * z, xy = x * y, yz = y * z, xz = x * z;
    if (degree >= 2) {
        const R a = S(1.0925484305920792) * v[4], b = S(-1.0925484305920792) * v[5], c = S(0.6307831305050401) * v[6];
        const R e = S(-1.0925484305920792) * v[7], f = S(1.0925484305920792) * v[8];
        gx = gx + a * y - c * x + e * z + f * x;
        gy = gy + a * x + b * z - c * y - f * y;
        gz = gz + b * y + S(2) * c * z + e * x;
    }
    if (degree >= 3) {
        const R a = S(-1.7701307697799304) * v[9], b = S(2.890611442640554) * v[10], c = S(-0.4570457994644658) * v[11];
        const R e = S(0.3731763325901154) * v[12], f = S(-0.4570457994644658) * v[13], g = S(1.445305721320277) * v[14];
        const R h = S(-1.7701307697799304) * v[15];
        gx = gx + a * S(2) * xy + b * yz - c * S(2) * xy - e * S(6) * xz + f * (S(4) * zz - S(3) * xx - yy) +
             g * S(2) * xz + h * (xx - yy);
        gy = gy + a * (xx - yy) + b * xz + c * (S(4) * zz - xx - S(3) * yy) - e * S(6) * yz - f * S(2) * xy -
             g * S(2) * yz - h * S(2) * xy;
        gz = gz + b * xy + c * S(8) * yz + e * (S(6) * zz - S(3) * (xx + yy)) + f * S(8) * xz + g * (xx - yy);
    }
    if (degree >= 4) {
        const R a = S(2.5033429417967046) * v[16], b = S(-1.7701307697799304) * v[17],
                c = S(0.9461746957575601) * v[18];
        const R e = S(-0.6690465435572892) * v[19], f = S(0.10578554691520431) * v[20],
                g = S(-0.6690465435572892) * v[21];
        const R h = S(0.47308734787878004) * v[22], i = S(-1.7701307697799304) * v[23],
                j = S(2.5033429417967046) * v[24];
        const R seven = S(7) * zz - S(1), three = S(7) * zz - S(3);
        gx = gx + a * y * (S(3) * xx - yy) + b * S(6) * xy * z + c * y * seven + g * z * three + h * S(2) * x * seven +
             i * S(3) * z * (xx - yy) + j * x * (xx - S(3) * yy);
        gy = gy + a * x * (xx - S(3) * yy) + b * S(3) * z * (xx - yy) + c * x * seven + e * z * three -
             h * S(2) * y * seven - i * S(6) * xy * z + j * y * (yy - S(3) * xx);
        gz = gz + b * y * (S(3) * xx - yy) + c * S(14) * xy * z + e * y * (S(21) * zz - S(3)) +
             f * z * (S(140) * zz - S(60)) + g * x * (S(21) * zz - S(3)) + h * S(14) * z * (xx - yy) +
             i * x * (xx - S(3) * yy);
    }
    v_d[0] = gx;
    v_d[1] = gy;
    v_d[2] = gz;
}

// ---- colour of one Gaussian, from the values of the bases in its direction ----

// basis(k) is the value of basis k, coefficients(k) points to its coefficients [3]. Returns whether the colour is in
// range.
template <class S, class Basis, class Coefficients>
SPLATLEARN_HD bool sh_color(int bases, Basis basis, Coefficients coefficients, S color[3]) {
    S sum[3] = {S(0.5), S(0.5), S(0.5)};
    SPLATLEARN_UNROLL
    for (int k = 0; k < bases; ++k) {
        const S value = basis(k), *f = coefficients(k);
        for (int j = 0; j < 3; ++j) sum[j] += value * f[j];
    }
    for (int j = 0; j < 3; ++j) color[j] = maximum(sum[j], S(0));
    return is_in_range(sum[0]) & is_in_range(sum[1]) & is_in_range(sum[2]);
}

// Of one channel: max(0, .) passes nothing on below.
template <class S> SPLATLEARN_HD S sh_color_backward(S color, S v_color) { return color > S(0) ? v_color : S(0); }

// Of one basis: returns the gradient to its value. f: its coefficients. v: of sh_color_backward.
template <class S> SPLATLEARN_HD S sh_basis_value_backward(const S f[3], const S v[3]) {
    return f[0] * v[0] + f[1] * v[1] + f[2] * v[2];
}

// Of one basis: v_f [3], the gradient to its coefficients, is added to.
template <class S> SPLATLEARN_HD void sh_coefficients_backward(S value, const S v[3], S v_f[3]) {
    for (int j = 0; j < 3; ++j) v_f[j] += value * v[j];
}

// ---- viewing direction ----
template <class R> SPLATLEARN_HD R direction(const R mean[3], const Scalar<R> center[3], R d[3]) {
    for (int i = 0; i < 3; ++i) d[i] = mean[i] - center[i];
    R square = d[0] * d[0] + d[1] * d[1] + d[2] * d[2];
    R inverse = select(square > Scalar<R>(0), Scalar<R>(1) / square_root(square),
                       R{});  // a mean at the centre has no direction
    for (int i = 0; i < 3; ++i) d[i] = d[i] * inverse;
    return inverse;
}

// v_d: gradient to the unit direction d. v_mean [3]: gradient to mean (that to the centre is its negative),
// overwritten.
template <class R> SPLATLEARN_HD void direction_backward(const R d[3], R inverse, const R v_d[3], R v_mean[3]) {
    R along = d[0] * v_d[0] + d[1] * v_d[1] + d[2] * v_d[2];
    for (int i = 0; i < 3; ++i) v_mean[i] = (v_d[i] - along * d[i]) * inverse;
}

}  // namespace SPLATLEARN_NAMESPACE
