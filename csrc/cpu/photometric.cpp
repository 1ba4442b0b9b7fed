// L1 + SSIM and the gradient to the image on the CPU, in one pass over strips of the picture whose filtered rows stay
// in cache.
//
// Channels are interleaved, so a horizontal window is a sum of neighbours D scalars apart and SIMD lanes run along the
// row whatever D is. Rows come in groups of five, the radius of the window: a vertical window over a group reaches the
// group before it, the group itself and the one after it. Three stages follow each other down the strip, a group apart:
// rows filtered horizontally; filtered vertically to the window means, SSIM and its gradients to the means; those
// filtered again, which gives the gradient to the image.
#include "cpu.h"

#include "../math/ssim.h"

namespace SPLATLEARN_NAMESPACE {
namespace {

constexpr int kGroup = kWindowRadius;  // rows
constexpr int64_t kStrip = 512;        // scalars of a row, about: fixed, so that sums do not depend on the threads

int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

// The last three groups of rows of some maps.
template <class S> class Groups {
public:
    Groups(S *memory, int maps, int64_t stride) : memory_(memory), maps_(maps), stride_(stride) {}
    static int64_t scratch(int maps, int64_t stride) { return 3 * maps * kGroup * stride; }
    S *end() const { return memory_ + scratch(maps_, stride_); }
    S *row(int64_t group, int r, int map) const { return memory_ + ((group % 3 * maps_ + map) * kGroup + r) * stride_; }
    void clear(int64_t group, int r) const {
        for (int map = 0; map < maps_; ++map) std::memset(row(group, r, map), 0, size_t(stride_) * sizeof(S));
    }

    // The five rows of a group filtered vertically, at column j.
    SPLATLEARN_HD void vertical(int64_t group, int map, int64_t j, Lanes<S> *out) const {
        for (int r = 0; r < kGroup; ++r) out[r] = Lanes<S>{};
#pragma GCC unroll 3
        for (int g = 0; g < 3; ++g) {
            const S *const from = row(group + 2 + g, 0, map) + j;  // 2 + g is g - 1 modulo 3
#pragma GCC unroll 5
            for (int i = 0; i < kGroup; ++i) {
                const Lanes<S> value = load(from + i * stride_);
#pragma GCC unroll 5
                for (int r = 0; r < kGroup; ++r) {
                    const int distance = (g - 1) * kGroup + i - r, away = distance < 0 ? -distance : distance;
                    if (away <= kWindowRadius) out[r] = out[r] + S(kWindow[away]) * value;
                }
            }
        }
    }

private:
    S *memory_;
    int maps_;
    int64_t stride_;
};

// A strip of columns of one image, and some rows of it. Columns count from two margins left of the strip's first: the
// image's and the target's rows reach two margins beyond the strip, window means and their gradients one, gradients to
// the image none.
template <class S> struct Patch {
    static constexpr int L = Lanes<S>::count, kParts = SPLATLEARN_NAMESPACE::kParts<S>;
    const splatlearn_Photometric &p;
    const int64_t scalars, margin, width;  // of an image's row; of a margin; of the strip, whole numbers of kWide
    const int64_t image, begin, end;       // begin..end-1: the strip's scalars
    S *const v;                            // rows of three gradients for a group
    const Groups<S> pictures, means,
        gradients;       // the image and the target as they are; filtered along the row: five maps, and three
    double *const sums;  // [height][2] of the strip: |x - y| and SSIM

    static int64_t margin_of(const splatlearn_Photometric &p) {
        return round_up(int64_t(kWindowRadius) * p.channels, kWide<S>);
    }
    static int64_t width_of(const splatlearn_Photometric &p, int64_t strips) {
        return round_up((int64_t(p.width) * p.channels + strips - 1) / strips, kWide<S>);
    }
    static int64_t scratch(int64_t margin, int64_t width) {
        const int64_t wide = width + 4 * margin;
        return 3 * kGroup * wide + Groups<S>::scratch(2 + 5 + 3, wide);
    }

    Patch(const splatlearn_Photometric &params, int64_t image_index, int64_t strip, int64_t strips, S *memory,
          double *sums_of_strip)
        : p(params), scalars(int64_t(p.width) * p.channels), margin(margin_of(p)), width(width_of(p, strips)),
          image(image_index), begin(strip * width), end(begin + width < scalars ? begin + width : scalars), v(memory),
          pictures(v + 3 * kGroup * wide(), 2, wide()), means(pictures.end(), 5, wide()),
          gradients(means.end(), 3, wide()), sums(sums_of_strip) {}

    int64_t wide() const { return width + 4 * margin; }
    int64_t at(int row) const { return (image * p.height + row) * scalars; }  // of a row's first scalar
    S *v_row(int map, int r) const { return v + (map * kGroup + r) * wide(); }
    bool in_image(int row) const { return row >= 0 && row < p.height; }

    // Rows first..last-1 of the strip; `first` begins a group.
    void run(int first, int last) {
        for (int row = first - 2 * kGroup; row < last + 2 * kGroup; row += kGroup) {
            const int64_t group = row / kGroup + 2;  // never negative
            filter(group, row);
            if (row >= first) similarity(group + 2, row - kGroup, first, last);
            if (row >= first + 2 * kGroup) image_gradient(group + 1, row - 2 * kGroup);
        }
    }

    // ---- window means need five maps filtered along the row ----

    void filter(int64_t group, int first) const {
        for (int r = 0; r < kGroup; ++r) {
            if (!in_image(first + r)) {
                means.clear(group, r);
                continue;
            }
            S *const x = pictures.row(group, r, 0), *const y = pictures.row(group, r, 1);
            S *const to[5] = {means.row(group, r, 0), means.row(group, r, 1), means.row(group, r, 2),
                              means.row(group, r, 3), means.row(group, r, 4)};
            load_row(first + r, x, y);
            for (int64_t j = margin; j < wide() - margin; j += L) horizontal_products(x + j, y + j, j, to);
        }
    }

    void load_row(int row, S *x, S *y) const {
        int64_t from = begin - 2 * margin, skipped = from < 0 ? -from : 0,
                until = from + wide() < scalars ? wide() : scalars - from;
        std::memset(x, 0, size_t(skipped) * sizeof(S));
        std::memset(y, 0, size_t(skipped) * sizeof(S));
        std::memset(x + until, 0, size_t(wide() - until) * sizeof(S));
        std::memset(y + until, 0, size_t(wide() - until) * sizeof(S));
        from += at(row);
        const size_t bytes = size_t(until - skipped) * sizeof(S);
        std::memcpy(x + skipped, static_cast<const S *>(p.image) + from + skipped, bytes);
        if (!p.target_is_uint8) {
            std::memcpy(y + skipped, static_cast<const S *>(p.target) + from + skipped, bytes);
            return;
        }
        const uint8_t *const target = static_cast<const uint8_t *>(p.target) + from;
        for (int64_t j = skipped; j < until; ++j) y[j] = S(target[j]) / S(255);
    }

    SPLATLEARN_HD void horizontal_products(const S *x, const S *y, int64_t j, S *const *to) const {
        const Lanes<S> x0 = load(x), y0 = load(y), w0{S(kWindow[0])};
        Lanes<S> mx = w0 * x0, my = w0 * y0, mxx = mx * x0, myy = my * y0, mxy = mx * y0;
#pragma GCC unroll 5
        for (int k = 1; k <= kWindowRadius; ++k) {
            const int64_t away = k * p.channels;
            const Lanes<S> xa = load(x - away), xb = load(x + away), ya = load(y - away), yb = load(y + away),
                           w{S(kWindow[k])};
            mx = mx + w * (xa + xb);
            my = my + w * (ya + yb);
            mxx = mxx + w * (xa * xa + xb * xb);
            myy = myy + w * (ya * ya + yb * yb);
            mxy = mxy + w * (xa * ya + xb * yb);
        }
        store(to[0] + j, mx);
        store(to[1] + j, my);
        store(to[2] + j, mxx);
        store(to[3] + j, myy);
        store(to[4] + j, mxy);
    }

    // ---- SSIM of a group of rows and its gradients to the means, filtered along the row for what comes next ----

    void similarity(int64_t group, int first, int counted_from, int counted_to) const {
        Lanes<S> totals[kParts][kGroup] = {};
        for (int64_t j = margin; j < wide() - margin; j += L) {
            Lanes<S> *const total = totals[j / L % kParts];
            Lanes<S> mean[5][kGroup];
            for (int map = 0; map < 5; ++map) means.vertical(group, map, j, mean[map]);
            const int64_t column = begin - 2 * margin + j;
            const Lanes<S> columns = ramp<S>() + S(column);
            const auto inside = (columns >= S(0)) & (columns < Lanes<S>(S(scalars)));
            const auto own = (columns >= S(begin)) & (columns < Lanes<S>(S(end)));
            for (int r = 0; r < kGroup; ++r) {
                if (!in_image(first + r)) continue;
                Lanes<S> v_x, v_xx, v_xy;
                const WindowMeans<Lanes<S>> at_pixel = {mean[0][r], mean[1][r], mean[2][r], mean[3][r], mean[4][r]};
                const Lanes<S> value = ssim_with_backward(at_pixel, v_x, v_xx, v_xy);
                total[r] = total[r] + select(own, value, Lanes<S>{});
                store(v_row(0, r) + j, select(inside, v_x, Lanes<S>{}));
                store(v_row(1, r) + j, select(inside, v_xx, Lanes<S>{}));
                store(v_row(2, r) + j, select(inside, v_xy, Lanes<S>{}));
            }
        }
        for (int r = 0; r < kGroup; ++r) {
            const int row = first + r;
            if (row >= counted_from && row < counted_to) sums[2 * row + 1] = double(wide_sum(&totals[0][r], kGroup));
            if (!p.v_image) continue;
            if (!in_image(row)) {
                gradients.clear(group, r);
                continue;
            }
            for (int map = 0; map < 3; ++map) horizontal(v_row(map, r), gradients.row(group, r, map));
        }
    }

    void horizontal(const S *from, S *to) const {
        for (int64_t j = 2 * margin; j < wide() - 2 * margin; j += L) {
            Lanes<S> out = S(kWindow[0]) * load(from + j);
#pragma GCC unroll 5
            for (int k = 1; k <= kWindowRadius; ++k)
                out = out + S(kWindow[k]) * (load(from + j - k * p.channels) + load(from + j + k * p.channels));
            store(to + j, out);
        }
    }

    // ---- L1, and the gradient to a group of rows of the image ----

    void image_gradient(int64_t group, int first) const {
        for (int64_t j = 2 * margin; p.v_image && j < wide() - 2 * margin; j += L)
            for (int map = 0; map < 3; ++map) {
                Lanes<S> chain[kGroup];
                gradients.vertical(group, map, j, chain);
                for (int r = 0; r < kGroup; ++r) store(v_row(map, r) + j, chain[r]);  // these rows are free here
            }
        for (int r = 0; r < kGroup && first + r < p.height; ++r)
            image_row(first + r, r, pictures.row(group, r, 0), pictures.row(group, r, 1));
    }

    void image_row(int row, int r, const S *x, const S *y) const {
        const double count = double(p.n_images) * p.height * double(scalars);
        const S l1_scale = S((1 - p.lambda_dssim) / count), ssim_scale = S(-p.lambda_dssim / count);
        Lanes<S> totals[kParts] = {};
        S *const out = v_row(0, r);
        for (int64_t j = 2 * margin; j < wide() - 2 * margin; j += L) {  // behind the image's end both rows are 0
            const Lanes<S> xj = load(x + j), yj = load(y + j), columns = ramp<S>() + S(begin - 2 * margin + j);
            const Lanes<S> difference = select(columns < Lanes<S>(S(end)), xj - yj, Lanes<S>{});
            Lanes<S> &total = totals[j / L % kParts];
            total = total + absolute(difference);
            if (!p.v_image) continue;
            const Lanes<S> sign = select(difference > S(0), Lanes<S>(l1_scale),
                                         select(difference < S(0), Lanes<S>(-l1_scale), Lanes<S>{}));
            const Lanes<S> chain = load(out + j) + S(2) * xj * load(v_row(1, r) + j) + yj * load(v_row(2, r) + j);
            store(out + j, sign + ssim_scale * chain);
        }
        sums[2 * row] = double(wide_sum(totals));
        if (p.v_image)
            std::memcpy(static_cast<S *>(p.v_image) + at(row) + begin, out + 2 * margin,
                        size_t(end - begin) * sizeof(S));
    }
};

template <class S> int evaluate(const splatlearn_Photometric &p) {
    const int64_t scalars = int64_t(p.width) * p.channels, strips = (scalars + kStrip - 1) / kStrip;
    const int64_t wanted = 4 * int64_t(p.context.threads),
                  parts = (wanted + p.n_images * strips - 1) / (p.n_images * strips);
    const int64_t rows = round_up((p.height + parts - 1) / parts, kGroup),
                  bands = (p.height + rows - 1) / rows;  // rows a work item
    const int64_t scratch = Patch<S>::scratch(Patch<S>::margin_of(p), Patch<S>::width_of(p, strips));
    Buffer<S> memory(p.context.threads * scratch);
    Buffer<double> sums(2 * p.n_images * strips * p.height);
    if (!memory || !sums) return kOutOfMemory;
#pragma omp parallel for schedule(dynamic, 1) num_threads(p.context.threads)
    for (int64_t item = 0; item < p.n_images * strips * bands; ++item) {
        const int64_t strip = item / bands, first = item % bands * rows,
                      last = first + rows < p.height ? first + rows : p.height;
        Patch<S> patch(p, strip / strips, strip % strips, strips, memory.get() + omp_get_thread_num() * scratch,
                       sums.get() + 2 * strip * p.height);
        patch.run(int(first), int(last));
    }
    double l1 = 0, similarity = 0;
    for (int64_t i = 0; i < p.n_images * strips * p.height; ++i) {
        l1 += sums[2 * i];
        similarity += sums[2 * i + 1];
    }
    const double count = double(p.n_images) * p.height * double(scalars);
    *p.l1 = l1 / count;
    *p.ssim = similarity / count;
    *static_cast<S *>(p.loss) = S((1 - p.lambda_dssim) * *p.l1 + p.lambda_dssim * (1 - *p.ssim));
    return 0;
}

}  // namespace

int photometric(const splatlearn_Photometric &params) { return SPLATLEARN_BY_SCALAR(params, params.context, evaluate); }

}  // namespace SPLATLEARN_NAMESPACE
