"""What a primitive costs: at most eight files. Here a kernel with a flat top, added to a copy of the sources.

The exponent is squared: log2 alpha = log2 o - q^2, q = A dx^2 + B dx dy + C dy^2 as of the EWA Gaussian. Its reach is
the ellipse q <= sqrt(log2 o - log2 cut), and its moments are those of 2 q g in place of g, and the sum of g.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from copied_sources import build, changed_files, copy_with, python

HEADER = """#pragma once
#include "ewa_gaussian.h"

namespace SPLATLEARN_NAMESPACE {

struct FlatTop {
    static constexpr int kShape = 3, kScalars = 6;
    template <class R> using Splat = EwaGaussian::Splat<R>;

    template <class S>
    static SPLATLEARN_HD void pack(const S mean[2], const S conic[3], S opacity, S record[kScalars]) {
        EwaGaussian::pack(mean, conic, opacity, record);
    }
    template <class R, class F> static SPLATLEARN_HD Splat<R> unpack(F scalar) {
        return EwaGaussian::template unpack<R>(scalar);
    }

    template <class P, class R> static SPLATLEARN_HD R form(const Splat<P> &splat, R dx, R dy) {
        return dx * (splat.a * dx + splat.b * dy) + dy * (splat.c * dy);
    }
    template <class P, class R> static SPLATLEARN_HD R log2_alpha(const Splat<P> &splat, R dx, R dy) {
        const R q = form(splat, dx, dy);
        return splat.log2_opacity - q * q;
    }
    template <class S> struct Column {
        S constant, linear;
        SPLATLEARN_HD Column(const Splat<S> &splat, S dx) : constant(splat.a * dx * dx), linear(splat.b * dx) {}
        SPLATLEARN_HD S log2_alpha(const Splat<S> &splat, S dy) const {
            const S q = constant + dy * (linear + splat.c * dy);
            return splat.log2_opacity - q * q;
        }
    };

    template <class R> static SPLATLEARN_HD R root(R level) {  // of the reach; negative where nothing is reached
        return select(level >= R{}, square_root(maximum(level, R{})), level);
    }
    template <class R> static SPLATLEARN_HD Ellipse<R> ellipse(const Splat<R> &splat, Scalar<R> log2_cut) {
        return {splat.a, Scalar<R>(0.5) * splat.b, splat.c, root(splat.log2_opacity - log2_cut)};
    }
    template <class R> static SPLATLEARN_HD Ellipse<R> ellipse(const R conic[3], R opacity, Scalar<R> log2_cut) {
        using S = Scalar<R>;
        const R level = ellipse_level(opacity, log2_cut) * S(0.5 * kLog2E);  // log2 o - log2 cut
        return {conic[0], conic[1], conic[2], root(level) * S(2 / kLog2E)};
    }

    static constexpr int kMoments = 6;
    template <class P, class R>
    static SPLATLEARN_HD void moments(const Splat<P> &splat, R power, R g, R dx, R dy, R m[kMoments]) {
        EwaGaussian::moments(splat, power, g * (Scalar<R>(2) * form(splat, dx, dy)), dx, dy, m);
        m[0] = g;
    }
    static constexpr int kColumnMoments = 4;  // 2 q g dy, 2 q g, 2 q g dy^2, g
    template <class S>
    static SPLATLEARN_HD void column_moments(const Splat<S> &splat, S, S g, S dx, S dy, S m[kColumnMoments]) {
        const S h = g * (S(2) * form(splat, dx, dy));
        m[0] = h * dy;
        m[1] = h;
        m[2] = h * dy * dy;
        m[3] = g;
    }
    static constexpr SPLATLEARN_HD int moment_of(int j, int power) {
        if (j == 0) return power == 0 ? 2 : power == 1 ? 4 : -1;
        if (j == 1) return power == 1 ? 1 : power == 2 ? 3 : -1;
        return power > 0 ? -1 : j == 2 ? 5 : 0;
    }
    template <class S>
    static SPLATLEARN_HD void moments_backward(const Splat<S> &splat, const S m[kMoments], S v_mean[2], S v_conic[3],
                                               S &v_opacity) {
        EwaGaussian::moments_backward(splat, m, v_mean, v_conic, v_opacity);
    }

    static constexpr double kMeanUnit = 1 / kLog2E;
    template <class P, class R>
    static SPLATLEARN_HD void v_mean(const Splat<P> &splat, R power, R g, R dx, R dy, R v[2]) {
        EwaGaussian::v_mean(splat, power, g * (Scalar<R>(2) * form(splat, dx, dy)), dx, dy, v);
    }
};

}  // namespace SPLATLEARN_NAMESPACE
"""

FIELD = "    int32_t primitive;                 // number of a primitive: csrc/math/primitive/primitive.h\n"
OPTION = "    primitive: int = 0,\n"
EDITS = {
    "csrc/abi.h": (
        ("    int32_t width, height;             // image size, px\n    double alpha_threshold;", FIELD),
        ("    int32_t absgrad;                   // 1: backward", FIELD),
    ),
    "csrc/math/primitive/primitive.h": (
        ('#include "ewa_gaussian.h"\n', '#include "flat_top.h"\n'),
        ("primitive(EwaGaussian)", "primitive(FlatTop) "),
        ("    (void)inputs;\n", "    if (inputs.primitive == 1) return f(FlatTop{});\n"),
    ),
    "splatlearn/ops/bin.py": (
        ("    camera_ids: Tensor | None = None,\n    channels: int = 3,", OPTION),
        ("        alpha_threshold=alpha_threshold,\n        means2d=means2d,", "        primitive=primitive,\n"),
    ),
    "splatlearn/ops/rasterize.py": (
        ("    absgrad: bool = False,\n    records: Tensor", OPTION),
        ("    absgrad: bool\n    atomic: bool\n", "    primitive: int\n"),
        ("absgrad, atomic, wanted and", "primitive, "),
        ("        channels=colors.shape[-1],\n        absgrad=sizes", "        primitive=sizes.primitive,\n"),
    ),
}
WRITTEN_BY_THE_BUILD = "splatlearn/ops/abi.py"

PROOF = """
from pathlib import Path
import splatlearn
assert Path(splatlearn.__file__).is_relative_to(Path.cwd()), "another package is tested"
import torch
from splatlearn.ops.bin import bin
from splatlearn.ops.rasterize import rasterize
g = torch.Generator().manual_seed(0)
uniform = lambda low, high, *shape: low + (high - low) * torch.rand(*shape, generator=g, dtype=torch.float64)
n, width, height = 7, 37, 21
means = torch.stack([uniform(2, width - 2, n), uniform(2, height - 2, n)], -1)
conics = torch.stack([uniform(0.02, 0.2, n), uniform(-0.01, 0.01, n), uniform(0.02, 0.2, n)], -1)
opacities, colors, depths = uniform(0.3, 0.9, n), uniform(0, 1, n, 3), uniform(1, 5, n)
radii = torch.full((n, 2), 100, dtype=torch.int32)


def dense(means, conics, opacities, colors):
    y, x = torch.meshgrid(torch.arange(height).double() + 0.5, torch.arange(width).double() + 0.5, indexing="ij")
    order = depths.argsort()
    image, T = torch.zeros(height, width, 3, dtype=torch.float64), torch.ones(height, width, dtype=torch.float64)
    for i in order:
        dx, dy = x - means[i, 0], y - means[i, 1]
        sigma = 0.5 * (conics[i, 0] * dx * dx + conics[i, 2] * dy * dy) + conics[i, 1] * dx * dy
        alpha = opacities[i] * 2 ** -((sigma * 1.4426950408889634) ** 2)
        alpha = torch.where(alpha >= 1 / 255, alpha, 0.0)
        image = image + (T * alpha)[..., None] * colors[i]
        T = T * (1 - alpha)
    return image, 1 - T[..., None]


def ours(*tensors, primitive=1):
    tiles = bin(*tensors[:3], depths, radii, width, height, n_cameras=1, primitive=primitive)
    image, alphas = rasterize(*tensors, None, tiles, width, height, transmittance_threshold=0.0, primitive=primitive)
    return image[0], alphas[0]


inputs = [t.requires_grad_() for t in (means, conics, opacities, colors)]
got, wanted = ours(*inputs), dense(*inputs)
assert wanted[0].std() > 0.05, "the image is empty"
assert (got[0] - ours(*inputs, primitive=0)[0]).abs().max() > 0.05, "it is the EWA Gaussian"
torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)
weights = [torch.randn(v.shape, generator=g, dtype=v.dtype) for v in got]
for a, b in zip(torch.autograd.grad(got, inputs, weights), torch.autograd.grad(wanted, inputs, weights)):
    assert b.any()
    torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)
print("proven")
"""


@pytest.mark.skipif(not shutil.which("g++"), reason="g++ is not here")
def test_a_primitive_is_at_most_eight_files(tmp_path: Path) -> None:
    copy_with(tmp_path, {"csrc/math/primitive/flat_top.h": HEADER}, EDITS)
    build(tmp_path)
    changed = changed_files(tmp_path)
    expected = ["csrc/math/primitive/flat_top.h", *EDITS, WRITTEN_BY_THE_BUILD]
    assert changed == sorted(expected) and len(changed) <= 8, f"other files changed: {changed}"
    assert python(PROOF, tmp_path).strip() == "proven"
