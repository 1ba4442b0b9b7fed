// The gradients of alpha compositing on the CPU: the list of a tile is walked in reverse, and moments are summed per
// (Gaussian, tile) into one row of gradients. A second pass adds each Gaussian's rows in a fixed order
// (rasterize_sums.cpp): no atomics, the same bits for any number of threads.
//
// Pixels are lanes, and a lane that a splat does not cover adds 0 times the gradient of its pixel. So a pixel whose
// gradient is NaN or very large takes no part in the walk: it would spoil splats that are only near it. Its turn comes
// afterwards, alone.
#include "rasterize.h"

namespace SPLATLEARN_NAMESPACE {
namespace {

// The state of a register of pixels while the list passes over them; D channels where they are known when compiled.
template <class S, int D> struct alignas(64) PixelLanes {
    static constexpr int L = Lanes<S>::count;
    S x[L], y[L];                   // centres from the tile's corner
    S transmittance[L], behind[L];  // before the splats already passed
    S stop[L];                      // splats from this position on are not drawn
    S v_color[D ? D : 1][L];        // gradient of the image
};

// Adds what one pixel gives to the sums of a splat, by the primitive's own function where it has one.
template <class Primitive, class Splat, class R>
SPLATLEARN_HD auto add_moments(const Splat &splat, R power, R g, R dx, R dy, R *moments, int)
    -> decltype(Primitive::add_moments(splat, power, g, dx, dy, moments)) {
    Primitive::add_moments(splat, power, g, dx, dy, moments);
}
template <class Primitive, class Splat, class R>
SPLATLEARN_HD void add_moments(const Splat &splat, R power, R g, R dx, R dy, R *moments, long) {
    R m[Primitive::kMoments];
    Primitive::moments(splat, power, g, dx, dy, m);
    for (int j = 0; j < Primitive::kMoments; ++j) moments[j] = moments[j] + m[j];
}

template <class S, class Primitive, int D, bool Abs> struct BackwardTile {
    static constexpr int L = Lanes<S>::count, kParts = SPLATLEARN_NAMESPACE::kParts<S>;
    static constexpr int kFixed = D ? D : 1, kMoments = Primitive::kMoments;
    const splatlearn_RasterizeBackward &grad;
    const BlendInputs<S, Primitive> &in;
    const Tile tile;
    const int channels;
    const GradientRow<Primitive> layout;
    const int columns;          // of a gradient row
    S *const wide_color;        // [D][kTilePixels] gradient of the image where D is not known when compiled
    Lanes<S> *const wide_colors;  // [kParts][D] sums of colour gradients, likewise
    PixelLanes<S, D> pixels[kTilePixels / L];
    int32_t ends[kBlocks] = {};  // of the part of the list that any pixel of the block drew
    int64_t end = 0;             // the furthest of them
    int n_alone = 0;             // pixels whose gradient is out of range
    uint8_t alone[kTilePixels];  // their places, row-major
    SplatBatch<S, Primitive, D> batch;
    alignas(64) S blocks[kBatch];  // of each of its splats the blocks that it reaches, as the bits of a number

    BackwardTile(const splatlearn_RasterizeBackward &g, const BlendInputs<S, Primitive> &inputs, int64_t index,
                 S *scratch, S *v_background)
        : grad(g), in(inputs), tile(inputs, index), channels(D ? D : g.inputs.channels), layout{channels, Abs},
          columns(layout.columns()), wide_color(scratch),
          wide_colors(reinterpret_cast<Lanes<S> *>(scratch + channels * kTilePixels)) {
        tile.prefetch<false>(grad.stops, 1);
        tile.prefetch<false>(static_cast<const S *>(grad.transmittance), 1);
        tile.prefetch<false>(static_cast<const S *>(grad.v_render), channels);
        for (int d = 0; v_background && d < channels; ++d) v_background[d] = S(0);
        for (int row = 0; row < kTile; ++row) {
            const int width = row < tile.height ? tile.width : 0;
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
            in.inputs.backgrounds ? static_cast<const S *>(in.inputs.backgrounds) + tile.camera * channels : nullptr;
        const int n_channels = D ? D : channels;
        const int64_t pixel = tile.pixel(row);
        const S *const v = static_cast<const S *>(grad.v_render) + pixel * n_channels;
        const S *const v_alphas = grad.v_alphas ? static_cast<const S *>(grad.v_alphas) + pixel : nullptr;
        const S *const T_in = static_cast<const S *>(grad.transmittance) + pixel;
        const int32_t *const drawn = grad.stops + pixel, count = int32_t(tile.count);
        S T[kTile], rest[kTile] = {}, size[kTile] = {}, v_row[kFixed][kTile] = {};
        int32_t stop[kTile] = {};
        for (int x = 0; x < kTile; ++x) T[x] = S(1);
        for (int x = 0; x < width; ++x) T[x] = T_in[x];
        for (int x = 0; x < width; ++x) stop[x] = drawn[x] < count ? drawn[x] : count;
        if (v_alphas)
            for (int x = 0; x < width; ++x) rest[x] = -v_alphas[x];
        for (int d = 0; d < n_channels; ++d) {
            S *const to = v_row[D ? d : 0];
            for (int x = 0; x < width; ++x) to[x] = v[x * n_channels + d];
            for (int x = 0; x < width; ++x) size[x] += absolute(to[x]);
            if (background)
                for (int x = 0; x < width; ++x) rest[x] += background[d] * to[x];
            if (v_background)
                for (int x = 0; x < width; ++x) v_background[d] += T[x] * to[x];
            for (int x = 0; !D && x < kTile; ++x) wide_color[d * kTilePixels + in_blocks(x, row)] = to[x];
        }
        bool in_range = true;
        for (int x = 0; x < width; ++x) in_range &= is_in_range(size[x] + absolute(rest[x]));
        for (int x = 0; !in_range && x < width; ++x) {
            if (is_in_range(size[x] + absolute(rest[x]))) continue;
            alone[n_alone++] = uint8_t(row * kTile + x);
            rest[x] = S(0);
            for (int d = 0; d < n_channels; ++d)
                (D ? v_row[D ? d : 0][x] : wide_color[d * kTilePixels + in_blocks(x, row)]) = S(0);
        }
        for (int x = 0; x < kTile; x += kPiece) {
            const int at = in_blocks(x, row);
            PixelLanes<S, D> &to = pixels[at / L];
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

    S *row_of(int64_t k) const { return static_cast<S *>(grad.instance_rows) + grad.slots[tile.begin + k] * columns; }

    void run() {
        const int32_t *ids = in.inputs.row_ids + tile.begin;
        for (int64_t k = end; k < tile.count; ++k) std::memset(row_of(k), 0, size_t(columns) * sizeof(S));
        for (int64_t first = (end - 1) / kBatch * kBatch; first >= 0 && end > 0; first -= kBatch) {
            const int n = int(end - first < kBatch ? end - first : kBatch);
            gather(first, ids + first, n);
            if (first) batch.prefetch(in, ids + first - kBatch, kBatch);
            for (int i = n - 1; i >= 0; --i) unblend_splat(first + i, i, uint32_t(blocks[i]));
        }
        for (int i = 0; i < n_alone; ++i) unblend_pixel(alone[i] % kTile, alone[i] / kTile);
    }

    // Adds the gradients of one pixel to the rows of the splats that it drew.
    __attribute__((noinline)) void unblend_pixel(int x, int y) {
        const int64_t pixel = tile.pixel(y) + x;
        const S *const v = static_cast<const S *>(grad.v_render) + pixel * channels;
        const S *const background =
            in.inputs.backgrounds ? static_cast<const S *>(in.inputs.backgrounds) + tile.camera * channels : nullptr;
        S T = static_cast<const S *>(grad.transmittance)[pixel], q, g, m[kMoments], v_mean[2];
        S rest = grad.v_alphas ? -static_cast<const S *>(grad.v_alphas)[pixel] : S(0);
        for (int d = 0; background && d < channels; ++d) rest += background[d] * v[d];
        const int32_t stop = grad.stops[pixel], count = int32_t(tile.count);
        for (int32_t k = (stop < count ? stop : count) - 1; k >= 0; --k) {
            const int64_t id = in.inputs.row_ids[tile.begin + k];
            const S *const record = in.record(id), *const color =
                                                       static_cast<const S *>(in.inputs.colors) + id * channels;
            const auto splat = Primitive::template unpack<S>([&](int j) { return record[j]; });
            const S dx = S(tile.x + x) + S(0.5) - splat.x, dy = S(tile.y + y) + S(0.5) - splat.y;
            const S power = Primitive::log2_alpha(splat, dx, dy);
            if (!(power >= in.log2_cut)) continue;
            const S raw = exponential2(power);
            q = S(0);
            for (int d = 0; d < channels; ++d) q += color[d] * v[d];
            const S weight = unblend(minimum(raw, S(kAlphaMax)), q, T, rest, g);
            if (!(raw <= S(kAlphaMax))) g = S(0);
            Primitive::moments(splat, power, g, dx, dy, m);
            S *const out = row_of(k);
            for (int j = 0; j < kMoments; ++j) out[j] += m[j];
            for (int d = 0; d < channels; ++d) out[layout.kColors + d] += weight * v[d];
            Primitive::v_mean(splat, power, g, dx, dy, v_mean);
            for (int j = 0; Abs && j < 2; ++j)
                out[layout.absolute() + j] += S(Primitive::kMeanUnit) * absolute(v_mean[j]);
        }
    }

    // Not inlined, as begin_row.
    __attribute__((noinline)) void gather(int64_t first, const int32_t *ids, int n) {
        for (int i = 0; i < n; ++i)
            __builtin_prefetch(row_of(first + i), 1);  // rows of gradients lie apart: under way together
        batch.gather(in, tile, ids, n);
        for (int i = 0; i < n; i += L) {
            const Lanes<S> positions = ramp<S>() + S(first + i);
            Lanes<S> reached{};
            batch.for_blocks(i, tile, in.log2_cut, [&](int block, Mask<S> those) {
                const auto drawn = those & (positions < Lanes<S>(S(ends[block])));
                reached = reached + select(drawn, Lanes<S>(S(1 << block)), Lanes<S>{});
            });
            store(blocks + i, reached);
        }
    }

    // The sums of a splat's gradient row that registers hold: moments, D colours, absolute mean gradients.
    static constexpr int kSums = kMoments + D + (Abs ? 2 : 0);

    void unblend_splat(int64_t k, int i, uint32_t reached) {
        const auto splat = batch.broadcast(i);
        S fixed[kFixed];
        const S *const color =
            D ? fixed
              : static_cast<const S *>(in.inputs.colors) + int64_t(in.inputs.row_ids[tile.begin + k]) * channels;
        for (int d = 0; d < D; ++d) fixed[d] = batch.color[i * D + d];
        Lanes<S> totals[kParts][kSums];
        for (int part = 0; part < kParts; ++part) unblend_part(k, part, splat, color, reached, totals[part]);
        S *const out = row_of(k);
        if (D) {
            wide_sums<S, kSums>(totals[0], kSums, out);
        } else {
            S row[kSums];
            wide_sums<S, kSums>(totals[0], kSums, row);
            std::memcpy(out, row, kMoments * sizeof(S));
            for (int d = 0; d < channels; ++d) out[layout.kColors + d] = wide_sum(wide_colors + d, channels);
            if (Abs) std::memcpy(out + layout.absolute(), row + kMoments, 2 * sizeof(S));
        }
    }

    // One of kParts registers of every block that the splat reaches.
    SPLATLEARN_HD void unblend_part(int64_t k, int part, const typename Primitive::template Splat<Lanes<S>> &splat,
                                    const S *color, uint32_t reached, Lanes<S> *total) {
        const S log2_cut = in.log2_cut;
        const int n_channels = D ? D : channels;  // a constant where it can be, so that the sums stay in registers
        Lanes<S> moments[kMoments], v_mean[2], fixed_sums[kFixed];
        Lanes<S> *const v_c = D ? fixed_sums : wide_colors + part * channels;
        for (int d = 0; d < n_channels; ++d) v_c[d] = Lanes<S>{};
        const Lanes<S> position(static_cast<S>(k));
        for (; reached; reached &= reached - 1) {
            PixelLanes<S, D> *const block = pixels + __builtin_ctz(reached) * (kBlockPixels / L);
            for (PixelLanes<S, D> *p = block + part; p < block + kBlockPixels / L; p += kParts) {
                const Lanes<S> dx = load(p->x) - splat.x, dy = load(p->y) - splat.y;
                const Lanes<S> power = Primitive::log2_alpha(splat, dx, dy);
                const auto visible = (power >= log2_cut) & (load(p->stop) > position);
                if (L < kBlockPixels && !any(visible)) continue;
                const S *const v_image = D ? p->v_color[0] : wide_color + (p - pixels) * L;
                constexpr int next_channel = D ? L : kTilePixels;
                Lanes<S> raw = exponential2(power);
                Lanes<S> alpha = select(visible, minimum(raw, Lanes<S>(S(kAlphaMax))), Lanes<S>{});
                Lanes<S> T = load(p->transmittance), rest = load(p->behind), q{}, g;
#pragma GCC unroll 4
                for (int d = 0; d < n_channels; ++d) q = q + color[d] * load(v_image + d * next_channel);
                Lanes<S> weight = unblend(alpha, q, T, rest, g);
#pragma GCC unroll 4
                for (int d = 0; d < n_channels; ++d) v_c[d] = v_c[d] + weight * load(v_image + d * next_channel);
                store(p->transmittance, T);
                store(p->behind, rest);
                g = select(raw <= Lanes<S>(S(kAlphaMax)), g, Lanes<S>{});  // a clamped alpha does not move
                add_moments<Primitive>(splat, power, g, dx, dy, moments, 0);
                if (Abs) {
                    Lanes<S> v[2];
                    Primitive::v_mean(splat, power, g, dx, dy, v);
                    for (int j = 0; j < 2; ++j) v_mean[j] = v_mean[j] + absolute(v[j]);
                }
            }
        }
#pragma GCC unroll 16
        for (int j = 0; j < kMoments; ++j) total[j] = moments[j];
        for (int d = 0; d < D; ++d) total[kMoments + d] = fixed_sums[d];
        for (int j = 0; Abs && j < 2; ++j) total[kMoments + D + j] = v_mean[j] * S(Primitive::kMeanUnit);
    }
};

template <class S, class Primitive, int D, bool Abs> int backward_channels(const splatlearn_RasterizeBackward &grad) {
    const BlendInputs<S, Primitive> in(grad.inputs);
    const int64_t channels = grad.inputs.channels, per_thread = channels * (kTilePixels + kWide<S>);
    Buffer<int64_t> order(in.tiles);
    Buffer<S> scratch(int64_t(grad.inputs.context.threads) * per_thread);
    Buffer<S> tile_backgrounds(grad.v_backgrounds ? in.tiles * channels : 1);
    if (!in.records || !order || !scratch || !tile_backgrounds) return kOutOfMemory;
    longest_first(grad.inputs.tile_offsets, in.tiles, order.get());
#pragma omp parallel for schedule(dynamic, 1) num_threads(grad.inputs.context.threads)
    for (int64_t i = 0; i < in.tiles; ++i) {
        S *const mine = scratch.get() + omp_get_thread_num() * per_thread;
        S *const v_background = grad.v_backgrounds ? tile_backgrounds.get() + order[i] * channels : nullptr;
        BackwardTile<S, Primitive, D, Abs>(grad, in, order[i], mine, v_background).run();
    }
    sum_rows(grad, in);
    const int64_t tiles_per_image = in.tiles / grad.inputs.n_cameras;
    for (int64_t c = 0; grad.v_backgrounds && c < grad.inputs.n_cameras; ++c)
        for (int64_t d = 0; d < channels; ++d) {
            S total = 0;
            for (int64_t tile = 0; tile < tiles_per_image; ++tile)
                total += tile_backgrounds[(c * tiles_per_image + tile) * channels + d];
            static_cast<S *>(grad.v_backgrounds)[c * channels + d] = total;
        }
    return 0;
}

template <class S> int backward(const splatlearn_RasterizeBackward &grad) {
    return by_primitive(grad.inputs, [&](auto primitive) {
        using Primitive = decltype(primitive);
        if (grad.inputs.absgrad)
            return grad.inputs.channels == 3 ? backward_channels<S, Primitive, 3, true>(grad)
                                             : backward_channels<S, Primitive, 0, true>(grad);
        switch (grad.inputs.channels) {
            case 1: return backward_channels<S, Primitive, 1, false>(grad);
            case 3: return backward_channels<S, Primitive, 3, false>(grad);
            case 4: return backward_channels<S, Primitive, 4, false>(grad);
            default: return backward_channels<S, Primitive, 0, false>(grad);
        }
    });
}

}  // namespace

int rasterize_backward(const splatlearn_RasterizeBackward &params) {
    return SPLATLEARN_BY_SCALAR(params, params.inputs.context, backward);
}

}  // namespace SPLATLEARN_NAMESPACE
