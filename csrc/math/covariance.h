// Quaternion and scale to covariance, and covariance through a linear map to the image plane, each with its backward.
//
//   R(q)   rotation of the normalised quaternion q = (w, x, y, z)
//   F      = R diag(s), a factor of the 3D covariance: Sigma = F F^T                  (Kerbl et al. 2023, eq. 6)
//   A      = P F, with P = J V (2x3) the local affine map to pixels (camera/camera.h)        (Zwicker et al. 2001, EWA)
//   cov2d  = A A^T + eps I                                                             low-pass, px^2
//   conic  = cov2d^-1 = (a, b, c) for [[a, b], [b, c]]
//   compensation = sqrt(det(A A^T) / det(cov2d)), det(A A^T) = |A_0 x A_1|^2 (Cauchy-Binet, never negative)
//
// Gradients of symmetric matrices: those of conic are to its three numbers (the off-diagonal one counts both entries);
// inside, G is the full symmetric matrix of partial derivatives, so that dL = sum_ij G_ij dM_ij.
#pragma once
#include "scalar.h"

namespace SPLATLEARN_NAMESPACE {

template <class R> struct Conic { R a, b, c; };

// ---- rotation ----
// Squares of norms from 1e-15 to 1e15, with a little to spare: float32 holds them with all digits.
template <class R> SPLATLEARN_HD MaskOf<R> has_rotation(R square) {
    return (square >= Scalar<R>(0.99e-30)) & (square <= Scalar<R>(1.01e30));
}

// NaN for a quaternion without a rotation.
template <class R> SPLATLEARN_HD void quaternion_rotation(const R q[4], R out[9]) {
    R square = q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3];
    R inverse_norm = select(has_rotation(square), Scalar<R>(1) / square_root(square), R{} + Scalar<R>(NAN));
    R w = q[0] * inverse_norm, x = q[1] * inverse_norm, y = q[2] * inverse_norm, z = q[3] * inverse_norm;
    Scalar<R> one = 1, two = 2;
    out[0] = one - two * (y * y + z * z);
    out[1] = two * (x * y - w * z);
    out[2] = two * (x * z + w * y);
    out[3] = two * (x * y + w * z);
    out[4] = one - two * (x * x + z * z);
    out[5] = two * (y * z - w * x);
    out[6] = two * (x * z - w * y);
    out[7] = two * (y * z + w * x);
    out[8] = one - two * (x * x + y * y);
}

// Zero for a quaternion without a rotation, whose Gaussian is culled.
template <class R> SPLATLEARN_HD void quaternion_rotation_backward(const R q[4], const R v[9], R v_q[4]) {
    R square = q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3];
    const MaskOf<R> valid = has_rotation(square);
    R inverse_norm = select(valid, Scalar<R>(1) / square_root(square), R{});
    R w = select(valid, q[0] * inverse_norm, R{}), x = select(valid, q[1] * inverse_norm, R{});
    R y = select(valid, q[2] * inverse_norm, R{}), z = select(valid, q[3] * inverse_norm, R{});
    Scalar<R> two = 2;
    R g_w = two * (x * (v[7] - v[5]) + y * (v[2] - v[6]) + z * (v[3] - v[1]));
    R g_x = two * (w * (v[7] - v[5]) + y * (v[1] + v[3]) + z * (v[2] + v[6]) - two * x * (v[4] + v[8]));
    R g_y = two * (w * (v[2] - v[6]) + x * (v[1] + v[3]) + z * (v[5] + v[7]) - two * y * (v[0] + v[8]));
    R g_z = two * (w * (v[3] - v[1]) + x * (v[2] + v[6]) + y * (v[5] + v[7]) - two * z * (v[0] + v[4]));
    R along = g_w * w + g_x * x + g_y * y + g_z * z;  // normalisation keeps only what is tangent to the sphere
    v_q[0] = (g_w - along * w) * inverse_norm;
    v_q[1] = (g_x - along * x) * inverse_norm;
    v_q[2] = (g_y - along * y) * inverse_norm;
    v_q[3] = (g_z - along * z) * inverse_norm;
}

// ---- covariance factor F = R diag(s) ----
template <class R> SPLATLEARN_HD void covariance_factor(const R rot[9], const R s[3], R factor[9]) {
    for (int i = 0; i < 3; ++i)
        for (int j = 0; j < 3; ++j) factor[3 * i + j] = rot[3 * i + j] * s[j];
}

template <class R>
SPLATLEARN_HD void covariance_factor_backward(const R rot[9], const R s[3], const R v_factor[9], R v_rot[9], R v_s[3]) {
    for (int j = 0; j < 3; ++j) {
        v_s[j] = v_factor[j] * rot[j] + v_factor[3 + j] * rot[3 + j] + v_factor[6 + j] * rot[6 + j];
        for (int i = 0; i < 3; ++i) v_rot[3 * i + j] = v_factor[3 * i + j] * s[j];
    }
}

// ---- covariance through a linear map ----
template <class R> struct Cov2d {
    R factor[6];        // A, rows A_0 and A_1
    R xx, yy;           // diagonal of cov2d, px^2
    R determinant;      // of cov2d
    R raw_determinant;  // of A A^T
    Conic<R> conic;
    R compensation;
};

template <class R> SPLATLEARN_HD Cov2d<R> project_covariance(const R map[6], const R factor[9], Scalar<R> eps) {
    Cov2d<R> out;
    for (int i = 0; i < 2; ++i)
        for (int j = 0; j < 3; ++j)
            out.factor[3 * i + j] =
                map[3 * i] * factor[j] + map[3 * i + 1] * factor[3 + j] + map[3 * i + 2] * factor[6 + j];
    const R *p = out.factor, *q = out.factor + 3;
    R raw_xx = p[0] * p[0] + p[1] * p[1] + p[2] * p[2];
    R raw_yy = q[0] * q[0] + q[1] * q[1] + q[2] * q[2];
    R xy = p[0] * q[0] + p[1] * q[1] + p[2] * q[2];
    R n0 = p[1] * q[2] - p[2] * q[1], n1 = p[2] * q[0] - p[0] * q[2], n2 = p[0] * q[1] - p[1] * q[0];
    out.raw_determinant = n0 * n0 + n1 * n1 + n2 * n2;
    out.determinant = out.raw_determinant + eps * (raw_xx + raw_yy) + eps * eps;
    out.xx = raw_xx + eps;
    out.yy = raw_yy + eps;
    R inverse = Scalar<R>(1) / out.determinant;
    out.conic = {out.yy * inverse, -xy * inverse, out.xx * inverse};
    out.compensation = square_root(out.raw_determinant * inverse);
    return out;
}

// v_conic, v_compensation: output gradients. v_map [2x3], v_factor [3x3]: input gradients, overwritten.
template <class R> SPLATLEARN_HD void project_covariance_backward(const R map[6], const R factor[9],
                                                                  const Cov2d<R> &cov2d, const Conic<R> &v_conic,
                                                                  R v_compensation, R v_map[6], R v_factor[9]) {
    const R a = cov2d.conic.a, b = cov2d.conic.b, c = cov2d.conic.c;
    const Scalar<R> half = Scalar<R>(0.5), two = 2;
    // dL/dcov2d = -conic G conic, with G the full matrix of v_conic, and d det / det = trace(conic dcov2d).
    R g_b = half * v_conic.b;
    R m00 = v_conic.a * a + g_b * b, m01 = v_conic.a * b + g_b * c;
    R m10 = g_b * a + v_conic.c * b, m11 = g_b * b + v_conic.c * c;
    R scale = half * v_compensation * cov2d.compensation;
    R g00 = -(a * m00 + b * m10) - scale * a;
    R g01 = -(a * m01 + b * m11) - scale * b;
    R g11 = -(b * m01 + c * m11) - scale * c;
    // dL/dA = 2 G A, and of |A_0 x A_1|^2 = |n|^2: 2 (A_1 x n) to A_0, 2 (n x A_0) to A_1.
    const R *p = cov2d.factor, *q = cov2d.factor + 3;
    R n0 = p[1] * q[2] - p[2] * q[1], n1 = p[2] * q[0] - p[0] * q[2], n2 = p[0] * q[1] - p[1] * q[0];
    R raw = cov2d.raw_determinant;
    R v_raw = select(raw > Scalar<R>(0), two * scale / select(raw > Scalar<R>(0), raw, R{} + Scalar<R>(1)), R{});
    R v_a[6];
    v_a[0] = two * (g00 * p[0] + g01 * q[0]) + v_raw * (q[1] * n2 - q[2] * n1);
    v_a[1] = two * (g00 * p[1] + g01 * q[1]) + v_raw * (q[2] * n0 - q[0] * n2);
    v_a[2] = two * (g00 * p[2] + g01 * q[2]) + v_raw * (q[0] * n1 - q[1] * n0);
    v_a[3] = two * (g01 * p[0] + g11 * q[0]) + v_raw * (n1 * p[2] - n2 * p[1]);
    v_a[4] = two * (g01 * p[1] + g11 * q[1]) + v_raw * (n2 * p[0] - n0 * p[2]);
    v_a[5] = two * (g01 * p[2] + g11 * q[2]) + v_raw * (n0 * p[1] - n1 * p[0]);
    for (int i = 0; i < 2; ++i)
        for (int k = 0; k < 3; ++k)
            v_map[3 * i + k] =
                v_a[3 * i] * factor[3 * k] + v_a[3 * i + 1] * factor[3 * k + 1] + v_a[3 * i + 2] * factor[3 * k + 2];
    for (int k = 0; k < 3; ++k)
        for (int j = 0; j < 3; ++j) v_factor[3 * k + j] = map[k] * v_a[j] + map[3 + k] * v_a[3 + j];
}

}  // namespace SPLATLEARN_NAMESPACE
