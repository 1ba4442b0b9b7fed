// Alpha compositing on the CPU: a tile is the unit of work, its pixel rows are SIMD lanes, and the Gaussians of its list pass over it.
//
// Forward keeps per pixel the final transmittance and where it stopped. Backward walks the list in reverse, sums moments
// per (Gaussian, tile) into one row of gradients, and a second pass adds each Gaussian's rows in a fixed order: no atomics, the
// same bits for any number of threads.
#include "cpu.h"

#include "../math/blend.h"
#include "../math/tile.h"

namespace SPLATLEARN_NAMESPACE {
namespace {

constexpr int kPixels = kTile * kTile;
constexpr int kMoments = 6;               // columns of a gradient row: 6 moments, D colours, 2 absolute mean gradients
constexpr int64_t kListMax = 1 << 24;     // positions in a list are compared as float32

// ---- what forward and backward share ----

template <class S> struct Scene {
    const splatlearn_RasterizeInputs &in;
    Buffer<Splat<S>> splats;
    S log2_cut, stop_below;
    int tiles_x, tiles_y;
    int64_t tiles;

    explicit Scene(const splatlearn_RasterizeInputs &inputs)
        : in(inputs), splats(inputs.n_rows), log2_cut(log2_threshold(S(inputs.alpha_threshold))),
          // Backward recovers T by division, so a pixel always stops before T leaves the range of normal numbers.
          stop_below(maximum(S(inputs.transmittance_threshold), sizeof(S) == 4 ? S(1e-35) : S(1e-300))), tiles_x(tiles_across(inputs.width)),
          tiles_y(tiles_across(inputs.height)), tiles(inputs.n_cameras * tiles_x * tiles_y) {
        const S *means = static_cast<const S *>(in.means2d), *conics = static_cast<const S *>(in.conics), *opacities = static_cast<const S *>(in.opacities);
        if (!splats) return;
#pragma omp parallel for schedule(static) num_threads(in.context.threads)
        for (int64_t row = 0; row < in.n_rows; ++row)
            if (opacities[row] > S(0)) splats[row] = pack_splat(means + 2 * row, conics + 3 * row, opacities[row]);
    }
};

// Where a tile lies, and its list.
struct TilePlace {
    int64_t camera, begin, count;
    int x, y, width, height;  // first pixel and extent, px

    template <class S> TilePlace(const Scene<S> &scene, int64_t tile) {
        const int64_t per_image = int64_t(scene.tiles_x) * scene.tiles_y;
        camera = tile / per_image;
        begin = scene.in.tile_offsets[tile];
        count = scene.in.tile_offsets[tile + 1] - begin;
        x = int(tile % per_image % scene.tiles_x) * kTile;
        y = int(tile % per_image / scene.tiles_x) * kTile;
        width = scene.in.width - x < kTile ? scene.in.width - x : kTile;
        height = scene.in.height - y < kTile ? scene.in.height - y : kTile;
    }
    int64_t pixel(int image_width, int image_height, int row) const { return (camera * image_height + y + row) * image_width + x; }
};

// The rows of a tile that each of up to one register of splats reaches.
template <class S> struct RowRanges {
    int first[Lanes<S>::count], last[Lanes<S>::count];

    RowRanges(const Scene<S> &scene, const TilePlace &place, const int32_t *ids, int n) {
        constexpr int L = Lanes<S>::count;
        S field[6][L];
        for (int i = 0; i < L; ++i) {
            const Splat<S> &splat = scene.splats[ids[i < n ? i : 0]];
            field[0][i] = splat.x; field[1][i] = splat.y;
            field[2][i] = splat.a; field[3][i] = splat.b; field[4][i] = splat.c;
            field[5][i] = splat.log2_opacity;
        }
        Lanes<S> x = load(field[0]), half_b = S(0.5) * load(field[3]);
        Interval<Lanes<S>> rows = ellipse_in_slab(load(field[4]), half_b, load(field[2]), load(field[5]) - scene.log2_cut,
                                                  S(place.x) + S(0.5) - x, S(place.x + place.width) - S(0.5) - x);
        S low[L], high[L];
        store(low, rows.low);
        store(high, rows.high);
        for (int i = 0; i < n; ++i) pixels_of_interval(low[i], high[i], field[1][i] - S(place.y), place.height, first[i], last[i]);
    }
};

// A splat over the columns of a tile: what does not change from row to row.
template <class S> struct Columns {
    static constexpr int count = kTile / Lanes<S>::count;
    Lanes<S> dx[count], constant[count], linear[count];

    Columns(const Splat<S> &splat, const TilePlace &place) {
        for (int v = 0; v < count; ++v) {
            dx[v] = ramp<S>() + (S(place.x + v * Lanes<S>::count) + S(0.5) - splat.x);
            constant[v] = splat.log2_opacity - splat.a * dx[v] * dx[v];
            linear[v] = -splat.b * dx[v];
        }
    }
    // log2 alpha on the row dy below the mean
    SPLATLEARN_HD Lanes<S> log2_alpha(int v, Lanes<S> dy, Lanes<S> c_dy) const { return constant[v] + dy * (linear[v] - c_dy); }
};

// Tiles by falling length of their lists, so that the last ones to be worked on are short.
void longest_first(const int64_t *tile_offsets, int64_t tiles, int64_t *order) {
    constexpr int kBuckets = 2048;
    int64_t starts[kBuckets + 1] = {};
    auto bucket = [&](int64_t tile) {
        int64_t length = (tile_offsets[tile + 1] - tile_offsets[tile]) / 4;
        return kBuckets - 1 - int(length < kBuckets ? length : kBuckets - 1);
    };
    for (int64_t tile = 0; tile < tiles; ++tile) ++starts[bucket(tile) + 1];
    for (int b = 0; b < kBuckets; ++b) starts[b + 1] += starts[b];
    for (int64_t tile = 0; tile < tiles; ++tile) order[starts[bucket(tile)]++] = tile;
}

// ---- forward ----

// D > 0: channels known when compiled; D = 0: any number.
template <class S, int D> struct ForwardTile {
    static constexpr int L = Lanes<S>::count, kFixed = D ? D : 1;
    const splatlearn_RasterizeForward &out;
    const Scene<S> &scene;
    const TilePlace place;
    const int channels;
    S *const color;                         // [D][kPixels]
    alignas(64) S transmittance[kPixels];   // negative: stopped there, the sign marks it
    int32_t stops[kPixels];
    int live = 0, live_in_row[kTile] = {};

    ForwardTile(const splatlearn_RasterizeForward &o, const Scene<S> &s, int64_t tile, S *scratch)
        : out(o), scene(s), place(s, tile), channels(D ? D : o.in.channels), color(scratch) {
        std::memset(color, 0, size_t(channels) * kPixels * sizeof(S));
        for (int i = 0; i < kPixels; ++i) {
            const bool inside = i % kTile < place.width && i / kTile < place.height;
            transmittance[i] = inside ? S(1) : S(-1);
            stops[i] = INT32_MAX;
            live += inside;
            live_in_row[i / kTile] += inside;
        }
    }

    void run() {
        const int32_t *ids = scene.in.row_ids + place.begin;
        for (int64_t k = 0; k < place.count && live > 0; k += L) {
            const int n = int(place.count - k < L ? place.count - k : L);
            RowRanges<S> rows(scene, place, ids + k, n);
            for (int i = 0; i < n; ++i) composite(int32_t(k) + i, ids[k + i], rows.first[i], rows.last[i]);
        }
        write();
    }

    void composite(int32_t k, int32_t id, int first, int last) {
        const Splat<S> &splat = scene.splats[id];
        const Columns<S> columns(splat, place);
        // Copies in registers: what is stored through pointers of S below could be any other S in memory.
        const S log2_cut = scene.log2_cut, stop_below = scene.stop_below, *c = static_cast<const S *>(scene.in.colors) + int64_t(id) * channels;
        S fixed[kFixed], *const colors = color, *const T_at = transmittance;
        for (int d = 0; d < D; ++d) fixed[d] = c[d];
        const int n_channels = D ? D : channels;  // a constant where it can be
        const Lanes<S> from_mean(S(place.y) + S(0.5) - splat.y), one(S(1)), c_of(splat.c);
        Lanes<S> row_index(static_cast<S>(first));
        for (int row = first; row < last; ++row, row_index = row_index + one) {
            if (!live_in_row[row]) continue;
            const Lanes<S> dy = row_index + from_mean, c_dy = c_of * dy;
            for (int v = 0; v < Columns<S>::count; ++v) {
                const int at = row * kTile + v * L;
                Lanes<S> power = columns.log2_alpha(v, dy, c_dy), T = load(T_at + at);
                auto drawn = (power >= log2_cut) & (T > S(0));
                if (L < kTile && !any(drawn)) continue;  // a whole row of a tile is hardly ever missed
                Lanes<S> alpha = select(drawn, minimum(exponential2(power), Lanes<S>(S(kAlphaMax))), Lanes<S>{});
                Lanes<S> next = T, weight = blend(alpha, next);
                auto stopped = (next < stop_below) & drawn;
                if (__builtin_expect(any(stopped), 0)) {
                    stop(k, row, at, bits(stopped));
                    weight = select(stopped, Lanes<S>{}, weight);
                    next = select(stopped, -T, next);
                }
                store(T_at + at, next);
#pragma GCC unroll 4
                for (int d = 0; d < n_channels; ++d)
                    store(colors + d * kPixels + at, load(colors + d * kPixels + at) + weight * (D ? fixed[d] : c[d]));
            }
        }
    }

    void stop(int32_t k, int row, int at, uint32_t pixels) {
        const int n = __builtin_popcount(pixels);
        live -= n;
        live_in_row[row] -= n;
        for (; pixels; pixels &= pixels - 1) stops[at + __builtin_ctz(pixels)] = k;
    }

    void write() const {
        const S *background = scene.in.backgrounds ? static_cast<const S *>(scene.in.backgrounds) + place.camera * channels : nullptr;
        const int n_channels = D ? D : channels;
        for (int row = 0; row < place.height; ++row) {
            const int64_t pixel = place.pixel(scene.in.width, scene.in.height, row);
            const S *__restrict T_row = transmittance + row * kTile, *__restrict colors = color + row * kTile;
            S *__restrict T_out = static_cast<S *>(out.transmittance) + pixel, *__restrict alphas = static_cast<S *>(out.alphas) + pixel;
            S *__restrict render = static_cast<S *>(out.render) + pixel * n_channels;
            for (int x = 0; x < place.width; ++x) {
                const S T = absolute(T_row[x]);
                T_out[x] = T;
                alphas[x] = S(1) - T;
            }
            std::memcpy(out.stops + pixel, stops + row * kTile, size_t(place.width) * sizeof(int32_t));
            for (int d = 0; d < n_channels; ++d) {
                const S behind = background ? background[d] : S(0);
                for (int x = 0; x < place.width; ++x) render[x * n_channels + d] = colors[d * kPixels + x] + absolute(T_row[x]) * behind;
            }
        }
    }
};

template <class S, int D> int forward_channels(const splatlearn_RasterizeForward &out) {
    Scene<S> scene(out.in);
    Buffer<int64_t> order(scene.tiles);
    Buffer<S> scratch(int64_t(out.in.context.threads) * out.in.channels * kPixels);
    if (!scene.splats || !order || !scratch) return kOutOfMemory;
    longest_first(out.in.tile_offsets, scene.tiles, order.get());
#pragma omp parallel for schedule(dynamic, 1) num_threads(out.in.context.threads)
    for (int64_t i = 0; i < scene.tiles; ++i)
        ForwardTile<S, D>(out, scene, order[i], scratch.get() + int64_t(omp_get_thread_num()) * out.in.channels * kPixels).run();
    return 0;
}

// ---- backward ----

template <class S, int D, bool Abs> struct BackwardTile {
    static constexpr int L = Lanes<S>::count;
    static constexpr int kFixed = D ? D : 1;
    const splatlearn_RasterizeBackward &grad;
    const Scene<S> &scene;
    const TilePlace place;
    const int channels, columns_of_row;
    S *const v_color;                       // [D][kPixels] gradient of the image
    Lanes<S> *const wide_sums;              // [D] sums of colour gradients where D is not known when compiled
    alignas(64) S transmittance[kPixels];   // while walking: before the splats already undone
    alignas(64) S behind[kPixels];
    alignas(64) S stops[kPixels];           // splats from this position on are not drawn on the pixel
    int64_t end = 0;                        // of the part of the list that any pixel drew

    BackwardTile(const splatlearn_RasterizeBackward &g, const Scene<S> &s, int64_t tile, S *scratch, S *v_background)
        : grad(g), scene(s), place(s, tile), channels(D ? D : g.in.channels), columns_of_row(kMoments + channels + (Abs ? 2 : 0)),
          v_color(scratch), wide_sums(reinterpret_cast<Lanes<S> *>(scratch + channels * kPixels)) {
        const S *background = scene.in.backgrounds ? static_cast<const S *>(scene.in.backgrounds) + place.camera * channels : nullptr;
        for (int d = 0; v_background && d < channels; ++d) v_background[d] = S(0);
        if (place.width < kTile || place.height < kTile) std::memset(v_color, 0, size_t(channels) * kPixels * sizeof(S));
        for (int row = 0; row < kTile; ++row) begin_row(row, background, v_background);
    }

    // The state of a row of pixels behind all that was drawn on it. Not inlined: beside these loops the compiler has kept the sums of the
    // walk in memory, at twice its time.
    __attribute__((noinline)) void begin_row(int row, const S *background, S *v_background) {
        const int width = row < place.height ? place.width : 0, n_channels = D ? D : channels;
        S *__restrict T = transmittance + row * kTile, *__restrict rest = behind + row * kTile, *__restrict stop = stops + row * kTile;
        S *__restrict v_row = v_color + row * kTile;
        for (int x = width; x < kTile; ++x) {
            T[x] = S(1);
            rest[x] = stop[x] = S(0);
        }
        if (width == 0) return;
        const int64_t pixel = place.pixel(scene.in.width, scene.in.height, row);
        const S *__restrict v = static_cast<const S *>(grad.v_render) + pixel * n_channels;
        const S *__restrict v_alphas = grad.v_alphas ? static_cast<const S *>(grad.v_alphas) + pixel : nullptr;
        const S *__restrict T_in = static_cast<const S *>(grad.transmittance) + pixel;
        const int32_t *__restrict drawn = grad.stops + pixel, count = int32_t(place.count);
        int32_t furthest = 0;
        for (int x = 0; x < width; ++x) rest[x] = S(0);
        if (v_alphas)
            for (int x = 0; x < width; ++x) rest[x] = -v_alphas[x];
        for (int x = 0; x < width; ++x) {
            T[x] = T_in[x];
            const int32_t here = drawn[x] < count ? drawn[x] : count;
            stop[x] = S(here);
            furthest = here > furthest ? here : furthest;
        }
        if (furthest > end) end = furthest;
        for (int d = 0; d < n_channels; ++d) {
            for (int x = 0; x < width; ++x) v_row[d * kPixels + x] = v[x * n_channels + d];
            if (background)
                for (int x = 0; x < width; ++x) rest[x] += background[d] * v_row[d * kPixels + x];
            if (v_background)
                for (int x = 0; x < width; ++x) v_background[d] += T[x] * v_row[d * kPixels + x];
        }
    }

    S *row_of(int64_t k) const { return static_cast<S *>(grad.instance_rows) + grad.slots[place.begin + k] * columns_of_row; }

    void run() {
        const int32_t *ids = scene.in.row_ids + place.begin;
        for (int64_t k = end; k < place.count; ++k) std::memset(row_of(k), 0, size_t(columns_of_row) * sizeof(S));
        for (int64_t block = (end - 1) / L * L; block >= 0 && end > 0; block -= L) {
            const int n = int(end - block < L ? end - block : L);
            RowRanges<S> rows(scene, place, ids + block, n);
            for (int i = n - 1; i >= 0; --i) undo(block + i, ids[block + i], rows.first[i], rows.last[i]);
        }
    }

    void undo(int64_t k, int32_t id, int first, int last) {
        const Splat<S> &splat = scene.splats[id];
        const Columns<S> columns(splat, place);
        // Copies in registers: what is stored through pointers of S below could be any other S in memory.
        const S log2_cut = scene.log2_cut, *c = static_cast<const S *>(scene.in.colors) + int64_t(id) * channels, *const v_image = v_color;
        S fixed[kFixed], *const T_at = transmittance, *const behind_at = behind;
        for (int d = 0; d < D; ++d) fixed[d] = c[d];
        const int n_channels = D ? D : channels;  // a constant where it can be, so that the sums stay in registers
        Lanes<S> m0{}, mx{}, my{}, mxx{}, mxy{}, myy{}, abs_x{}, abs_y{}, fixed_sums[kFixed];
        Lanes<S> *const v_c = D ? fixed_sums : wide_sums;
        for (int d = 0; d < n_channels; ++d) v_c[d] = Lanes<S>{};
        const Lanes<S> position(static_cast<S>(k));
        const Lanes<S> from_mean(S(place.y) + S(0.5) - splat.y), one(S(1)), c_of(splat.c);
        Lanes<S> row_index(static_cast<S>(first));
        for (int row = first; row < last; ++row, row_index = row_index + one) {
            const Lanes<S> dy = row_index + from_mean, c_dy = c_of * dy;
            for (int v = 0; v < Columns<S>::count; ++v) {
                const int at = row * kTile + v * L;
                Lanes<S> power = columns.log2_alpha(v, dy, c_dy);
                auto drawn = (power >= log2_cut) & (load(stops + at) > position);
                if (L < kTile && !any(drawn)) continue;  // a whole row of a tile is hardly ever missed
                Lanes<S> raw = exponential2(power);
                Lanes<S> alpha = select(drawn, minimum(raw, Lanes<S>(S(kAlphaMax))), Lanes<S>{});
                Lanes<S> T = load(T_at + at), rest = load(behind_at + at), q{}, g;
#pragma GCC unroll 4
                for (int d = 0; d < n_channels; ++d) q = q + (D ? fixed[d] : c[d]) * load(v_image + d * kPixels + at);
                Lanes<S> weight = unblend(alpha, q, T, rest, g);
#pragma GCC unroll 4
                for (int d = 0; d < n_channels; ++d) v_c[d] = v_c[d] + weight * load(v_image + d * kPixels + at);
                store(T_at + at, T);
                store(behind_at + at, rest);
                g = select(raw <= Lanes<S>(S(kAlphaMax)), g, Lanes<S>{});  // a clamped alpha does not move
                Lanes<S> g_dx = g * columns.dx[v], g_dy = g * dy;
                m0 = m0 + g;
                mx = mx + g_dx;
                my = my + g_dy;
                mxx = mxx + g_dx * columns.dx[v];
                mxy = mxy + g_dx * dy;
                myy = myy + g_dy * dy;
                if (Abs) {
                    abs_x = abs_x + absolute(S(2) * splat.a * g_dx + splat.b * g_dy);
                    abs_y = abs_y + absolute(splat.b * g_dx + S(2) * splat.c * g_dy);
                }
            }
        }
        S *out = row_of(k);
        if (D) {
            Lanes<S> all[kMoments + kFixed] = {m0, mx, my, mxx, mxy, myy};
            for (int d = 0; d < D; ++d) all[kMoments + d] = fixed_sums[d];
            sums<S, kMoments + kFixed>(all, out);
        } else {
            const Lanes<S> all[] = {m0, mx, my, mxx, mxy, myy};
            sums<S, kMoments>(all, out);
            for (int d = 0; d < channels; ++d) out[kMoments + d] = sum(wide_sums[d]);
        }
        if (Abs) {
            const Lanes<S> all[] = {abs_x * S(1 / kLog2E), abs_y * S(1 / kLog2E)};
            sums<S, 2>(all, out + kMoments + channels);
        }
    }
};

// Adds the rows of each Gaussian in their order and turns moments into gradients.
template <class S> void sum_rows(const splatlearn_RasterizeBackward &grad, const Scene<S> &scene, int columns_of_row) {
    const int channels = grad.in.channels;
    S *v_means = static_cast<S *>(grad.v_means2d), *v_conics = static_cast<S *>(grad.v_conics), *v_opacities = static_cast<S *>(grad.v_opacities);
    S *v_colors = static_cast<S *>(grad.v_colors), *v_abs = static_cast<S *>(grad.v_means2d_abs);
#pragma omp parallel for schedule(static) num_threads(grad.in.context.threads)
    for (int64_t row = 0; row < grad.in.n_rows; ++row) {
        S m[kMoments] = {}, a[2] = {}, *v_c = v_colors + row * channels;
        for (int d = 0; d < channels; ++d) v_c[d] = S(0);
        const int64_t begin = grad.row_offsets[row], end = grad.row_offsets[row + 1];
        for (int64_t slot = begin; slot < end; ++slot) {
            const S *from = static_cast<const S *>(grad.instance_rows) + slot * columns_of_row;
            for (int j = 0; j < kMoments; ++j) m[j] += from[j];
            for (int d = 0; d < channels; ++d) v_c[d] += from[kMoments + d];
            for (int j = 0; v_abs && j < 2; ++j) a[j] += from[kMoments + channels + j];
        }
        if (begin < end) {
            moments_backward<S>(scene.splats[row], {m[0], m[1], m[2], m[3], m[4], m[5]}, v_means + 2 * row, v_conics + 3 * row, v_opacities[row]);
        } else {
            v_means[2 * row] = v_means[2 * row + 1] = v_opacities[row] = S(0);
            for (int j = 0; j < 3; ++j) v_conics[3 * row + j] = S(0);
        }
        for (int j = 0; v_abs && j < 2; ++j) v_abs[2 * row + j] = a[j];
    }
}

template <class S, int D, bool Abs> int backward_channels(const splatlearn_RasterizeBackward &grad) {
    Scene<S> scene(grad.in);
    const int64_t channels = grad.in.channels, per_thread = channels * (kPixels + Lanes<S>::count);
    Buffer<int64_t> order(scene.tiles);
    Buffer<S> scratch(int64_t(grad.in.context.threads) * per_thread), tile_backgrounds(grad.v_backgrounds ? scene.tiles * channels : 1);
    if (!scene.splats || !order || !scratch || !tile_backgrounds) return kOutOfMemory;
    longest_first(grad.in.tile_offsets, scene.tiles, order.get());
#pragma omp parallel for schedule(dynamic, 1) num_threads(grad.in.context.threads)
    for (int64_t i = 0; i < scene.tiles; ++i)
        BackwardTile<S, D, Abs>(grad, scene, order[i], scratch.get() + omp_get_thread_num() * per_thread,
                                grad.v_backgrounds ? tile_backgrounds.get() + order[i] * channels : nullptr).run();
    sum_rows(grad, scene, kMoments + int(channels) + (Abs ? 2 : 0));
    for (int64_t c = 0; grad.v_backgrounds && c < grad.in.n_cameras; ++c)
        for (int64_t d = 0; d < channels; ++d) {
            S total = 0;
            for (int64_t tile = 0; tile < scene.tiles / grad.in.n_cameras; ++tile)
                total += tile_backgrounds[(c * (scene.tiles / grad.in.n_cameras) + tile) * channels + d];
            static_cast<S *>(grad.v_backgrounds)[c * channels + d] = total;
        }
    return 0;
}

// ---- the number of channels, and the longest list ----

bool crowded(const splatlearn_RasterizeInputs &in) {
    const int64_t tiles = in.n_cameras * tiles_across(in.width) * tiles_across(in.height);
    for (int64_t tile = 0; tile < tiles; ++tile)
        if (in.tile_offsets[tile + 1] - in.tile_offsets[tile] > kListMax) return true;
    return false;
}

template <class S> int forward(const splatlearn_RasterizeForward &out) {
    switch (out.in.channels) {
        case 1: return forward_channels<S, 1>(out);
        case 3: return forward_channels<S, 3>(out);
        case 4: return forward_channels<S, 4>(out);
        default: return forward_channels<S, 0>(out);
    }
}

template <class S> int backward(const splatlearn_RasterizeBackward &grad) {
    if (grad.in.absgrad) return grad.in.channels == 3 ? backward_channels<S, 3, true>(grad) : backward_channels<S, 0, true>(grad);
    switch (grad.in.channels) {
        case 1: return backward_channels<S, 1, false>(grad);
        case 3: return backward_channels<S, 3, false>(grad);
        case 4: return backward_channels<S, 4, false>(grad);
        default: return backward_channels<S, 0, false>(grad);
    }
}

}  // namespace

int rasterize_forward(const splatlearn_RasterizeForward &params) {
    return crowded(params.in) ? kCrowdedTile : SPLATLEARN_BY_SCALAR(params, params.in.context, forward);
}
int rasterize_backward(const splatlearn_RasterizeBackward &params) { return SPLATLEARN_BY_SCALAR(params, params.in.context, backward); }

}  // namespace SPLATLEARN_NAMESPACE
