// What backward's walk over a tile's list sums for each splat, and how a warp sums it.
//
// The pixels of a thread lie in a column, so they share dx, and so do the four lanes of the warp below one another. Of
// the six moments only g, g dy and g dy^2 are summed by pixel and over those lanes; dx then makes the other three of
// two of them.
#pragma once
#include "rasterize.h"

namespace SPLATLEARN_NAMESPACE {

// D: channels whose colour gradients are summed; All: they are all the channels there are, else the others are read
// from memory where q needs them; Moments, Abs: the moments, the absolute mean gradients.
template <int D_, bool All_, bool Moments_, bool Abs_> struct Walk {
    static constexpr int D = D_;
    static constexpr bool All = All_, Moments = Moments_, Abs = Abs_;
    static constexpr int kHeld = D > 0 ? D : 1;
    static constexpr int kColor = Moments ? kMoments : 0, kAbs = kColor + D, kSums = kAbs + (Abs ? 2 : 0);
    static constexpr int kBefore = Moments ? kSumsBefore : 0, kParts = (kBefore + D + 3) / 4;  // for atomic additions

    // Column of a gradient row where sum j belongs, or -1.
    static SPLATLEARN_DEVICE int column_of(int j, int channels, int first_channel) {
        if (All || (Moments && j < kMoments)) return j;
        if (j < kAbs) return first_channel + j - kColor < channels ? kMoments + first_channel + j - kColor : -1;
        return kMoments + channels + j - kAbs;
    }
    // The sum that is number j among those for atomic additions, or -1.
    static SPLATLEARN_DEVICE int sum_of(int j) {
        if (j >= kBefore) return j - kBefore < D ? kColor + j - kBefore : -1;
        return j < kMoments ? j : Abs ? kAbs + j - kMoments : -1;
    }

    // ---- what a thread sums, so placed that g and g dy, of which more is made, come to different lanes ----

    static constexpr int kRaw = (Moments ? 3 : 0) + D + (Abs ? 2 : 0);
    using Column = WarpSums<kRaw, kWarp / 2, kUnitWidth>;
    static constexpr int kLeft = Column::kLeft;
    static constexpr int kGy = 0, kG = kLeft, kGyy = 3 - kLeft, kRawColor = Moments ? 3 : 0, kRawAbs = kRawColor + D;
    static_assert(kLeft == 1 || kLeft == 2, "the places of g dy, g and g dy^2 are the first three");

    // After the exchanges: a lane's kLeft sums and, of the first, those with dx and dx^2.
    using Row = WarpSums<kLeft + (Moments ? 2 : 0), kUnitWidth / 2>;

    // The warp's sum number sum_of_lane(lane); of another lane, no sum.
    template <class S> static SPLATLEARN_DEVICE S sum(S *raw, S dx, const LaneBits &lane) {
        Column::run(raw, lane);
        S row[kLeft + 2];
#pragma unroll
        for (int i = 0; i < kLeft; ++i) row[i] = raw[i];
        row[kLeft] = row[0] * dx;
        row[kLeft + 1] = row[kLeft] * dx;
        Row::run(row, lane);
        return row[0];
    }
    static SPLATLEARN_DEVICE int sum_of_lane(int lane) {
        const int i = Row::index(lane, 0);
        const int first = Column::index(lane, 0), place = i < 0 || i >= kLeft ? -1 : Column::index(lane, i);
        if (i < 0 || !Moments) return place;
        if (i == kLeft) return first == kGy ? 4 : first == kG ? 1 : -1;
        if (i == kLeft + 1) return first == kG ? 3 : -1;
        return place == kG ? 0 : place == kGy ? 2 : place == kGyy ? 5 : place < 0 ? -1 : place - kRawColor + kColor;
    }
};

}  // namespace SPLATLEARN_NAMESPACE
