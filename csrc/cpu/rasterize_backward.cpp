// The gradients of alpha compositing on the CPU: the list of a tile is walked in reverse, and moments are summed per
// (Gaussian, tile) into one row of gradients. A second pass adds each Gaussian's rows in a fixed order
// (rasterize_sums.cpp): no atomics, the same bits for any number of threads.
#include "rasterize.h"

namespace SPLATLEARN_NAMESPACE {
namespace {

// What is kept of a register of pixels while the list passes over them; D channels where they are known when compiled.
template <class S, int D> struct alignas(64) Pixels {
    static constexpr int L = Lanes<S>::count;
    S x[L], y[L];                   // centres from the tile's corner
    S transmittance[L], behind[L];  // before the splats already undone
    S stop[L];                      // splats from this position on are not drawn
    S v_color[D ? D : 1][L];        // gradient of the image
};

template <class S, int D, bool Abs> struct BackwardTile {
    static constexpr int L = Lanes<S>::count, kFixed = D ? D : 1;
    const splatlearn_RasterizeBackward &grad;
    const Scene<S> &scene;
    const TilePlace place;
    const int channels, columns_of_row;
    S *const wide_color;        // [D][kPixels] gradient of the image where D is not known when compiled
    Lanes<S> *const wide_sums;  // [D] sums of colour gradients, likewise
    Pixels<S, D> pixels[kPixels / L];
    int32_t ends[kBlocks] = {};  // of the part of the list that any pixel of the block drew
    int64_t end = 0;             // the furthest of them
    Chunk<S, D> chunk;
    alignas(64) S blocks[kChunk];  // of each of its splats the blocks that it reaches, as the bits of a number

    BackwardTile(const splatlearn_RasterizeBackward &g, const Scene<S> &s, int64_t tile, S *scratch, S *v_background)
        : grad(g), scene(s), place(s, tile), channels(D ? D : g.inputs.channels),
          columns_of_row(kMoments + channels + (Abs ? 2 : 0)), wide_color(scratch),
          wide_sums(reinterpret_cast<Lanes<S> *>(scratch + channels * kPixels)) {
        place.prefetch<false>(grad.stops, 1);
        place.prefetch<false>(static_cast<const S *>(grad.transmittance), 1);
        place.prefetch<false>(static_cast<const S *>(grad.v_render), channels);
        for (int d = 0; v_background && d < channels; ++d) v_background[d] = S(0);
        for (int row = 0; row < kTile; ++row) {
            const int width = row < place.height ? place.width : 0;
            if (width == kTile)
                begin_row(row, kTile, v_background);
            else
                begin_row(row, width, v_background);
        }
        for (int block = 0; block < kBlocks; ++block) end = ends[block] > end ? ends[block] : end;
    }

    // The state of a row of pixels behind all that was drawn on it. Not inlined: beside these loops the compiler has
    // kept the sums of the walk in memory, at twice its time.
    __attribute__((noinline)) void begin_row(int row, int width, S *v_background) {
        const S *background =
            scene.in.backgrounds ? static_cast<const S *>(scene.in.backgrounds) + place.camera * channels : nullptr;
        const int n_channels = D ? D : channels;
        const int64_t pixel = place.pixel(row);
        const S *const v = static_cast<const S *>(grad.v_render) + pixel * n_channels;
        const S *const v_alphas = grad.v_alphas ? static_cast<const S *>(grad.v_alphas) + pixel : nullptr;
        const S *const T_in = static_cast<const S *>(grad.transmittance) + pixel;
        const int32_t *const drawn = grad.stops + pixel, count = int32_t(place.count);
        S T[kTile], rest[kTile] = {}, v_row[kFixed][kTile] = {};
        int32_t stop[kTile] = {};
        for (int x = 0; x < kTile; ++x) T[x] = S(1);
        for (int x = 0; x < width; ++x) T[x] = T_in[x];
        for (int x = 0; x < width; ++x) stop[x] = drawn[x] < count ? drawn[x] : count;
        if (v_alphas)
            for (int x = 0; x < width; ++x) rest[x] = -v_alphas[x];
        for (int d = 0; d < n_channels; ++d) {
            S *const to = v_row[D ? d : 0];
            for (int x = 0; x < width; ++x) to[x] = v[x * n_channels + d];
            if (background)
                for (int x = 0; x < width; ++x) rest[x] += background[d] * to[x];
            if (v_background)
                for (int x = 0; x < width; ++x) v_background[d] += T[x] * to[x];
            for (int x = 0; !D && x < kTile; ++x) wide_color[d * kPixels + in_blocks(x, row)] = to[x];
        }
        for (int x = 0; x < kTile; x += kPiece) {
            const int at = in_blocks(x, row);
            Pixels<S, D> &to = pixels[at / L];
            for (int i = 0; i < kPiece; ++i) {
                const int lane = at % L + i;
                to.x[lane] = S(x + i) + S(0.5);
                to.y[lane] = S(row) + S(0.5);
                to.transmittance[lane] = T[x + i];
                to.behind[lane] = rest[x + i];
                to.stop[lane] = S(stop[x + i]);
                for (int d = 0; d < D; ++d) to.v_color[d][lane] = v_row[d][x + i];
                int32_t &furthest = ends[at / kBlockPixels];
                furthest = stop[x + i] > furthest ? stop[x + i] : furthest;
            }
        }
    }
    static constexpr int kPiece = kBlock < L ? kBlock : L;  // pixels beside each other in a block and in a register

    S *row_of(int64_t k) const {
        return static_cast<S *>(grad.instance_rows) + grad.slots[place.begin + k] * columns_of_row;
    }

    void run() {
        const int32_t *ids = scene.in.row_ids + place.begin;
        for (int64_t k = end; k < place.count; ++k) std::memset(row_of(k), 0, size_t(columns_of_row) * sizeof(S));
        for (int64_t first = (end - 1) / kChunk * kChunk; first >= 0 && end > 0; first -= kChunk) {
            const int n = int(end - first < kChunk ? end - first : kChunk);
            gather(first, ids + first, n);
            if (first) chunk.prefetch(scene, ids + first - kChunk, kChunk);
            for (int i = n - 1; i >= 0; --i) undo(first + i, i, uint32_t(blocks[i]));
        }
    }

    // Not inlined, as begin_row.
    __attribute__((noinline)) void gather(int64_t first, const int32_t *ids, int n) {
        for (int i = 0; i < n; ++i)
            __builtin_prefetch(row_of(first + i), 1);  // rows of gradients lie apart: under way together
        chunk.gather(scene, place, ids, n);
        for (int i = 0; i < n; i += L) {
            const Lanes<S> positions = ramp<S>() + S(first + i);
            Lanes<S> reached{};
            chunk.for_blocks(i, place, scene.log2_cut, [&](int block, Mask<S> those) {
                const auto drawn = those & (positions < Lanes<S>(S(ends[block])));
                reached = reached + select(drawn, Lanes<S>(S(1 << block)), Lanes<S>{});
            });
            store(blocks + i, reached);
        }
    }

    void undo(int64_t k, int i, uint32_t reached) {
        const S log2_cut = scene.log2_cut;
        const Lanes<S> at_x(chunk.x[i]), at_y(chunk.y[i]), a(chunk.a[i]), b(chunk.b[i]), c(chunk.c[i]),
            log2_opacity(chunk.log2_opacity[i]);
        S fixed[kFixed];
        const S *const color =
            D ? fixed : static_cast<const S *>(scene.in.colors) + int64_t(scene.in.row_ids[place.begin + k]) * channels;
        for (int d = 0; d < D; ++d) fixed[d] = chunk.color[i * D + d];
        const int n_channels = D ? D : channels;  // a constant where it can be, so that the sums stay in registers
        Lanes<S> m0{}, mx{}, my{}, mxx{}, mxy{}, myy{}, abs_x{}, abs_y{}, fixed_sums[kFixed];
        Lanes<S> *const v_c = D ? fixed_sums : wide_sums;
        for (int d = 0; d < n_channels; ++d) v_c[d] = Lanes<S>{};
        const Lanes<S> position(static_cast<S>(k));
        for (; reached; reached &= reached - 1) {
            Pixels<S, D> *const block = pixels + __builtin_ctz(reached) * (kBlockPixels / L);
            for (Pixels<S, D> *p = block; p < block + kBlockPixels / L; ++p) {
                const Lanes<S> dx = load(p->x) - at_x, dy = load(p->y) - at_y;
                const Lanes<S> power = log2_opacity - dx * (a * dx + b * dy) - dy * (c * dy);
                const auto drawn = (power >= log2_cut) & (load(p->stop) > position);
                if (L < kBlockPixels && !any(drawn)) continue;
                const S *const v_image = D ? p->v_color[0] : wide_color + (p - pixels) * L;
                constexpr int next_channel = D ? L : kPixels;
                Lanes<S> raw = exponential2(power);
                Lanes<S> alpha = select(drawn, minimum(raw, Lanes<S>(S(kAlphaMax))), Lanes<S>{});
                Lanes<S> T = load(p->transmittance), rest = load(p->behind), q{}, g;
#pragma GCC unroll 4
                for (int d = 0; d < n_channels; ++d) q = q + color[d] * load(v_image + d * next_channel);
                Lanes<S> weight = unblend(alpha, q, T, rest, g);
#pragma GCC unroll 4
                for (int d = 0; d < n_channels; ++d) v_c[d] = v_c[d] + weight * load(v_image + d * next_channel);
                store(p->transmittance, T);
                store(p->behind, rest);
                g = select(raw <= Lanes<S>(S(kAlphaMax)), g, Lanes<S>{});  // a clamped alpha does not move
                Lanes<S> g_dx = g * dx, g_dy = g * dy;
                m0 = m0 + g;
                mx = mx + g_dx;
                my = my + g_dy;
                mxx = mxx + g_dx * dx;
                mxy = mxy + g_dx * dy;
                myy = myy + g_dy * dy;
                if (Abs) {
                    abs_x = abs_x + absolute(S(2) * a * g_dx + b * g_dy);
                    abs_y = abs_y + absolute(b * g_dx + S(2) * c * g_dy);
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
    Scene<S> scene(grad.inputs);
    const int64_t channels = grad.inputs.channels, per_thread = channels * (kPixels + Lanes<S>::count);
    Buffer<int64_t> order(scene.tiles);
    Buffer<S> scratch(int64_t(grad.inputs.context.threads) * per_thread),
        tile_backgrounds(grad.v_backgrounds ? scene.tiles * channels : 1);
    if (!scene.splats || !order || !scratch || !tile_backgrounds) return kOutOfMemory;
    longest_first(grad.inputs.tile_offsets, scene.tiles, order.get());
#pragma omp parallel for schedule(dynamic, 1) num_threads(grad.inputs.context.threads)
    for (int64_t i = 0; i < scene.tiles; ++i)
        BackwardTile<S, D, Abs>(grad, scene, order[i], scratch.get() + omp_get_thread_num() * per_thread,
                                grad.v_backgrounds ? tile_backgrounds.get() + order[i] * channels : nullptr)
            .run();
    sum_rows(grad, scene, kMoments + int(channels) + (Abs ? 2 : 0));
    for (int64_t c = 0; grad.v_backgrounds && c < grad.inputs.n_cameras; ++c)
        for (int64_t d = 0; d < channels; ++d) {
            S total = 0;
            for (int64_t tile = 0; tile < scene.tiles / grad.inputs.n_cameras; ++tile)
                total += tile_backgrounds[(c * (scene.tiles / grad.inputs.n_cameras) + tile) * channels + d];
            static_cast<S *>(grad.v_backgrounds)[c * channels + d] = total;
        }
    return 0;
}

template <class S> int backward(const splatlearn_RasterizeBackward &grad) {
    if (grad.inputs.absgrad)
        return grad.inputs.channels == 3 ? backward_channels<S, 3, true>(grad) : backward_channels<S, 0, true>(grad);
    switch (grad.inputs.channels) {
        case 1: return backward_channels<S, 1, false>(grad);
        case 3: return backward_channels<S, 3, false>(grad);
        case 4: return backward_channels<S, 4, false>(grad);
        default: return backward_channels<S, 0, false>(grad);
    }
}

}  // namespace

int rasterize_backward(const splatlearn_RasterizeBackward &params) {
    return SPLATLEARN_BY_SCALAR(params, params.inputs.context, backward);
}

}  // namespace SPLATLEARN_NAMESPACE
