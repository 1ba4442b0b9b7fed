// Small kernels that test_emulator.py runs in the emulator: right ones, and ones with a planted bug that it must show.
// Built into a program: `emulator_kernels NAME` runs one kernel and prints its failure or its results, a number a line.
#include "../csrc/cuda/launch.h"
#include "../csrc/cuda/sort.h"

#include <chrono>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vector>

namespace {

struct Params {
    const float *x;
    float *sums;
    int *counts;
    int n, variant;
};

constexpr int kBlock = 128;
constexpr unsigned kAll = 0xffffffffu;

// ---- a block's sum: warps by shuffles, then over warps through shared memory ----

enum Bug { kRight, kMissingBarrier, kOutOfBounds, kWrongLane };

template <Bug bug> SPLATLEARN_KERNEL void __launch_bounds__(kBlock) block_sum(Params p) {
    SPLATLEARN_SHARED(float, parts, kBlock / 32);
    const int thread = int(threadIdx.x), i = int(blockIdx.x) * kBlock + thread, lane = thread % 32;
    float sum = i < p.n || bug == kOutOfBounds ? p.x[i] : 0.0f;
    for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_down_sync(kAll, sum, unsigned(offset));
    if (lane == (bug == kWrongLane ? 1 : 0)) parts[thread / 32] = sum;
    if (bug != kMissingBarrier) __syncthreads();
    if (thread == 0) p.sums[blockIdx.x] = parts[0] + parts[1] + parts[2] + parts[3];
}

// Threads write one element beyond a shared array.
SPLATLEARN_KERNEL void shared_overrun(Params p) {
    SPLATLEARN_SHARED(float, values, kBlock);
    values[0] = 0;
    float *place = values;
    place[threadIdx.x + 1] = 1;
    __syncthreads();
    p.sums[threadIdx.x] = place[threadIdx.x];
}

// A ring: each thread hands its number on, twice; the second barrier is what variant 1 forgets.
SPLATLEARN_KERNEL void ring(Params p) {
    SPLATLEARN_SHARED(float, values, kBlock);
    const int thread = int(threadIdx.x);
    float mine = p.x[thread];
    for (int round = 0; round < 2; ++round) {
        values[thread] = mine;
        __syncthreads();
        mine = values[(thread + 1) % kBlock] + 1;
        if (p.variant == 0) __syncthreads();
    }
    p.sums[thread] = mine;
}

// Neighbours within a warp exchange through shared memory; variant 1 forgets __syncwarp.
SPLATLEARN_KERNEL void neighbours(Params p) {
    SPLATLEARN_SHARED(float, values, kBlock);
    const int thread = int(threadIdx.x);
    values[thread] = p.x[thread];
    if (p.variant == 0) __syncwarp();
    p.sums[thread] = values[thread ^ 1];
}

SPLATLEARN_KERNEL void unwritten(Params p) {
    SPLATLEARN_SHARED(float, values, kBlock);
    SPLATLEARN_SHARED(double, doubles, 2);
    if (blockIdx.x == 0) values[threadIdx.x] = 1, doubles[0] = 1;
    __syncthreads();
    p.sums[blockIdx.x] = values[5] + float(doubles[0]);
}

// ---- divergence, a kind a variant ----

SPLATLEARN_KERNEL void diverge(Params p) {
    const int thread = int(threadIdx.x + threadIdx.y * blockDim.x);
    float value = float(thread);
    switch (p.variant) {
        case 0:  // some threads return instead
            if (thread < 7) __syncthreads();
            break;
        case 1:  // one has returned before
            if (thread == 9) return;
            __syncthreads();
            break;
        case 2:  // two barriers
            if (thread < 32)
                __syncthreads();
            else
                __syncthreads();
            break;
        case 3:  // lanes that the mask names stay away
            if (thread % 2) value = __shfl_xor_sync(kAll, value, 1);
            break;
        case 4:  // lanes that the mask leaves out
            value = __shfl_xor_sync(0x0000ffffu, value, 1);
            break;
        case 5:  // lanes that the mask leaves out are read
            if (thread % 32 < 16) value = __shfl_xor_sync(0x0000ffffu, value, 16);
            break;
        case 6:  // masks that disagree
            value = __shfl_xor_sync(thread % 32 < 31 ? kAll : 0xfffffffeu, value, 2);
            break;
        case 7:  // operations that disagree
            if (thread % 2) __syncwarp();
            else value = __shfl_xor_sync(kAll, value, 2);
            break;
        case 8:  // a barrier against a warp operation
            if (thread % 32 == 0) __syncthreads();
            else value = __shfl_xor_sync(kAll, value, 2);
            break;
    }
    p.sums[thread] = value;
}

SPLATLEARN_KERNEL void too_much_shared(Params p) {
    SPLATLEARN_SHARED(double, values, 6145);
    values[threadIdx.x] = 1;
    p.sums[threadIdx.x] = float(values[threadIdx.x]);
}

// ---- every operation on numbers whose answers are known ----

SPLATLEARN_KERNEL void operations(Params p) {
    const int thread = int(threadIdx.x), lane = thread % 32;
    int n = 0;
    const auto put = [&](double value) { p.sums[n++ * kBlock + thread] = float(value); };
    put(__shfl_sync(kAll, lane, 5));
    put(__shfl_sync(kAll, lane, 1, 8));
    put(__shfl_up_sync(kAll, double(lane), 3u));
    put(__shfl_down_sync(kAll, unsigned(lane), 3u, 16));
    put(__shfl_xor_sync(kAll, float(lane), 9));
    put(__popc(__ballot_sync(kAll, lane % 3 == 0)) + 100 * __any_sync(kAll, lane == 40) + 200 * __all_sync(kAll, lane < 32));
    put(__reduce_add_sync(kAll, unsigned(lane)));
    put(__popc(__match_any_sync(kAll, unsigned(lane / 5))));
    put(lane < 8 ? __reduce_max_sync(0x000000ffu, unsigned(lane)) : __reduce_max_sync(0xffffff00u, unsigned(lane)));
    put(__syncthreads_count(thread % 4 == 1));
    put(__syncthreads_or(thread == 77) + 2 * __syncthreads_and(thread != 77) + 4 * __syncthreads_and(1));
    put(atomicAdd(&p.counts[0], 1) < kBlock);
    atomicMax(&p.counts[1], thread * 3 % kBlock);
    atomicAdd(&p.sums[n * kBlock], 0.5f);
    if (thread == 0) p.counts[2] = __ffs(12) + 10 * __clz(1) + (__brev(1u) == 0x80000000u ? 1000 : 0);
}

// ---- the price of an operation ----

template <int kind> SPLATLEARN_KERNEL void price(Params p) {
    float value = float(threadIdx.x);
    for (int i = 0; i < p.n; ++i) {
        if (kind == 0) value += __shfl_xor_sync(kAll, value, 1);
        else if (kind == 1) value += float(__popc(__ballot_sync(kAll, value > 0)));
        else __syncthreads();
    }
    p.sums[threadIdx.x] = value;
}

int run(const char *name, const Params &given) {
    Params p = given;
    const auto is = [&](const char *other) { return strcmp(name, other) == 0; };
    const auto starts = [&](const char *other) { return strncmp(name, other, strlen(other)) == 0; };
    const dim3 grid((unsigned(p.n) + kBlock - 1) / kBlock), block(kBlock);
    p.variant = name[strlen(name) - 1] - '0';
    if (is("right")) return SPLATLEARN_LAUNCH((block_sum<kRight>), grid, block, nullptr, p);
    if (is("missing barrier")) return SPLATLEARN_LAUNCH((block_sum<kMissingBarrier>), grid, block, nullptr, p);
    if (is("out of bounds")) return SPLATLEARN_LAUNCH((block_sum<kOutOfBounds>), grid, block, nullptr, p);
    if (is("wrong lane")) return SPLATLEARN_LAUNCH((block_sum<kWrongLane>), grid, block, nullptr, p);
    if (is("shared overrun")) return SPLATLEARN_LAUNCH((shared_overrun), 1, block, nullptr, p);
    if (starts("ring")) return SPLATLEARN_LAUNCH((ring), 1, block, nullptr, p);
    if (starts("neighbours")) return SPLATLEARN_LAUNCH((neighbours), 1, block, nullptr, p);
    if (is("unwritten")) return SPLATLEARN_LAUNCH((unwritten), 3, block, nullptr, p);
    if (starts("diverge")) return SPLATLEARN_LAUNCH((diverge), dim3(2, 3), dim3(16, 8), nullptr, p);
    if (is("after")) {  // threads of failed launches were left in the middle
        for (int variant : {0, 4, 8, 8}) {
            p.variant = variant;
            if (!SPLATLEARN_LAUNCH((diverge), 1, block, nullptr, p)) return 1;
        }
        return SPLATLEARN_LAUNCH((block_sum<kRight>), grid, block, nullptr, p);
    }
    if (is("too much shared")) return SPLATLEARN_LAUNCH((too_much_shared), 1, block, nullptr, p);
    if (is("too many threads")) return SPLATLEARN_LAUNCH((ring), 1, dim3(1025), nullptr, p);
    if (is("too many rows")) return SPLATLEARN_LAUNCH((ring), dim3(1, 65536), block, nullptr, p);
    if (is("no blocks")) return SPLATLEARN_LAUNCH((ring), dim3(0), block, nullptr, p);
    if (is("operations")) return SPLATLEARN_LAUNCH((operations), 1, block, nullptr, p);
    fprintf(stderr, "no kernel %s\n", name);
    exit(2);
}

int sorts() {
    using namespace SPLATLEARN_NAMESPACE;
    const std::vector<uint16_t> keys{0x0301, 0xffff, 0x0102, 0x0201, 0x0101};
    const std::vector<uint32_t> values{0, 1, 2, 3, 4};
    const std::vector<int32_t> x{0x7fffffff, 0x7fffffff, -1};
    std::vector<uint16_t> sorted_keys(5);
    std::vector<uint32_t> sorted(5);
    std::vector<int64_t> sums(3);
    std::vector<char> scratch(sort_pairs_bytes(5, 2) + scan_bytes(3));
    void *at = scratch.data();
    const size_t bytes = scratch.size();
    for (int begin : {0, 8}) {
        const uint32_t *from = values.data();
        if (sort_pairs(keys.data(), sorted_keys.data(), from, sorted.data(), 5, begin, begin + 8, at, bytes, nullptr)) return 1;
        for (int i = 0; i < 5; ++i) printf("%u %u\n", sorted_keys[size_t(i)], sorted[size_t(i)]);
    }
    for (auto *scan : {inclusive_scan, exclusive_scan}) {
        if (scan(x.data(), sums.data(), 3, at, bytes, nullptr)) return 1;
        for (int64_t sum : sums) printf("%lld\n", static_cast<long long>(sum));
    }
    return inclusive_scan(x.data(), sums.data(), 3, at, 3, nullptr) == 0;  // too little scratch is refused
}

template <int kind> void tell_price(const char *name, const Params &p) {
    const auto start = std::chrono::steady_clock::now();
    if (SPLATLEARN_LAUNCH((price<kind>), 1, kBlock, nullptr, p)) exit(1);
    const std::chrono::duration<double, std::nano> passed = std::chrono::steady_clock::now() - start;
    printf("%s %.1f ns\n", name, passed.count() / (double(p.n) * kBlock));
}

}  // namespace

int main(int count, char **arguments) {
    const char *name = count > 1 ? arguments[1] : "";
    if (strcmp(name, "sorts") == 0) return sorts();
    Params p{};
    p.n = 3 * kBlock - 28;  // the last block is not full
    std::vector<float> x(size_t(p.n)), sums(13 * kBlock, -1.0f);
    std::vector<int> counts(3, 0);
    for (int i = 0; i < p.n; ++i) x[size_t(i)] = 1.0f / float(i + 1);
    p.x = x.data(), p.sums = sums.data(), p.counts = counts.data();
    if (strcmp(name, "price") == 0) {
        p.n = 20000;
        tell_price<0>("shuffle", p);
        tell_price<1>("ballot", p);
        tell_price<2>("barrier", p);
        return 0;
    }
    if (const int code = run(name, p)) return printf("%d: %s\n", code, SPLATLEARN_NAMESPACE::device_error(code)), 0;
    for (float sum : sums) printf("%.9g\n", double(sum));
    for (int c : counts) printf("%d\n", c);
}
