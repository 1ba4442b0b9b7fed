// The emulator's answer to csrc/cuda/sort.h: the same functions by the standard library, for memory of the host.
#include "../cuda/sort.h"

#include <algorithm>
#include <numeric>
#include <vector>

namespace SPLATLEARN_NAMESPACE {
namespace {

// Scratch is not needed here, but asked for and checked as on the device, so that tests see a caller that gives too
// little.
constexpr size_t kBytesPerItem = 16;

bool refused(int64_t count, const void *scratch, size_t scratch_bytes) {
    return count < 0 || count > INT32_MAX || !scratch || scratch_bytes < size_t(count) * kBytesPerItem;
}

template <class Key> int sort(const Key *keys, Key *sorted_keys, const uint32_t *values, uint32_t *sorted_values,
                              int64_t count, int begin_bit, int end_bit, const void *scratch, size_t scratch_bytes) {
    const int bits = int(8 * sizeof(Key));
    if (refused(count, scratch, scratch_bytes) || begin_bit < 0 || begin_bit > end_bit || end_bit > bits)
        return failure_of(cudaErrorInvalidValue);
    const uint64_t mask = (end_bit - begin_bit == 64 ? 0 : uint64_t(1) << (end_bit - begin_bit)) - 1;
    const auto digits = [&](int64_t i) { return end_bit == begin_bit ? 0 : uint64_t(keys[i]) >> begin_bit & mask; };
    std::vector<int64_t> order(static_cast<size_t>(count));
    std::iota(order.begin(), order.end(), int64_t(0));
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return digits(a) < digits(b); });
    for (int64_t i = 0; i < count; ++i)
        sorted_keys[i] = keys[order[size_t(i)]], sorted_values[i] = values[order[size_t(i)]];
    return 0;
}

}  // namespace

size_t sort_pairs_bytes(int64_t count, int) { return size_t(count) * kBytesPerItem + 1; }

#define SPLATLEARN_SORT(Key) \
    int sort_pairs(const Key *keys, Key *sorted_keys, const uint32_t *values, uint32_t *sorted_values, int64_t count, \
                   int begin_bit, int end_bit, void *scratch, size_t scratch_bytes, cudaStream_t) { \
        return sort(keys, sorted_keys, values, sorted_values, count, begin_bit, end_bit, scratch, scratch_bytes); \
    }
SPLATLEARN_SORT(uint16_t)
SPLATLEARN_SORT(uint32_t)
SPLATLEARN_SORT(uint64_t)

size_t scan_bytes(int64_t count) { return size_t(count) * kBytesPerItem + 1; }

int inclusive_scan(const int32_t *x, int64_t *sums, int64_t count, void *scratch, size_t scratch_bytes, cudaStream_t) {
    if (refused(count, scratch, scratch_bytes)) return failure_of(cudaErrorInvalidValue);
    std::inclusive_scan(x, x + count, sums, std::plus<int64_t>(), int64_t(0));
    return 0;
}

int exclusive_scan(const int32_t *x, int64_t *sums, int64_t count, void *scratch, size_t scratch_bytes, cudaStream_t) {
    if (refused(count, scratch, scratch_bytes)) return failure_of(cudaErrorInvalidValue);
    std::exclusive_scan(x, x + count, sums, int64_t(0), std::plus<int64_t>());
    return 0;
}

}  // namespace SPLATLEARN_NAMESPACE
