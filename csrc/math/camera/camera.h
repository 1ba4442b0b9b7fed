// Camera models: what each one provides, how its parameters lie in memory, and the one dispatch over all of them.
//
// A model is a struct template Model<R>, R a real (scalar.h), in a file of its own:
//
//   Real, S               R and Scalar<R>
//   kParameters           how many parameters it has: fx, fy, cx, cy, then those of its own
//   of(parameters, w, h)  makes a camera of its parameters, in that order, for images of w x h pixels
//   is_valid(p)           mask: whether this camera has an image of the point p (camera frame)
//   project(V, p)         the local affine approximation at p, a LocalAffine: mean [2], the pixel of p; map [2,3] = J
//   V,
//                         the Jacobian of the pixel times the rotation from world to camera, for EWA splatting; and
//                         whatever else the backward reads
//   project_backward(V, p, affine, v_mean, v_map, v_p, v_rotation, v_parameters)
//                         gradients of mean and map to p [3], to V [3x3] and to every parameter, overwritten
//
// A new model is a header here, its line in by_camera(), its line in splatlearn/ops/cameras.py and its entry in the
// oracle of the tests (splatlearn/ops/reference.py).
#pragma once
#include "orthographic.h"
#include "pinhole.h"
#include "pose.h"

namespace SPLATLEARN_NAMESPACE {

// Calls f with an empty camera of the model, and returns `unknown` where there is no such model. R: its real.
template <class R, class F> int by_camera(int model, int unknown, F f) {
    switch (model) {
        case 0: return f(Pinhole<R>{});
        case 1: return f(Orthographic<R>{});
        default: return unknown;
    }
}

// ---- parameters in memory: K [3x3] row-major, then the parameters that are the model's own ----

constexpr int kIntrinsics = 9;
// The place of parameter i of fx, fy, cx, cy, ...
SPLATLEARN_HD constexpr int place_of_parameter(int i) {
    return i == 0 ? 0 : i == 1 ? 4 : i == 2 ? 2 : i == 3 ? 5 : kIntrinsics - 4 + i;
}
template <class Camera> constexpr int kParameterRow = kIntrinsics - 4 + Camera::kParameters;

// A camera in the world.
template <class Camera> struct PosedCamera {
    Pose<typename Camera::Real> pose;
    Camera camera;
};

// viewmat [4,4], parameters [kParameterRow]: of this camera. One with a number out of range shows no Gaussian: its
// depths are NaN.
template <class Camera, class S>
SPLATLEARN_HD void load_view(const S *viewmat, const S *parameters, int width, int height, PosedCamera<Camera> &out) {
    load_pose(viewmat, out.pose);
    S values[Camera::kParameters];
    S size = S(0);
    for (int i = 0; i < 12; ++i) size += absolute(viewmat[i]);
    for (int i = 0; i < Camera::kParameters; ++i) {
        values[i] = parameters[place_of_parameter(i)];
        size += absolute(values[i]);
    }
    if (!is_in_range(size)) out.pose.translation[2] = S(NAN);
    out.camera = Camera::of(values, width, height);
}

// ---- gradients of a camera, as they are summed over Gaussians: V, t, the centre in the world, parameters ----

constexpr int kOfRotation = 0, kOfTranslation = 9, kOfCenter = 12, kOfParameters = 15;
template <class Camera> constexpr int kCameraGradients = kOfParameters + Camera::kParameters;

// Writes sum j of a camera's gradients; over all j the three outputs are written whole, with zeros for what is not
// read. v_viewmat [4,4], v_center [3], v_parameters [kParameterRow]: of this camera; null: not wanted.
template <class S> SPLATLEARN_HD void store_camera_gradient(int j, S sum, S *v_viewmat, S *v_center, S *v_parameters) {
    if (j < kOfTranslation) {
        if (v_viewmat) v_viewmat[4 * (j / 3) + j % 3] = sum;
    } else if (j < kOfCenter) {
        if (v_viewmat) v_viewmat[4 * (j - kOfTranslation) + 3] = sum;
    } else if (j < kOfParameters) {
        if (v_center) v_center[j - kOfCenter] = sum;
    } else if (v_parameters) {
        v_parameters[place_of_parameter(j - kOfParameters)] = sum;
    }
    if (j < 4 && v_viewmat) v_viewmat[12 + j] = S(0);
    if (j < 5 && v_parameters) v_parameters[j == 0 ? 1 : j == 1 ? 3 : 4 + j] = S(0);  // 1, 3, 6, 7, 8
}

}  // namespace SPLATLEARN_NAMESPACE
