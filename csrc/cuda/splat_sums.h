// What backward sums for each splat over a tile's pixels, and how a warp sums it.
//
// The pixels of a thread lie in a column, so they share dx, and so do the four lanes of the warp below one another.
// Only the primitive's column moments are summed by pixel and over those lanes; dx then makes of them the moments that
// remain.
#pragma once
#include "rasterize.h"

namespace SPLATLEARN_NAMESPACE {

// D: channels whose colour gradients are summed; All: they are all the channels there are, else the others are read
// from memory where q needs them; Moments, Abs: the moments, the absolute mean gradients.
template <class P, int D_, bool All_, bool Moments_, bool Abs_> struct SplatSums {
    using Primitive = P;
    static constexpr int D = D_, kMoments = Primitive::kMoments;
    static constexpr bool All = All_, Moments = Moments_, Abs = Abs_;
    static constexpr int kHeld = D > 0 ? D : 1;
    static constexpr int kColor = Moments ? kMoments : 0, kAbs = kColor + D, kSums = kAbs + (Abs ? 2 : 0);
    // Of sums made by atomic additions (RasterizeBackward.atomic), in fours.
    static constexpr int kBefore = Moments ? kSumsBefore<Primitive> : 0, kParts = (kBefore + D + 3) / 4;

    // Column of a gradient row where sum j belongs, or -1.
    static SPLATLEARN_DEVICE int column_of(int j, GradientRow<Primitive> row, int first_channel) {
        if (All || (Moments && j < kMoments)) return j;
        if (j >= kAbs) return row.absolute() + j - kAbs;
        const int channel = first_channel + j - kColor;
        return channel < row.channels ? row.kColors + channel : -1;
    }
    // The sum that is number j among those for atomic additions, or -1.
    static SPLATLEARN_DEVICE int sum_of(int j) {
        if (j >= kBefore) return j - kBefore < D ? kColor + j - kBefore : -1;
        return j < kMoments ? j : Abs && j < kMoments + 2 ? kAbs + j - kMoments : -1;
    }

    // ---- what a thread sums: column moments, then colours, then absolute mean gradients ----

    static constexpr int kColumnMoments = Moments ? Primitive::kColumnMoments : 0;
    static constexpr int kRawColor = kColumnMoments, kRawAbs = kRawColor + D, kRaw = kRawAbs + (Abs ? 2 : 0);
    using ColumnSums = WarpSums<kRaw, kWarp / 2, kUnitWidth>;
    static constexpr int kLeft = ColumnSums::kLeft;
    static_assert(kLeft <= 6 && (!Moments || kLeft < kColumnMoments),
                  "the first two column moments have lanes of their own");

    // Where column moment j is summed: the first two, which dx multiplies, come to different lanes as their first sum.
    static constexpr SPLATLEARN_HD int place_of(int j) { return j == 0 ? 0 : j == 1 ? kLeft : j <= kLeft ? j - 1 : j; }
    static constexpr SPLATLEARN_HD int column_moment_at(int place) {
        return place == 0 ? 0 : place == kLeft ? 1 : place < kLeft ? place + 1 : place;
    }

    // After the exchanges: a lane's kLeft sums and, of the first, those with dx and dx^2.
    using RowSums = WarpSums<kLeft + (Moments ? 2 : 0), kUnitWidth / 2>;

    // The warp's sum number sum_of_lane(lane); of another lane, no sum.
    template <class S> static SPLATLEARN_DEVICE S sum(S *raw, S dx, const LaneBits &lane) {
        ColumnSums::run(raw, lane);
        S row[kLeft + 2];
#pragma unroll
        for (int i = 0; i < kLeft; ++i) row[i] = raw[i];
        row[kLeft] = row[0] * dx;
        row[kLeft + 1] = row[kLeft] * dx;
        RowSums::run(row, lane);
        return row[0];
    }
    static SPLATLEARN_DEVICE int sum_of_lane(int lane) {
        const int i = RowSums::index(lane, 0), power = i < kLeft ? 0 : i - kLeft + 1;
        const int place = i < 0 ? -1 : ColumnSums::index(lane, power > 0 ? 0 : i);
        if (place < 0) return -1;
        if (place >= kRawColor) return power > 0 ? -1 : place - kRawColor + kColor;
        return Primitive::moment_of(column_moment_at(place), power);
    }
};

}  // namespace SPLATLEARN_NAMESPACE
