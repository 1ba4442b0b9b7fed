// Which tiles each 2D Gaussian touches, on CUDA: the count, which gives the caller the capacity that the lists need,
// or learns later that they had enough. No derivative, see csrc/cpu/bin.cpp; the lists are in bin_write.cu and
// bin_tiles.cu.
#include "bin.h"

namespace SPLATLEARN_NAMESPACE {
namespace {

struct CountParams {
    splatlearn_BinCount out;
    int32_t *ticket;
};

// One thread per row; the last block to finish adds up the blocks.
template <class S, class Primitive>
SPLATLEARN_KERNEL __launch_bounds__(kBinThreads) void bin_count_kernel(CountParams p) {
    SPLATLEARN_SHARED(int64_t, warps, kBinWarps);
    SPLATLEARN_SHARED(int, last, 1);
    const int64_t row = int64_t(blockIdx.x) * kBinThreads + threadIdx.x, n = p.out.inputs.n_rows;
    const int tiles = count_tiles(Reach<S>(Primitive(), p.out.inputs, row));
    if (row < n) p.out.counts[row] = tiles;
    const int listed = __syncthreads_count(tiles > 0);
    int64_t instances;
    sum_before(int64_t(tiles), warps, instances);
    int64_t *const blocks = p.out.block_offsets;  // counts, later their prefix sums
    if (threadIdx.x == 0) {
        blocks[2 * int64_t(blockIdx.x)] = listed;
        blocks[2 * int64_t(blockIdx.x) + 1] = instances;
    }
    if (!comes_last(p.ticket, last)) return;
    const int64_t n_blocks = n > 0 ? gridDim.x : 0;
    for (int what = 0; what < 2; ++what) {
        const auto get = [&](int64_t i) { return blocks[2 * i + what]; };
        const int64_t total =
            prefix_sums(n_blocks, warps, get, [&](int64_t i, int64_t sum) { blocks[2 * i + what] = sum; });
        if (threadIdx.x != 0) continue;
        blocks[2 * n_blocks + what] = total;
        if (what == 1) p.out.row_offsets[n] = total;
    }
}

template <class S> int count(const splatlearn_BinCount &out) {
    const cudaStream_t stream = stream_of(out.inputs.context);
    Arena arena(out.inputs.context.scratch);
    const CountParams params = {out, arena.take<int32_t>(1)};
    if (!fits(arena, out.inputs.context)) return kScratchTooSmall;
    SPLATLEARN_TRY(failure_of(cudaMemsetAsync(params.ticket, 0, sizeof(int32_t), stream)));
    const unsigned blocks = blocks_for(out.inputs.n_rows, kBinThreads);
    return by_primitive(out.inputs, [&](auto primitive) {  // one block writes the totals
        return SPLATLEARN_LAUNCH((bin_count_kernel<S, decltype(primitive)>), blocks > 0 ? blocks : 1, kBinThreads,
                                 stream, params);
    });
}

}  // namespace

int bin_count(const splatlearn_BinCount &params) { return SPLATLEARN_BY_SCALAR(params, params.inputs.context, count); }
int64_t bin_count_scratch(const splatlearn_BinCount &) {
    Arena arena(nullptr);
    arena.take<int32_t>(1);
    return arena.used();
}

}  // namespace SPLATLEARN_NAMESPACE
