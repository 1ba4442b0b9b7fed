// What forward, backward and update of stage project share on the CPU: Gaussians and their coefficients from memory into SIMD lanes.
#pragma once
#include "cpu.h"

#include "../math/activation.h"
#include "../math/project.h"
#include "../math/sh.h"

namespace SPLATLEARN_NAMESPACE {
namespace {

constexpr int64_t kChunk = 512;  // Gaussians a work item; also the unit of the camera gradients' fixed-order sum

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

template <class S> void load_camera(const splatlearn_ProjectInputs &in, int64_t c, Pinhole<Lanes<S>> &camera) {
    load_pinhole<Lanes<S>>(static_cast<const S *>(in.viewmats) + c * 16, static_cast<const S *>(in.Ks) + c * 9, in.width, in.height, camera);
}

}  // namespace
}  // namespace SPLATLEARN_NAMESPACE
