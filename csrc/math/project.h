// Stage project apart from its primitive and its camera: the options of a call, and which Gaussians are visible.
//
// A Gaussian is visible where its camera gives it an image (camera/camera.h), its depth lies between the planes, its
// opacity reaches the alpha threshold, the box around the ellipse of that alpha (tile.h) meets the centre of a pixel,
// one side of that box is above radius_clip, its own numbers are in range (activation.h), and its primitive finds no
// number that is not finite. A Gaussian whose colour (sh.h) or one of whose features is out of range is culled as well.
#pragma once
#include "scalar.h"
#include "tile.h"

namespace SPLATLEARN_NAMESPACE {

template <class S> struct ProjectOptions {
    S eps2d;                  // low-pass added to the 2D covariance, px^2
    S near_plane, far_plane;  // camera-space depth limits
    S radius_clip;            // px
    S alpha_threshold;
    S width, height;   // px
    bool antialiased;  // opacity is scaled by the low-pass compensation
    bool raw;          // scales are given as logarithms, opacities as logits; so are their gradients
};

// Inputs: splatlearn_ProjectInputs of abi.h.
template <class S, class Inputs> SPLATLEARN_HD ProjectOptions<S> project_options(const Inputs &in) {
    return {S(in.eps2d), S(in.near_plane), S(in.far_plane),     S(in.radius_clip), S(in.alpha_threshold),
            S(in.width), S(in.height),     in.antialiased != 0, in.raw != 0};
}

// The ellipse on which alpha falls to the threshold.
template <class R> struct Extent {
    R level;      // k of tile.h; negative where alpha is below the threshold everywhere
    R radius[2];  // half sides of its box, px
};

// variance: the diagonal of the 2D covariance, px^2.
template <class R>
SPLATLEARN_HD Extent<R> extent(const ProjectOptions<Scalar<R>> &options, R opacity, R variance_x, R variance_y) {
    Extent<R> out;
    out.level = ellipse_level(opacity, log2_threshold(options.alpha_threshold));
    out.radius[0] = square_root(out.level * variance_x);
    out.radius[1] = square_root(out.level * variance_y);
    return out;
}

template <class R> SPLATLEARN_HD MaskOf<R> is_in_view(const ProjectOptions<Scalar<R>> &options, const R mean[2],
                                                      R depth, R opacity, const Extent<R> &box) {
    using S = Scalar<R>;
    const R &rx = box.radius[0], &ry = box.radius[1];
    MaskOf<R> visible = (depth > options.near_plane) & (depth < options.far_plane);
    visible = visible & (box.level >= S(0)) & (opacity >= options.alpha_threshold);
    visible = visible & (mean[0] + rx >= S(0.5)) & (mean[0] - rx <= options.width - S(0.5));
    visible = visible & (mean[1] + ry >= S(0.5)) & (mean[1] - ry <= options.height - S(0.5));
    return visible & ((rx > options.radius_clip) | (ry > options.radius_clip));
}

// A half side of the box as it is returned, whole pixels.
template <class S> SPLATLEARN_HD int32_t whole_radius(S radius) {
    return int32_t(ceil(minimum(radius, S(kRadiusMax))));
}

// Coefficients [3] of one basis of a Gaussian's harmonics.
template <class S, class Inputs> SPLATLEARN_HD const S *coefficients(const Inputs &in, int64_t gaussian, int basis) {
    return basis == 0 ? static_cast<const S *>(in.sh0) + gaussian * in.sh0_stride
                      : static_cast<const S *>(in.shN) + gaussian * in.shN_stride + (basis - 1) * 3;
}

// Whether all features of a Gaussian for camera c are in range.
template <class S, class Inputs> SPLATLEARN_HD bool features_in_range(const Inputs &in, int64_t c, int64_t gaussian) {
    const S *features = static_cast<const S *>(in.features) + c * in.features_stride + gaussian * in.n_features;
    bool in_range = true;
    for (int d = 0; d < in.n_features; ++d) in_range = in_range & is_in_range(features[d]);
    return in_range;
}

}  // namespace SPLATLEARN_NAMESPACE
