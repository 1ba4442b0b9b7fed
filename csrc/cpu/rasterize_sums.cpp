// The gradient rows of all instances, one a (Gaussian, tile), summed in a fixed order into the gradients of each 2D
// Gaussian.
#include "rasterize.h"

namespace SPLATLEARN_NAMESPACE {

template <class S> void sum_rows(const splatlearn_RasterizeBackward &grad, const Scene<S> &scene, int columns_of_row) {
    const int channels = grad.inputs.channels;
    S *v_means = static_cast<S *>(grad.v_means2d), *v_conics = static_cast<S *>(grad.v_conics),
      *v_opacities = static_cast<S *>(grad.v_opacities);
    S *v_colors = static_cast<S *>(grad.v_colors), *v_abs = static_cast<S *>(grad.v_means2d_abs);
#pragma omp parallel for schedule(static) num_threads(grad.inputs.context.threads)
    for (int64_t row = 0; row < grad.inputs.n_rows; ++row) {
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
            moments_backward<S>(scene.splats[row], {m[0], m[1], m[2], m[3], m[4], m[5]}, v_means + 2 * row,
                                v_conics + 3 * row, v_opacities[row]);
        } else {
            v_means[2 * row] = v_means[2 * row + 1] = v_opacities[row] = S(0);
            for (int j = 0; j < 3; ++j) v_conics[3 * row + j] = S(0);
        }
        for (int j = 0; v_abs && j < 2; ++j) v_abs[2 * row + j] = a[j];
    }
}

template void sum_rows(const splatlearn_RasterizeBackward &, const Scene<float> &, int);
template void sum_rows(const splatlearn_RasterizeBackward &, const Scene<double> &, int);

}  // namespace SPLATLEARN_NAMESPACE
