// Backward of the projection and Adam in one kernel on CUDA: one thread per Gaussian until its gradients lie in shared
// memory, then one thread per scalar, so that parameters and moments are read and written once, in whole lines: 24
// bytes per scalar, and no gradient in memory.
//
// Bytes per Gaussian of degree 3, float: 59 scalars * 24 = 1,416, and 56 more of a visible one (its 2D gradients, its
// colour and its radii). The backward of the projection and Adam as two kernels move 59 * (4 + 4 + 28) = 2,124 and
// those
// 56. A Gaussian that the view does not show has the gradient zero: its momentum still moves it, as in dense Adam. To
// postpone that movement does not pay: docs/LOG.md.
#include "project_backward.h"

#include "../math/adam.h"

namespace SPLATLEARN_NAMESPACE {
namespace {

// The six parameters in the order of the struct.
enum Parameter { kMeans, kQuats, kScales, kOpacities, kSh0, kShN, kParameters };

constexpr int kBatch = 4;  // scalars that a thread loads before it updates them

// A row of shared memory: the gradients of a Gaussian to all but shN, at an odd pitch.
constexpr int kOfMean = 0, kOfQuat = 3, kOfScale = 7, kOfOpacity = 10, kOfSh0 = 11, kGeometryPitch = 15;

template <class S> struct UpdateParams {
    splatlearn_ProjectUpdate update;
    AdamRates<S> rates[kParameters];
};

// Coefficients in shared memory; their gradients take their place.
template <class S> struct SharedRow {
    const S *f0;
    S *v_f0, *f;

    SPLATLEARN_DEVICE S *take(int k, S out[3]) const {
        S *const at = k == 0 ? v_f0 : f + 3 * (k - 1);
        for (int j = 0; j < 3; ++j) {
            out[j] = k == 0 ? f0[j] : at[j];
            at[j] = S(0);
        }
        return at;
    }
};

// Walks j = thread, thread + T, ... over rows of `width` scalars without dividing at every step.
template <int T> struct Cursor {
    int row, column, width, rows_a_step, columns_a_step;
    SPLATLEARN_DEVICE explicit Cursor(int of_width)
        : row(int(threadIdx.x) / of_width), column(int(threadIdx.x) % of_width), width(of_width),
          rows_a_step(T / of_width), columns_a_step(T % of_width) {}
    SPLATLEARN_DEVICE void step() {
        row += rows_a_step;
        column += columns_a_step;
        if (column >= width) {
            column -= width;
            ++row;
        }
    }
};

// Copies the coefficients of the degree to shared memory, for the visible rows of the block.
template <class S, int Degree>
SPLATLEARN_DEVICE void load_coefficients(const splatlearn_ProjectBackward &grad, int64_t first, int rows, S *to) {
    constexpr int T = kBackwardThreads<S>, kWidth = kCoefficients<Degree>;
    const S *from = static_cast<const S *>(grad.inputs.shN) + first * grad.inputs.shN_stride;
    for (int j = threadIdx.x; j < rows * kWidth; j += kBatch * T) {
        S value[kBatch];
#pragma unroll
        for (int b = 0; b < kBatch; ++b) {
            const int row = (j + b * T) / kWidth;  // kWidth is known when this is compiled
            if (row < rows && grad.radii[2 * (first + row)] > 0)
                value[b] = from[row * grad.inputs.shN_stride + (j + b * T) % kWidth];
        }
#pragma unroll
        for (int b = 0; b < kBatch; ++b) {
            const int row = (j + b * T) / kWidth;
            if (row < rows && grad.radii[2 * (first + row)] > 0)
                to[row * kPitch<Degree> + (j + b * T) % kWidth] = value[b];
        }
    }
}

// Updates the first `used` of `width` scalars of each row of the block. The gradient of scalar k of a row is
// gradients[row * pitch + k], and zero from `known` on.
template <class S> SPLATLEARN_DEVICE void update_rows(const UpdateParams<S> &params, Parameter which, int64_t first,
                                                      int rows, int width, int used, const S *gradients, int pitch,
                                                      int known) {
    constexpr int T = kBackwardThreads<S>;
    AdamRates<S> rates = params.rates[which];
    if (params.update.rates) {
        rates.step_size = static_cast<const S *>(params.update.rates)[2 * which];
        rates.root_bias2 = static_cast<const S *>(params.update.rates)[2 * which + 1];
    }
    S *const parameter = static_cast<S *>(params.update.parameters[which]) + first * width;
    S *const exp_avg = static_cast<S *>(params.update.exp_avg[which]) + first * width;
    S *const exp_avg_sq = static_cast<S *>(params.update.exp_avg_sq[which]) + first * width;
    Cursor<T> at(used);
    while (at.row < rows) {
        int place[kBatch];
        S x[kBatch], m[kBatch], v[kBatch], g[kBatch];
#pragma unroll
        for (int b = 0; b < kBatch; ++b, at.step()) {
            place[b] = at.row < rows ? at.row * width + at.column : -1;
            if (place[b] < 0) continue;
            x[b] = parameter[place[b]];
            m[b] = exp_avg[place[b]];
            v[b] = exp_avg_sq[place[b]];
            g[b] = at.column < known ? gradients[at.row * pitch + at.column] : S(0);
        }
#pragma unroll
        for (int b = 0; b < kBatch; ++b) {
            if (place[b] < 0) continue;
            adam_update<S>(rates, g[b], x[b], m[b], v[b]);
            parameter[place[b]] = x[b];
            exp_avg[place[b]] = m[b];
            exp_avg_sq[place[b]] = v[b];
        }
    }
}

// The gradients of one Gaussian: those to shN into `f`, which holds its coefficients, the others into `row`.
template <class Primitive, class Camera, int Degree, class S>
SPLATLEARN_DEVICE void gradients_of(const splatlearn_ProjectBackward &grad, int64_t n, S *row, S *f) {
    Gaussian3d<S> g;
    typename Primitive::template Gradients<S> v = {};
    S v_quat[4], v_camera[kCameraGradients<Camera>] = {};
    load_gaussian(grad.inputs, n, g);
    const SharedRow<S> coefficients = {static_cast<const S *>(grad.inputs.sh0) + n * grad.inputs.sh0_stride,
                                       row + kOfSh0, f};
    view_backward<Primitive, Camera, Degree>(grad, 0, n, g, v, coefficients, v_camera);
    Primitive::finish(grad.inputs.raw != 0, g, v, v_quat);
    for (int j = 0; j < 3; ++j) {
        row[kOfMean + j] = v.mean[j];
        row[kOfScale + j] = v.scale[j];
    }
    for (int j = 0; j < 4; ++j) row[kOfQuat + j] = v_quat[j];
    row[kOfOpacity] = v.opacity;
}

// Three blocks: without the number the compiler spills a few registers to fit a fourth.
template <class Primitive, class Camera, int Degree, class S = typename Camera::Real>
SPLATLEARN_KERNEL __launch_bounds__(kBackwardThreads<S>, 3) void project_update_kernel(UpdateParams<S> params) {
    constexpr int T = kBackwardThreads<S>, kKnown = kCoefficients<Degree>;
    SPLATLEARN_SHARED(S, geometry, T * kGeometryPitch);
    SPLATLEARN_SHARED(S, coefficients, T * kPitch<Degree>);
    const splatlearn_ProjectBackward &grad = params.update.grad;
    if (params.update.skip && *params.update.skip) return;
    const int64_t first = int64_t(blockIdx.x) * T, n = first + threadIdx.x, rest = grad.inputs.n_gaussians - first;
    const int rows = int(rest < T ? rest : T);
    if constexpr (kKnown > 0) load_coefficients<S, Degree>(grad, first, rows, &coefficients[0]);
    __syncthreads();
    S *const row = &geometry[threadIdx.x * kGeometryPitch], *const f = &coefficients[threadIdx.x * kPitch<Degree>];
    if (n < grad.inputs.n_gaussians && grad.radii[2 * n] > 0) {
        gradients_of<Primitive, Camera, Degree>(grad, n, row, f);
    } else {
        for (int j = 0; j < kGeometryPitch; ++j) row[j] = S(0);
        for (int j = 0; j < kKnown; ++j) f[j] = S(0);
    }
    __syncthreads();
    const S *from = &geometry[0];
    update_rows(params, kMeans, first, rows, 3, 3, from + kOfMean, kGeometryPitch, 3);
    update_rows(params, kQuats, first, rows, 4, 4, from + kOfQuat, kGeometryPitch, 4);
    update_rows(params, kScales, first, rows, 3, 3, from + kOfScale, kGeometryPitch, 3);
    update_rows(params, kOpacities, first, rows, 1, 1, from + kOfOpacity, kGeometryPitch, 1);
    update_rows(params, kSh0, first, rows, 3, 3, from + kOfSh0, kGeometryPitch, 3);
    const int width = int(3 * grad.n_shN), moving = int(3 * params.update.n_moving);
    if (moving > 0) update_rows<S>(params, kShN, first, rows, width, moving, &coefficients[0], kPitch<Degree>, kKnown);
}

template <class S> int update(const splatlearn_ProjectUpdate &p) {
    const splatlearn_ProjectInputs &in = p.grad.inputs;
    UpdateParams<S> params = {p, {}};
    for (int i = 0; i < kParameters; ++i)
        params.rates[i] = adam_rates<S>(p.learning_rates[i], p.beta1, p.beta2, p.eps, p.step);
    const unsigned blocks = blocks_for(in.n_gaussians, kBackwardThreads<S>);
    return by_projection<S>(in.camera_model, kUnknownCamera, [&](auto primitive, auto camera) {
        return by_degree(in.sh_degree, [&](auto degree) {
            constexpr int kDegree =
                decltype(degree)::value < 0 ? 0 : decltype(degree)::value;  // there are always colours
            return SPLATLEARN_LAUNCH((project_update_kernel<decltype(primitive), decltype(camera), kDegree>), blocks,
                                     kBackwardThreads<S>, stream_of(in.context), params);
        });
    });
}

}  // namespace

int project_update(const splatlearn_ProjectUpdate &params) {
    return SPLATLEARN_BY_SCALAR(params, params.grad.inputs.context, update);
}
int64_t project_update_scratch(const splatlearn_ProjectUpdate &) { return 0; }

}  // namespace SPLATLEARN_NAMESPACE
