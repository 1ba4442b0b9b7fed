// The gradient rows of all instances, one per (Gaussian, tile), summed in a fixed order into the gradients of each 2D
// Gaussian.
#include "rasterize.h"

namespace SPLATLEARN_NAMESPACE {

template <class S, class Primitive>
void sum_rows(const splatlearn_RasterizeBackward &grad, const BlendInputs<S, Primitive> &in) {
    constexpr int kMoments = Primitive::kMoments, kShape = Primitive::kShape;
    const int channels = grad.inputs.channels;
    const GradientRow<Primitive> layout = {channels, grad.inputs.absgrad != 0};
    const int columns = layout.columns();
    S *v_means = static_cast<S *>(grad.v_means2d), *v_shapes = static_cast<S *>(grad.v_conics);
    S *v_opacities = static_cast<S *>(grad.v_opacities);
    S *v_colors = static_cast<S *>(grad.v_colors), *v_abs = static_cast<S *>(grad.v_means2d_abs);
#pragma omp parallel for schedule(static) num_threads(grad.inputs.context.threads)
    for (int64_t row = 0; row < grad.inputs.n_rows; ++row) {
        S m[kMoments] = {}, a[2] = {}, *v_c = v_colors + row * channels;
        for (int d = 0; d < channels; ++d) v_c[d] = S(0);
        const int64_t begin = grad.row_offsets[row], end = grad.row_offsets[row + 1];
        for (int64_t slot = begin; slot < end; ++slot) {
            const S *from = static_cast<const S *>(grad.instance_rows) + slot * columns;
            for (int j = 0; j < kMoments; ++j) m[j] += from[j];
            for (int d = 0; d < channels; ++d) v_c[d] += from[layout.kColors + d];
            for (int j = 0; v_abs && j < 2; ++j) a[j] += from[layout.absolute() + j];
        }
        if (begin < end) {
            const S *const record = in.record(row);
            const auto splat = Primitive::template unpack<S>([&](int j) { return record[j]; });
            Primitive::moments_backward(splat, m, v_means + 2 * row, v_shapes + kShape * row, v_opacities[row]);
        } else {
            v_means[2 * row] = v_means[2 * row + 1] = v_opacities[row] = S(0);
            for (int j = 0; j < kShape; ++j) v_shapes[kShape * row + j] = S(0);
        }
        for (int j = 0; v_abs && j < 2; ++j) v_abs[2 * row + j] = a[j];
    }
}

#define SPLATLEARN_INSTANTIATE(P) \
    template void sum_rows(const splatlearn_RasterizeBackward &, const BlendInputs<float, P> &); \
    template void sum_rows(const splatlearn_RasterizeBackward &, const BlendInputs<double, P> &);
SPLATLEARN_PRIMITIVES(SPLATLEARN_INSTANTIATE)
#undef SPLATLEARN_INSTANTIATE

}  // namespace SPLATLEARN_NAMESPACE
