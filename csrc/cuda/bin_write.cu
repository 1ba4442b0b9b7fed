// The lists of stage bin on CUDA for many instances. The rows that touch a tile are gathered and sorted by depth, their
// instances are written in that order, and one stable sort by tile completes the lists. Its keys have 16 bits where
// that suffices for the tiles, and it takes only the passes that their number needs. For few instances bin_tiles.cu
// needs a quarter of the launches.
//
// The instances of a row have consecutive slots, so that its gradients are adjacent. The caller may write before it
// knows the numbers of rows and instances, into buffers of a guessed capacity. Unused entries sort last. Where the
// capacity is too small, the lists are empty and the overflow flag is set; the counts then give the capacity for a
// retry.
#include "bin.h"
#include "sort.h"

namespace SPLATLEARN_NAMESPACE {
namespace {

// Capacities up to which the sort tile by tile is expected to be faster. Its comparisons grow with the square of the
// logarithm of the longest list, which one block sorts; its number of launches is constant.
constexpr int64_t kFewRows = 1 << 17, kFewInstances = 1 << 20, kFewTiles = 1 << 16;

// ---- gather the rows that touch a tile, in their order ----

template <class S> struct ListedParams {
    splatlearn_BinWrite out;
    typename DepthKeys<S>::Key *keys;  // [n_listed]
    uint32_t *rows;                    // [n_listed]
    int32_t *ticket;                   // cleared for the next kernel
};

template <class S> SPLATLEARN_KERNEL __launch_bounds__(kBinThreads) void listed_rows_kernel(ListedParams<S> p) {
    SPLATLEARN_SHARED(int64_t, warps, kBinWarps);
    SPLATLEARN_SHARED(int, listed_warps, kBinWarps);
    const splatlearn_BinWrite &out = p.out;
    const int64_t row = int64_t(blockIdx.x) * kBinThreads + threadIdx.x;
    int tiles, total;
    first_slot(out, row, warps, tiles);
    const int64_t place = out.block_offsets[2 * int64_t(blockIdx.x)] + sum_before(int(tiles > 0), listed_warps, total);
    if (tiles > 0 && place < out.n_listed) {
        p.keys[place] = depth_key(static_cast<const S *>(out.inputs.depths)[row]);
        p.rows[place] = uint32_t(row);
    }
    if (row >= out.block_offsets[2 * int64_t(gridDim.x)] && row < out.n_listed) {  // unused entries sort last
        p.keys[row] = ~typename DepthKeys<S>::Key(0);
        p.rows[row] = 0;
    }
    if (row == 0) *p.ticket = 0;
}

struct OrderParams {
    splatlearn_BinWrite out;
    const uint32_t *order;  // [n_listed] rows by depth
    uint32_t *starts;       // [n_listed] first instance of each, relative to its block
    uint32_t *blocks;       // [blocks] first instance of a block
    int32_t *ticket;
};

SPLATLEARN_KERNEL __launch_bounds__(kBinThreads) void starts_kernel(OrderParams p) {
    SPLATLEARN_SHARED(unsigned, warps, kBinWarps);
    SPLATLEARN_SHARED(int, last, 1);
    const int64_t i = int64_t(blockIdx.x) * kBinThreads + threadIdx.x;
    const bool listed = i < Listed(p.out).rows;
    unsigned total;
    const unsigned start = sum_before(listed ? unsigned(p.out.counts[p.order[i]]) : 0u, warps, total);
    if (listed) p.starts[i] = start;
    if (threadIdx.x == 0) p.blocks[blockIdx.x] = total;
    if (!comes_last(p.ticket, last)) return;
    prefix_sums(
        gridDim.x, warps, [&](int64_t b) { return p.blocks[b]; }, [&](int64_t b, unsigned sum) { p.blocks[b] = sum; });
}

// ---- instances ----

template <class Key> struct WriteParams {
    splatlearn_BinWrite out;
    const uint32_t *order, *starts, *blocks;
    Key *tiles;            // [capacity] tile of each instance, in depth order
    uint32_t *slots;       // [capacity] slot of each, likewise
    int32_t *row_of_slot;  // [capacity]
};

// A warp writes the instances of 32 rows, one after the other; the grid fills the unused entries.
template <class S, class Key, class Primitive>
SPLATLEARN_KERNEL __launch_bounds__(kBinThreads) void write_instances_kernel(WriteParams<Key> p) {
    const splatlearn_BinInputs &in = p.out.inputs;
    const Listed listed(p.out);
    const int64_t i = int64_t(blockIdx.x) * kBinThreads + threadIdx.x, stride = int64_t(gridDim.x) * kBinThreads;
    for (int64_t unused = listed.instances + i; unused < p.out.n_instances; unused += stride) {
        p.tiles[unused] = Key(~Key(0));
        p.slots[unused] = 0;
    }
    const int64_t row = i < listed.rows ? p.order[i] : in.n_rows;
    // The first instance of each lane's row; that of lane 0 is the first of the warp.
    const int start = i < listed.rows ? int(p.blocks[blockIdx.x] + p.starts[i]) : 0;
    const int first = __shfl_sync(kFull, start, 0);
    const int to_slot = i < listed.rows ? int(p.out.row_offsets[row]) - (start - first) : 0;
    const int to_tile =
        i < listed.rows ? int(camera_of(in, row)) * tiles_across(in.width) * tiles_across(in.height) : 0;
    for_instances(Reach<S>(Primitive(), in, row), [&](int instance, int owner, int tile) {
        const int slot = instance + __shfl_sync(kFull, to_slot, owner), row_id = __shfl_sync(kFull, int(row), owner);
        tile += __shfl_sync(kFull, to_tile, owner);
        if (instance < 0) return;
        p.tiles[first + instance] = Key(tile);
        p.slots[first + instance] = uint32_t(slot);
        p.row_of_slot[slot] = row_id;
    });
}

template <class Key> struct ListParams {
    const Key *tiles;       // [capacity] sorted
    const uint32_t *slots;  // [capacity] in the same order
    const int32_t *row_of_slot;
    splatlearn_BinWrite out;
    int64_t n_tiles;
};

template <class Key> SPLATLEARN_KERNEL __launch_bounds__(kBinThreads) void lists_kernel(ListParams<Key> p) {
    const int64_t k = int64_t(blockIdx.x) * kBinThreads + threadIdx.x;
    const int64_t instances = Listed(p.out).instances;
    if (k == 0 && p.out.overflow && instances < p.out.row_offsets[p.out.inputs.n_rows]) *p.out.overflow = 1;
    if (k < instances) {
        const uint32_t slot = p.slots[k];
        p.out.slots[k] = slot;
        p.out.row_ids[k] = p.row_of_slot[slot];
    }
    if (k > p.n_tiles) return;
    int64_t low = 0, high = instances;  // find the first instance of tile k or of a later one
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (int64_t(p.tiles[middle]) < k)
            low = middle + 1;
        else
            high = middle;
    }
    p.out.tile_offsets[k] = low;
}

int bits_for(int64_t values) {
    int bits = 1;
    while (bits < 32 && (int64_t(1) << bits) < values) ++bits;
    return bits;
}

template <class S, class Key> struct WriteScratch {
    using Depth = typename DepthKeys<S>::Key;
    Depth *depths, *sorted_depths;
    uint32_t *rows, *order, *starts, *blocks;
    Key *tiles, *sorted_tiles;
    uint32_t *slots, *sorted_slots;
    int32_t *row_of_slot, *ticket;
    size_t sort_size;
    char *sort;

    WriteScratch(Arena &arena, const splatlearn_BinWrite &out) {
        const int64_t rows_n = out.n_listed, n = out.n_instances;
        depths = arena.take<Depth>(rows_n);
        sorted_depths = arena.take<Depth>(rows_n);
        rows = arena.take<uint32_t>(rows_n);
        order = arena.take<uint32_t>(rows_n);
        starts = arena.take<uint32_t>(rows_n);
        blocks = arena.take<uint32_t>(blocks_for(rows_n, kBinThreads));
        tiles = arena.take<Key>(n);
        sorted_tiles = arena.take<Key>(n);
        slots = arena.take<uint32_t>(n);
        sorted_slots = arena.take<uint32_t>(n);
        row_of_slot = arena.take<int32_t>(n);
        ticket = arena.take<int32_t>(1);
        const size_t sizes[] = {sort_pairs_bytes(rows_n, sizeof(Depth)), sort_pairs_bytes(n, sizeof(Key))};
        sort_size = sizes[0] > sizes[1] ? sizes[0] : sizes[1];
        sort = arena.take<char>(int64_t(sort_size));
    }
};

template <class S, class Key> int write_with_keys(const splatlearn_BinWrite &out) {
    const splatlearn_BinInputs &in = out.inputs;
    const cudaStream_t stream = stream_of(in.context);
    Arena arena(in.context.scratch);
    const WriteScratch<S, Key> s(arena, out);
    if (!fits(arena, in.context)) return kScratchTooSmall;
    const int64_t tiles = tiles_of(in), rows = out.n_listed, capacity = out.n_instances;
    const ListedParams<S> listed = {out, s.depths, s.rows, s.ticket};
    SPLATLEARN_TRY(
        SPLATLEARN_LAUNCH((listed_rows_kernel<S>), blocks_for(in.n_rows, kBinThreads), kBinThreads, stream, listed));
    if (capacity > 0 && rows > 0) {
        const OrderParams order = {out, s.order, s.starts, s.blocks, s.ticket};
        const WriteParams<Key> write = {out, s.order, s.starts, s.blocks, s.tiles, s.slots, s.row_of_slot};
        const unsigned blocks = blocks_for(rows, kBinThreads);
        SPLATLEARN_TRY(sort_pairs(s.depths, s.sorted_depths, s.rows, s.order, rows, 0, int(8 * sizeof(S)), s.sort,
                                  s.sort_size, stream));
        SPLATLEARN_TRY(SPLATLEARN_LAUNCH((starts_kernel), blocks, kBinThreads, stream, order));
        SPLATLEARN_TRY(by_primitive(in, [&](auto primitive) {
            using Primitive = decltype(primitive);
            return SPLATLEARN_LAUNCH((write_instances_kernel<S, Key, Primitive>), blocks, kBinThreads, stream, write);
        }));
        SPLATLEARN_TRY(sort_pairs(s.tiles, s.sorted_tiles, s.slots, s.sorted_slots, capacity, 0, bits_for(tiles + 1),
                                  s.sort, s.sort_size, stream));
    }
    const ListParams<Key> lists = {s.sorted_tiles, s.sorted_slots, s.row_of_slot, out, tiles};
    const int64_t threads = capacity > tiles + 1 ? capacity : tiles + 1;
    return SPLATLEARN_LAUNCH((lists_kernel<Key>), blocks_for(threads, kBinThreads), kBinThreads, stream, lists);
}

// The key of all ones is reserved for padding.
bool short_keys(const splatlearn_BinInputs &in) { return tiles_of(in) < UINT16_MAX; }

bool by_tile(const splatlearn_BinWrite &out) {
    if (out.sorting != SPLATLEARN_SORT_AUTO) return out.sorting == SPLATLEARN_SORT_BY_TILE;
    return out.n_listed <= kFewRows && out.n_instances <= kFewInstances && tiles_of(out.inputs) <= kFewTiles;
}

template <class S> int write(const splatlearn_BinWrite &out) {
    if (out.n_instances > INT32_MAX || out.n_listed > out.inputs.n_rows || tiles_of(out.inputs) >= INT32_MAX)
        return kTooMany;
    if (by_tile(out)) return write_by_tile<S>(out);
    return short_keys(out.inputs) ? write_with_keys<S, uint16_t>(out) : write_with_keys<S, uint32_t>(out);
}

template <class S> int64_t scratch_of_write(const splatlearn_BinWrite &out) {
    if (by_tile(out)) return scratch_by_tile<S>(out);
    Arena arena(nullptr);
    if (short_keys(out.inputs))
        (void)WriteScratch<S, uint16_t>(arena, out);
    else
        (void)WriteScratch<S, uint32_t>(arena, out);
    return arena.used();
}

}  // namespace

int bin_write(const splatlearn_BinWrite &params) { return SPLATLEARN_BY_SCALAR(params, params.inputs.context, write); }
int64_t bin_write_scratch(const splatlearn_BinWrite &params) {
    return params.inputs.context.scalar_bytes == 4 ? scratch_of_write<float>(params) : scratch_of_write<double>(params);
}

}  // namespace SPLATLEARN_NAMESPACE
