// The lists of stage bin on CUDA: the rows that touch a tile are brought together and sorted by depth, their instances are
// written in that order, and one stable sort by tile finishes the lists, with keys of 16 bits where that many tiles suffice.
//
// A row's instances have consecutive slots, so that its gradients lie together. The caller may write before it knows how many
// rows and instances there are, into room that it guesses: what is free sorts last, and where the room does not suffice the
// lists are empty and the overflow flag is set; the counts then tell how much room to write them again in.
#include "reach.h"
#include "sort.h"

namespace SPLATLEARN_NAMESPACE {
namespace {

constexpr int kThreads = SPLATLEARN_BIN_BLOCK;
constexpr int kWarps = kThreads / kWarp;
constexpr int kOwnTiles = 64;  // a Gaussian of more tiles is written by a warp

// How many rows and instances are listed: all, or none where the room is too small for either.
struct Listed {
    int64_t rows, instances;
    SPLATLEARN_DEVICE explicit Listed(const splatlearn_BinWrite &out)
        : rows(out.block_offsets[(out.in.n_rows + kThreads - 1) / kThreads]), instances(out.row_offsets[out.in.n_rows]) {
        if (rows > out.n_listed || instances > out.n_instances) rows = instances = 0;
    }
};

template <class S> struct DepthKeys;
template <> struct DepthKeys<float> { using Key = uint32_t; };
template <> struct DepthKeys<double> { using Key = uint64_t; };
// Positive floats sort as their bit patterns do.
SPLATLEARN_DEVICE uint32_t depth_key(float depth) { return __float_as_uint(depth); }
SPLATLEARN_DEVICE uint64_t depth_key(double depth) { return uint64_t(__double_as_longlong(depth)); }

// ---- rows that touch a tile, together, in their order ----

template <class S> struct ListedParams {
    splatlearn_BinWrite out;
    typename DepthKeys<S>::Key *keys;  // [n_listed]
    uint32_t *rows;                    // [n_listed]
};

template <class S> SPLATLEARN_KERNEL __launch_bounds__(kThreads) void listed_rows_kernel(ListedParams<S> p) {
    SPLATLEARN_SHARED(int, before, kWarps);  // listed rows of the block's warps before each
    const splatlearn_BinWrite &out = p.out;
    const int64_t row = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    const bool listed = row < out.in.n_rows && out.row_offsets[row + 1] > out.row_offsets[row];
    const unsigned mine = __ballot_sync(kFull, listed);
    if (lane == 0) before[warp] = __popc(mine);
    __syncthreads();
    int64_t place = out.block_offsets[blockIdx.x] + __popc(mine & ((1u << lane) - 1));
    for (int w = 0; w < warp; ++w) place += before[w];
    if (listed && place < out.n_listed) {
        p.keys[place] = depth_key(static_cast<const S *>(out.in.depths)[row]);
        p.rows[place] = uint32_t(row);
    }
    if (row >= out.block_offsets[gridDim.x] && row < out.n_listed) {  // what is free sorts last
        p.keys[row] = ~typename DepthKeys<S>::Key(0);
        p.rows[row] = 0;
    }
}

struct OrderParams {
    splatlearn_BinWrite out;
    const uint32_t *order;  // [n_listed] rows by depth
    int32_t *counts;        // [n_listed] tiles of each, in that order
};

SPLATLEARN_KERNEL __launch_bounds__(kThreads) void ordered_counts_kernel(OrderParams p) {
    const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    if (i >= p.out.n_listed) return;
    const int64_t row = p.order[i];
    p.counts[i] = i < Listed(p.out).rows ? int32_t(p.out.row_offsets[row + 1] - p.out.row_offsets[row]) : 0;
}

// ---- instances ----

template <class S, class Key> struct WriteParams {
    splatlearn_BinWrite out;
    const uint32_t *order;
    const int64_t *starts;   // [n_listed] where the instances of each row in depth order begin
    Key *tiles;              // [capacity] tile of each instance, in depth order
    uint32_t *slots;         // [capacity] slot of each, likewise
    int32_t *row_of_slot;    // [capacity]
};

template <class S, class Key> SPLATLEARN_KERNEL __launch_bounds__(kThreads) void pad_kernel(WriteParams<S, Key> p) {
    const int64_t k = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    if (k < Listed(p.out).instances || k >= p.out.n_instances) return;
    p.tiles[k] = Key(~Key(0));
    p.slots[k] = 0;
}

// Writes the tiles begin..end-1 of a row's camera, from `slot` and `place` on.
template <class S, class Key>
SPLATLEARN_DEVICE void write_span(const WriteParams<S, Key> &p, int64_t row, int64_t camera, int begin, int end,
                                  int64_t slot, int64_t place) {
    const splatlearn_BinInputs &in = p.out.in;
    const int64_t first = camera * tiles_across(in.width) * tiles_across(in.height);
    for (int tile = begin; tile < end; ++tile, ++slot, ++place) {
        p.tiles[place] = Key(first + tile);
        p.slots[place] = uint32_t(slot);
        p.row_of_slot[slot] = int32_t(row);
    }
}

// A thread writes its own Gaussian, but those of many tiles are written by the whole warp, a row of tiles a lane.
template <class S, class Key>
SPLATLEARN_KERNEL __launch_bounds__(kThreads) void write_instances_kernel(WriteParams<S, Key> p) {
    const splatlearn_BinInputs &in = p.out.in;
    const int64_t rows = Listed(p.out).rows, i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    const int lane = threadIdx.x % kWarp;
    const int64_t first_of_warp = i - lane;
    const int64_t mine = i < rows ? p.order[i] : 0;
    const int64_t tiles = i < rows ? p.out.row_offsets[mine + 1] - p.out.row_offsets[mine] : 0;
    if (tiles > 0 && tiles <= kOwnTiles) {
        const Reach<S> reach(in, mine);
        const int64_t camera = camera_of(in, mine);
        int64_t slot = p.out.row_offsets[mine], place = p.starts[i];
        for (int tile_row = reach.first; tile_row < reach.last; ++tile_row) {
            int begin, end;
            reach.span(tile_row, begin, end);
            write_span(p, mine, camera, begin, end, slot, place);
            slot += end - begin;
            place += end - begin;
        }
    }
    for (unsigned large = __ballot_sync(kFull, tiles > kOwnTiles); large; large &= large - 1) {
        const int64_t at = first_of_warp + __ffs(int(large)) - 1, row = p.order[at];
        const Reach<S> reach(in, row);
        const int64_t camera = camera_of(in, row);
        int64_t slot = p.out.row_offsets[row], place = p.starts[at];
        for (int first = reach.first; first < reach.last; first += kWarp) {
            int begin = 0, end = 0;
            if (first + lane < reach.last) reach.span(first + lane, begin, end);
            int before = end - begin;  // becomes the sum over this lane and those below it
            for (int offset = 1; offset < kWarp; offset *= 2) {
                const int other = __shfl_up_sync(kFull, before, offset);
                if (lane >= offset) before += other;
            }
            const int total = __shfl_sync(kFull, before, kWarp - 1);
            before -= end - begin;
            write_span(p, row, camera, begin, end, slot + before, place + before);
            slot += total;
            place += total;
        }
    }
}

template <class Key> struct ListParams {
    const Key *tiles;             // [capacity] sorted
    const uint32_t *slots;        // [capacity] in the same order
    const int32_t *row_of_slot;
    splatlearn_BinWrite out;
    int64_t n_tiles;
};

template <class Key> SPLATLEARN_KERNEL __launch_bounds__(kThreads) void lists_kernel(ListParams<Key> p) {
    const int64_t k = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    const int64_t instances = Listed(p.out).instances;
    if (k == 0 && p.out.overflow && instances < p.out.row_offsets[p.out.in.n_rows]) *p.out.overflow = 1;
    if (k < instances) {
        const uint32_t slot = p.slots[k];
        p.out.slots[k] = slot;
        p.out.row_ids[k] = p.row_of_slot[slot];
    }
    if (k > p.n_tiles) return;
    int64_t low = 0, high = instances;  // the first instance of tile k or a later one
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (int64_t(p.tiles[middle]) < k) low = middle + 1;
        else high = middle;
    }
    p.out.tile_offsets[k] = low;
}

int64_t tiles_of(const splatlearn_BinInputs &in) { return in.n_cameras * tiles_across(in.width) * tiles_across(in.height); }
int bits_for(int64_t values) {
    int bits = 1;
    while (bits < 32 && (int64_t(1) << bits) < values) ++bits;
    return bits;
}

template <class S, class Key> struct WriteScratch {
    using Depth = typename DepthKeys<S>::Key;
    Depth *depths, *sorted_depths;
    uint32_t *rows, *order;
    int32_t *counts;
    int64_t *starts;
    Key *tiles, *sorted_tiles;
    uint32_t *slots, *sorted_slots;
    int32_t *row_of_slot;
    size_t sort_size;
    char *sort;

    WriteScratch(Arena &arena, const splatlearn_BinWrite &out) {
        const int64_t rows_n = out.n_listed, n = out.n_instances;
        depths = arena.take<Depth>(rows_n); sorted_depths = arena.take<Depth>(rows_n);
        rows = arena.take<uint32_t>(rows_n); order = arena.take<uint32_t>(rows_n);
        counts = arena.take<int32_t>(rows_n); starts = arena.take<int64_t>(rows_n);
        tiles = arena.take<Key>(n); sorted_tiles = arena.take<Key>(n);
        slots = arena.take<uint32_t>(n); sorted_slots = arena.take<uint32_t>(n);
        row_of_slot = arena.take<int32_t>(n);
        sort_size = sort_pairs_bytes(rows_n, sizeof(Depth));
        const size_t others[] = {sort_pairs_bytes(n, sizeof(Key)), scan_bytes(rows_n)};
        for (const size_t other : others) sort_size = other > sort_size ? other : sort_size;
        sort = arena.take<char>(int64_t(sort_size));
    }
};

template <class S, class Key> int write_with_keys(const splatlearn_BinWrite &out) {
    const splatlearn_BinInputs &in = out.in;
    const cudaStream_t stream = stream_of(in.context);
    Arena arena(in.context.scratch);
    const WriteScratch<S, Key> s(arena, out);
    if (!fits(arena, in.context)) return kScratchTooSmall;
    const int64_t tiles = tiles_of(in), rows = out.n_listed, room = out.n_instances;
    if (room > 0 && rows > 0) {
        const ListedParams<S> listed = {out, s.depths, s.rows};
        const OrderParams order = {out, s.order, s.counts};
        const WriteParams<S, Key> write = {out, s.order, s.starts, s.tiles, s.slots, s.row_of_slot};
        const unsigned blocks = blocks_for(rows, kThreads);
        SPLATLEARN_TRY(SPLATLEARN_LAUNCH((listed_rows_kernel<S>), blocks_for(in.n_rows, kThreads), kThreads, stream, listed));
        SPLATLEARN_TRY(sort_pairs(s.depths, s.sorted_depths, s.rows, s.order, rows, 0, int(8 * sizeof(S)), s.sort, s.sort_size, stream));
        SPLATLEARN_TRY(SPLATLEARN_LAUNCH((ordered_counts_kernel), blocks, kThreads, stream, order));
        SPLATLEARN_TRY(exclusive_scan(s.counts, s.starts, rows, s.sort, s.sort_size, stream));
        SPLATLEARN_TRY(SPLATLEARN_LAUNCH((pad_kernel<S, Key>), blocks_for(room, kThreads), kThreads, stream, write));
        SPLATLEARN_TRY(SPLATLEARN_LAUNCH((write_instances_kernel<S, Key>), blocks, kThreads, stream, write));
        SPLATLEARN_TRY(sort_pairs(s.tiles, s.sorted_tiles, s.slots, s.sorted_slots, room, 0, bits_for(tiles + 1), s.sort, s.sort_size, stream));
    }
    const ListParams<Key> lists = {s.sorted_tiles, s.sorted_slots, s.row_of_slot, out, tiles};
    const int64_t threads = room > tiles + 1 ? room : tiles + 1;
    return SPLATLEARN_LAUNCH((lists_kernel<Key>), blocks_for(threads, kThreads), kThreads, stream, lists);
}

// All ones stay free for padding.
bool short_keys(const splatlearn_BinInputs &in) { return tiles_of(in) < UINT16_MAX; }

template <class S> int write(const splatlearn_BinWrite &out) {
    if (out.n_instances > INT32_MAX || out.n_listed > out.in.n_rows || tiles_of(out.in) >= INT32_MAX) return kTooMany;
    return short_keys(out.in) ? write_with_keys<S, uint16_t>(out) : write_with_keys<S, uint32_t>(out);
}

template <class S> int64_t scratch_of_write(const splatlearn_BinWrite &out) {
    Arena arena(nullptr);
    if (short_keys(out.in)) (void)WriteScratch<S, uint16_t>(arena, out);
    else (void)WriteScratch<S, uint32_t>(arena, out);
    return arena.used();
}

}  // namespace

int bin_write(const splatlearn_BinWrite &params) { return SPLATLEARN_BY_SCALAR(params, params.in.context, write); }
int64_t bin_write_scratch(const splatlearn_BinWrite &params) {
    return params.in.context.scalar_bytes == 4 ? scratch_of_write<float>(params) : scratch_of_write<double>(params);
}

}  // namespace SPLATLEARN_NAMESPACE
