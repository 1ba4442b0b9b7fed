// One Gaussian before one camera: the chain of camera.h and covariance.h, forward and backward, once for every kernel of stage project.
//
//   p = V m + t;   mean2d and P = J V of p;   cov2d = (P F)(P F)^T + eps I,  F = R diag(s)
#pragma once
#include "camera.h"
#include "covariance.h"

namespace SPLATLEARN_NAMESPACE {

template <class R> struct Sight {
    R p[3];            // camera frame
    PixelMap<R> pixel;
    Image2d<R> image;
};

// factor: F of covariance.h. eps2d: low-pass, px^2.
template <class R>
SPLATLEARN_HD void sight(const Pinhole<R> &camera, const R mean[3], const R factor[9], Scalar<R> eps2d, Sight<R> &out) {
    to_camera(camera, mean, out.p);
    out.pixel = to_pixel(camera, out.p);
    out.image = image_of_covariance(out.pixel.map, factor, eps2d);
}

// Output gradients of a sight.
template <class R> struct SightGradients {
    R mean2d[2];
    Conic<R> conic;
    R depth, compensation;
};

// Input gradients, overwritten: v_mean [3], v_rot [9] and v_scale [3]; and those to the camera: v_p [3], which is that to its
// translation, v_view [9] to its rotation, v_K = (fx, fy, cx, cy).
template <class R>
SPLATLEARN_HD void sight_backward(const Pinhole<R> &camera, const R mean[3], const R rot[9], const R scale[3], const R factor[9],
                                  const Sight<R> &seen, const SightGradients<R> &v, R v_mean[3], R v_rot[9], R v_scale[3],
                                  R v_p[3], R v_view[9], R v_K[4]) {
    R v_map[6], v_factor[9];
    image_of_covariance_backward(seen.pixel.map, factor, seen.image, v.conic, v.compensation, v_map, v_factor);
    covariance_factor_backward(rot, scale, v_factor, v_rot, v_scale);
    to_pixel_backward(camera, seen.p, seen.pixel, v.mean2d, v_map, v_p, v_view, v_K);
    v_p[2] = v_p[2] + v.depth;
    to_camera_backward(camera, mean, v_p, v_mean, v_view);
}

}  // namespace SPLATLEARN_NAMESPACE
