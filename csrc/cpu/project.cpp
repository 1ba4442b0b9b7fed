// Projection of 3D Gaussians to 2D on the CPU: SIMD lanes run over Gaussians, threads over chunks of them.
#include "cpu.h"

#include "../math/activation.h"
#include "../math/camera.h"
#include "../math/covariance.h"
#include "../math/sh.h"
#include "../math/tile.h"

namespace SPLATLEARN_NAMESPACE {
namespace {

constexpr int64_t kChunk = 512;  // Gaussians a work item; also the unit of the camera gradients' fixed-order sum
constexpr int kCameraGradients = 9 + 3 + 4 + 3;  // rotation, translation, (fx, fy, cx, cy), centre

// ---- rows of an array of structures to lanes and back; `rows` of the lanes are real ----
template <class S, int W> void load_rows(const S *from, int rows, Lanes<S> out[W]) {
    S column[W][Lanes<S>::count] = {};
    for (int i = 0; i < rows; ++i)
        for (int j = 0; j < W; ++j) column[j][i] = from[i * W + j];
    for (int j = 0; j < W; ++j) out[j] = load(column[j]);
}

template <class S, int W> void store_rows(const Lanes<S> in[W], int rows, S *to) {
    S column[W][Lanes<S>::count];
    for (int j = 0; j < W; ++j) store(column[j], in[j]);
    for (int i = 0; i < rows; ++i)
        for (int j = 0; j < W; ++j) to[i * W + j] = column[j][i];
}

// One register of Gaussians.
template <class S> struct Group {
    Lanes<S> mean[3], quat[4], scale[3], opacity, rot[9], factor[9];
    int rows;
};

template <class S> void load_group(const splatlearn_ProjectInputs &in, int64_t first, int rows, Group<S> &g) {
    g.rows = rows;
    load_rows<S, 3>(static_cast<const S *>(in.means) + first * 3, rows, g.mean);
    load_rows<S, 4>(static_cast<const S *>(in.quats) + first * 4, rows, g.quat);
    load_rows<S, 3>(static_cast<const S *>(in.scales) + first * 3, rows, g.scale);
    load_rows<S, 1>(static_cast<const S *>(in.opacities) + first, rows, &g.opacity);
    if (in.raw) {
        for (int j = 0; j < 3; ++j) g.scale[j] = scale_of_log(g.scale[j]);
        g.opacity = opacity_of_logit(g.opacity);
    }
    rotation(g.quat, g.rot);
    covariance_factor(g.rot, g.scale, g.factor);
}

template <class S> const S *coefficients(const splatlearn_ProjectInputs &in, int64_t gaussian, int basis) {
    return basis == 0 ? static_cast<const S *>(in.sh0) + gaussian * in.sh0_stride
                      : static_cast<const S *>(in.shN) + gaussian * in.shN_stride + (basis - 1) * 3;
}

// ---- forward ----

// Colours of the rows of a group that `mask` names, zero for the others. Returns the mask less the rows with coefficients that are not finite.
template <class S>
uint32_t colors_forward(const splatlearn_ProjectInputs &in, int64_t camera, int64_t first, const Group<S> &g, uint32_t mask, S *colors) {
    constexpr int L = Lanes<S>::count;
    Lanes<S> d[3], basis[kMaxBases];
    direction(g.mean, static_cast<const S *>(in.camera_centers) + camera * 3, d);
    sh_basis(in.sh_degree, d, basis);
    const int bases = bases_of_degree(in.sh_degree);
    S value[kMaxBases][L];
    for (int k = 0; k < bases; ++k) store(value[k], basis[k]);
    for (int i = 0; i < g.rows; ++i) {
        S r = S(0.5), green = S(0.5), b = S(0.5);
        for (int k = 0; (mask >> i & 1) && k < bases; ++k) {
            const S *f = coefficients<S>(in, first + i, k);
            r += value[k][i] * f[0];
            green += value[k][i] * f[1];
            b += value[k][i] * f[2];
        }
        if (!is_finite(r + green + b)) mask &= ~(1u << i);
        const bool drawn = mask >> i & 1;
        S *out = colors + i * 3;
        out[0] = drawn ? maximum(r, S(0)) : S(0);
        out[1] = drawn ? maximum(green, S(0)) : S(0);
        out[2] = drawn ? maximum(b, S(0)) : S(0);
    }
    return mask;
}

template <class S>
void group_forward(const splatlearn_ProjectForward &out, const Pinhole<Lanes<S>> &camera, int64_t c, int64_t first, const Group<S> &g) {
    using R = Lanes<S>;
    constexpr int L = R::count;
    const splatlearn_ProjectInputs &in = out.in;
    const R zero{};
    R p[3];
    to_camera(camera, g.mean, p);
    PixelMap<R> pixel = to_pixel(camera, p);
    Image2d<R> image = image_of_covariance(pixel.map, g.factor, S(in.eps2d));
    R opacity = in.antialiased ? g.opacity * image.compensation : g.opacity;
    R level = ellipse_level(opacity, log2_threshold(S(in.alpha_threshold)));
    R rx = square_root(level * image.xx), ry = square_root(level * image.yy);
    auto shown = (p[2] > S(in.near_plane)) & (p[2] < S(in.far_plane)) & (level >= S(0)) & (opacity >= S(in.alpha_threshold));
    shown = shown & (pixel.mean[0] + rx >= S(0.5)) & (pixel.mean[0] - rx <= S(in.width) - S(0.5));
    shown = shown & (pixel.mean[1] + ry >= S(0.5)) & (pixel.mean[1] - ry <= S(in.height) - S(0.5));
    shown = shown & ((rx > S(in.radius_clip)) | (ry > S(in.radius_clip)));
    // A finite sum of squares means finite terms; overflow culls as well, which is what an Inf scale should do.
    shown = shown & is_finite(image.conic.a + image.conic.b + image.conic.c) & is_finite(image.xx + image.yy) & is_finite(opacity);
    shown = shown & (image.conic.a > S(0)) & (image.conic.c > S(0));
    const int64_t row = c * in.n_gaussians + first;
    uint32_t mask = bits(shown);
    if (out.colors) {
        mask = colors_forward(in, c, first, g, mask, static_cast<S *>(out.colors) + row * 3);
        shown = mask_of_bits<S>(mask);
    }
    R means2d[2] = {select(shown, pixel.mean[0], zero), select(shown, pixel.mean[1], zero)};
    R conics[3] = {select(shown, image.conic.a, zero), select(shown, image.conic.b, zero), select(shown, image.conic.c, zero)};
    R depth = select(shown, p[2], zero), drawn_opacity = select(shown, opacity, zero);
    store_rows<S, 2>(means2d, g.rows, static_cast<S *>(out.means2d) + row * 2);
    store_rows<S, 3>(conics, g.rows, static_cast<S *>(out.conics) + row * 3);
    store_rows<S, 1>(&depth, g.rows, static_cast<S *>(out.depths) + row);
    store_rows<S, 1>(&drawn_opacity, g.rows, static_cast<S *>(out.opacities2d) + row);
    S radius[2][L];
    store(radius[0], rx);
    store(radius[1], ry);
    for (int i = 0; i < g.rows; ++i)
        for (int axis = 0; axis < 2; ++axis)
            out.radii[(row + i) * 2 + axis] = mask >> i & 1 ? int32_t(ceil(minimum(radius[axis][i], S(kRadiusMax)))) : 0;
}

template <class S> int forward(const splatlearn_ProjectForward &out) {
    const splatlearn_ProjectInputs &in = out.in;
    constexpr int L = Lanes<S>::count;
    const int64_t chunks = (in.n_gaussians + kChunk - 1) / kChunk;
#pragma omp parallel for schedule(dynamic, 1) num_threads(in.context.threads)
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        const int64_t begin = chunk * kChunk, end = begin + kChunk < in.n_gaussians ? begin + kChunk : in.n_gaussians;
        for (int64_t first = begin; first < end; first += L) {
            Group<S> g;
            load_group(in, first, int(end - first < L ? end - first : L), g);
            for (int64_t c = 0; c < in.n_cameras; ++c) {
                Pinhole<Lanes<S>> camera;
                load_pinhole<Lanes<S>>(static_cast<const S *>(in.viewmats) + c * 16, static_cast<const S *>(in.Ks) + c * 9, in.width, in.height, camera);
                group_forward(out, camera, c, first, g);
            }
        }
    }
    return 0;
}

// ---- backward ----

// Gradients of a group over all cameras.
template <class S> struct GroupGradients {
    Lanes<S> mean[3], scale[3], rot[9], opacity;
};

// Adds the colours' part to v_mean, to v_center [3] and to the coefficients' gradients of each drawn row.
template <class S>
void colors_backward(const splatlearn_ProjectBackward &grad, int64_t c, int64_t first, const Group<S> &g, uint32_t mask,
                     Lanes<S> v_mean[3], Lanes<S> v_center[3]) {
    constexpr int L = Lanes<S>::count;
    const splatlearn_ProjectInputs &in = grad.in;
    Lanes<S> d[3], basis[kMaxBases];
    Lanes<S> inverse = direction(g.mean, static_cast<const S *>(in.camera_centers) + c * 3, d);
    sh_basis(in.sh_degree, d, basis);
    const int bases = bases_of_degree(in.sh_degree);
    S value[kMaxBases][L], v_value[kMaxBases][L] = {};
    for (int k = 0; k < bases; ++k) store(value[k], basis[k]);
    for (int i = 0; i < g.rows; ++i) {
        if (!(mask >> i & 1)) continue;
        const int64_t row = c * in.n_gaussians + first + i;
        const S *color = static_cast<const S *>(grad.colors) + row * 3, *v_color = static_cast<const S *>(grad.v_colors) + row * 3;
        S v[3];
        for (int j = 0; j < 3; ++j) v[j] = color[j] > S(0) ? v_color[j] : S(0);  // max(0, .) lets nothing through below
        for (int k = 0; k < bases; ++k) {
            const S *f = coefficients<S>(in, first + i, k);
            v_value[k][i] = f[0] * v[0] + f[1] * v[1] + f[2] * v[2];
            S *v_f = static_cast<S *>(k == 0 ? grad.v_sh0 : grad.v_shN);
            if (!v_f) continue;
            v_f += k == 0 ? (first + i) * 3 : ((first + i) * grad.n_shN + k - 1) * 3;
            for (int j = 0; j < 3; ++j) v_f[j] += value[k][i] * v[j];
        }
    }
    Lanes<S> v_basis[kMaxBases], v_d[3], v[3];
    for (int k = 0; k < bases; ++k) v_basis[k] = load(v_value[k]);
    sh_basis_backward(in.sh_degree, d, v_basis, v_d);
    direction_backward(d, inverse, v_d, v);
    auto shown = mask_of_bits<S>(mask);
    for (int j = 0; j < 3; ++j) {
        Lanes<S> part = select(shown, v[j], Lanes<S>{});
        v_mean[j] = v_mean[j] + part;
        v_center[j] = v_center[j] - part;
    }
}

template <class S, int W> void load_optional(const real *from, int64_t row, int rows, Lanes<S> out[W]) {
    if (from) load_rows<S, W>(static_cast<const S *>(from) + row * W, rows, out);
    else
        for (int j = 0; j < W; ++j) out[j] = Lanes<S>{};
}

template <class S>
void group_backward(const splatlearn_ProjectBackward &grad, const Pinhole<Lanes<S>> &camera, int64_t c, int64_t first,
                    const Group<S> &g, GroupGradients<S> &sum_over_cameras, S *camera_sums) {
    using R = Lanes<S>;
    const splatlearn_ProjectInputs &in = grad.in;
    const int64_t row = c * in.n_gaussians + first;
    uint32_t mask = 0;
    for (int i = 0; i < g.rows; ++i) mask |= uint32_t(grad.radii[(row + i) * 2] > 0) << i;
    if (!mask) return;
    const auto shown = mask_of_bits<S>(mask);
    const R zero{};

    R v_mean2d[2], v_conic[3], v_depth, v_opacity2d;
    load_optional<S, 2>(grad.v_means2d, row, g.rows, v_mean2d);
    load_optional<S, 3>(grad.v_conics, row, g.rows, v_conic);
    load_optional<S, 1>(grad.v_depths, row, g.rows, &v_depth);
    load_optional<S, 1>(grad.v_opacities2d, row, g.rows, &v_opacity2d);

    R p[3];
    to_camera(camera, g.mean, p);
    PixelMap<R> pixel = to_pixel(camera, p);
    Image2d<R> image = image_of_covariance(pixel.map, g.factor, S(in.eps2d));
    R v_compensation = in.antialiased ? v_opacity2d * g.opacity : zero;
    R v_opacity = in.antialiased ? v_opacity2d * image.compensation : v_opacity2d;

    R v_map[6], v_factor[9], v_rot[9], v_scale[3], v_p[3], v_view[9], v_K[4], v_mean[3], v_center[3];
    image_of_covariance_backward(pixel.map, g.factor, image, {v_conic[0], v_conic[1], v_conic[2]}, v_compensation, v_map, v_factor);
    covariance_factor_backward(g.rot, g.scale, v_factor, v_rot, v_scale);
    to_pixel_backward(camera, p, pixel, v_mean2d, v_map, v_p, v_view, v_K);
    v_p[2] = v_p[2] + v_depth;
    to_camera_backward(camera, g.mean, v_p, v_mean, v_view);
    for (int j = 0; j < 3; ++j) v_mean[j] = select(shown, v_mean[j], zero);
    if (grad.v_colors) colors_backward(grad, c, first, g, mask, v_mean, v_center);

    for (int j = 0; j < 3; ++j) {
        sum_over_cameras.mean[j] = sum_over_cameras.mean[j] + v_mean[j];
        sum_over_cameras.scale[j] = sum_over_cameras.scale[j] + select(shown, v_scale[j], zero);
    }
    for (int j = 0; j < 9; ++j) sum_over_cameras.rot[j] = sum_over_cameras.rot[j] + select(shown, v_rot[j], zero);
    sum_over_cameras.opacity = sum_over_cameras.opacity + select(shown, v_opacity, zero);
    if (!camera_sums) return;
    for (int j = 0; j < 9; ++j) camera_sums[j] += sum(select(shown, v_view[j], zero));
    for (int j = 0; j < 3; ++j) camera_sums[9 + j] += sum(select(shown, v_p[j], zero));
    for (int j = 0; j < 4; ++j) camera_sums[12 + j] += sum(select(shown, v_K[j], zero));
    for (int j = 0; j < 3; ++j) camera_sums[16 + j] += sum(v_center[j]);
}

template <class S> void store_group(const splatlearn_ProjectBackward &grad, int64_t first, const Group<S> &g, GroupGradients<S> &v) {
    if (grad.in.raw) {
        for (int j = 0; j < 3; ++j) v.scale[j] = scale_of_log_backward(g.scale[j], v.scale[j]);
        v.opacity = opacity_of_logit_backward(g.opacity, v.opacity);
    }
    if (grad.v_means) store_rows<S, 3>(v.mean, g.rows, static_cast<S *>(grad.v_means) + first * 3);
    if (grad.v_scales) store_rows<S, 3>(v.scale, g.rows, static_cast<S *>(grad.v_scales) + first * 3);
    if (grad.v_opacities) store_rows<S, 1>(&v.opacity, g.rows, static_cast<S *>(grad.v_opacities) + first);
    if (!grad.v_quats) return;
    Lanes<S> v_quat[4];
    rotation_backward(g.quat, v.rot, v_quat);
    for (int j = 0; j < 4; ++j) v_quat[j] = select(is_finite(v_quat[j]), v_quat[j], Lanes<S>{});  // a culled zero or NaN quaternion
    store_rows<S, 4>(v_quat, g.rows, static_cast<S *>(grad.v_quats) + first * 4);
}

// Sums the chunks' camera gradients in their order, so that the bits do not depend on threads.
template <class S> void store_cameras(const splatlearn_ProjectBackward &grad, int64_t chunks, const S *sums) {
    const int64_t cameras = grad.in.n_cameras;
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
    const splatlearn_ProjectInputs &in = grad.in;
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
            for (int64_t c = 0; c < in.n_cameras; ++c) {
                Pinhole<Lanes<S>> camera;
                load_pinhole<Lanes<S>>(static_cast<const S *>(in.viewmats) + c * 16, static_cast<const S *>(in.Ks) + c * 9, in.width, in.height, camera);
                group_backward(grad, camera, c, first, g, v, sums ? sums + c * kCameraGradients : nullptr);
            }
            store_group(grad, first, g, v);
        }
    }
    if (camera_wanted) store_cameras(grad, chunks, camera_sums.get());
    return 0;
}

}  // namespace

int project_forward(const splatlearn_ProjectForward &params) { return SPLATLEARN_BY_SCALAR(params, params.in.context, forward); }
int project_backward(const splatlearn_ProjectBackward &params) { return SPLATLEARN_BY_SCALAR(params, params.in.context, backward); }

}  // namespace SPLATLEARN_NAMESPACE
