// The lists of stage bin on CUDA for few instances. The time is then that of the launches, and these are four.
//
// The instances of each tile are counted, which gives each list its place. Instances are written there in any order,
// and one block per tile sorts its list by depth. The order in which threads reach a counter varies, but the sorted
// lists do not: slots break ties between equal depths.
#include "bin.h"

namespace SPLATLEARN_NAMESPACE {
namespace {

constexpr int kSortThreads = 128;
constexpr int kSorted = 1024;  // longest list sorted in shared memory; longer ones are sorted in global memory

template <class S> struct TileParams {
    splatlearn_BinWrite out;
    int64_t n_tiles;
    int32_t *ticket, *cursors;         // [1], [n_tiles], adjacent, zeros; place of each tile's next instance
    typename DepthKeys<S>::Key *keys;  // [capacity] by tile
    uint32_t *slots;                   // [capacity] likewise
    int32_t *row_of_slot;              // [capacity]
};

template <class S> SPLATLEARN_DEVICE int first_tile(const TileParams<S> &p, int64_t row) {
    const splatlearn_BinInputs &in = p.out.inputs;
    return row < in.n_rows ? int(camera_of(in, row)) * tiles_across(in.width) * tiles_across(in.height) : 0;
}

// One thread per row; the last block to finish turns counts into places.
template <class S, class Primitive>
SPLATLEARN_KERNEL __launch_bounds__(kBinThreads) void tile_counts_kernel(TileParams<S> p) {
    SPLATLEARN_SHARED(int64_t, warps, kBinWarps);
    SPLATLEARN_SHARED(int, last, 1);
    const splatlearn_BinWrite &out = p.out;
    const int64_t row = int64_t(blockIdx.x) * kBinThreads + threadIdx.x;
    const bool fits = Listed(out).instances > 0;
    int tiles;
    first_slot(out, row, warps, tiles);
    const int to_tile = first_tile(p, row);
    if (fits) {
        for_instances(Reach<S>(Primitive(), out.inputs, row), [&](int instance, int owner, int tile) {
            tile += __shfl_sync(kFull, to_tile, owner);
            if (instance >= 0) atomicAdd(&p.cursors[tile], 1);
        });
    }
    if (!comes_last(p.ticket, last)) return;
    const auto put = [&](int64_t tile, int64_t sum) { out.tile_offsets[tile] = p.cursors[tile] = int32_t(sum); };
    const int64_t total = prefix_sums(
        p.n_tiles, warps, [&](int64_t tile) { return int64_t(p.cursors[tile]); }, put);
    if (threadIdx.x != 0) return;
    out.tile_offsets[p.n_tiles] = total;
    const int64_t wanted = out.block_offsets[2 * ((out.inputs.n_rows + kBinThreads - 1) / kBinThreads) + 1];
    if (out.overflow && total < wanted) *out.overflow = 1;
}

template <class S, class Primitive>
SPLATLEARN_KERNEL __launch_bounds__(kBinThreads, 2) void distribute_kernel(TileParams<S> p) {
    const splatlearn_BinWrite &out = p.out;
    const int64_t row = int64_t(blockIdx.x) * kBinThreads + threadIdx.x;
    if (Listed(out).instances == 0) return;
    const bool exists = row < out.inputs.n_rows;
    const int tiles = exists ? out.counts[row] : 0, before = warp_scan(tiles) - tiles;
    const int to_slot = exists ? int(out.row_offsets[row]) - before : 0;
    const S depth = exists ? static_cast<const S *>(out.inputs.depths)[row] : S(0);
    const int to_tile = first_tile(p, row);
    for_instances(Reach<S>(Primitive(), out.inputs, row), [&](int instance, int owner, int tile) {
        const int slot = instance + __shfl_sync(kFull, to_slot, owner), row_id = __shfl_sync(kFull, int(row), owner);
        const S key = __shfl_sync(kFull, depth, owner);
        tile += __shfl_sync(kFull, to_tile, owner);
        if (instance < 0) return;
        const int place = atomicAdd(&p.cursors[tile], 1);
        p.keys[place] = depth_key(key);
        p.slots[place] = uint32_t(slot);
        p.row_of_slot[slot] = row_id;
    });
}

// ---- one block sorts the list of a tile ----

template <class Key> SPLATLEARN_DEVICE void order_pair(Key *keys, uint32_t *slots, int low, int high, int count) {
    if (high >= count) return;  // missing entries are larger than all others
    const Key a = keys[low], b = keys[high];
    const uint32_t slot_a = slots[low], slot_b = slots[high];
    if (a < b || (a == b && slot_a < slot_b)) return;
    keys[low] = b;
    keys[high] = a;
    slots[low] = slot_b;
    slots[high] = slot_a;
}

// Batcher's bitonic network in the form whose comparisons all ascend: sorted halves are compared end to end, then
// neighbours at halved distances.
template <class Key> SPLATLEARN_DEVICE void sort_list(Key *keys, uint32_t *slots, int count) {
    for (int size = 2; size < 2 * count; size *= 2) {
        for (int stride = size / 2; stride > 0; stride /= 2) {
            const bool ends = stride == size / 2;
            for (int pair = threadIdx.x;; pair += kSortThreads) {
                const int low = pair + (pair & ~(stride - 1));
                if (low >= count) break;
                order_pair(keys, slots, low, ends ? low ^ (size - 1) : low + stride, count);
            }
            __syncthreads();
        }
    }
}

template <class S> SPLATLEARN_KERNEL __launch_bounds__(kSortThreads) void tile_lists_kernel(TileParams<S> p) {
    using Key = typename DepthKeys<S>::Key;
    SPLATLEARN_SHARED(Key, near_keys, kSorted);
    SPLATLEARN_SHARED(uint32_t, near_slots, kSorted);
    const int64_t begin = p.out.tile_offsets[blockIdx.x];
    const int count = int(p.out.tile_offsets[blockIdx.x + 1] - begin);
    Key *keys = p.keys + begin;
    uint32_t *slots = p.slots + begin;
    if (count <= kSorted) {
        for (int i = threadIdx.x; i < count; i += kSortThreads) {
            near_keys[i] = keys[i];
            near_slots[i] = slots[i];
        }
        keys = near_keys;
        slots = near_slots;
        __syncthreads();
    }
    sort_list(keys, slots, count);
    for (int i = threadIdx.x; i < count; i += kSortThreads) {
        p.out.slots[begin + i] = slots[i];
        p.out.row_ids[begin + i] = p.row_of_slot[slots[i]];
    }
}

template <class S> TileParams<S> layout(const splatlearn_BinWrite &out, Arena &arena) {
    TileParams<S> params = {out, tiles_of(out.inputs), nullptr, nullptr, nullptr, nullptr, nullptr};
    params.ticket = arena.take<int32_t>(1 + params.n_tiles);
    params.cursors = params.ticket ? params.ticket + 1 : nullptr;
    params.keys = arena.take<typename DepthKeys<S>::Key>(out.n_instances);
    params.slots = arena.take<uint32_t>(out.n_instances);
    params.row_of_slot = arena.take<int32_t>(out.n_instances);
    return params;
}

}  // namespace

template <class S> int write_by_tile(const splatlearn_BinWrite &out) {
    Arena arena(out.inputs.context.scratch);
    const TileParams<S> params = layout<S>(out, arena);
    if (!fits(arena, out.inputs.context)) return kScratchTooSmall;
    const cudaStream_t stream = stream_of(out.inputs.context);
    const unsigned rows = blocks_for(out.inputs.n_rows, kBinThreads);
    const unsigned blocks = rows > 0 ? rows : 1;  // one block writes the offsets of empty lists
    SPLATLEARN_TRY(failure_of(cudaMemsetAsync(params.ticket, 0, size_t(1 + params.n_tiles) * sizeof(int32_t), stream)));
    return by_primitive(out.inputs, [&](auto primitive) {
        using Primitive = decltype(primitive);
        SPLATLEARN_TRY(SPLATLEARN_LAUNCH((tile_counts_kernel<S, Primitive>), blocks, kBinThreads, stream, params));
        if (out.n_instances == 0) return 0;
        SPLATLEARN_TRY(SPLATLEARN_LAUNCH((distribute_kernel<S, Primitive>), blocks, kBinThreads, stream, params));
        return SPLATLEARN_LAUNCH((tile_lists_kernel<S>), unsigned(params.n_tiles), kSortThreads, stream, params);
    });
}

template <class S> int64_t scratch_by_tile(const splatlearn_BinWrite &out) {
    Arena arena(nullptr);
    layout<S>(out, arena);
    return arena.used();
}

template int write_by_tile<float>(const splatlearn_BinWrite &);
template int write_by_tile<double>(const splatlearn_BinWrite &);
template int64_t scratch_by_tile<float>(const splatlearn_BinWrite &);
template int64_t scratch_by_tile<double>(const splatlearn_BinWrite &);

}  // namespace SPLATLEARN_NAMESPACE
