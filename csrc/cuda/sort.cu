// Radix sort and prefix sums by CUB, in a file of its own because CUB takes long to compile.
#include "sort.h"

#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>

namespace SPLATLEARN_NAMESPACE {
namespace {

bool fits(int64_t count) { return count >= 0 && count <= INT32_MAX; }

// Scratch may be null: then only the bytes are told.
template <class Key> cudaError_t sort(const Key *keys, Key *sorted_keys, const uint32_t *values,
                                      uint32_t *sorted_values, int64_t count, int begin_bit, int end_bit, void *scratch,
                                      size_t &bytes, cudaStream_t stream) {
    if (!fits(count)) return cudaErrorInvalidValue;
    return cub::DeviceRadixSort::SortPairs(scratch, bytes, keys, sorted_keys, values, sorted_values, int(count),
                                           begin_bit, end_bit, stream);
}

template <class Key> size_t sort_bytes(int64_t count) {
    size_t bytes = 0;
    const Key *keys = nullptr;
    const uint32_t *values = nullptr;
    sort<Key>(keys, nullptr, values, nullptr, count, 0, int(8 * sizeof(Key)), nullptr, bytes, nullptr);
    return bytes;
}

struct Add {
    __host__ __device__ int64_t operator()(int64_t a, int64_t b) const { return a + b; }
};

// Sums in 64 bits although the summands are 32: the initial value decides the type that CUB adds in.
cudaError_t scan(bool inclusive, const int32_t *x, int64_t *sums, int64_t count, void *scratch, size_t &bytes,
                 cudaStream_t stream) {
    if (!fits(count)) return cudaErrorInvalidValue;
    return inclusive
               ? cub::DeviceScan::InclusiveScanInit(scratch, bytes, x, sums, Add{}, int64_t(0), int(count), stream)
               : cub::DeviceScan::ExclusiveScan(scratch, bytes, x, sums, Add{}, int64_t(0), int(count), stream);
}

}  // namespace

size_t sort_pairs_bytes(int64_t count, int key_bytes) {
    if (key_bytes == 2) return sort_bytes<uint16_t>(count);
    return key_bytes == 4 ? sort_bytes<uint32_t>(count) : sort_bytes<uint64_t>(count);
}

#define SPLATLEARN_SORT(Key) \
    int sort_pairs(const Key *keys, Key *sorted_keys, const uint32_t *values, uint32_t *sorted_values, int64_t count, \
                   int begin_bit, int end_bit, void *scratch, size_t scratch_bytes, cudaStream_t stream) { \
        size_t bytes = scratch_bytes; \
        return failure_of( \
            sort(keys, sorted_keys, values, sorted_values, count, begin_bit, end_bit, scratch, bytes, stream)); \
    }
SPLATLEARN_SORT(uint16_t)
SPLATLEARN_SORT(uint32_t)
SPLATLEARN_SORT(uint64_t)

size_t scan_bytes(int64_t count) {
    size_t inclusive = 0, exclusive = 0;
    scan(true, nullptr, nullptr, count, nullptr, inclusive, nullptr);
    scan(false, nullptr, nullptr, count, nullptr, exclusive, nullptr);
    return inclusive > exclusive ? inclusive : exclusive;
}

int inclusive_scan(const int32_t *x, int64_t *sums, int64_t count, void *scratch, size_t scratch_bytes,
                   cudaStream_t stream) {
    return failure_of(scan(true, x, sums, count, scratch, scratch_bytes, stream));
}

int exclusive_scan(const int32_t *x, int64_t *sums, int64_t count, void *scratch, size_t scratch_bytes,
                   cudaStream_t stream) {
    return failure_of(scan(false, x, sums, count, scratch, scratch_bytes, stream));
}

}  // namespace SPLATLEARN_NAMESPACE
