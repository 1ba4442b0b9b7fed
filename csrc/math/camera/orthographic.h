// The orthographic camera: parallel rays along z, so that the size of an image does not depend on depth.
//
//   mean2d = (fx x + cx, fy y + cy)        pixels, pixel centres at +0.5; fx, fy: pixels per world unit
//   J = [[fx, 0, 0], [0, fy, 0]]           exact, as the projection is linear
#pragma once
#include "../scalar.h"

namespace SPLATLEARN_NAMESPACE {

template <class R> struct Orthographic {
    using Real = R;
    using S = Scalar<R>;
    static constexpr int kParameters = 4;  // fx, fy, cx, cy

    S fx, fy;  // px per world unit
    S cx, cy;  // px

    struct LocalAffine {
        R mean[2];  // px
        R map[6];   // P = J V
    };

    static SPLATLEARN_HD Orthographic of(const S parameters[kParameters], int, int) {
        return {parameters[0], parameters[1], parameters[2], parameters[3]};
    }

    SPLATLEARN_HD MaskOf<R> is_valid(const R[3]) const { return (R(fx) > S(0)) & (R(fy) > S(0)); }

    SPLATLEARN_HD LocalAffine project(const S V[9], const R p[3]) const {
        LocalAffine out;
        out.mean[0] = fx * p[0] + cx;
        out.mean[1] = fy * p[1] + cy;
        for (int j = 0; j < 3; ++j) {
            out.map[j] = R(fx * V[j]);
            out.map[3 + j] = R(fy * V[3 + j]);
        }
        return out;
    }

    SPLATLEARN_HD void project_backward(const S V[9], const R p[3], const LocalAffine &, const R v_mean[2],
                                        const R v_map[6], R v_p[3], R v_rotation[9],
                                        R v_parameters[kParameters]) const {
        for (int j = 0; j < 3; ++j) {
            v_rotation[j] = fx * v_map[j];
            v_rotation[3 + j] = fy * v_map[3 + j];
            v_rotation[6 + j] = R{};
        }
        v_parameters[0] = v_mean[0] * p[0] + v_map[0] * V[0] + v_map[1] * V[1] + v_map[2] * V[2];
        v_parameters[1] = v_mean[1] * p[1] + v_map[3] * V[3] + v_map[4] * V[4] + v_map[5] * V[5];
        v_parameters[2] = v_mean[0];
        v_parameters[3] = v_mean[1];
        v_p[0] = v_mean[0] * fx;
        v_p[1] = v_mean[1] * fy;
        v_p[2] = R{};
    }
};

}  // namespace SPLATLEARN_NAMESPACE
