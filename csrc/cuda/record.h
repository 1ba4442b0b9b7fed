// What the blend reads of a 2D primitive, written by stage project, or by stage rasterize from tensors of any other
// origin: SPLATLEARN_RECORD numbers in parts of four, each loaded and stored whole, 16 bytes for float.
//
// First come the primitive's scalars (math/primitive), then as many colours as there is space for; for a Gaussian by
// EWA:
//   part 0: x, y, A, B    part 1: C, log2 opacity, colour 0, colour 1    part 2: colours 2 to 5
#pragma once
#include "../math/primitive/primitive.h"
#include "stage.h"

namespace SPLATLEARN_NAMESPACE {

template <class S> struct alignas(16) Part { S v[4]; };

template <class S, class Primitive> struct Record {
    static constexpr int kScalars = Primitive::kScalars;
    static constexpr int kParts = SPLATLEARN_RECORD / 4;
    static constexpr int kColors = SPLATLEARN_RECORD - kScalars;  // with more channels, colours are read where they are
    static_assert(kColors >= 4, "the kernels with up to four channels take colours from the record");
    Part<S> part[kParts];

    SPLATLEARN_DEVICE typename Primitive::template Splat<S> splat() const {
        Part<S> p[(kScalars + 3) / 4];
#pragma unroll
        for (int i = 0; i < (kScalars + 3) / 4; ++i) p[i] = part[i];
        return Primitive::template unpack<S>([&](int j) { return p[j / 4].v[j % 4]; });
    }
    SPLATLEARN_DEVICE S color(int d) const { return part[(kScalars + d) / 4].v[(kScalars + d) % 4]; }
};
static_assert(sizeof(Record<float, EwaGaussian>) == 4 * SPLATLEARN_RECORD, "the caller allocates that many numbers");

// D colours, of which a record takes as many as it has space for; it is filled up with zeros.
template <class Primitive, class S, int D> SPLATLEARN_DEVICE void store_record(real *records, int64_t row,
                                                                               const S mean[2], const S *shape,
                                                                               S opacity, const S *color) {
    using Record = Record<S, Primitive>;
    S numbers[SPLATLEARN_RECORD];
    Primitive::pack(mean, shape, opacity, numbers);
#pragma unroll
    for (int d = 0; d < Record::kColors; ++d) numbers[Record::kScalars + d] = d < D ? color[d < D ? d : 0] : S(0);
    Part<S> *to = static_cast<Record *>(records)[row].part;
#pragma unroll
    for (int i = 0; i < Record::kParts; ++i)
        to[i] = {{numbers[4 * i], numbers[4 * i + 1], numbers[4 * i + 2], numbers[4 * i + 3]}};
}

}  // namespace SPLATLEARN_NAMESPACE
