// Stage bin on the CPU: which tiles each 2D Gaussian touches, listed by tile in depth order. There is no derivative:
// the lists are integers, and a Gaussian that enters or leaves a tile has alpha at the threshold there.
//
// The tiles of each row are found in row order, one register of Gaussians at a time. Then the visible rows are sorted
// by depth, and a stable counting pass distributes their instances over tiles in that order, so each list is sorted.
// Both passes split their items into contiguous pieces, one per thread. Exact counts give the place where each piece
// writes, so the lists do not depend on the number of threads.
#include "cpu.h"

#include "../math/primitive/primitive.h"
#include "../math/tile.h"

namespace SPLATLEARN_NAMESPACE {
namespace {

// ---- the tiles that up to one register of Gaussians reach, for counting and for writing alike ----

template <class S, class Primitive> class Reach {
public:
    static constexpr int L = Lanes<S>::count;

    // Rows begin..begin+n-1 of the inputs.
    Reach(const splatlearn_BinInputs &inputs, S log2_cut, int64_t begin, int n) : in(inputs) {
        constexpr int kShape = Primitive::kShape;
        const S *means = static_cast<const S *>(in.means2d), *shapes = static_cast<const S *>(in.conics);
        const S *opacities = static_cast<const S *>(in.opacities);
        S shape[kShape][L], opacity[L];
        for (int i = 0; i < L; ++i) {
            const int64_t row = begin + (i < n ? i : 0);
            mean[0][i] = means[2 * row];
            mean[1][i] = means[2 * row + 1];
            for (int j = 0; j < kShape; ++j) shape[j][i] = shapes[kShape * row + j];
            const bool visible = i < n && in.radii[2 * row] > 0 && in.radii[2 * row + 1] > 0;
            opacity[i] = visible ? opacities[row] : S(0);  // a level that is not positive reaches nothing
        }
        Lanes<S> lanes[kShape];
        for (int j = 0; j < kShape; ++j) lanes[j] = load(shape[j]);
        ellipse = Primitive::ellipse(lanes, load(opacity), log2_cut);
        const Lanes<S> all(S(1e9));
        pixels(ellipse_in_slab(transposed(ellipse), -all, all), 1, in.height);
        for (int i = 0; i < L; ++i) {
            tiles_of_pixels(first[i], last[i], top[i], bottom[i]);
            if (bottom[i] - top[i] > rows) rows = bottom[i] - top[i];
        }
    }

    // Calls visit(lane, first_tile, last_tile) for each row of tiles that a lane reaches, from top to bottom;
    // half-open, of one camera.
    template <class F> void for_spans(F visit) {
        const int tiles_x = tiles_across(in.width);
        for (int step = 0; step < rows; ++step) {
            S low[L], high[L];
            for (int i = 0; i < L; ++i) slab_of_tiles(top[i] + step, in.height, mean[1][i], low[i], high[i]);
            pixels(ellipse_in_slab(ellipse, load(low), load(high)), 0, in.width);
            for (int i = 0; i < L; ++i) {
                const int row = (top[i] + step) * tiles_x;
                int begin, end;
                tiles_of_pixels(first[i], last[i], begin, end);
                if (top[i] + step < bottom[i] && begin < end) visit(i, row + begin, row + end);
            }
        }
    }

private:
    const splatlearn_BinInputs &in;
    Ellipse<Lanes<S>> ellipse;
    S mean[2][L];
    int first[L], last[L];  // pixels along an axis
    int top[L], bottom[L];  // rows of tiles
    int rows = 0;           // the largest number of rows that a lane reaches

    void pixels(Interval<Lanes<S>> interval, int axis, int count) {
        S low[L], high[L];
        auto reached = ellipse.level >= Lanes<S>();  // false for NaN, too
        store(low, select(reached, interval.low, Lanes<S>(S(1))));
        store(high, select(reached, interval.high, Lanes<S>()));
        for (int i = 0; i < L; ++i) pixels_of_interval(low[i], high[i], mean[axis][i], count, first[i], last[i]);
    }
};

template <class S, class Primitive> int count_primitive(const splatlearn_BinCount &out) {
    constexpr int L = Lanes<S>::count;
    const splatlearn_BinInputs &in = out.inputs;
    const S log2_cut = log2_threshold(S(in.alpha_threshold));
    out.row_offsets[0] = 0;
#pragma omp parallel for schedule(static) num_threads(in.context.threads)
    for (int64_t block = 0; block < (in.n_rows + L - 1) / L; ++block) {
        const int64_t begin = block * L;
        const int n = int(in.n_rows - begin < L ? in.n_rows - begin : L);
        int64_t tiles[L] = {};
        Reach<S, Primitive>(in, log2_cut, begin, n).for_spans([&](int i, int first, int last) {
            tiles[i] += last - first;
        });
        for (int i = 0; i < n; ++i) out.row_offsets[begin + i + 1] = tiles[i];
    }
    for (int64_t row = 0; row < in.n_rows; ++row) out.row_offsets[row + 1] += out.row_offsets[row];
    out.block_offsets[0] = 0;
    out.block_offsets[1] = out.row_offsets[in.n_rows];
    return 0;
}

template <class S> int count(const splatlearn_BinCount &out) {
    return by_primitive(out.inputs, [&](auto primitive) { return count_primitive<S, decltype(primitive)>(out); });
}

// ---- stable counting pass ----

// A stable counting pass: for_each(piece, visit) calls visit(bucket, item) for the items of a piece in their order, and
// each item is passed to put(place, item), with places bucket by bucket. cursors: [pieces * buckets]; starts: [buckets
// + 1] out, or null.
template <class ForEach, class Put>
void distribute(int pieces, int64_t buckets, int64_t *cursors, int64_t *starts, ForEach for_each, Put put) {
#pragma omp parallel for schedule(static, 1) num_threads(pieces)
    for (int piece = 0; piece < pieces; ++piece) {
        int64_t *const counts = cursors + piece * buckets;
        std::memset(counts, 0, size_t(buckets) * sizeof(int64_t));
        for_each(piece, [&](int64_t bucket, auto) { ++counts[bucket]; });
    }
    int64_t next = 0;
    for (int64_t bucket = 0; bucket < buckets; ++bucket) {
        if (starts) starts[bucket] = next;
        for (int piece = 0; piece < pieces; ++piece) {
            const int64_t here = cursors[piece * buckets + bucket];
            cursors[piece * buckets + bucket] = next;
            next += here;
        }
    }
    if (starts) starts[buckets] = next;
#pragma omp parallel for schedule(static, 1) num_threads(pieces)
    for (int piece = 0; piece < pieces; ++piece) {
        int64_t *const places = cursors + piece * buckets;
        for_each(piece, [&](int64_t bucket, auto item) { put(places[bucket]++, item); });
    }
}

int64_t share(int64_t items, int piece, int pieces) { return items * piece / pieces; }  // the first item of a piece

// ---- depth order ----

template <class S> struct Keyed;  // positive floats sort as their bit patterns do
template <> struct Keyed<float> { uint32_t key, row; };
template <> struct Keyed<double> {
    uint64_t key;
    int64_t row;
};

constexpr int kDigit = 11, kDigits = 1 << kDigit;
constexpr int64_t kFewRows = 1 << 16;

// Least-significant-digit radix sort; returns the buffer that holds the result. cursors: [pieces * kDigits].
template <class S> const Keyed<S> *by_depth(Keyed<S> *from, Keyed<S> *to, int64_t n, int pieces, int64_t *cursors) {
    for (int shift = 0; shift < 8 * int(sizeof(S)); shift += kDigit) {
        auto for_each = [&](int piece, auto visit) {
            for (int64_t i = share(n, piece, pieces); i < share(n, piece + 1, pieces); ++i)
                visit(from[i].key >> shift & (kDigits - 1), from[i]);
        };
        distribute(pieces, kDigits, cursors, nullptr, for_each,
                   [&](int64_t place, Keyed<S> item) { to[place] = item; });
        Keyed<S> *const swap = from;
        from = to;
        to = swap;
    }
    return from;
}

// ---- write ----

// The tile of each instance, in row-major order.
template <class S, class Primitive>
void find_tiles(const splatlearn_BinWrite &out, int64_t tiles_per_image, int32_t *tiles) {
    constexpr int L = Lanes<S>::count;
    const splatlearn_BinInputs &in = out.inputs;
    const S log2_cut = log2_threshold(S(in.alpha_threshold));
    const int64_t rows_per_camera = in.n_rows / in.n_cameras;
#pragma omp parallel for schedule(static) num_threads(in.context.threads)
    for (int64_t block = 0; block < (in.n_rows + L - 1) / L; ++block) {
        const int64_t begin = block * L;
        const int n = int(in.n_rows - begin < L ? in.n_rows - begin : L);
        int64_t slots[L], base[L];
        for (int i = 0; i < n; ++i) {
            slots[i] = out.row_offsets[begin + i];
            base[i] = tiles_per_image * (in.camera_ids ? in.camera_ids[begin + i] : (begin + i) / rows_per_camera);
        }
        Reach<S, Primitive>(in, log2_cut, begin, n).for_spans([&](int i, int first, int last) {
            for (int tile = first; tile < last; ++tile) tiles[slots[i]++] = int32_t(base[i] + tile);
        });
    }
}

struct Instance {
    int64_t row, slot;
};
constexpr int kAhead = 16;  // rows

template <class S, class Primitive> int write_primitive(const splatlearn_BinWrite &out) {
    const splatlearn_BinInputs &in = out.inputs;
    const int64_t tiles_per_image = int64_t(tiles_across(in.width)) * tiles_across(in.height),
                  tiles = in.n_cameras * tiles_per_image;
    const int pieces = in.context.threads;
    Buffer<Keyed<S>> a(in.n_rows), b(in.n_rows);
    Buffer<int32_t> tile_of_slot(out.row_offsets[in.n_rows]);
    Buffer<int64_t> cursors(pieces * (tiles > kDigits ? tiles : kDigits));
    if (!a || !b || !tile_of_slot || !cursors) return kOutOfMemory;
    find_tiles<S, Primitive>(out, tiles_per_image, tile_of_slot.get());

    int64_t visible = 0;
    for (int64_t row = 0; row < in.n_rows; ++row) {
        if (out.row_offsets[row + 1] == out.row_offsets[row]) continue;
        Keyed<S> &item = a[visible++];
        std::memcpy(&item.key, static_cast<const S *>(in.depths) + row, sizeof(S));
        item.row = decltype(item.row)(row);
    }
    // A second thread pays, with six passes, for many rows only.
    const Keyed<S> *const sorted =
        by_depth<S>(a.get(), b.get(), visible, visible < kFewRows ? 1 : pieces, cursors.get());
    auto for_each = [&](int piece, auto visit) {  // rows near in depth are far apart in memory: prefetch
        const int64_t begin = share(visible, piece, pieces), end = share(visible, piece + 1, pieces);
        auto ahead = [&](int64_t i) { return out.row_offsets + sorted[i < end ? i : end - 1].row; };
        for (int64_t i = begin; i < end; ++i) {
            __builtin_prefetch(ahead(i + 2 * kAhead));
            __builtin_prefetch(tile_of_slot.get() + *ahead(i + kAhead));
            const int64_t row = sorted[i].row;
            for (int64_t slot = out.row_offsets[row]; slot < out.row_offsets[row + 1]; ++slot)
                visit(tile_of_slot[slot], Instance{row, slot});
        }
    };
    distribute(pieces, tiles, cursors.get(), out.tile_offsets, for_each, [&](int64_t place, Instance instance) {
        out.row_ids[place] = int32_t(instance.row);
        out.slots[place] = instance.slot;
    });
    return 0;
}

template <class S> int write(const splatlearn_BinWrite &out) {
    return by_primitive(out.inputs, [&](auto primitive) { return write_primitive<S, decltype(primitive)>(out); });
}

}  // namespace

int bin_count(const splatlearn_BinCount &params) { return SPLATLEARN_BY_SCALAR(params, params.inputs.context, count); }
int bin_write(const splatlearn_BinWrite &params) { return SPLATLEARN_BY_SCALAR(params, params.inputs.context, write); }

}  // namespace SPLATLEARN_NAMESPACE
