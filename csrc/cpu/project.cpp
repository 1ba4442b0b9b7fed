// Projection of 3D Gaussians to 2D on the CPU, forward: SIMD lanes run over Gaussians, threads over chunks of them.
#include "project.h"

#include "../math/tile.h"

namespace SPLATLEARN_NAMESPACE {
namespace {

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
    const splatlearn_ProjectInputs &in = out.inputs;
    const R zero{};
    Sight<R> seen;
    sight(camera, g.mean, g.factor, S(in.eps2d), seen);
    const PixelMap<R> &pixel = seen.pixel;
    const Image2d<R> &image = seen.image;
    R opacity = in.antialiased ? g.opacity * image.compensation : g.opacity;
    R level = ellipse_level(opacity, log2_threshold(S(in.alpha_threshold)));
    R rx = square_root(level * image.xx), ry = square_root(level * image.yy);
    auto shown = (seen.p[2] > S(in.near_plane)) & (seen.p[2] < S(in.far_plane)) & (level >= S(0)) & (opacity >= S(in.alpha_threshold));
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
    R depth = select(shown, seen.p[2], zero), drawn_opacity = select(shown, opacity, zero);
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
    const splatlearn_ProjectInputs &in = out.inputs;
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
                load_camera(in, c, camera);
                group_forward(out, camera, c, first, g);
            }
        }
    }
    return 0;
}

}  // namespace

int project_forward(const splatlearn_ProjectForward &params) { return SPLATLEARN_BY_SCALAR(params, params.inputs.context, forward); }

}  // namespace SPLATLEARN_NAMESPACE
