// Which tiles each 2D Gaussian touches, listed by tile in depth order, on CUDA. No derivative, see csrc/cpu/bin.cpp.
//
// Rows are sorted by depth (culled ones last), instances are written in that order, and one stable sort by tile finishes the
// lists: keys of 16 bits where that many tiles suffice. A row's instances have consecutive slots, so that its gradients lie
// together. The caller may write before it knows how many instances there are, into lists of some capacity: what is free sorts
// last, and where the capacity does not suffice the lists are empty; row_offsets[M] then tells that they must be written again.
#include "stage.h"

#include "../math/tile.h"
#include "sort.h"

namespace SPLATLEARN_NAMESPACE {
namespace {

constexpr int kThreads = 256;
constexpr int kOwnTiles = 64;  // a Gaussian of more tiles is written by a warp

// The rows of tiles that a Gaussian reaches, and its span in each. Counting and writing both come here, so that they cannot disagree.
template <class S> struct Reach {
    S a, b, c, level, x, y;
    int width, height;
    int first, last;  // rows of tiles, half-open

    SPLATLEARN_DEVICE Reach(const splatlearn_BinInputs &in, int64_t row) : width(in.width), height(in.height), first(0), last(0) {
        if (in.radii[2 * row] <= 0 || in.radii[2 * row + 1] <= 0) return;
        const S *mean = static_cast<const S *>(in.means2d) + 2 * row, *conic = static_cast<const S *>(in.conics) + 3 * row;
        a = conic[0]; b = conic[1]; c = conic[2];
        x = mean[0]; y = mean[1];
        level = ellipse_level(static_cast<const S *>(in.opacities)[row], log2_threshold(S(in.alpha_threshold)));
        if (!(level >= S(0))) return;
        const Interval<S> pixels = ellipse_in_slab(c, b, a, level, S(-1e9), S(1e9));
        int top, bottom;
        pixels_of_interval(pixels.low, pixels.high, y, height, top, bottom);
        if (top >= bottom) return;
        first = top / kTile;
        last = (bottom - 1) / kTile + 1;
    }

    // The tiles of one camera that it reaches in a row of tiles, half-open.
    SPLATLEARN_DEVICE void span(int row, int &begin, int &end) const {
        const int below = (row + 1) * kTile < height ? (row + 1) * kTile : height;
        const Interval<S> pixels = ellipse_in_slab(a, b, c, level, S(row * kTile) + S(0.5) - y, S(below) - S(0.5) - y);
        int left, right;
        pixels_of_interval(pixels.low, pixels.high, x, width, left, right);
        begin = end = row * tiles_across(width);
        if (left >= right) return;
        end = begin + (right - 1) / kTile + 1;
        begin += left / kTile;
    }
};

// ---- count ----

template <class S> struct CountParams {
    splatlearn_BinInputs in;
    int32_t *counts;       // [M]
    int64_t *row_offsets;  // [M+1], of which the first is written here
};

template <class S> SPLATLEARN_KERNEL __launch_bounds__(kThreads) void bin_count_kernel(CountParams<S> p) {
    const int64_t row = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    if (row == 0) p.row_offsets[0] = 0;
    if (row >= p.in.n_rows) return;
    int64_t tiles = 0;
    const Reach<S> reach(p.in, row);
    for (int tile_row = reach.first; tile_row < reach.last; ++tile_row) {
        int begin, end;
        reach.span(tile_row, begin, end);
        tiles += end - begin;
    }
    p.counts[row] = int32_t(tiles < INT32_MAX ? tiles : INT32_MAX);  // the caller refuses so many: it sees the 64-bit total
}

struct CountScratch {
    int32_t *counts;
    size_t scan_size;
    char *scan;
    CountScratch(Arena &arena, const splatlearn_BinCount &out)
        : counts(arena.take<int32_t>(out.in.n_rows)), scan_size(scan_bytes(out.in.n_rows)),
          scan(arena.take<char>(int64_t(scan_size))) {}
};

template <class S> int count(const splatlearn_BinCount &out) {
    const splatlearn_BinInputs &in = out.in;
    const cudaStream_t stream = stream_of(in.context);
    Arena arena(in.context.scratch);
    const CountScratch scratch(arena, out);
    if (!fits(arena, in.context)) return kScratchTooSmall;
    const unsigned blocks = blocks_for(in.n_rows > 0 ? in.n_rows : 1, kThreads);
    const CountParams<S> params = {in, scratch.counts, out.row_offsets};
    SPLATLEARN_TRY(SPLATLEARN_LAUNCH((bin_count_kernel<S>), blocks, kThreads, stream, params));
    if (in.n_rows == 0) return 0;
    return inclusive_scan(scratch.counts, out.row_offsets + 1, in.n_rows, scratch.scan, scratch.scan_size, stream);
}

// ---- write ----

template <class S> struct DepthKeys;
template <> struct DepthKeys<float> { using Key = uint32_t; };
template <> struct DepthKeys<double> { using Key = uint64_t; };
// Positive floats sort as their bit patterns do.
SPLATLEARN_DEVICE uint32_t depth_key(float depth) { return __float_as_uint(depth); }
SPLATLEARN_DEVICE uint64_t depth_key(double depth) { return uint64_t(__double_as_longlong(depth)); }

template <class S> struct DepthParams {
    splatlearn_BinWrite out;
    typename DepthKeys<S>::Key *keys;  // [M]
    uint32_t *rows;                    // [M]
};

template <class S> SPLATLEARN_KERNEL __launch_bounds__(kThreads) void depth_keys_kernel(DepthParams<S> p) {
    const int64_t row = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    if (row >= p.out.in.n_rows) return;
    const bool listed = p.out.row_offsets[row + 1] > p.out.row_offsets[row];
    p.keys[row] = listed ? depth_key(static_cast<const S *>(p.out.in.depths)[row]) : ~typename DepthKeys<S>::Key(0);
    p.rows[row] = uint32_t(row);
}

struct OrderParams {
    const int64_t *row_offsets;
    const uint32_t *order;  // [M] rows by depth
    int64_t n_rows;
    int32_t *counts;        // [M] tiles of each, in that order
};

SPLATLEARN_KERNEL __launch_bounds__(kThreads) void ordered_counts_kernel(OrderParams p) {
    const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    if (i >= p.n_rows) return;
    const int64_t row = p.order[i];
    p.counts[i] = int32_t(p.row_offsets[row + 1] - p.row_offsets[row]);
}

template <class S, class Key> struct WriteParams {
    splatlearn_BinWrite out;
    const uint32_t *order;
    const int64_t *starts;   // [M] where the instances of each row in depth order begin
    Key *tiles;              // [capacity] tile of each instance, in depth order
    uint32_t *slots;         // [capacity] slot of each, likewise
    int32_t *row_of_slot;    // [capacity]
};

// Instances that fit: all, or none.
SPLATLEARN_DEVICE int64_t instances_of(const int64_t *row_offsets, int64_t n_rows, int64_t capacity) {
    return row_offsets[n_rows] <= capacity ? row_offsets[n_rows] : 0;
}

template <class S, class Key> SPLATLEARN_KERNEL __launch_bounds__(kThreads) void pad_kernel(WriteParams<S, Key> p) {
    const int64_t k = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    if (k < instances_of(p.out.row_offsets, p.out.in.n_rows, p.out.n_instances) || k >= p.out.n_instances) return;
    p.tiles[k] = Key(~Key(0));
    p.slots[k] = 0;
}

SPLATLEARN_DEVICE int64_t camera_of(const splatlearn_BinInputs &in, int64_t row) {
    return in.camera_ids ? in.camera_ids[row] : row / (in.n_rows / in.n_cameras);
}

// Writes the tiles begin..end-1 of a row's camera, from `slot` and `place` on. A row of no camera is put behind all lists.
template <class S, class Key>
SPLATLEARN_DEVICE void write_span(const WriteParams<S, Key> &p, int64_t row, int64_t camera, int begin, int end,
                                  int64_t slot, int64_t place) {
    const splatlearn_BinInputs &in = p.out.in;
    const bool known = camera >= 0 && camera < in.n_cameras;
    const int64_t first = camera * tiles_across(in.width) * tiles_across(in.height);
    for (int tile = begin; tile < end; ++tile, ++slot, ++place) {
        p.tiles[place] = known ? Key(first + tile) : Key(~Key(0));
        p.slots[place] = uint32_t(slot);
        p.row_of_slot[slot] = int32_t(row);
    }
}

// A thread writes its own Gaussian, but those of many tiles are written by the whole warp, a row of tiles a lane.
template <class S, class Key>
SPLATLEARN_KERNEL __launch_bounds__(kThreads) void write_instances_kernel(WriteParams<S, Key> p) {
    const splatlearn_BinInputs &in = p.out.in;
    if (p.out.row_offsets[in.n_rows] > p.out.n_instances) return;  // no room: all threads leave
    const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    const int lane = threadIdx.x % kWarp;
    const int64_t first_of_warp = i - lane;
    const int64_t mine = i < in.n_rows ? p.order[i] : 0;
    const int64_t tiles = i < in.n_rows ? p.out.row_offsets[mine + 1] - p.out.row_offsets[mine] : 0;
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
    const int64_t *row_offsets;
    int64_t n_rows, capacity, n_tiles;
    int32_t *overflow;            // or null
    int64_t *tile_offsets, *out_slots;
    int32_t *row_ids;
};

template <class Key> SPLATLEARN_KERNEL __launch_bounds__(kThreads) void lists_kernel(ListParams<Key> p) {
    const int64_t k = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    const int64_t instances = instances_of(p.row_offsets, p.n_rows, p.capacity);
    if (k == 0 && p.overflow && p.row_offsets[p.n_rows] > p.capacity) *p.overflow = 1;
    if (k < instances) {
        const uint32_t slot = p.slots[k];
        p.out_slots[k] = slot;
        p.row_ids[k] = p.row_of_slot[slot];
    }
    if (k > p.n_tiles) return;
    int64_t low = 0, high = instances;  // the first instance of tile k or a later one
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (int64_t(p.tiles[middle]) < k) low = middle + 1;
        else high = middle;
    }
    p.tile_offsets[k] = low;
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
        const int64_t rows_n = out.in.n_rows, n = out.n_instances;
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
    const int64_t tiles = tiles_of(in), capacity = out.n_instances;
    const unsigned blocks = blocks_for(in.n_rows, kThreads);
    if (capacity > 0 && in.n_rows > 0) {
        const DepthParams<S> depth = {out, s.depths, s.rows};
        const OrderParams order = {out.row_offsets, s.order, in.n_rows, s.counts};
        SPLATLEARN_TRY(SPLATLEARN_LAUNCH((depth_keys_kernel<S>), blocks, kThreads, stream, depth));
        SPLATLEARN_TRY(sort_pairs(s.depths, s.sorted_depths, s.rows, s.order, in.n_rows, 0, int(8 * sizeof(S)),
                                  s.sort, s.sort_size, stream));
        SPLATLEARN_TRY(SPLATLEARN_LAUNCH((ordered_counts_kernel), blocks, kThreads, stream, order));
        SPLATLEARN_TRY(exclusive_scan(s.counts, s.starts, in.n_rows, s.sort, s.sort_size, stream));
        const WriteParams<S, Key> write = {out, s.order, s.starts, s.tiles, s.slots, s.row_of_slot};
        SPLATLEARN_TRY(SPLATLEARN_LAUNCH((pad_kernel<S, Key>), blocks_for(capacity, kThreads), kThreads, stream, write));
        SPLATLEARN_TRY(SPLATLEARN_LAUNCH((write_instances_kernel<S, Key>), blocks, kThreads, stream, write));
        SPLATLEARN_TRY(sort_pairs(s.tiles, s.sorted_tiles, s.slots, s.sorted_slots, capacity, 0, bits_for(tiles + 1),
                                  s.sort, s.sort_size, stream));
    }
    const ListParams<Key> lists = {s.sorted_tiles, s.sorted_slots, s.row_of_slot, out.row_offsets, in.n_rows, capacity, tiles,
                                   out.overflow, out.tile_offsets, out.slots, out.row_ids};
    const int64_t threads = capacity > tiles + 1 ? capacity : tiles + 1;
    return SPLATLEARN_LAUNCH((lists_kernel<Key>), blocks_for(threads, kThreads), kThreads, stream, lists);
}

// All ones stay free for padding.
bool short_keys(const splatlearn_BinInputs &in) { return tiles_of(in) < UINT16_MAX; }

template <class S> int write(const splatlearn_BinWrite &out) {
    if (out.n_instances > INT32_MAX || tiles_of(out.in) >= INT32_MAX) return kTooMany;
    return short_keys(out.in) ? write_with_keys<S, uint16_t>(out) : write_with_keys<S, uint32_t>(out);
}

template <class S> int64_t scratch_of_write(const splatlearn_BinWrite &out) {
    Arena arena(nullptr);
    if (short_keys(out.in)) (void)WriteScratch<S, uint16_t>(arena, out);
    else (void)WriteScratch<S, uint32_t>(arena, out);
    return arena.used();
}

}  // namespace

int bin_count(const splatlearn_BinCount &params) { return SPLATLEARN_BY_SCALAR(params, params.in.context, count); }
int64_t bin_count_scratch(const splatlearn_BinCount &params) {
    Arena arena(nullptr);
    (void)CountScratch(arena, params);
    return arena.used();
}
int bin_write(const splatlearn_BinWrite &params) { return SPLATLEARN_BY_SCALAR(params, params.in.context, write); }
int64_t bin_write_scratch(const splatlearn_BinWrite &params) {
    return params.in.context.scalar_bytes == 4 ? scratch_of_write<float>(params) : scratch_of_write<double>(params);
}

}  // namespace SPLATLEARN_NAMESPACE
