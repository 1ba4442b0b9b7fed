// What every kernel file includes first: the spelling of a kernel, its shared memory and its launch. nvcc compiles them
// for a GPU, and g++ -DSPLATLEARN_EMULATOR compiles the same file for the emulator of the tests (csrc/emulator).
//
//   SPLATLEARN_KERNEL void scale(Params p) {      // __global__; may be a template or have __launch_bounds__(256)
//       SPLATLEARN_SHARED(float, buffer, 256);    // at the top of the kernel; holds NaNs in the emulator
//       buffer[threadIdx.x] = ...;
//       __syncthreads();
//   }
//   int code = SPLATLEARN_LAUNCH((scale), dim3(blocks), dim3(256), stream, params);    // 0 or a failure code below 0
//
// The emulator checks these rules: every thread of a block reaches every barrier (none has returned before it); a warp
// operation names exactly its participants, which all reach the same line with the same mask; no shuffle reads a lane
// outside the mask; only __syncwarp and __syncthreads order memory inside a warp; at most 48 KiB of shared memory. It
// cannot check this one: no thread may wait in a loop for memory that another one writes.
#pragma once
#include "../math/scalar.h"

#if defined(SPLATLEARN_EMULATOR)
#include "../emulator/emulator.h"
#else

#include <cuda_runtime.h>

#define SPLATLEARN_KERNEL __global__
#define SPLATLEARN_DEVICE __device__ __forceinline__
#define SPLATLEARN_SHARED(Type, name, count) __shared__ Type name[count]
#define SPLATLEARN_LAUNCH(kernel, grid, block, stream, ...) \
    ::SPLATLEARN_NAMESPACE::launch(kernel, grid, block, stream, __VA_ARGS__)

namespace SPLATLEARN_NAMESPACE {

// Failures of the CUDA runtime are this number minus the runtime's own code.
constexpr int kDeviceFailure = -1000;

inline int failure_of(cudaError_t error) { return error == cudaSuccess ? 0 : kDeviceFailure - int(error); }

// The sentence of a failure code of a launch, a copy or a sort; null for other codes.
inline const char *device_error(int code) {
    return code > kDeviceFailure ? nullptr : cudaGetErrorString(cudaError_t(kDeviceFailure - code));
}

// Launches and checks; an empty grid launches nothing.
template <class... Formal, class... Actual>
int launch(void (*kernel)(Formal...), dim3 grid, dim3 block, cudaStream_t stream, const Actual &...actual) {
    if (!grid.x || !grid.y || !grid.z) return 0;
    kernel<<<grid, block, 0, stream>>>(actual...);
    return failure_of(cudaGetLastError());
}

}  // namespace SPLATLEARN_NAMESPACE

#endif

namespace SPLATLEARN_NAMESPACE {

// Makes `device` current for the life of the guard, then the one before it again; `failure` is 0 or why it could not.
class DeviceGuard {
public:
    explicit DeviceGuard(int device) {
        failure = failure_of(cudaGetDevice(&before_));
        if (failure || device == before_) return;
        failure = failure_of(cudaSetDevice(device));
        changed_ = !failure;
    }
    ~DeviceGuard() {
        if (changed_) cudaSetDevice(before_);
    }
    DeviceGuard(const DeviceGuard &) = delete;
    DeviceGuard &operator=(const DeviceGuard &) = delete;

    int failure;

private:
    int before_ = 0;
    bool changed_ = false;
};

}  // namespace SPLATLEARN_NAMESPACE
