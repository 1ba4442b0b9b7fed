// What the kernels of stage bin share: sums over a block, the block that comes last, and where a row's instances begin.
#pragma once
#include "reach.h"

namespace SPLATLEARN_NAMESPACE {

constexpr int kBinThreads = SPLATLEARN_BIN_BLOCK;
constexpr int kBinWarps = kBinThreads / kWarp;

// Sum over the threads of a block before this one. `warps` is shared memory, free again behind the next barrier.
template <class T> SPLATLEARN_DEVICE T sum_before(T value, T (&warps)[kBinWarps], T &total) {
    const int warp = threadIdx.x / kWarp;
    const T with_mine = warp_scan(value);
    if (threadIdx.x % kWarp == kWarp - 1) warps[warp] = with_mine;
    __syncthreads();
    T before = with_mine - value;
    total = T(0);
    for (int w = 0; w < kBinWarps; ++w) {
        if (w < warp) before += warps[w];
        total += warps[w];
    }
    return before;
}

// Prefix sums by one block: reads the `count` numbers by get(i), and passes the sum of those before each to put(i,
// sum). Returns the total.
template <class T, class Get, class Put>
SPLATLEARN_DEVICE T prefix_sums(int64_t count, T (&warps)[kBinWarps], Get get, Put put) {
    constexpr int kEach = 8;  // adjacent numbers per thread
    T carry = T(0);
    for (int64_t begin = 0; begin < count; begin += kBinThreads * kEach) {
        const int64_t mine = begin + int64_t(threadIdx.x) * kEach;
        T values[kEach], sum = T(0), total;
#pragma unroll
        for (int j = 0; j < kEach; ++j) sum += values[j] = mine + j < count ? get(mine + j) : T(0);
        T before = carry + sum_before(sum, warps, total);
#pragma unroll
        for (int j = 0; j < kEach; ++j) {
            if (mine + j < count) put(mine + j, before);
            before += values[j];
        }
        carry += total;
        __syncthreads();
    }
    return carry;
}

// Whether this block is the last of the grid to come here; if so, it sees all that the others wrote before. `ticket`
// counts from 0.
SPLATLEARN_DEVICE bool comes_last(int32_t *ticket, int (&last)[1]) {
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) last[0] = atomicAdd(ticket, 1) == int(gridDim.x) - 1;
    __syncthreads();
    __threadfence();
    return last[0] != 0;
}

// The numbers of listed rows and instances: all, or none where the capacity of either is too small.
struct Listed {
    int64_t rows, instances;
    SPLATLEARN_DEVICE explicit Listed(const splatlearn_BinWrite &out) {
        const int64_t *totals = out.block_offsets + 2 * ((out.inputs.n_rows + kBinThreads - 1) / kBinThreads);
        rows = totals[0];
        instances = totals[1];
        if (rows > out.n_listed || instances > out.n_instances) rows = instances = 0;
    }
};

// The slot of a row's first instance, which is noted; a thread a row, in the blocks of count. `tiles`: how many
// instances it has.
SPLATLEARN_DEVICE int64_t first_slot(const splatlearn_BinWrite &out, int64_t row, int64_t (&warps)[kBinWarps],
                                     int &tiles) {
    tiles = row < out.inputs.n_rows ? out.counts[row] : 0;
    int64_t total;
    const int64_t slot = out.block_offsets[2 * int64_t(blockIdx.x) + 1] + sum_before(int64_t(tiles), warps, total);
    if (row < out.inputs.n_rows) out.row_offsets[row + 1] = slot + tiles;
    if (row == 0) out.row_offsets[0] = 0;
    return slot;
}

template <class S> struct DepthKeys;
template <> struct DepthKeys<float> { using Key = uint32_t; };
template <> struct DepthKeys<double> { using Key = uint64_t; };
// Positive floats sort as their bit patterns do.
SPLATLEARN_DEVICE uint32_t depth_key(float depth) { return __float_as_uint(depth); }
SPLATLEARN_DEVICE uint64_t depth_key(double depth) { return uint64_t(__double_as_longlong(depth)); }

inline int64_t tiles_of(const splatlearn_BinInputs &in) {
    return in.n_cameras * tiles_across(in.width) * tiles_across(in.height);
}

// The two ways to sort: bin_tiles.cu and bin_write.cu tell which is for what.
template <class S> int write_by_tile(const splatlearn_BinWrite &out);
template <class S> int64_t scratch_by_tile(const splatlearn_BinWrite &out);

}  // namespace SPLATLEARN_NAMESPACE
