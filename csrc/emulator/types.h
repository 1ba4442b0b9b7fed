// CUDA's built-in types and the parts of its runtime that the host side of a stage uses, for the emulator: device
// memory is host memory, there is one device, and a stream does everything at once.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
    constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
};

// Aligned as on the device, where a misaligned vector load is a fault (here UBSan reports it).
#define SPLATLEARN_VECTORS(Scalar, name) \
    struct alignas(2 * sizeof(Scalar)) name##2 { \
        Scalar x, y; \
    }; \
    struct name##3 { \
        Scalar x, y, z; \
    }; \
    struct alignas(4 * sizeof(Scalar) > 16 ? 16 : 4 * sizeof(Scalar)) name##4 { \
        Scalar x, y, z, w; \
    }; \
    inline name##2 make_##name##2(Scalar x, Scalar y) { return {x, y}; } \
    inline name##3 make_##name##3(Scalar x, Scalar y, Scalar z) { return {x, y, z}; } \
    inline name##4 make_##name##4(Scalar x, Scalar y, Scalar z, Scalar w) { return {x, y, z, w}; }
SPLATLEARN_VECTORS(float, float)
SPLATLEARN_VECTORS(double, double)
SPLATLEARN_VECTORS(int, int)
SPLATLEARN_VECTORS(short, short)
SPLATLEARN_VECTORS(unsigned short, ushort)
SPLATLEARN_VECTORS(unsigned char, uchar)
#undef SPLATLEARN_VECTORS
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

typedef struct CUstream_st *cudaStream_t;
enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorInvalidDevice = 101,
    cudaErrorLaunchFailure = 719
};
enum cudaMemcpyKind { cudaMemcpyHostToHost, cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };

inline cudaError_t cudaGetDevice(int *device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidDevice; }
inline cudaError_t cudaMemsetAsync(void *to, int byte, size_t bytes, cudaStream_t = nullptr) {
    if (bytes) memset(to, byte, bytes);
    return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind, cudaStream_t = nullptr) {
    if (bytes) memcpy(to, from, bytes);
    return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
