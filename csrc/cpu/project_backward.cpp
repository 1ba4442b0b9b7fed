// Projection of 3D Gaussians to 2D on the CPU, backward: SIMD lanes run over Gaussians, threads over chunks of them.
#include "project_backward.h"

namespace SPLATLEARN_NAMESPACE {
namespace {

template <class Primitive, class S> void store_group(const splatlearn_ProjectBackward &grad, int64_t first,
                                                     const Group<Primitive, S> &group,
                                                     typename Primitive::template Gradients<Lanes<S>> &v) {
    Lanes<S> v_quat[4];
    const int rows = group.rows;
    finish_gradients(grad.inputs, group, v, v_quat);
    if (grad.v_means) store_rows<S, 3>(v.mean, rows, static_cast<S *>(grad.v_means) + first * 3);
    if (grad.v_scales) store_rows<S, 3>(v.scale, rows, static_cast<S *>(grad.v_scales) + first * 3);
    if (grad.v_opacities) store_rows<S, 1>(&v.opacity, rows, static_cast<S *>(grad.v_opacities) + first);
    if (grad.v_quats) store_rows<S, 4>(v_quat, rows, static_cast<S *>(grad.v_quats) + first * 4);
}

// Adds up the chunks' camera gradients in their order, so that the bits do not depend on threads.
template <class Camera, class S>
void store_cameras(const splatlearn_ProjectBackward &grad, int64_t chunks, const S *sums) {
    constexpr int kSums = kCameraGradients<Camera>, kRow = kParameterRow<Camera>;
    S *const viewmats = static_cast<S *>(grad.v_viewmats), *const centers = static_cast<S *>(grad.v_camera_centers);
    S *const parameters = static_cast<S *>(grad.v_camera_params);
    const int64_t cameras = grad.inputs.n_cameras;
    for (int64_t c = 0; c < cameras; ++c) {
        S total[kSums] = {};
        for (int64_t chunk = 0; chunk < chunks; ++chunk)
            for (int j = 0; j < kSums; ++j) total[j] += sums[(chunk * cameras + c) * kSums + j];
        for (int j = 0; j < kSums; ++j)
            store_camera_gradient(j, total[j], viewmats ? viewmats + c * 16 : nullptr,
                                  centers ? centers + c * 3 : nullptr, parameters ? parameters + c * kRow : nullptr);
    }
}

template <class Primitive, class Camera, class S> int backward_of(const splatlearn_ProjectBackward &grad) {
    const splatlearn_ProjectInputs &in = grad.inputs;
    constexpr int L = Lanes<S>::count;
    const int64_t chunks = (in.n_gaussians + kProjectChunk - 1) / kProjectChunk, width = grad.n_shN * 3;
    const bool cameras_wanted = grad.v_viewmats || grad.v_camera_params || grad.v_camera_centers;
    const int64_t per_chunk = in.n_cameras * kCameraGradients<Camera>;
    S *const v_sh0 = static_cast<S *>(grad.v_sh0), *const v_shN = static_cast<S *>(grad.v_shN);
    Buffer<S> camera_sums(cameras_wanted ? chunks * per_chunk : 1);
    Buffer<S> camera_lanes(cameras_wanted ? in.context.threads * per_chunk * kWide<S> : 1);
    if (!camera_sums || !camera_lanes) return kOutOfMemory;
#pragma omp parallel for schedule(dynamic, 1) num_threads(in.context.threads)
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        const int64_t begin = chunk * kProjectChunk, left = in.n_gaussians - begin;
        const int64_t end = begin + (left < kProjectChunk ? left : kProjectChunk);
        if (v_sh0) std::memset(v_sh0 + begin * 3, 0, size_t(end - begin) * 3 * sizeof(S));
        if (v_shN) std::memset(v_shN + begin * width, 0, size_t((end - begin) * width) * sizeof(S));
        S *const lanes =
            cameras_wanted ? camera_lanes.get() + omp_get_thread_num() * per_chunk * kWide<S> : nullptr;
        for (int64_t j = 0; lanes && j < per_chunk * kWide<S>; ++j) lanes[j] = S(0);
        for (int64_t first = begin; first < end; first += L) {
            Group<Primitive, S> group;
            typename Primitive::template Gradients<Lanes<S>> v;
            load_group(in, first, int(end - first < L ? end - first : L), group);
            const CoefficientGradients<S> to = {v_sh0 ? v_sh0 + first * 3 : nullptr,
                                                v_shN ? v_shN + first * width : nullptr, width};
            for (int64_t c = 0; c < in.n_cameras; ++c) {
                PosedCamera<Camera> view;
                load_view<Camera, S>(in, c, view);
                group_backward(grad, view, c, first, group, to, v,
                               lanes ? lanes + c * kCameraGradients<Camera> * kWide<S> : nullptr);
            }
            store_group(grad, first, group, v);
        }
        for (int64_t j = 0; lanes && j < per_chunk; ++j)
            camera_sums[chunk * per_chunk + j] = wide_sum_of(lanes + j * kWide<S>);
    }
    if (cameras_wanted) store_cameras<Camera>(grad, chunks, camera_sums.get());
    return 0;
}

template <class S> int backward(const splatlearn_ProjectBackward &grad) {
    return by_projection<Lanes<S>>(grad.inputs.camera_model, kUnknownCamera, [&](auto primitive, auto camera) {
        return backward_of<decltype(primitive), decltype(camera), S>(grad);
    });
}

}  // namespace

int project_backward(const splatlearn_ProjectBackward &params) {
    return SPLATLEARN_BY_SCALAR(params, params.inputs.context, backward);
}

}  // namespace SPLATLEARN_NAMESPACE
