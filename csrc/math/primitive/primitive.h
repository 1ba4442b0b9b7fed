// A primitive is what stage rasterize blends: a kernel in the image plane around a mean, with an opacity and a colour.
// It is a template parameter of the walks in csrc/cpu and csrc/cuda, which only schedule; the hot loops see no branch
// and no call.
//
// A primitive is a struct P. R is a real of scalar.h, S a scalar; (dx, dy) = pixel - mean, px; log2_cut = log2 of the
// alpha threshold; g = alpha dL/dalpha at a pixel, which is dL/dln(alpha).
//
// clang-format off
//   P::kScalars                         scalars of a record, which is what the blend reads of a 2D primitive
//   P::kShape                           scalars of a row of the tensor of shapes ("conics" in abi.h)
//   P::pack(mean, shape, opacity, record)    writes a record; its first two scalars are the mean, px
//   P::Splat<R>, P::unpack<R>(f)        a record as a struct with at least x and y, of scalars f(0) to f(kScalars - 1)
//   P::log2_alpha(splat, dx, dy)        the exponent: log2 of alpha before the clamp
//   P::Column<S>(splat, dx)             the same, with what the pixels of a column share taken out: has log2_alpha
//   P::ellipse(splat, log2_cut)         the reach: an ellipse around the mean outside of which alpha is below the
//   P::ellipse(shape, opacity, log2_cut)     threshold; by a record, and by the tensors that stage bin reads (tile.h)
//
//   P::kMoments                         sums over pixels that suffice for all gradients
//   P::moments(splat, power, g, dx, dy, m)   what one pixel adds to them; power = log2_alpha(splat, dx, dy)
//   P::moments_backward(splat, m, v_mean, v_shape, v_opacity)    from the sums to the gradients
//   P::kColumnMoments                   sums over pixels that share dx, from which dx makes the moments
//   P::add_moments(splat, power, g, dx, dy, m)    adds what moments() writes, by multiply-adds; may be missing
//   P::column_moments(splat, power, g, dx, dy, m)    what one pixel adds to the sums of its column
//   P::moment_of(j, power)              the moment that is dx^power times sum j of the column, or -1; power is 0 to 2,
//                                       and only 0 for j > 1. Each moment is made exactly once
//   P::v_mean(splat, power, g, dx, dy, v)    the mean's gradient from one pixel, times P::kMeanUnit, for absgrad
// clang-format on
#pragma once
#include "ewa_gaussian.h"

namespace SPLATLEARN_NAMESPACE {

// All primitives. A further one is its header and a word here.
#define SPLATLEARN_PRIMITIVES(primitive) primitive(EwaGaussian)

// Calls f with the primitive of a call: the one dispatch. `inputs` are those of stage bin or rasterize.
template <class Inputs, class F> int by_primitive(const Inputs &inputs, F f) {
    (void)inputs;
    return f(EwaGaussian{});
}

// A gradient row, which backward writes for each instance: moments, D colours and, with absgrad, 2 absolute mean
// gradients.
template <class Primitive> struct GradientRow {
    static constexpr int kColors = Primitive::kMoments;  // the first column of colours
    int channels;
    bool absgrad;
    SPLATLEARN_HD int absolute() const { return kColors + channels; }
    SPLATLEARN_HD int columns() const { return absolute() + (absgrad ? 2 : 0); }
};

}  // namespace SPLATLEARN_NAMESPACE
