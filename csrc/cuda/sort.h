// Sorting and prefix sums on the device, called from the host. sort.cu implements them with CUB, which no other file
// includes; csrc/emulator/sort.cpp implements them for the emulator with the standard library.
//
// Counts are below 2^31. The caller allocates `scratch` of at least the required bytes. Nothing is allocated here, and
// the host does not wait. Each function returns 0 or a failure code (see device_error in launch.h).
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "launch.h"

namespace SPLATLEARN_NAMESPACE {

// Scratch bytes of sort_pairs for keys of `key_bytes` 2, 4 or 8.
size_t sort_pairs_bytes(int64_t count, int key_bytes);

// Stable sort by the bits [begin_bit, end_bit) of the keys, ascending; inputs stay as they are, no array overlaps
// another. A capacity that is not full is padded by the caller with keys of all ones, which come last.
int sort_pairs(const uint16_t *keys, uint16_t *sorted_keys, const uint32_t *values, uint32_t *sorted_values,
               int64_t count, int begin_bit, int end_bit, void *scratch, size_t scratch_bytes, cudaStream_t stream);
int sort_pairs(const uint32_t *keys, uint32_t *sorted_keys, const uint32_t *values, uint32_t *sorted_values,
               int64_t count, int begin_bit, int end_bit, void *scratch, size_t scratch_bytes, cudaStream_t stream);
int sort_pairs(const uint64_t *keys, uint64_t *sorted_keys, const uint32_t *values, uint32_t *sorted_values,
               int64_t count, int begin_bit, int end_bit, void *scratch, size_t scratch_bytes, cudaStream_t stream);

// Prefix sums in 64 bits: inclusive sums[i] = x[0] + ... + x[i]; exclusive without x[i].
size_t scan_bytes(int64_t count);
int inclusive_scan(const int32_t *x, int64_t *sums, int64_t count, void *scratch, size_t scratch_bytes,
                   cudaStream_t stream);
int exclusive_scan(const int32_t *x, int64_t *sums, int64_t count, void *scratch, size_t scratch_bytes,
                   cudaStream_t stream);

}  // namespace SPLATLEARN_NAMESPACE
