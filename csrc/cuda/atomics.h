// Atomic additions of four numbers to global memory: one instruction on sm_90 and later, four on others and in the
// emulator.
//
// For the variant of stage rasterize whose sums depend on the order in which blocks run, so that their last bits vary.
#pragma once
#include "record.h"

namespace SPLATLEARN_NAMESPACE {

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
SPLATLEARN_DEVICE void add_atomically(Part<float> *to, const Part<float> &x) {
    asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)), "f"(x.v[0]),
                 "f"(x.v[1]), "f"(x.v[2]), "f"(x.v[3])
                 : "memory");
}
#else
SPLATLEARN_DEVICE void add_atomically(Part<float> *to, const Part<float> &x) {
    for (int j = 0; j < 4; ++j) atomicAdd(&to->v[j], x.v[j]);
}
#endif
SPLATLEARN_DEVICE void add_atomically(Part<double> *to, const Part<double> &x) {
    for (int j = 0; j < 4; ++j) atomicAdd(&to->v[j], x.v[j]);
}

}  // namespace SPLATLEARN_NAMESPACE
