// Which of a tile's eight 8x4 units of pixels a splat reaches, found once by the thread that loads it into shared
// memory.
//
// The extent of ellipse_in_slab (math/tile.h) for four slabs, with what the four share taken out and one instruction
// for each root and division: from there on it is (sqrt(level/a - det/a^2 y^2) - b/a y). It is written out, as the
// shared function costs twice the instructions. It may only err towards reaching: whether a pixel is rendered is
// decided by its alpha. So the determinant is taken low by more than all roundings together (the approximations err by
// 2^-22 each), margins are widened, and NaN reaches.
#pragma once
#include "../math/tile.h"
#include "stage.h"

namespace SPLATLEARN_NAMESPACE {

constexpr int kUnitWidth = 8, kUnitHeight = 4, kUnitRows = kTile / kUnitHeight;

#if defined(__CUDA_ARCH__)
SPLATLEARN_DEVICE float near_root(float x) {
    float out;
    asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
    return out;
}
#else
SPLATLEARN_DEVICE float near_root(float x) { return sqrtf(x); }
#endif
SPLATLEARN_DEVICE double near_root(double x) { return sqrt(x); }

// A bit for each unit, 0 to 3 the left ones from the top, 4 to 7 the right ones. (x, y): the tile's first pixel.
// (mean_x, mean_y): the centre of the ellipse.
template <class S>
SPLATLEARN_DEVICE unsigned reached_units(const Ellipse<S> &ellipse, S mean_x, S mean_y, int x, int y) {
    const S a = ellipse.a, b = ellipse.b, c = ellipse.c, level = ellipse.level;
    const S left = S(x) + S(0.5) - mean_x, top = S(y) + S(0.5) - mean_y;
    const S product = a * c, det = max(product - b * b - S(2e-6) * product, max(S(1e-9) * product, S(1e-37)));
    const S per_det = quotient(level, det), over_a = quotient(S(1), a);
    const S y_max = S(0.01) + S(1 + 1e-5) * near_root(a * per_det);
    const S y_of_x_max = -quotient(b, c) * near_root(c * per_det);
    const S slope = b * over_a, square = level * over_a, bend = det * over_a * over_a;
    unsigned reached = 0;
#pragma unroll
    for (int r = 0; r < kUnitRows; ++r) {
        const S first = top + S(r * kUnitHeight), low = max(first, -y_max),
                high = min(first + S(kUnitHeight - 1), y_max);
        const S y_right = min(max(y_of_x_max, low), high), y_left = min(max(-y_of_x_max, low), high);
        const S right = near_root(max(square - bend * y_right * y_right, S(0))) - slope * y_right;
        const S outer = -near_root(max(square - bend * y_left * y_left, S(0))) - slope * y_left;
        const S margin = S(0.01) + S(1e-5) * (right - outer), last = right + margin - left,
                begin = outer - margin - left;
        const bool misses = low > high;
        if (!misses && !(last < S(0)) && !(begin > S(kUnitWidth - 1))) reached |= 1u << r;
        if (!misses && !(last < S(kUnitWidth)) && !(begin > S(2 * kUnitWidth - 1))) reached |= 1u << (kUnitRows + r);
    }
    return reached;
}

}  // namespace SPLATLEARN_NAMESPACE
