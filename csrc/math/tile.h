// Tiles and the exact extent of a drawn Gaussian: the ellipse on which alpha falls to the threshold, so that opacity
// counts.
//
//   alpha(d) = o exp(-sigma(d)) >= threshold   <=>   a dx^2 + 2 b dx dy + c dy^2 <= k,   k = 2 ln(o / threshold)
//
// in whatever unit (a, b, c) and k share: the blend's packed splat has (A, B/2, C) and k = log2(o / threshold).
//
// An ellipse cut by a slab (a row or column of tiles, or of pixels) is convex, so what it covers along the slab is one
// interval, found in closed form. The same function serves counting, writing and the rows walked inside a tile.
#pragma once
#include "../abi.h"
#include "scalar.h"

namespace SPLATLEARN_NAMESPACE {

constexpr int kTile = SPLATLEARN_TILE;   // side of a tile, pixels: a schedule detail, not a result
constexpr int32_t kRadiusMax = 1 << 30;  // where radii saturate, px
SPLATLEARN_HD int tiles_across(int pixels) { return (pixels + kTile - 1) / kTile; }

// log2 of the alpha threshold; a threshold of 0 becomes the smallest exponent that 2^x can hold.
SPLATLEARN_HD float log2_threshold(float threshold) { return threshold > 0.f ? logarithm2(threshold) : -126.f; }
SPLATLEARN_HD double log2_threshold(double threshold) { return threshold > 0. ? logarithm2(threshold) : -1022.; }

// k of the ellipse for a conic in 1/px^2.
template <class R> SPLATLEARN_HD R ellipse_level(R opacity, Scalar<R> log2_alpha_threshold) {
    using S = Scalar<R>;
    return S(2) * (logarithm(opacity) - S(0.6931471805599453) * log2_alpha_threshold);
}

template <class S> struct Interval { S low, high; };  // empty where low > high

// What {d : conic(d) <= k} covers of x for y in [y_low, y_high], all relative to the mean. Swap a and c for y along
// columns. Widened by a hundredth of a pixel, so that rounding never loses a pixel that the blend would draw.
template <class R> SPLATLEARN_HD Interval<R> ellipse_in_slab(R a, R b, R c, R k, R y_low, R y_high) {
    using S = Scalar<R>;
    const R zero{};
    // Long slivers cancel in ac - bb: the determinant is taken at the low end of its rounding, so that extents err on
    // the safe side.
    const S unit = sizeof(S) == 4 ? S(5e-7) : S(1e-15);
    R det = maximum(a * c - b * b - unit * (a * c), unit * (a * c));
    R y_max = square_root(a * k / det);
    y_low = maximum(y_low, -y_max - S(0.01));
    y_high = minimum(y_high, y_max + S(0.01));
    R y_of_x_max = -(b / c) * square_root(c * k / det);
    R y_right = clamp(y_of_x_max, y_low, y_high), y_left = clamp(-y_of_x_max, y_low, y_high);
    R right = (square_root(maximum(a * k - det * y_right * y_right, zero)) - b * y_right) / a;
    R left = (-square_root(maximum(a * k - det * y_left * y_left, zero)) - b * y_left) / a;
    R margin = S(0.01) + S(1e-5) * (right - left);
    auto meets = y_low <= y_high;
    return {select(meets, left - margin, zero + S(1)), select(meets, right + margin, zero)};
}

// {d : a dx^2 + 2 b dx dy + c dy^2 <= level} around a mean; a level that is negative or NaN reaches nothing.
template <class R> struct Ellipse { R a, b, c, level; };

template <class R> SPLATLEARN_HD Ellipse<R> transposed(const Ellipse<R> &e) { return {e.c, e.b, e.a, e.level}; }

template <class R> SPLATLEARN_HD Interval<R> ellipse_in_slab(const Ellipse<R> &ellipse, R y_low, R y_high) {
    return ellipse_in_slab(ellipse.a, ellipse.b, ellipse.c, ellipse.level, y_low, y_high);
}

// The centres of the pixels of row `row` of tiles, relative to the mean; or of a column, with the width as height.
template <class S> SPLATLEARN_HD void slab_of_tiles(int row, int height, S mean, S &low, S &high) {
    const int top = row * kTile, below = top + kTile < height ? top + kTile : height;
    low = S(top) + S(0.5) - mean;
    high = S(below) - S(0.5) - mean;
}

// The tiles begin..end-1 along an axis that hold the pixels first..last-1; none where there are no pixels.
SPLATLEARN_HD void tiles_of_pixels(int first, int last, int &begin, int &end) {
    begin = first / kTile;
    end = first < last ? (last - 1) / kTile + 1 : begin;
}

// Pixels first..last-1 of 0..count-1 whose centres (index + 0.5) lie in the interval around `mean`, all in pixels.
template <class S> SPLATLEARN_HD void pixels_of_interval(S low, S high, S mean, int count, int &first, int &last) {
    // floor(x + 1/2) is ceil(x - 1/2) except where a centre lies exactly on the bound, which the margin has already
    // widened.
    first = int(clamp(mean + low + S(0.5), S(0), S(count)));
    last = int(clamp(mean + high + S(0.5), S(0), S(count)));
    if (!(low <= high) || last < first) last = first;
}

}  // namespace SPLATLEARN_NAMESPACE
