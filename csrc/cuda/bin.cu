// Which tiles each 2D Gaussian touches, on CUDA: the count, from which the caller knows how much room the lists need, or learns
// later that they had enough. No derivative, see csrc/cpu/bin.cpp; the lists are in bin_write.cu.
#include "reach.h"
#include "sort.h"

namespace SPLATLEARN_NAMESPACE {
namespace {

constexpr int kThreads = SPLATLEARN_BIN_BLOCK;

template <class S> struct CountParams {
    splatlearn_BinInputs in;
    int32_t *counts;         // [M] tiles of each row
    int32_t *block_counts;   // [blocks] rows of each block that touch a tile
    int64_t *row_offsets, *block_offsets;  // of which the first is written here
};

template <class S> SPLATLEARN_KERNEL __launch_bounds__(kThreads) void bin_count_kernel(CountParams<S> p) {
    const int64_t row = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    int64_t tiles = 0;
    if (row < p.in.n_rows) {
        const Reach<S> reach(p.in, row);
        for (int tile_row = reach.first; tile_row < reach.last; ++tile_row) {
            int begin, end;
            reach.span(tile_row, begin, end);
            tiles += end - begin;
        }
        p.counts[row] = int32_t(tiles < INT32_MAX ? tiles : INT32_MAX);  // the caller refuses so many: it sees the 64-bit total
    }
    const int listed = __syncthreads_count(tiles > 0);
    if (threadIdx.x != 0) return;
    p.block_counts[blockIdx.x] = listed;
    if (blockIdx.x == 0) p.row_offsets[0] = p.block_offsets[0] = 0;
}

struct CountScratch {
    int64_t blocks;
    int32_t *counts, *block_counts;
    size_t scan_size;
    char *scan;
    CountScratch(Arena &arena, const splatlearn_BinCount &out)
        : blocks(blocks_for(out.in.n_rows, kThreads)), counts(arena.take<int32_t>(out.in.n_rows)),
          block_counts(arena.take<int32_t>(blocks + 1)), scan_size(scan_bytes(out.in.n_rows) + scan_bytes(blocks)),
          scan(arena.take<char>(int64_t(scan_size))) {}
};

template <class S> int count(const splatlearn_BinCount &out) {
    const splatlearn_BinInputs &in = out.in;
    const cudaStream_t stream = stream_of(in.context);
    Arena arena(in.context.scratch);
    const CountScratch s(arena, out);
    if (!fits(arena, in.context)) return kScratchTooSmall;
    const unsigned blocks = unsigned(s.blocks > 0 ? s.blocks : 1);  // one writes the first offsets
    const CountParams<S> params = {in, s.counts, s.block_counts, out.row_offsets, out.block_offsets};
    SPLATLEARN_TRY(SPLATLEARN_LAUNCH((bin_count_kernel<S>), blocks, kThreads, stream, params));
    if (in.n_rows == 0) return 0;
    SPLATLEARN_TRY(inclusive_scan(s.block_counts, out.block_offsets + 1, s.blocks, s.scan, s.scan_size, stream));
    return inclusive_scan(s.counts, out.row_offsets + 1, in.n_rows, s.scan, s.scan_size, stream);
}

}  // namespace

int bin_count(const splatlearn_BinCount &params) { return SPLATLEARN_BY_SCALAR(params, params.in.context, count); }
int64_t bin_count_scratch(const splatlearn_BinCount &params) {
    Arena arena(nullptr);
    (void)CountScratch(arena, params);
    return arena.used();
}

}  // namespace SPLATLEARN_NAMESPACE
