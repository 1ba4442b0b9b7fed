// L1 + SSIM and the gradient to the image on the CPU, in one pass over bands of rows that stay in cache.
//
// Channels are interleaved, so a horizontal window is a sum of neighbours D scalars apart and SIMD lanes run along the row whatever D
// is. Three stages follow each other down the band, each five rows behind the one before: rows filtered horizontally; filtered
// vertically to the window means, SSIM and its gradients to the means; those filtered again, which gives the gradient to the image.
#include "cpu.h"

#include "../math/ssim.h"

namespace SPLATLEARN_NAMESPACE {
namespace {

constexpr int kBand = 48;                         // rows a work item
constexpr int kTaps = 2 * kWindowRadius + 1;

// A ring of the last kTaps filtered rows of `maps` maps; rows outside the image are zero.
template <class S> class Ring {
public:
    Ring(S *memory, int maps, int64_t stride) : memory_(memory), maps_(maps), stride_(stride) {}
    S *row(int y, int map) const { return memory_ + ((y + kTaps) % kTaps * maps_ + map) * stride_; }
    void clear(int y) const { std::memset(row(y, 0), 0, size_t(maps_ * stride_) * sizeof(S)); }
    SPLATLEARN_HD Lanes<S> vertical(int y, int map, int64_t j) const {
        Lanes<S> out = S(kWindow[0]) * load(row(y, map) + j);
        for (int k = 1; k <= kWindowRadius; ++k) out = out + S(kWindow[k]) * (load(row(y - k, map) + j) + load(row(y + k, map) + j));
        return out;
    }

private:
    S *memory_;
    int maps_;
    int64_t stride_;
};

template <class S> struct Band {
    static constexpr int L = Lanes<S>::count;
    const splatlearn_Photometric &p;
    const int64_t image, scalars, padded, pad;    // scalars of a row; padded to whole registers; margin on each side
    const int first, last;                        // rows of the band
    S *const x, *const y, *const products;        // padded rows: the image's, the target's, and one of their products
    Ring<S> means, gradients;
    double sums[2] = {};                          // |x - y| and SSIM over the band

    static int64_t padded_row(const splatlearn_Photometric &p) { return (int64_t(p.width) * p.channels + L - 1) / L * L; }
    static int64_t margin(const splatlearn_Photometric &p) { return (int64_t(kWindowRadius) * p.channels + L - 1) / L * L; }
    static int64_t scratch(const splatlearn_Photometric &p) { return 3 * (padded_row(p) + 2 * margin(p)) + (5 + 3) * kTaps * padded_row(p); }

    Band(const splatlearn_Photometric &params, int64_t c, int begin, S *memory)
        : p(params), image(c), scalars(int64_t(p.width) * p.channels), padded(padded_row(p)), pad(margin(p)), first(begin),
          last(begin + kBand < p.height ? begin + kBand : p.height), x(memory + pad), y(x + padded + 2 * pad),
          products(y + padded + 2 * pad), means(memory + 3 * (padded + 2 * pad), 5, padded),
          gradients(memory + 3 * (padded + 2 * pad) + 5 * kTaps * padded, 3, padded) {
        std::memset(memory, 0, size_t(3 * (padded + 2 * pad)) * sizeof(S));
        for (int k = 0; k < kTaps; ++k) { means.clear(k); gradients.clear(k); }
    }

    void load_row(int row) const {
        const int64_t at = (image * p.height + row) * scalars;
        std::memcpy(x, static_cast<const S *>(p.image) + at, size_t(scalars) * sizeof(S));
        if (!p.target_is_uint8) {
            std::memcpy(y, static_cast<const S *>(p.target) + at, size_t(scalars) * sizeof(S));
            return;
        }
        const uint8_t *bytes = static_cast<const uint8_t *>(p.target) + at;
        for (int64_t j = 0; j < scalars; ++j) y[j] = S(bytes[j]) / S(255);
    }

    void horizontal(const S *from, S *to) const {
        for (int64_t j = 0; j < padded; j += L) {
            Lanes<S> out = S(kWindow[0]) * load(from + j);
            for (int k = 1; k <= kWindowRadius; ++k) out = out + S(kWindow[k]) * (load(from + j - k * p.channels) + load(from + j + k * p.channels));
            store(to + j, out);
        }
    }

    // The window means need five maps filtered along the row.
    void filter_row(int row) const {
        if (row < 0 || row >= p.height) return means.clear(row);
        load_row(row);
        horizontal(x, means.row(row, 0));
        horizontal(y, means.row(row, 1));
        multiply(x, x);
        horizontal(products, means.row(row, 2));
        multiply(y, y);
        horizontal(products, means.row(row, 3));
        multiply(x, y);
        horizontal(products, means.row(row, 4));
    }
    void multiply(const S *a, const S *b) const {
        for (int64_t j = 0; j < padded; j += L) store(products + j, load(a + j) * load(b + j));
    }

    // SSIM of a row and its gradients to the means, filtered along the row for what comes next.
    void similarity_row(int row) {
        if (row < 0 || row >= p.height) return gradients.clear(row);
        S *v[3] = {x, y, products};  // the rows' buffers are free here
        Lanes<S> total{};
        for (int64_t j = 0; j < padded; j += L) {
            WindowMeans<Lanes<S>> mean = {means.vertical(row, 0, j), means.vertical(row, 1, j), means.vertical(row, 2, j),
                                          means.vertical(row, 3, j), means.vertical(row, 4, j)};
            Lanes<S> value, v_x, v_xx, v_xy;
            value = ssim_with_backward(mean, v_x, v_xx, v_xy);
            const auto inside = ramp<S>() < Lanes<S>(S(scalars - j));
            total = total + select(inside, value, Lanes<S>{});
            store(v[0] + j, select(inside, v_x, Lanes<S>{}));
            store(v[1] + j, select(inside, v_xx, Lanes<S>{}));
            store(v[2] + j, select(inside, v_xy, Lanes<S>{}));
        }
        if (row >= first && row < last) sums[1] += double(sum(total));
        for (int map = 0; p.v_image && map < 3; ++map) horizontal(v[map], gradients.row(row, map));
        for (S *buffer : v) std::memset(buffer + scalars, 0, size_t(padded - scalars) * sizeof(S));
    }

    void image_row(int row) {
        load_row(row);
        const double count = double(p.n_images) * p.height * double(scalars);
        const S l1_scale = S((1 - p.lambda_dssim) / count), ssim_scale = S(-p.lambda_dssim / count);
        const int64_t at = (image * p.height + row) * scalars;
        Lanes<S> total{};
        S *const v_row = products;
        for (int64_t j = 0; j < padded; j += L) {
            Lanes<S> xj = load(x + j), yj = load(y + j), difference = xj - yj;
            total = total + absolute(difference);
            if (!p.v_image) continue;
            Lanes<S> sign = select(difference > S(0), Lanes<S>(l1_scale), select(difference < S(0), Lanes<S>(-l1_scale), Lanes<S>{}));
            Lanes<S> chain = gradients.vertical(row, 0, j) + S(2) * xj * gradients.vertical(row, 1, j) + yj * gradients.vertical(row, 2, j);
            store(v_row + j, sign + ssim_scale * chain);
        }
        sums[0] += double(sum(total));
        if (p.v_image) std::memcpy(static_cast<S *>(p.v_image) + at, v_row, size_t(scalars) * sizeof(S));
        std::memset(v_row + scalars, 0, size_t(padded - scalars) * sizeof(S));
    }

    void run() {
        const int halo = 2 * kWindowRadius;
        for (int row = first - halo; row < last + halo; ++row) {
            filter_row(row);
            const int similar = row - kWindowRadius, done = row - halo;
            if (similar >= first - kWindowRadius) similarity_row(similar);
            if (done >= first && done < last) image_row(done);
        }
    }
};

template <class S> int evaluate(const splatlearn_Photometric &p) {
    const int bands = (p.height + kBand - 1) / kBand;
    const int64_t items = p.n_images * bands, scratch = Band<S>::scratch(p);
    Buffer<S> memory(p.context.threads * scratch);
    Buffer<double> sums(2 * items);
    if (!memory || !sums) return kOutOfMemory;
#pragma omp parallel for schedule(dynamic, 1) num_threads(p.context.threads)
    for (int64_t item = 0; item < items; ++item) {
        Band<S> band(p, item / bands, int(item % bands) * kBand, memory.get() + omp_get_thread_num() * scratch);
        band.run();
        sums[2 * item] = band.sums[0];
        sums[2 * item + 1] = band.sums[1];
    }
    double l1 = 0, similarity = 0;
    for (int64_t item = 0; item < items; ++item) { l1 += sums[2 * item]; similarity += sums[2 * item + 1]; }
    const double count = double(p.n_images) * p.height * p.width * p.channels;
    *p.l1 = l1 / count;
    *p.ssim = similarity / count;
    return 0;
}

}  // namespace

int photometric(const splatlearn_Photometric &params) { return SPLATLEARN_BY_SCALAR(params, params.context, evaluate); }

}  // namespace SPLATLEARN_NAMESPACE
