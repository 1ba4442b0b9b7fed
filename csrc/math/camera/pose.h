// The rigid transform from world to camera, and its backward. It is the same for every camera model.
//
//   p = V m + t      camera frame: x right, y down, z forward (OpenCV)
#pragma once
#include "../scalar.h"

namespace SPLATLEARN_NAMESPACE {

template <class R> struct Pose {
    Scalar<R> rotation[9];     // V, row-major
    Scalar<R> translation[3];  // t
};

// viewmat: [4,4], row-major.
template <class R> SPLATLEARN_HD void load_pose(const Scalar<R> *viewmat, Pose<R> &out) {
    for (int i = 0; i < 3; ++i) {
        for (int j = 0; j < 3; ++j) out.rotation[3 * i + j] = viewmat[4 * i + j];
        out.translation[i] = viewmat[4 * i + 3];
    }
}

template <class R> SPLATLEARN_HD void to_camera(const Pose<R> &pose, const R m[3], R p[3]) {
    const Scalar<R> *V = pose.rotation;
    for (int i = 0; i < 3; ++i)
        p[i] = V[3 * i] * m[0] + V[3 * i + 1] * m[1] + V[3 * i + 2] * m[2] + pose.translation[i];
}

// v_p: output gradient, which is also the gradient to the translation. v_m: input gradient, overwritten.
// v_rotation: added to.
template <class R>
SPLATLEARN_HD void to_camera_backward(const Pose<R> &pose, const R m[3], const R v_p[3], R v_m[3], R v_rotation[9]) {
    const Scalar<R> *V = pose.rotation;
    for (int j = 0; j < 3; ++j) {
        v_m[j] = V[j] * v_p[0] + V[3 + j] * v_p[1] + V[6 + j] * v_p[2];
        for (int i = 0; i < 3; ++i) v_rotation[3 * i + j] = v_rotation[3 * i + j] + v_p[i] * m[j];
    }
}

}  // namespace SPLATLEARN_NAMESPACE
