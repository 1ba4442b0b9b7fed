// A 2D Gaussian as the blend reads it, written by stage project, or by stage rasterize from tensors of any other
// origin: twelve numbers in three parts, each loaded and stored whole, 16 bytes for float.
//
//   part 0: x, y, A, B    part 1: C, log2 opacity, colour 0, colour 1    part 2: colours 2 to 5     (A, B, C:
//   math/blend.h)
#pragma once
#include "../math/blend.h"
#include "stage.h"

namespace SPLATLEARN_NAMESPACE {

constexpr int kRecordParts = 3;
constexpr int kRecordColors = 6;  // with more channels, colours are read where they are

template <class S> struct alignas(16) Part { S v[4]; };

template <class S> struct Record {
    Part<S> part[kRecordParts];

    SPLATLEARN_DEVICE Splat<S> splat() const {
        const Part<S> p = part[0], q = part[1];
        return {p.v[0], p.v[1], p.v[2], p.v[3], q.v[0], q.v[1]};
    }
    SPLATLEARN_DEVICE S color(int d) const { return part[(6 + d) / 4].v[(6 + d) % 4]; }
};
static_assert(sizeof(Record<float>) == 4 * SPLATLEARN_RECORD, "the caller allocates records of that many numbers");

// D colours, at most kRecordColors; the others are zero.
template <class S, int D> SPLATLEARN_DEVICE void store_record(real *records, int64_t row, const S mean[2],
                                                              const S conic[3], S opacity, const S *color) {
    const Splat<S> splat = pack_splat(mean, conic, opacity);
    S c[kRecordColors];
#pragma unroll
    for (int d = 0; d < kRecordColors; ++d) c[d] = d < D ? color[d < D ? d : 0] : S(0);
    Part<S> *to = static_cast<Record<S> *>(records)[row].part;
    to[0] = {{splat.x, splat.y, splat.a, splat.b}};
    to[1] = {{splat.c, splat.log2_opacity, c[0], c[1]}};
    to[2] = {{c[2], c[3], c[4], c[5]}};
}

}  // namespace SPLATLEARN_NAMESPACE
