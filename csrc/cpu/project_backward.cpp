// Projection of 3D Gaussians to 2D on the CPU, backward: SIMD lanes run over Gaussians, threads over chunks of them.
#include "project_backward.h"

namespace SPLATLEARN_NAMESPACE {
namespace {

template <class S> void store_group(const splatlearn_ProjectBackward &grad, int64_t first, const Group<S> &g, GroupGradients<S> &v) {
    Lanes<S> v_quat[4];
    finish_gradients(grad.inputs, g, v, v_quat);
    if (grad.v_means) store_rows<S, 3>(v.mean, g.rows, static_cast<S *>(grad.v_means) + first * 3);
    if (grad.v_scales) store_rows<S, 3>(v.scale, g.rows, static_cast<S *>(grad.v_scales) + first * 3);
    if (grad.v_opacities) store_rows<S, 1>(&v.opacity, g.rows, static_cast<S *>(grad.v_opacities) + first);
    if (grad.v_quats) store_rows<S, 4>(v_quat, g.rows, static_cast<S *>(grad.v_quats) + first * 4);
}

// Sums the chunks' camera gradients in their order, so that the bits do not depend on threads.
template <class S> void store_cameras(const splatlearn_ProjectBackward &grad, int64_t chunks, const S *sums) {
    const int64_t cameras = grad.inputs.n_cameras;
    for (int64_t c = 0; c < cameras; ++c) {
        S total[kCameraGradients] = {};
        for (int64_t chunk = 0; chunk < chunks; ++chunk)
            for (int j = 0; j < kCameraGradients; ++j) total[j] += sums[(chunk * cameras + c) * kCameraGradients + j];
        S *view = static_cast<S *>(grad.v_viewmats), *K = static_cast<S *>(grad.v_Ks), *center = static_cast<S *>(grad.v_camera_centers);
        for (int i = 0; view && i < 4; ++i)
            for (int j = 0; j < 4; ++j) view[c * 16 + 4 * i + j] = i == 3 ? S(0) : j == 3 ? total[9 + i] : total[3 * i + j];
        for (int j = 0; K && j < 9; ++j) K[c * 9 + j] = S(0);
        if (K) { K[c * 9] = total[12]; K[c * 9 + 4] = total[13]; K[c * 9 + 2] = total[14]; K[c * 9 + 5] = total[15]; }
        for (int j = 0; center && j < 3; ++j) center[c * 3 + j] = total[16 + j];
    }
}

template <class S> int backward(const splatlearn_ProjectBackward &grad) {
    const splatlearn_ProjectInputs &in = grad.inputs;
    constexpr int L = Lanes<S>::count;
    const int64_t chunks = (in.n_gaussians + kChunk - 1) / kChunk;
    const bool camera_wanted = grad.v_viewmats || grad.v_Ks || grad.v_camera_centers;
    const int64_t per_chunk = in.n_cameras * kCameraGradients;
    Buffer<S> camera_sums(camera_wanted ? chunks * per_chunk : 1);
    if (!camera_sums) return kOutOfMemory;
#pragma omp parallel for schedule(dynamic, 1) num_threads(in.context.threads)
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        const int64_t begin = chunk * kChunk, end = begin + kChunk < in.n_gaussians ? begin + kChunk : in.n_gaussians;
        if (grad.v_sh0) std::memset(static_cast<S *>(grad.v_sh0) + begin * 3, 0, size_t(end - begin) * 3 * sizeof(S));
        if (grad.v_shN) std::memset(static_cast<S *>(grad.v_shN) + begin * grad.n_shN * 3, 0, size_t((end - begin) * grad.n_shN * 3) * sizeof(S));
        S *sums = camera_wanted ? camera_sums.get() + chunk * per_chunk : nullptr;
        for (int64_t j = 0; sums && j < per_chunk; ++j) sums[j] = S(0);
        for (int64_t first = begin; first < end; first += L) {
            Group<S> g;
            GroupGradients<S> v;
            load_group(in, first, int(end - first < L ? end - first : L), g);
            const int64_t width = grad.n_shN * 3;
            S *v_sh0 = static_cast<S *>(grad.v_sh0), *v_shN = static_cast<S *>(grad.v_shN);
            const CoefficientGradients<S> to = {v_sh0 ? v_sh0 + first * 3 : nullptr, v_shN ? v_shN + first * width : nullptr, width};
            for (int64_t c = 0; c < in.n_cameras; ++c) {
                Pinhole<Lanes<S>> camera;
                load_camera(in, c, camera);
                group_backward(grad, camera, c, first, g, to, v, sums ? sums + c * kCameraGradients : nullptr);
            }
            store_group(grad, first, g, v);
        }
    }
    if (camera_wanted) store_cameras(grad, chunks, camera_sums.get());
    return 0;
}

}  // namespace

int project_backward(const splatlearn_ProjectBackward &params) { return SPLATLEARN_BY_SCALAR(params, params.inputs.context, backward); }

}  // namespace SPLATLEARN_NAMESPACE
