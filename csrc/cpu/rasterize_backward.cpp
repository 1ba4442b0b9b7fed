// The gradients of alpha compositing on the CPU: the list of a tile is walked in reverse, and moments are summed per (Gaussian, tile)
// into one row of gradients. A second pass adds each Gaussian's rows in a fixed order (rasterize_sums.cpp): no atomics, the same bits
// for any number of threads.
#include "rasterize.h"

namespace SPLATLEARN_NAMESPACE {
namespace {

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

int rasterize_backward(const splatlearn_RasterizeBackward &params) { return SPLATLEARN_BY_SCALAR(params, params.in.context, backward); }

}  // namespace SPLATLEARN_NAMESPACE
