// L1 + SSIM and the gradient to the image on CUDA, in one pass over strips of columns: no map of window means or of
// their gradients leaves the multiprocessor, so that a picture is read once and its gradient written once.
//
// A block walks down a strip, a row of pixels at a time, with all channels of a picture of three. A thread holds one
// channel of kThreadPixels neighbouring pixels: it filters each row along the row, from shared memory, and down the
// columns in registers, to the window means. Their SSIM gives three maps of gradients, whose rows go through the same
// two filters, five rows later. Both windows reach five pixels, so a block reads ten columns and rows more on each side
// than it writes the gradient of. Sums go block by block into scratch memory and are added in a fixed order.
#include "stage.h"

#include "../math/ssim.h"

namespace SPLATLEARN_NAMESPACE {
namespace {

constexpr int kThreads = 96;
constexpr int kFinalThreads = 256;
constexpr int kReach = 2 * kWindowRadius;
constexpr int kBlocks = 396;  // aimed at: three a multiprocessor of an H200, as many as its registers hold
constexpr int kRowsMin = 16;  // a block also walks 21 rows without a gradient
constexpr int kRing =
    kReach + 3;  // rows kept: the gradient is written eleven steps after a row is read, a twelfth is being read

template <class S> SPLATLEARN_DEVICE S weight(int distance) {
    constexpr S weights[kWindowRadius + 1] = {S(kWindow[0]), S(kWindow[1]), S(kWindow[2]),
                                              S(kWindow[3]), S(kWindow[4]), S(kWindow[5])};
    return weights[distance < 0 ? -distance : distance];
}

// Columns of a block and where a row of them lies in shared memory, so that neighbouring threads touch neighbouring
// words.
template <class S, int Channels> struct Strip {
    static constexpr int kThreadPixels = sizeof(S) == 4 ? 2 : 1;                 // of a thread, as registers allow
    static constexpr int kColumns = kThreads / Channels * kThreadPixels;         // with window means
    static constexpr int kOwn = kColumns - kReach;                               // with a gradient
    static constexpr int kWide = kColumns + kReach;                              // that are read
    static constexpr int kLoads = (kWide * Channels + kThreads - 1) / kThreads;  // of a thread, a row
    static constexpr int kPlane =
        (kWide * Channels / kThreadPixels + 15) / 32 * 32 + 16;  // planes begin 16 banks apart
    static constexpr int kRow = kThreadPixels * kPlane;
    static_assert(kThreads % Channels == 0 && kWide % kThreadPixels == 0 && kOwn > 0, "threads hold whole pixels");

    static SPLATLEARN_DEVICE constexpr int at(int column) {
        return column % kThreadPixels * kPlane + column / kThreadPixels * Channels;
    }
};

template <class S> struct Params {
    splatlearn_Photometric p;
    int strips, bands, groups, rows;  // a picture's strips, bands of `rows` rows, and groups of channels
    double *sums;                     // [2][blocks]
};

// A block's picture, first channel, columns and rows.
struct StripPlace {
    int64_t image;
    int channel, column, first, last;
    template <class S> SPLATLEARN_DEVICE StripPlace(const Params<S> &params, int channels, int own) {
        int64_t rest = blockIdx.x;
        column = int(rest % params.strips) * own;
        rest /= params.strips;
        first = int(rest % params.bands) * params.rows;
        last = first + params.rows < params.p.height ? first + params.rows : params.p.height;
        rest /= params.bands;
        channel = int(rest % params.groups) * channels;
        image = rest / params.groups;
    }
    // Of the scalar at a row's first pixel.
    SPLATLEARN_DEVICE int64_t at(const splatlearn_Photometric &p, int row) const {
        return (image * p.height + row) * p.width * p.channels + channel;
    }
};

// Rows on their way from global memory: each is loaded while the row before is worked on.
template <class S, class Target, int Channels> struct Reader {
    using Shape = Strip<S, Channels>;
    const S *image;  // at the first pixel of the row to load
    const Target *target;
    int row, height, row_scalars;
    int from[Shape::kLoads],
        to[Shape::kLoads];  // of what a thread reads: in the row of the picture, in that of shared memory; or -1
    S x[Shape::kLoads];
    Target y[Shape::kLoads];

    SPLATLEARN_DEVICE Reader(const splatlearn_Photometric &p, const StripPlace &place)
        : image(static_cast<const S *>(p.image) + place.at(p, place.first - kReach)),
          target(static_cast<const Target *>(p.target) + place.at(p, place.first - kReach)), row(place.first - kReach),
          height(p.height), row_scalars(p.width * p.channels) {
#pragma unroll
        for (int i = 0; i < Shape::kLoads; ++i) {
            const int scalar = int(threadIdx.x) + i * kThreads, wide = scalar / Channels,
                      column = place.column - kReach + wide;
            from[i] =
                wide < Shape::kWide && column >= 0 && column < p.width ? column * p.channels + scalar % Channels : -1;
            to[i] = wide < Shape::kWide ? Shape::at(wide) + scalar % Channels : -1;
        }
    }

    SPLATLEARN_DEVICE void load() {
        const bool inside = row >= 0 && row < height;
#pragma unroll
        for (int i = 0; i < Shape::kLoads; ++i) {
            x[i] = inside && from[i] >= 0 ? image[from[i]] : S(0);
            y[i] = inside && from[i] >= 0 ? target[from[i]] : Target(0);
        }
        image += row_scalars;
        target += row_scalars;
        ++row;
    }

    static SPLATLEARN_DEVICE S value(S target) { return target; }
    static SPLATLEARN_DEVICE S value(uint8_t target) {  // rounded as target / 255 is
        const S guess = S(target) * S(1. / 255);
        return guess + (S(target) - S(255) * guess) * S(1. / 255);
    }

    // Sums and differences of what was loaded, to a row of shared memory.
    SPLATLEARN_DEVICE void store(S *sums, S *differences) const {
#pragma unroll
        for (int i = 0; i < Shape::kLoads; ++i) {
            if (to[i] < 0) continue;
            sums[to[i]] = x[i] + value(y[i]);
            differences[to[i]] = x[i] - value(y[i]);
        }
    }
};

// ---- windows: along the row from what a thread reads of it, down a column by partial sums ----

template <class S, int Pixels> SPLATLEARN_DEVICE S window(const S (&taps)[Pixels + kReach], int pixel) {
    S out = weight<S>(0) * taps[pixel + kWindowRadius];
#pragma unroll
    for (int k = 1; k <= kWindowRadius; ++k)
        out += weight<S>(k) * (taps[pixel + kWindowRadius - k] + taps[pixel + kWindowRadius + k]);
    return out;
}

template <class S, int Channels, int Pixels>
SPLATLEARN_DEVICE void read_taps(const S *row, S (&taps)[Pixels + kReach]) {
#pragma unroll
    for (int k = 0; k < Pixels + kReach; ++k) taps[k] = row[Strip<S, Channels>::at(k) + threadIdx.x];
}

// Each new row adds to ten unfinished windows, which move on by one as they are added to, finishes one and begins one.
template <class S> struct PixelColumn {
    S part[kReach] = {};
    SPLATLEARN_DEVICE S push(S row) {
        const S out = part[0] + weight<S>(kWindowRadius) * row;
#pragma unroll
        for (int j = 0; j + 1 < kReach; ++j) part[j] = part[j + 1] + weight<S>(kWindowRadius - 1 - j) * row;
        part[kReach - 1] = weight<S>(kWindowRadius) * row;
        return out;
    }
};

// ---- value and gradient ----

// What a thread keeps on its way down. What the first rows leave unfinished, or shared memory holds beyond what was
// written, reaches only windows that are not asked for.
template <class S, int Channels> struct StripPass {
    using Shape = Strip<S, Channels>;
    static constexpr int kThreadPixels = Shape::kThreadPixels, kRow = Shape::kRow, kTaps = kThreadPixels + kReach;
    const splatlearn_Photometric &p;
    const StripPlace place;
    const int column;  // of the first pixel, in the picture
    bool inside[kThreadPixels], own[kThreadPixels];
    PixelColumn<S> means[4][kThreadPixels], chains[3][kThreadPixels];
    S l1 = S(0), similarity = S(0);

    SPLATLEARN_DEVICE StripPass(const splatlearn_Photometric &params, const StripPlace &block)
        : p(params), place(block), column(block.column - kWindowRadius + int(threadIdx.x) / Channels * kThreadPixels) {
#pragma unroll
        for (int i = 0; i < kThreadPixels; ++i) {
            const int x = column + i;
            inside[i] = x >= 0 && x < p.width;
            own[i] = inside[i] && x >= place.column && x < place.column + Shape::kOwn;
        }
    }

    // A row into the window means, which are then those of five rows above it.
    SPLATLEARN_DEVICE void filter(int row, const S *sums, const S *differences, SumMeans<S> (&mean)[kThreadPixels]) {
        S s[kTaps], d[kTaps], ss[kTaps], dd[kTaps];
        read_taps<S, Channels, kThreadPixels>(sums, s);
        read_taps<S, Channels, kThreadPixels>(differences, d);
#pragma unroll
        for (int k = 0; k < kTaps; ++k) ss[k] = s[k] * s[k], dd[k] = d[k] * d[k];
        const bool counted = row >= place.first && row < place.last;
#pragma unroll
        for (int i = 0; i < kThreadPixels; ++i) {
            if (counted && own[i]) l1 += absolute(d[i + kWindowRadius]);
            mean[i] = {
                means[0][i].push(window<S, kThreadPixels>(s, i)), means[1][i].push(window<S, kThreadPixels>(d, i)),
                means[2][i].push(window<S, kThreadPixels>(ss, i)), means[3][i].push(window<S, kThreadPixels>(dd, i))};
        }
    }

    // SSIM of a row and its gradients, which are zero beside the picture.
    SPLATLEARN_DEVICE void compare(int row, const SumMeans<S> (&mean)[kThreadPixels], S *maps) {
        const bool counted = row >= place.first && row < place.last, in_picture = row >= 0 && row < p.height;
#pragma unroll
        for (int i = 0; i < kThreadPixels; ++i) {
            S v, v_s, v_d;
            const S value = ssim_with_backward(mean[i], v, v_s, v_d);
            if (counted && own[i]) similarity += value;
            const bool there = in_picture && inside[i];
            S *const to = maps + Shape::at(i + kWindowRadius) + threadIdx.x;
            to[0] = there ? v : S(0);
            to[kRow] = there ? v_s : S(0);
            to[2 * kRow] = there ? v_d : S(0);
        }
    }

    // A row of maps into the gradient to the image, which is then that of five rows above it.
    SPLATLEARN_DEVICE void chain(const S *maps, S (&out)[3][kThreadPixels]) {
#pragma unroll
        for (int map = 0; map < 3; ++map) {
            S taps[kTaps];
            read_taps<S, Channels, kThreadPixels>(maps + map * kRow, taps);
#pragma unroll
            for (int i = 0; i < kThreadPixels; ++i)
                out[map][i] = chains[map][i].push(window<S, kThreadPixels>(taps, i));
        }
    }

    SPLATLEARN_DEVICE void write(int row, const S (&chain)[3][kThreadPixels], const S *sums, const S *differences,
                                 S l1_scale, S ssim_scale) const {
        S *const out = static_cast<S *>(p.v_image) + place.at(p, row) + threadIdx.x % Channels;
#pragma unroll
        for (int i = 0; i < kThreadPixels; ++i) {
            if (!own[i]) continue;
            const int at = Shape::at(i + kWindowRadius) + threadIdx.x;
            const S s = sums[at], d = differences[at];
            const S sign = d > S(0) ? l1_scale : d < S(0) ? -l1_scale : S(0);
            out[int64_t(column + i) * p.channels] =
                sign + ssim_scale * (chain[0][i] + s * chain[1][i] + d * chain[2][i]);
        }
    }
};

template <class S, class Target, int Channels>
SPLATLEARN_KERNEL __launch_bounds__(kThreads) void photometric_kernel(Params<S> params) {
    constexpr int kRow = Strip<S, Channels>::kRow;
    SPLATLEARN_SHARED(S, sums, kRing * kRow);
    SPLATLEARN_SHARED(S, differences, kRing * kRow);
    SPLATLEARN_SHARED(S, maps, 2 * 3 * kRow);
    SPLATLEARN_SHARED(double, warps, 2 * kThreads / kWarp);
    const splatlearn_Photometric &p = params.p;
    const StripPlace place(params, Channels, Strip<S, Channels>::kOwn);
    const double count = double(p.n_images) * p.height * p.width * p.channels;
    const S l1_scale = S((1 - p.lambda_dssim) / count), ssim_scale = S(-p.lambda_dssim / count);
    StripPass<S, Channels> walk(p, place);
    Reader<S, Target, Channels> reader(p, place);
    reader.load();
    SumMeans<S> mean[Strip<S, Channels>::kThreadPixels];
    int slot = 0, row = place.first - kReach;  // the row's place among those kept, in scalars
    const auto next_row = [&] {
        reader.store(sums + slot, differences + slot);
        __syncthreads();
        reader.load();
        walk.filter(row, sums + slot, differences + slot, mean);
    };
    for (; row < place.first; ++row, slot += kRow) next_row();
    // The maps of a row are filtered a step after they were written, so that one barrier a row is enough.
    const int end = place.last + kReach + (p.v_image ? 1 : -kWindowRadius);
    for (; row < end; ++row) {
        next_row();
        slot = slot + kRow < kRing * kRow ? slot + kRow : 0;
        S *const now = maps + (row & 1) * 3 * kRow, *const before = maps + (~row & 1) * 3 * kRow;
        walk.compare(row - kWindowRadius, mean, now);
        S chain[3][Strip<S, Channels>::kThreadPixels];
        walk.chain(before, chain);
        if (!p.v_image || row <= place.first + kReach) continue;
        const int behind = slot + kRow < kRing * kRow ? slot + kRow : 0;
        walk.write(row - kReach - 1, chain, sums + behind, differences + behind, l1_scale, ssim_scale);
    }
    const double totals[2] = {double(warp_sum(walk.l1)), double(warp_sum(walk.similarity))};
    if (threadIdx.x % kWarp == 0)
        for (int j = 0; j < 2; ++j) warps[j * (kThreads / kWarp) + threadIdx.x / kWarp] = totals[j];
    __syncthreads();
    if (threadIdx.x >= 2) return;
    double total = 0;
    for (int w = 0; w < kThreads / kWarp; ++w) total += warps[threadIdx.x * (kThreads / kWarp) + w];
    params.sums[int64_t(threadIdx.x) * gridDim.x + blockIdx.x] = total;
}

struct MeanParams {
    splatlearn_Photometric p;
    const double *sums;  // [2][blocks]
    int64_t blocks;
    double count;
};

template <class S> SPLATLEARN_KERNEL __launch_bounds__(kFinalThreads) void mean_kernel(MeanParams params) {
    SPLATLEARN_SHARED(double, warps, 2 * kFinalThreads / kWarp);
    constexpr int kWarps = kFinalThreads / kWarp;
    for (int j = 0; j < 2; ++j) {
        double mine = 0;
        for (int64_t i = threadIdx.x; i < params.blocks; i += kFinalThreads) mine += params.sums[j * params.blocks + i];
        mine = warp_sum(mine);
        if (threadIdx.x % kWarp == 0) warps[j * kWarps + threadIdx.x / kWarp] = mine;
    }
    __syncthreads();
    if (threadIdx.x != 0) return;
    double means[2] = {};
    for (int j = 0; j < 2; ++j) {
        for (int w = 0; w < kWarps; ++w) means[j] += warps[j * kWarps + w];
        means[j] /= params.count;
    }
    const splatlearn_Photometric &p = params.p;
    *p.l1 = means[0];
    *p.ssim = means[1];
    *static_cast<S *>(p.loss) = S((1 - p.lambda_dssim) * means[0] + p.lambda_dssim * (1 - means[1]));
}

// A picture of three channels is read whole, others a channel at a time.
template <class S, int Channels> Params<S> layout(const splatlearn_Photometric &p, Arena &arena, int64_t &blocks) {
    const int strips = int(blocks_for(p.width, Strip<S, Channels>::kOwn)), groups = p.channels / Channels;
    const int64_t columns = p.n_images * strips * groups, wanted = kBlocks / columns > 0 ? kBlocks / columns : 1;
    const int least = int(blocks_for(p.height, int(wanted))), rows = least > kRowsMin ? least : kRowsMin;
    const int bands = int(blocks_for(p.height, rows));
    blocks = columns * bands;
    return {p, strips, bands, groups, rows, arena.take<double>(2 * blocks)};
}

template <class S, int Channels> int evaluate_channels(const splatlearn_Photometric &p) {
    Arena arena(p.context.scratch);
    int64_t blocks = 0;
    const Params<S> params = layout<S, Channels>(p, arena, blocks);
    if (!fits(arena, p.context)) return kScratchTooSmall;
    if (blocks > INT32_MAX) return kTooMany;
    const cudaStream_t stream = stream_of(p.context);
    const auto kernel =
        p.target_is_uint8 ? photometric_kernel<S, uint8_t, Channels> : photometric_kernel<S, S, Channels>;
    SPLATLEARN_TRY(SPLATLEARN_LAUNCH((kernel), unsigned(blocks), kThreads, stream, params));
    const MeanParams mean = {p, params.sums, blocks, double(p.n_images) * p.height * p.width * p.channels};
    return SPLATLEARN_LAUNCH((mean_kernel<S>), 1, kFinalThreads, stream, mean);
}

template <class S> int evaluate(const splatlearn_Photometric &p) {
    return p.channels == 3 ? evaluate_channels<S, 3>(p) : evaluate_channels<S, 1>(p);
}

template <class S> int64_t scratch_of(const splatlearn_Photometric &p) {
    Arena arena(nullptr);
    int64_t blocks = 0;
    if (p.channels == 3)
        layout<S, 3>(p, arena, blocks);
    else
        layout<S, 1>(p, arena, blocks);
    return arena.used();
}

}  // namespace

int photometric(const splatlearn_Photometric &params) { return SPLATLEARN_BY_SCALAR(params, params.context, evaluate); }
int64_t photometric_scratch(const splatlearn_Photometric &params) {
    return params.context.scalar_bytes == 4 ? scratch_of<float>(params) : scratch_of<double>(params);
}

}  // namespace SPLATLEARN_NAMESPACE
