// The pinhole camera: a perspective projection without distortion.
//
//   mean2d = (fx x/z + cx, fy y/z + cy)                                  pixels, pixel centres at +0.5
//   J = [[fx/z, 0, -fx u/z], [0, fy/z, -fy v/z]],  u = clamp(x/z), v = clamp(y/z)      (Zwicker et al. 2001)
//
// The clamp bounds J for points far outside the image: u lies in [-(cx + 0.15 W)/fx, (1.15 W - cx)/fx], that is the
// image widened by 15 % of its width on each side; v likewise. The bounds depend on the parameters, so gradients of a
// clamped u or v flow to them.
#pragma once
#include "../scalar.h"

namespace SPLATLEARN_NAMESPACE {

template <class R> struct Pinhole {
    using Real = R;
    using S = Scalar<R>;
    static constexpr int kParameters = 4;  // fx, fy, cx, cy

    S fx, fy, cx, cy;  // px
    S width, height;   // px

    struct LocalAffine {
        R mean[2];                 // px
        R map[6];                  // P = J V
        R jacobian_x, jacobian_y;  // fx/z, fy/z
        R u, v;                    // clamped x/z and y/z
    };

    static SPLATLEARN_HD Pinhole of(const S parameters[kParameters], int width, int height) {
        return {parameters[0], parameters[1], parameters[2], parameters[3], S(width), S(height)};
    }

    SPLATLEARN_HD MaskOf<R> is_valid(const R p[3]) const { return (p[2] > S(0)) & (R(fx) > S(0)) & (R(fy) > S(0)); }

    SPLATLEARN_HD LocalAffine project(const S V[9], const R p[3]) const {
        LocalAffine out;
        R inverse_z = S(1) / p[2];
        R x = p[0] * inverse_z, y = p[1] * inverse_z;
        out.mean[0] = fx * x + cx;
        out.mean[1] = fy * y + cy;
        R zero{};
        out.u = clamp(x, zero - (cx + S(0.15) * width) / fx, zero + (S(1.15) * width - cx) / fx);
        out.v = clamp(y, zero - (cy + S(0.15) * height) / fy, zero + (S(1.15) * height - cy) / fy);
        out.jacobian_x = fx * inverse_z;
        out.jacobian_y = fy * inverse_z;
        for (int j = 0; j < 3; ++j) {
            out.map[j] = out.jacobian_x * (V[j] - out.u * V[6 + j]);
            out.map[3 + j] = out.jacobian_y * (V[3 + j] - out.v * V[6 + j]);
        }
        return out;
    }

    SPLATLEARN_HD void project_backward(const S V[9], const R p[3], const LocalAffine &affine, const R v_mean[2],
                                        const R v_map[6], R v_p[3], R v_rotation[9],
                                        R v_parameters[kParameters]) const {
        R inverse_z = S(1) / p[2];
        R x = p[0] * inverse_z, y = p[1] * inverse_z;
        const R &u = affine.u, &v = affine.v;
        R v_j = v_map[0] * (V[0] - u * V[6]) + v_map[1] * (V[1] - u * V[7]) + v_map[2] * (V[2] - u * V[8]);
        R v_jy = v_map[3] * (V[3] - v * V[6]) + v_map[4] * (V[4] - v * V[7]) + v_map[5] * (V[5] - v * V[8]);
        R v_u = -affine.jacobian_x * (v_map[0] * V[6] + v_map[1] * V[7] + v_map[2] * V[8]);
        R v_v = -affine.jacobian_y * (v_map[3] * V[6] + v_map[4] * V[7] + v_map[5] * V[8]);
        for (int j = 0; j < 3; ++j) {
            v_rotation[j] = affine.jacobian_x * v_map[j];
            v_rotation[3 + j] = affine.jacobian_y * v_map[3 + j];
            v_rotation[6 + j] = -(affine.jacobian_x * u * v_map[j] + affine.jacobian_y * v * v_map[3 + j]);
        }
        R zero{};
        auto free_u = u == x, free_v = v == y;
        R v_x = v_mean[0] * fx + select(free_u, v_u, zero);
        R v_y = v_mean[1] * fy + select(free_v, v_v, zero);
        R bound_u = select(free_u, zero, v_u), bound_v = select(free_v, zero, v_v);
        // A clamped u is (const - cx)/fx on either side: du/dfx = -u/fx, du/dcx = -1/fx.
        v_parameters[0] = v_mean[0] * x + v_j * inverse_z - bound_u * u / fx;
        v_parameters[1] = v_mean[1] * y + v_jy * inverse_z - bound_v * v / fy;
        v_parameters[2] = v_mean[0] - bound_u / fx;
        v_parameters[3] = v_mean[1] - bound_v / fy;
        v_p[0] = v_x * inverse_z;
        v_p[1] = v_y * inverse_z;
        v_p[2] = -inverse_z * (v_x * x + v_y * y + v_j * affine.jacobian_x + v_jy * affine.jacobian_y);
    }
};

}  // namespace SPLATLEARN_NAMESPACE
