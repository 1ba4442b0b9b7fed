"""What a camera model costs: four files. Here COLMAP's SIMPLE_RADIAL, added to a copy of the sources and proven."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from copied_sources import build, changed_files, copy_with, python

# mean2d = (fx u d + cx, fy v d + cy), u = x/z, v = y/z, d = 1 + k (u^2 + v^2)
HEADER = """#pragma once
#include "../scalar.h"

namespace SPLATLEARN_NAMESPACE {

template <class R> struct SimpleRadial {
    using Real = R;
    using S = Scalar<R>;
    static constexpr int kParameters = 5;  // fx, fy, cx, cy, k

    S fx, fy, cx, cy, k;

    struct LocalAffine {
        R mean[2], map[6];
        R u, v, d, xx, xy, yy;  // (xx, xy, yy): the derivative of (u d, v d) by (u, v)
    };

    static SPLATLEARN_HD SimpleRadial of(const S p[kParameters], int, int) { return {p[0], p[1], p[2], p[3], p[4]}; }

    SPLATLEARN_HD MaskOf<R> is_valid(const R p[3]) const { return (p[2] > S(0)) & (R(fx) > S(0)) & (R(fy) > S(0)); }

    SPLATLEARN_HD LocalAffine project(const S V[9], const R p[3]) const {
        LocalAffine out;
        R u = p[0] / p[2], v = p[1] / p[2], d = S(1) + k * (u * u + v * v);
        R xx = d + S(2) * k * u * u, xy = S(2) * k * u * v, yy = d + S(2) * k * v * v;
        for (int j = 0; j < 3; ++j) {
            R a = V[j] - u * V[6 + j], b = V[3 + j] - v * V[6 + j];
            out.map[j] = fx / p[2] * (xx * a + xy * b);
            out.map[3 + j] = fy / p[2] * (xy * a + yy * b);
        }
        out.mean[0] = fx * u * d + cx;
        out.mean[1] = fy * v * d + cy;
        out.u = u, out.v = v, out.d = d, out.xx = xx, out.xy = xy, out.yy = yy;
        return out;
    }

    SPLATLEARN_HD void project_backward(const S V[9], const R p[3], const LocalAffine &at, const R v_mean[2],
                                        const R v_map[6], R v_p[3], R v_rotation[9], R v_parameters[5]) const {
        const R u = at.u, v = at.v;
        R sx = fx / p[2], sy = fy / p[2];
        R a0{}, b0{}, a1{}, b1{}, v_u{}, v_v{};
        for (int j = 0; j < 3; ++j) {
            R a = V[j] - u * V[6 + j], b = V[3 + j] - v * V[6 + j], m0 = v_map[j], m1 = v_map[3 + j];
            a0 = a0 + m0 * a, b0 = b0 + m0 * b, a1 = a1 + m1 * a, b1 = b1 + m1 * b;
            R v_a = sx * at.xx * m0 + sy * at.xy * m1, v_b = sx * at.xy * m0 + sy * at.yy * m1;
            v_rotation[j] = v_a, v_rotation[3 + j] = v_b, v_rotation[6 + j] = -(u * v_a + v * v_b);
            v_u = v_u - v_a * V[6 + j], v_v = v_v - v_b * V[6 + j];
        }
        R v_xx = sx * a0, v_xy = sx * b0 + sy * a1, v_yy = sy * b1;
        R v_sx = at.xx * a0 + at.xy * b0, v_sy = at.xy * a1 + at.yy * b1;
        R v_ud = v_mean[0] * fx, v_vd = v_mean[1] * fy, v_d = v_ud * u + v_vd * v + v_xx + v_yy;
        v_u = v_u + v_ud * at.d + S(4) * k * u * v_xx + S(2) * k * v * v_xy + S(2) * k * u * v_d;
        v_v = v_v + v_vd * at.d + S(4) * k * v * v_yy + S(2) * k * u * v_xy + S(2) * k * v * v_d;
        v_parameters[0] = v_mean[0] * u * at.d + v_sx / p[2];
        v_parameters[1] = v_mean[1] * v * at.d + v_sy / p[2];
        v_parameters[2] = v_mean[0];
        v_parameters[3] = v_mean[1];
        v_parameters[4] = S(2) * (u * u * v_xx + u * v * v_xy + v * v * v_yy) + (u * u + v * v) * v_d;
        v_p[0] = v_u / p[2];
        v_p[1] = v_v / p[2];
        v_p[2] = -(v_u * u + v_v * v + v_sx * sx + v_sy * sy) / p[2];
    }
};

}  // namespace SPLATLEARN_NAMESPACE
"""

ORACLE = '''
def simple_radial(points: Tensor, K: Tensor, coeffs: Tensor | None, width: int, height: int) -> tuple[Tensor, Tensor]:
    """Pixels and Jacobians of a pinhole with one radial coefficient."""

    def pixel(point: Tensor) -> Tensor:
        uv = point[:2] / point[2]
        return K[:2, :2].diagonal() * uv * (1 + coeffs[0] * uv.square().sum()) + K[:2, 2]

    return torch.func.vmap(pixel)(points), torch.func.vmap(torch.func.jacrev(pixel))(points)


'''

# file: (what stands there, what is put before it)
EDITS = {
    "csrc/math/camera/camera.h": (
        ('#include "pose.h"', '#include "simple_radial.h"\n'),
        ("        default: return unknown;", "        case 2: return f(SimpleRadial<R>{});\n"),
    ),
    "splatlearn/ops/cameras.py": (('    "pinhole": CameraModel(0, 0),', '    "simple_radial": CameraModel(2, 1),\n'),),
    "splatlearn/ops/reference.py": (
        ("# camera_model: (points", ORACLE.lstrip()),
        ('"pinhole": pinhole,', '"simple_radial": simple_radial, '),
    ),
}

PROOF = """
import sys
from pathlib import Path
import splatlearn
assert Path(splatlearn.__file__).is_relative_to(Path.cwd()), "another package is tested"
import torch
from splatlearn.ops import native, reference
from splatlearn.ops.project import project
assert native.isa_level() == "portable", native.isa_level()
g = torch.Generator().manual_seed(0)
uniform = lambda low, high, *shape: low + (high - low) * torch.rand(*shape, generator=g, dtype=torch.float64)
n = 5
depths = uniform(2.0, 4.0, n)
means = torch.stack([uniform(-0.3, 0.3, n) * depths, uniform(-0.3, 0.3, n) * depths, depths], -1)
turn = torch.tensor([[0.8, 0.6, 0.0], [-0.6, 0.8, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
viewmats = torch.eye(4, dtype=torch.float64).repeat(2, 1, 1)
viewmats[1, :3, :3] = turn
Ks = torch.tensor([[20.0, 0, 8], [0, 22, 7], [0, 0, 1]], dtype=torch.float64).repeat(2, 1, 1)
coeffs = torch.tensor([[0.3], [-0.4]], dtype=torch.float64)
gaussians = [means, uniform(-1, 1, n, 4), uniform(0.05, 0.5, n, 3), uniform(0.3, 0.9, n)]
inputs = [t.requires_grad_() for t in (*gaussians, viewmats, Ks, coeffs)]


def run(function, means, quats, scales, opacities, viewmats, Ks, coeffs):
    found = function(means, quats, scales, opacities, None, None, viewmats, Ks, 17, 13, alpha_threshold=0.0,
                     antialiased=True, camera_model="simple_radial", camera_coeffs=coeffs)
    return found[:4]


values, wanted = run(project, *inputs), run(reference.project, *inputs)
assert (values[3] > 0).all(), "a Gaussian is not visible"
for value, true in zip(values, wanted):
    torch.testing.assert_close(value, true, rtol=1e-10, atol=1e-10)
weights = [torch.randn(v.shape, generator=g, dtype=v.dtype) for v in values]
ours, theirs = torch.autograd.grad(values, inputs, weights), torch.autograd.grad(wanted, inputs, weights)
for value, true in zip(ours, theirs):
    assert true.any()
    torch.testing.assert_close(value, true, rtol=1e-8, atol=1e-8)
pinhole = project(*gaussians, None, None, viewmats, Ks, 17, 13, alpha_threshold=0.0)
assert (pinhole.means2d - values[0]).abs().max() > 0.1, "the distortion does nothing"
assert torch.autograd.gradcheck(lambda *t: run(project, *t), inputs, eps=1e-6, atol=1e-6, rtol=1e-4)
print("proven")
"""


@pytest.mark.skipif(not shutil.which("g++"), reason="g++ is not here")
def test_a_camera_model_is_four_files(tmp_path: Path) -> None:
    copy_with(tmp_path, {"csrc/math/camera/simple_radial.h": HEADER}, EDITS)
    build(tmp_path)
    changed = changed_files(tmp_path)
    assert changed == sorted(["csrc/math/camera/simple_radial.h", *EDITS]), "other files changed"
    assert len(changed) == 4, f"a camera model costs {len(changed)} files"
    assert python(PROOF, tmp_path).strip() == "proven"
