// Which tiles each 2D Gaussian touches, listed by tile in depth order. No derivative: the lists are integers, and the
// Gaussian that a small step moves across a list's border has alpha at the threshold there, the cut that the method accepts.
//
// One depth sort of the visible rows, then a stable counting pass over tiles: instances are dealt in depth order, so each tile's list
// is sorted. Work is cut into contiguous pieces of the sorted rows, one a thread; where each piece writes follows from exact
// counts, so the lists do not depend on the number of pieces.
#include "cpu.h"

#include "../math/tile.h"

namespace SPLATLEARN_NAMESPACE {
namespace {

// Calls visit(first_tile, last_tile) for each row of tiles that the Gaussian reaches; the tiles are one camera's, half-open.
template <class S, class F> void for_tile_spans(const splatlearn_BinInputs &in, S log2_cut, int64_t row, F visit) {
    if (in.radii[2 * row] <= 0 || in.radii[2 * row + 1] <= 0) return;
    const S *mean = static_cast<const S *>(in.means2d) + 2 * row, *conic = static_cast<const S *>(in.conics) + 3 * row;
    const S a = conic[0], b = conic[1], c = conic[2];
    const S level = ellipse_level(static_cast<const S *>(in.opacities)[row], log2_cut);
    if (!(level >= S(0))) return;
    int first, last, tiles_x = tiles_across(in.width);
    const S all = S(1e9);
    Interval<S> height = ellipse_in_slab(c, b, a, level, -all, all);
    pixels_of_interval(height.low, height.high, mean[1], in.height, first, last);
    if (first >= last) return;
    for (int tile_y = first / kTile; tile_y <= (last - 1) / kTile; ++tile_y) {
        const int bottom = (tile_y + 1) * kTile < in.height ? (tile_y + 1) * kTile : in.height;
        Interval<S> span = ellipse_in_slab(a, b, c, level, S(tile_y * kTile) + S(0.5) - mean[1], S(bottom) - S(0.5) - mean[1]);
        int left, right;
        pixels_of_interval(span.low, span.high, mean[0], in.width, left, right);
        if (left < right) visit(tile_y * tiles_x + left / kTile, tile_y * tiles_x + (right - 1) / kTile + 1);
    }
}

template <class S> int count(const splatlearn_BinCount &out) {
    const splatlearn_BinInputs &in = out.in;
    const S log2_cut = log2_threshold(S(in.alpha_threshold));
    out.row_offsets[0] = 0;
#pragma omp parallel for schedule(static) num_threads(in.context.threads)
    for (int64_t row = 0; row < in.n_rows; ++row) {
        int64_t tiles = 0;
        for_tile_spans<S>(in, log2_cut, row, [&](int first, int last) { tiles += last - first; });
        out.row_offsets[row + 1] = tiles;
    }
    for (int64_t row = 0; row < in.n_rows; ++row) out.row_offsets[row + 1] += out.row_offsets[row];
    return 0;
}

// ---- depth order ----
struct Keyed { uint64_t key; int64_t row; };

uint64_t depth_key(float depth) { uint32_t bits; std::memcpy(&bits, &depth, 4); return bits; }      // positive floats sort as
uint64_t depth_key(double depth) { uint64_t bits; std::memcpy(&bits, &depth, 8); return bits; }     // their bit patterns do

// Stable least-significant-digit radix sort; returns the buffer that holds the result.
Keyed *radix_sort(Keyed *from, Keyed *to, int64_t n, int key_bytes) {
    constexpr int kBits = 11, kBuckets = 1 << kBits;
    for (int shift = 0; shift < 8 * key_bytes; shift += kBits) {
        int64_t starts[kBuckets] = {};
        for (int64_t i = 0; i < n; ++i) ++starts[from[i].key >> shift & (kBuckets - 1)];
        int64_t sum = 0;
        for (int64_t &start : starts) { int64_t here = start; start = sum; sum += here; }
        for (int64_t i = 0; i < n; ++i) to[starts[from[i].key >> shift & (kBuckets - 1)]++] = from[i];
        Keyed *swap = from; from = to; to = swap;
    }
    return from;
}

template <class S> int write(const splatlearn_BinWrite &out) {
    const splatlearn_BinInputs &in = out.in;
    const S log2_cut = log2_threshold(S(in.alpha_threshold));
    const int64_t tiles_per_image = int64_t(tiles_across(in.width)) * tiles_across(in.height), tiles = in.n_cameras * tiles_per_image;
    const int64_t rows_per_camera = in.n_rows / in.n_cameras;
    Buffer<Keyed> a(in.n_rows), b(in.n_rows);
    if (!a || !b) return kOutOfMemory;
    int64_t visible = 0;
    for (int64_t row = 0; row < in.n_rows; ++row)
        if (out.row_offsets[row + 1] > out.row_offsets[row]) a[visible++] = {depth_key(static_cast<const S *>(in.depths)[row]), row};
    const Keyed *sorted = radix_sort(a.get(), b.get(), visible, int(sizeof(S)));

    const int pieces = in.context.threads;
    Buffer<int64_t> cursors(pieces * tiles);  // per piece and tile: first a count, then where it writes next
    if (!cursors) return kOutOfMemory;
    auto deal = [&](int piece, auto place) {
        const int64_t begin = visible * piece / pieces, end = visible * (piece + 1) / pieces;
        for (int64_t i = begin; i < end; ++i) {
            const int64_t row = sorted[i].row;
            const int64_t camera = in.camera_ids ? in.camera_ids[row] : row / rows_per_camera;
            int64_t *cursor = cursors.get() + piece * tiles + camera * tiles_per_image, slot = out.row_offsets[row];
            for_tile_spans<S>(in, log2_cut, row, [&](int first, int last) {
                for (int tile = first; tile < last; ++tile) place(cursor[tile], row, slot++);
            });
        }
    };
#pragma omp parallel for schedule(static, 1) num_threads(pieces)
    for (int piece = 0; piece < pieces; ++piece) {
        std::memset(cursors.get() + piece * tiles, 0, size_t(tiles) * sizeof(int64_t));
        deal(piece, [](int64_t &cursor, int64_t, int64_t) { ++cursor; });
    }
    int64_t next = 0;
    for (int64_t tile = 0; tile < tiles; ++tile) {
        out.tile_offsets[tile] = next;
        for (int piece = 0; piece < pieces; ++piece) {
            int64_t here = cursors[piece * tiles + tile];
            cursors[piece * tiles + tile] = next;
            next += here;
        }
    }
    out.tile_offsets[tiles] = next;
#pragma omp parallel for schedule(static, 1) num_threads(pieces)
    for (int piece = 0; piece < pieces; ++piece)
        deal(piece, [&](int64_t &cursor, int64_t row, int64_t slot) {
            out.row_ids[cursor] = int32_t(row);
            out.slots[cursor++] = slot;
        });
    return 0;
}

}  // namespace

int bin_count(const splatlearn_BinCount &params) { return SPLATLEARN_BY_SCALAR(params, params.in.context, count); }
int bin_write(const splatlearn_BinWrite &params) { return SPLATLEARN_BY_SCALAR(params, params.in.context, write); }

}  // namespace SPLATLEARN_NAMESPACE
