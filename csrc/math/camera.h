// World to camera to pixel, with the Jacobian that maps a small Gaussian there, and the backward to point, pose and intrinsics.
//
//   p = V m + t                      camera frame: x right, y down, z forward (OpenCV)
//   mean2d = (fx x/z + cx, fy y/z + cy)                                  pixels, pixel centres at +0.5
//   J = [[fx/z, 0, -fx u/z], [0, fy/z, -fy v/z]],  u = clamp(x/z), v = clamp(y/z)
//   P = J V                          the affine map of covariance.h      (Zwicker et al. 2001)
//
// The clamp keeps J sane for points far outside the image: u lies in [-(cx + 0.15 W)/fx, (1.15 W - cx)/fx], that is the
// image widened by 15 % of its width on each side; v likewise. Its bounds depend on the intrinsics, and so do gradients.
#pragma once
#include "scalar.h"

namespace SPLATLEARN_NAMESPACE {

template <class R> struct Pinhole {
    Scalar<R> rotation[9];      // V, row-major
    Scalar<R> translation[3];   // t
    Scalar<R> fx, fy, cx, cy;   // px
    Scalar<R> width, height;    // px
};

template <class R> SPLATLEARN_HD void load_pinhole(const Scalar<R> *viewmat, const Scalar<R> *K, int width, int height, Pinhole<R> &out) {
    for (int i = 0; i < 3; ++i) {
        for (int j = 0; j < 3; ++j) out.rotation[3 * i + j] = viewmat[4 * i + j];
        out.translation[i] = viewmat[4 * i + 3];
    }
    out.fx = K[0]; out.cx = K[2]; out.fy = K[4]; out.cy = K[5];
    out.width = Scalar<R>(width); out.height = Scalar<R>(height);
}

// ---- world to camera ----
template <class R> SPLATLEARN_HD void to_camera(const Pinhole<R> &camera, const R m[3], R p[3]) {
    for (int i = 0; i < 3; ++i)
        p[i] = camera.rotation[3 * i] * m[0] + camera.rotation[3 * i + 1] * m[1] + camera.rotation[3 * i + 2] * m[2] + camera.translation[i];
}

// v_p: output gradient. v_m: input gradient, overwritten. v_rotation: added to.
template <class R>
SPLATLEARN_HD void to_camera_backward(const Pinhole<R> &camera, const R m[3], const R v_p[3], R v_m[3], R v_rotation[9]) {
    for (int j = 0; j < 3; ++j) {
        v_m[j] = camera.rotation[j] * v_p[0] + camera.rotation[3 + j] * v_p[1] + camera.rotation[6 + j] * v_p[2];
        for (int i = 0; i < 3; ++i) v_rotation[3 * i + j] = v_rotation[3 * i + j] + v_p[i] * m[j];
    }
}

// ---- camera to pixel ----
template <class R> struct PixelMap {
    R mean[2];   // px
    R jacobian_x;  // fx / z
    R jacobian_y;  // fy / z
    R u, v;      // clamped x/z and y/z
    R map[6];    // P = J V
};

template <class R> SPLATLEARN_HD PixelMap<R> to_pixel(const Pinhole<R> &camera, const R p[3]) {
    using S = Scalar<R>;
    PixelMap<R> out;
    R inverse_z = S(1) / p[2];
    R x = p[0] * inverse_z, y = p[1] * inverse_z;
    out.mean[0] = camera.fx * x + camera.cx;
    out.mean[1] = camera.fy * y + camera.cy;
    R zero{};
    out.u = clamp(x, zero - (camera.cx + S(0.15) * camera.width) / camera.fx, zero + (S(1.15) * camera.width - camera.cx) / camera.fx);
    out.v = clamp(y, zero - (camera.cy + S(0.15) * camera.height) / camera.fy, zero + (S(1.15) * camera.height - camera.cy) / camera.fy);
    out.jacobian_x = camera.fx * inverse_z;
    out.jacobian_y = camera.fy * inverse_z;
    for (int j = 0; j < 3; ++j) {
        out.map[j] = out.jacobian_x * (camera.rotation[j] - out.u * camera.rotation[6 + j]);
        out.map[3 + j] = out.jacobian_y * (camera.rotation[3 + j] - out.v * camera.rotation[6 + j]);
    }
    return out;
}

// v_mean [2], v_map [2x3]: output gradients. v_p [3], v_rotation [3x3], v_K = (fx, fy, cx, cy): input gradients, overwritten.
template <class R>
SPLATLEARN_HD void to_pixel_backward(const Pinhole<R> &camera, const R p[3], const PixelMap<R> &pixel, const R v_mean[2],
                                     const R v_map[6], R v_p[3], R v_rotation[9], R v_K[4]) {
    using S = Scalar<R>;
    R inverse_z = S(1) / p[2];
    R x = p[0] * inverse_z, y = p[1] * inverse_z;
    const Scalar<R> *V = camera.rotation;
    R v_j = v_map[0] * (V[0] - pixel.u * V[6]) + v_map[1] * (V[1] - pixel.u * V[7]) + v_map[2] * (V[2] - pixel.u * V[8]);
    R v_jy = v_map[3] * (V[3] - pixel.v * V[6]) + v_map[4] * (V[4] - pixel.v * V[7]) + v_map[5] * (V[5] - pixel.v * V[8]);
    R v_u = -pixel.jacobian_x * (v_map[0] * V[6] + v_map[1] * V[7] + v_map[2] * V[8]);
    R v_v = -pixel.jacobian_y * (v_map[3] * V[6] + v_map[4] * V[7] + v_map[5] * V[8]);
    for (int j = 0; j < 3; ++j) {
        v_rotation[j] = pixel.jacobian_x * v_map[j];
        v_rotation[3 + j] = pixel.jacobian_y * v_map[3 + j];
        v_rotation[6 + j] = -(pixel.jacobian_x * pixel.u * v_map[j] + pixel.jacobian_y * pixel.v * v_map[3 + j]);
    }
    R zero{};
    auto free_u = pixel.u == x, free_v = pixel.v == y;
    R v_x = v_mean[0] * camera.fx + select(free_u, v_u, zero);
    R v_y = v_mean[1] * camera.fy + select(free_v, v_v, zero);
    R bound_u = select(free_u, zero, v_u), bound_v = select(free_v, zero, v_v);
    // A clamped u is (const - cx)/fx on either side: du/dfx = -u/fx, du/dcx = -1/fx.
    v_K[0] = v_mean[0] * x + v_j * inverse_z - bound_u * pixel.u / camera.fx;
    v_K[1] = v_mean[1] * y + v_jy * inverse_z - bound_v * pixel.v / camera.fy;
    v_K[2] = v_mean[0] - bound_u / camera.fx;
    v_K[3] = v_mean[1] - bound_v / camera.fy;
    v_p[0] = v_x * inverse_z;
    v_p[1] = v_y * inverse_z;
    v_p[2] = -inverse_z * (v_x * x + v_y * y + v_j * pixel.jacobian_x + v_jy * pixel.jacobian_y);
}

}  // namespace SPLATLEARN_NAMESPACE
