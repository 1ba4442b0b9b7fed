// Backward of the projection and Adam in one pass on the CPU. Gradients stay in registers and on the stack; parameters
// and moments are read and written once. SIMD lanes run over Gaussians, then over scalars; threads over chunks.
#include "adam.h"
#include "project_backward.h"

namespace SPLATLEARN_NAMESPACE {
namespace {

// The six parameters in the order of the struct.
enum Parameter { kMeans, kQuats, kScales, kOpacities, kSh0, kShN, kParameters };

template <class S> struct Rates { AdamRates<S> of[kParameters]; };

// Gradients of one register of Gaussians, in rows as in memory; of shN only the moving bases.
template <class S> struct Rows {
    static constexpr int L = Lanes<S>::count;
    S mean[L * 3], quat[L * 4], scale[L * 3], opacity[L], sh0[L * 3], shN[L * 3 * (kMaxBases - 1)];
};

template <class Primitive, class Camera, class S> SPLATLEARN_HD void gradients(const splatlearn_ProjectUpdate &p,
                                                                               const PosedCamera<Camera> &view,
                                                                               int64_t first, int rows, Rows<S> &out) {
    std::memset(&out, 0, sizeof out - sizeof out.shN + size_t(rows) * p.n_moving * 3 * sizeof(S));
    if (!visible_rows(p.grad, first, rows)) return;
    Group<Primitive, S> group;
    typename Primitive::template Gradients<Lanes<S>> v;
    load_group(p.grad.inputs, first, rows, group);
    const CoefficientGradients<S> to = {out.sh0, out.shN, p.n_moving * 3};
    group_backward(p.grad, view, 0, first, group, to, v, static_cast<S *>(nullptr));
    Lanes<S> v_quat[4];
    finish_gradients(p.grad.inputs, group, v, v_quat);
    store_rows<S, 3>(v.mean, rows, out.mean);
    store_rows<S, 4>(v_quat, rows, out.quat);
    store_rows<S, 3>(v.scale, rows, out.scale);
    store_rows<S, 1>(&v.opacity, rows, out.opacity);
}

// Updates the first `used` scalars of each row of `width` scalars; `gradient` has rows of `used`.
template <class S> SPLATLEARN_HD void update_rows(const splatlearn_ProjectUpdate &p, const Rates<S> &rates,
                                                  Parameter which, int64_t first, int rows, int width, int used,
                                                  const S *gradient) {
    S *const tensors[3] = {static_cast<S *>(p.parameters[which]) + first * width,
                           static_cast<S *>(p.exp_avg[which]) + first * width,
                           static_cast<S *>(p.exp_avg_sq[which]) + first * width};
    if (used == width)
        return adam_span(rates.of[which], gradient, int64_t(rows) * width, tensors[0], tensors[1], tensors[2]);
    S dense[3][Lanes<S>::count * 3 * (kMaxBases - 1)];
    for (int t = 0; t < 3; ++t)
        for (int i = 0; i < rows; ++i)
            for (int j = 0; j < used; ++j) dense[t][i * used + j] = tensors[t][i * width + j];
    adam_span(rates.of[which], gradient, int64_t(rows) * used, dense[0], dense[1], dense[2]);
    for (int t = 0; t < 3; ++t)
        for (int i = 0; i < rows; ++i)
            for (int j = 0; j < used; ++j) tensors[t][i * width + j] = dense[t][i * used + j];
}

template <class Primitive, class Camera, class S> int update_of(const splatlearn_ProjectUpdate &p) {
    if (p.skip && *p.skip) return 0;
    const splatlearn_ProjectInputs &in = p.grad.inputs;
    constexpr int L = Lanes<S>::count;
    Rates<S> rates;
    for (int i = 0; i < kParameters; ++i)
        rates.of[i] = adam_rates<S>(p.learning_rates[i], p.beta1, p.beta2, p.eps, p.step);
    PosedCamera<Camera> view;
    load_view<Camera, S>(in, 0, view);
    const int width = int(p.grad.n_shN * 3), moving = int(p.n_moving * 3);
    const int64_t chunks = (in.n_gaussians + kProjectChunk - 1) / kProjectChunk;
#pragma omp parallel for schedule(dynamic, 1) num_threads(in.context.threads)
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        const int64_t begin = chunk * kProjectChunk, left = in.n_gaussians - begin;
        const int64_t end = begin + (left < kProjectChunk ? left : kProjectChunk);
        for (int64_t first = begin; first < end; first += L) {
            const int rows = int(end - first < L ? end - first : L);
            Rows<S> v;
            gradients<Primitive>(p, view, first, rows, v);
            update_rows(p, rates, kMeans, first, rows, 3, 3, v.mean);
            update_rows(p, rates, kQuats, first, rows, 4, 4, v.quat);
            update_rows(p, rates, kScales, first, rows, 3, 3, v.scale);
            update_rows(p, rates, kOpacities, first, rows, 1, 1, v.opacity);
            update_rows(p, rates, kSh0, first, rows, 3, 3, v.sh0);
            if (moving) update_rows(p, rates, kShN, first, rows, width, moving, v.shN);
        }
    }
    return 0;
}

template <class S> int update(const splatlearn_ProjectUpdate &p) {
    return by_projection<Lanes<S>>(p.grad.inputs.camera_model, kUnknownCamera, [&](auto primitive, auto camera) {
        return update_of<decltype(primitive), decltype(camera), S>(p);
    });
}

}  // namespace

int project_update(const splatlearn_ProjectUpdate &params) {
    return SPLATLEARN_BY_SCALAR(params, params.grad.inputs.context, update);
}

}  // namespace SPLATLEARN_NAMESPACE
