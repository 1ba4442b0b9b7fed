// What forward, backward and update of stage project share on the CPU: Gaussians from memory into SIMD lanes.
#pragma once
#include "cpu.h"

#include "../math/primitive/projections.h"
#include "../math/sh.h"

namespace SPLATLEARN_NAMESPACE {
namespace {

constexpr int64_t kProjectChunk = 512;  // Gaussians of a work item, and of a partial sum of the camera gradients

// ---- rows of an array of structures to lanes and back; `rows` of the lanes hold data ----
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

// One register of Gaussians, activated.
template <class Primitive, class S> struct Group {
    Gaussian3d<Lanes<S>> gaussian;
    typename Primitive::template Shape<Lanes<S>> shape;
    int rows;
};

template <class Primitive, class S>
SPLATLEARN_HD void load_group(const splatlearn_ProjectInputs &in, int64_t first, int rows, Group<Primitive, S> &group) {
    Gaussian3d<Lanes<S>> &g = group.gaussian;
    group.rows = rows;
    load_rows<S, 3>(static_cast<const S *>(in.means) + first * 3, rows, g.mean);
    load_rows<S, 4>(static_cast<const S *>(in.quats) + first * 4, rows, g.quat);
    load_rows<S, 3>(static_cast<const S *>(in.scales) + first * 3, rows, g.scale);
    load_rows<S, 1>(static_cast<const S *>(in.opacities) + first, rows, &g.opacity);
    activate(in.raw != 0, g);
    Primitive::shape(g, group.shape);
}

template <class Camera, class S>
void load_view(const splatlearn_ProjectInputs &in, int64_t c, PosedCamera<Camera> &view) {
    const S *const viewmat = static_cast<const S *>(in.viewmats) + c * 16;
    load_view(viewmat, static_cast<const S *>(in.camera_params) + c * kParameterRow<Camera>, in.width, in.height, view);
}

}  // namespace
}  // namespace SPLATLEARN_NAMESPACE
