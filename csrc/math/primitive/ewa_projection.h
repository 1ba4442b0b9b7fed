// The 3D Gaussian in stage project, by EWA splatting: activate, project to a 2D Gaussian, and the backward.
//
//   p = V m + t;   mean2d and P = J V at p;   cov2d = (P F)(P F)^T + eps I,  F = R(q) diag(s)   (Zwicker et al. 2001)
//   opacity2d = opacity, or with antialiasing opacity * sqrt(det(A A^T) / det(cov2d)), A = P F     (Yu et al. 2024)
//
// A primitive of stage project is a struct like this one. The stage loads parameters and stores results; it is
// templated on the primitive and on the camera (camera/camera.h).
#pragma once
#include "../activation.h"
#include "../camera/camera.h"
#include "../covariance.h"
#include "../project.h"
#include "ewa_gaussian.h"

namespace SPLATLEARN_NAMESPACE {

struct EwaProjection {
    using Blended = EwaGaussian;  // the primitive that stage rasterize makes of it (primitive.h)

    // What of a Gaussian is the same for all cameras.
    template <class R> struct Shape {
        R rotation[9];  // R(q)
        R factor[9];    // F
    };

    // A Gaussian as one camera sees it.
    template <class Camera> struct Projected {
        using R = typename Camera::Real;
        R p[3];  // camera frame
        typename Camera::LocalAffine affine;
        Cov2d<R> cov2d;
        R opacity;  // after the compensation, if any
    };

    // Gradients to a Projected. opacity: to the one after the compensation.
    template <class R> struct ProjectedGradients {
        R mean[2];
        Conic<R> conic;
        R depth, opacity;
    };

    // Gradients to a Gaussian, which are summed over cameras before finish().
    template <class R> struct Gradients { R mean[3], scale[3], rotation[9], opacity; };

    template <class R> static SPLATLEARN_HD void shape(const Gaussian3d<R> &g, Shape<R> &out) {
        quaternion_rotation(g.quat, out.rotation);
        covariance_factor(out.rotation, g.scale, out.factor);
    }

    template <class Camera, class R>
    static SPLATLEARN_HD void project(const ProjectOptions<Scalar<R>> &options, const PosedCamera<Camera> &view,
                                      const Gaussian3d<R> &g, const Shape<R> &shape, Projected<Camera> &out) {
        to_camera(view.pose, g.mean, out.p);
        out.affine = view.camera.project(view.pose.rotation, out.p);
        out.cov2d = project_covariance(out.affine.map, shape.factor, options.eps2d);
        out.opacity = options.antialiased ? g.opacity * out.cov2d.compensation : g.opacity;
    }

    // The visible ones, and the ellipse that they cover.
    template <class Camera, class R>
    static SPLATLEARN_HD MaskOf<R> is_visible(const ProjectOptions<Scalar<R>> &options, const PosedCamera<Camera> &view,
                                              const Projected<Camera> &projected, Extent<R> &box) {
        using S = Scalar<R>;
        const Cov2d<R> &cov2d = projected.cov2d;
        box = extent(options, projected.opacity, cov2d.xx, cov2d.yy);
        MaskOf<R> visible = is_in_view(options, projected.affine.mean, projected.p[2], projected.opacity, box);
        // A finite sum of squares means finite terms; overflow culls as well, which is what an Inf scale should do.
        visible = visible & is_finite(cov2d.conic.a + cov2d.conic.b + cov2d.conic.c) & is_finite(cov2d.xx + cov2d.yy);
        visible = visible & is_finite(projected.opacity) & (cov2d.conic.a > S(0)) & (cov2d.conic.c > S(0));
        return visible & view.camera.is_valid(projected.p);
    }

    // Gradients to the Gaussian, and to the camera: v_translation [3], v_rotation [9], v_parameters [kParameters];
    // all overwritten.
    template <class Camera, class R>
    static SPLATLEARN_HD void project_backward(const ProjectOptions<Scalar<R>> &options,
                                               const PosedCamera<Camera> &view, const Gaussian3d<R> &g,
                                               const Shape<R> &shape, const Projected<Camera> &projected,
                                               const ProjectedGradients<R> &v, Gradients<R> &v_g, R v_translation[3],
                                               R v_rotation[9], R *v_parameters) {
        const R v_compensation = options.antialiased ? v.opacity * g.opacity : R{};
        v_g.opacity = options.antialiased ? v.opacity * projected.cov2d.compensation : v.opacity;
        R v_map[6], v_factor[9];
        project_covariance_backward(projected.affine.map, shape.factor, projected.cov2d, v.conic, v_compensation, v_map,
                                    v_factor);
        covariance_factor_backward(shape.rotation, g.scale, v_factor, v_g.rotation, v_g.scale);
        view.camera.project_backward(view.pose.rotation, projected.p, projected.affine, v.mean, v_map, v_translation,
                                     v_rotation, v_parameters);
        v_translation[2] = v_translation[2] + v.depth;
        to_camera_backward(view.pose, g.mean, v_translation, v_g.mean, v_rotation);
    }

    // From the sums over cameras to the gradients of the parameters as they were given: scale and opacity in place.
    template <class R>
    static SPLATLEARN_HD void finish(bool raw, const Gaussian3d<R> &g, Gradients<R> &v, R v_quat[4]) {
        if (raw) activate_backward(g, v.scale, v.opacity);
        quaternion_rotation_backward(g.quat, v.rotation, v_quat);
    }
};

}  // namespace SPLATLEARN_NAMESPACE
