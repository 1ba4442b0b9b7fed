// Projection of 3D Gaussians to 2D on the CPU, forward: SIMD lanes run over Gaussians, threads over chunks of them.
#include "project.h"

namespace SPLATLEARN_NAMESPACE {
namespace {

// Colours of the rows of a group whose bit in `mask` is set, zero for the others. Returns the mask without the rows
// whose colour is out of range.
template <class S> uint32_t colors_forward(const splatlearn_ProjectInputs &in, int64_t c, int64_t first,
                                           const Lanes<S> mean[3], int rows, uint32_t mask, S *colors) {
    Lanes<S> d[3], basis[kMaxBases];
    direction(mean, static_cast<const S *>(in.camera_centers) + c * 3, d);
    sh_basis(in.sh_degree, d, basis);
    const int bases = bases_of_degree(in.sh_degree);
    S value[kMaxBases][Lanes<S>::count];
    for (int k = 0; k < bases; ++k) store(value[k], basis[k]);
    for (int i = 0; i < rows; ++i) {
        S color[3] = {};
        const auto value_of = [&](int k) { return value[k][i]; };
        const auto coefficients_of = [&](int k) { return coefficients<S>(in, first + i, k); };
        if ((mask >> i & 1) && !sh_color(bases, value_of, coefficients_of, color)) {
            mask &= ~(1u << i);
            color[0] = color[1] = color[2] = S(0);
        }
        for (int j = 0; j < 3; ++j) colors[i * 3 + j] = color[j];
    }
    return mask;
}

template <class Primitive, class Camera, class S>
SPLATLEARN_HD void group_forward(const splatlearn_ProjectForward &out, const PosedCamera<Camera> &view, int64_t c,
                                 int64_t first, const Group<Primitive, S> &group) {
    using R = Lanes<S>;
    const splatlearn_ProjectInputs &in = out.inputs;
    const ProjectOptions<S> options = project_options<S>(in);
    const R zero{};
    typename Primitive::template Projected<Camera> projected;
    Extent<R> box;
    Primitive::project(options, view, group.gaussian, group.shape, projected);
    auto visible = Primitive::is_visible(options, view, projected, box);
    const int64_t row = c * in.n_gaussians + first;
    uint32_t mask = bits(visible);
    if (out.colors) {
        S *const colors = static_cast<S *>(out.colors) + row * 3;
        mask = colors_forward(in, c, first, group.gaussian.mean, group.rows, mask, colors);
        visible = mask_of_bits<S>(mask);
    }
    if (in.features) {
        for (int i = 0; i < group.rows; ++i)
            if ((mask >> i & 1) && !features_in_range<S>(in, c, first + i)) mask &= ~(1u << i);
        visible = mask_of_bits<S>(mask);
    }
    const R(&mean)[2] = projected.affine.mean;
    const Conic<R> &conic = projected.cov2d.conic;
    R means2d[2] = {select(visible, mean[0], zero), select(visible, mean[1], zero)};
    R conics[3] = {select(visible, conic.a, zero), select(visible, conic.b, zero), select(visible, conic.c, zero)};
    R depth = select(visible, projected.p[2], zero), opacity = select(visible, projected.opacity, zero);
    store_rows<S, 2>(means2d, group.rows, static_cast<S *>(out.means2d) + row * 2);
    store_rows<S, 3>(conics, group.rows, static_cast<S *>(out.conics) + row * 3);
    store_rows<S, 1>(&depth, group.rows, static_cast<S *>(out.depths) + row);
    store_rows<S, 1>(&opacity, group.rows, static_cast<S *>(out.opacities2d) + row);
    S radius[2][R::count];
    for (int axis = 0; axis < 2; ++axis) store(radius[axis], box.radius[axis]);
    for (int i = 0; i < group.rows; ++i)
        for (int axis = 0; axis < 2; ++axis)
            out.radii[(row + i) * 2 + axis] = mask >> i & 1 ? whole_radius(radius[axis][i]) : 0;
}

template <class Primitive, class Camera, class S> int forward_of(const splatlearn_ProjectForward &out) {
    const splatlearn_ProjectInputs &in = out.inputs;
    constexpr int L = Lanes<S>::count;
    const int64_t chunks = (in.n_gaussians + kProjectChunk - 1) / kProjectChunk;
#pragma omp parallel for schedule(dynamic, 1) num_threads(in.context.threads)
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        const int64_t begin = chunk * kProjectChunk, left = in.n_gaussians - begin;
        const int64_t end = begin + (left < kProjectChunk ? left : kProjectChunk);
        for (int64_t first = begin; first < end; first += L) {
            Group<Primitive, S> group;
            load_group(in, first, int(end - first < L ? end - first : L), group);
            for (int64_t c = 0; c < in.n_cameras; ++c) {
                PosedCamera<Camera> view;
                load_view<Camera, S>(in, c, view);
                group_forward(out, view, c, first, group);
            }
        }
    }
    return 0;
}

template <class S> int forward(const splatlearn_ProjectForward &out) {
    return by_projection<Lanes<S>>(out.inputs.camera_model, kUnknownCamera, [&](auto primitive, auto camera) {
        return forward_of<decltype(primitive), decltype(camera), S>(out);
    });
}

}  // namespace

int project_forward(const splatlearn_ProjectForward &params) {
    return SPLATLEARN_BY_SCALAR(params, params.inputs.context, forward);
}

}  // namespace SPLATLEARN_NAMESPACE
