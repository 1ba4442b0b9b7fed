"""The oracle against closed forms, scipy, torch and its own symmetries: a wrong oracle proves nothing."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import scenes
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from splatlearn.ops import reference

F64 = torch.float64


def identity_camera(size: int, focal: float) -> tuple[Tensor, Tensor]:
    """A camera at the origin that looks along z, with its principal point in the picture's centre."""
    K = torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]], dtype=F64)
    return torch.eye(4, dtype=F64)[None], K[None]


def spherical_harmonic(order: int, m: int, polar: np.ndarray, azimuth: np.ndarray) -> np.ndarray:
    """Complex Y_l^m of scipy, whose name and argument order changed in 1.15."""
    import scipy.special

    if hasattr(scipy.special, "sph_harm_y"):
        return np.asarray(scipy.special.sph_harm_y(order, m, polar, azimuth))
    return np.asarray(scipy.special.sph_harm(m, order, azimuth, polar))


def test_harmonics_are_the_real_forms_of_scipy() -> None:
    directions = np.random.default_rng(0).normal(size=(40, 3))
    unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    polar, azimuth = np.arccos(unit[:, 2]), np.arctan2(unit[:, 1], unit[:, 0])
    ours = reference.harmonics(torch.tensor(directions), 4).numpy()
    for order in range(5):
        for m in range(-order, order + 1):
            value = spherical_harmonic(order, abs(m), polar, azimuth)
            real = value.real if m == 0 else math.sqrt(2) * (value.real if m > 0 else value.imag)
            np.testing.assert_allclose(
                ours[:, order * order + order + m],
                real,
                atol=1e-12,
                err_msg=f"basis of degree {order}, order {m}",
            )


def test_harmonics_have_the_signs_of_3dgs() -> None:
    x, y, z = direction = torch.nn.functional.normalize(torch.tensor([0.3, -0.5, 0.8], dtype=F64), dim=0)
    bases = reference.harmonics(direction, 4)
    wanted = {
        0: 0.28209479177387814,
        1: -0.4886025119029199 * y,
        2: 0.4886025119029199 * z,
        3: -0.4886025119029199 * x,
        4: 1.0925484305920792 * x * y,
        5: -1.0925484305920792 * y * z,
        9: -0.5900435899266435 * y * (3 * x * x - y * y),
        15: -0.5900435899266435 * x * (x * x - 3 * y * y),
        16: 2.5033429417967046 * x * y * (x * x - y * y),
        20: 0.10578554691520431 * (35 * z**4 - 30 * z**2 + 3),
    }
    for index, value in wanted.items():
        assert abs(float(bases[index] - value)) < 1e-12, f"sign or scale of basis {index} differs from 3DGS"


def test_rotation_is_that_of_scipy_for_any_norm() -> None:
    quats = torch.randn(20, 4, generator=torch.Generator().manual_seed(0), dtype=F64)
    theirs = Rotation.from_quat(quats.numpy()[:, [1, 2, 3, 0]]).as_matrix()
    np.testing.assert_allclose(reference.rotation(quats).numpy(), theirs, atol=1e-12, err_msg="wxyz rotation")


@pytest.mark.parametrize("antialiased", [False, True])
def test_one_round_gaussian_in_the_centre(antialiased: bool) -> None:
    size, focal, depth, sigma, opacity = 33, 40.0, 4.0, 0.25, 0.8
    viewmats, Ks = identity_camera(size, focal)
    render, alphas, meta = reference.rasterization(
        torch.tensor([[0.0, 0.0, depth]], dtype=F64),
        torch.tensor([[3.0, 0.0, 0.0, 0.0]], dtype=F64),
        torch.full((1, 3), sigma, dtype=F64),
        torch.tensor([opacity], dtype=F64),
        torch.tensor([[1.0, 0.5, 0.25]], dtype=F64),
        viewmats,
        Ks,
        size,
        size,
        rasterize_mode="antialiased" if antialiased else "classic",
        backgrounds=torch.tensor([[0.0, 0.0, 1.0]], dtype=F64),
    )
    blurred = (focal * sigma / depth) ** 2 + 0.3
    shown = opacity * ((blurred - 0.3) / blurred if antialiased else 1.0)
    offsets = torch.arange(size, dtype=F64) + 0.5 - size / 2
    alpha = shown * torch.exp(-(offsets[:, None] ** 2 + offsets[None, :] ** 2) / (2 * blurred))
    alpha = torch.where(alpha >= 1 / 255, alpha, 0.0)
    assert (alphas[0, ..., 0] - alpha).abs().max() < 1e-12, "alpha of a round Gaussian is not its closed form"
    wanted = torch.stack([alpha, 0.5 * alpha, 0.25 * alpha + (1 - alpha)], -1)
    assert (render[0] - wanted).abs().max() < 1e-12, "colour is not alpha * colour + rest * background"
    radius = math.ceil(math.sqrt(2 * math.log(255 * shown) * blurred))
    assert meta["radii"].tolist() == [[[radius, radius]]], "radius is not where alpha falls to 1/255"
    assert meta["depths"].item() == depth, "depth is not the camera's z"


def test_conics_come_from_the_derivative_of_the_projection() -> None:
    scene = scenes.make(3, 12, 33, 31, beyond=0.0)
    viewmat, K = scene.viewmats[0], scene.Ks[0]

    def pixel(mean: Tensor) -> Tensor:
        x, y, z = viewmat[:3, :3] @ mean + viewmat[:3, 3]
        return torch.stack([K[0, 0] * x / z + K[0, 2], K[1, 1] * y / z + K[1, 2]])

    projection = reference.project(
        scene.means, scene.quats, scene.scales, scene.opacities, None, None, scene.viewmats, scene.Ks, 33, 31
    )
    covars = reference.covariance(scene.quats, scene.scales)
    assert (projection.radii > 0).all(), "the scene must be visible for this to prove anything"
    for index, mean in enumerate(scene.means):
        jacobian = torch.autograd.functional.jacobian(pixel, mean)
        covar2d = jacobian @ covars[index] @ jacobian.T + 0.3 * torch.eye(2, dtype=F64)
        a, b, c = projection.conics[0, index]
        conic = torch.stack([torch.stack([a, b]), torch.stack([b, c])])
        assert (conic @ covar2d - torch.eye(2, dtype=F64)).abs().max() < 1e-9, "conic is not the inverse of J S J^T"


def test_order_of_storage_does_not_matter() -> None:
    scene = scenes.make(4, 30, 31, 17, degree=2, cameras=2)
    shuffled = scene.keep(torch.randperm(30, generator=torch.Generator().manual_seed(1)))
    render, alphas, _ = reference.rasterization(**scene.arguments())
    render2, alphas2, _ = reference.rasterization(**shuffled.arguments())
    assert render.std() > 0.01, "the scene shows nothing"
    assert (render - render2).abs().max() < 1e-12, "storage order changes the picture: depth sort is wrong"
    assert (alphas - alphas2).abs().max() < 1e-12, "storage order changes alpha"


def test_moving_world_and_cameras_together_changes_nothing() -> None:
    scene = scenes.make(5, 20, 33, 31, cameras=2)
    turn = reference.rotation(torch.tensor([0.4, -0.3, 0.8, 0.1], dtype=F64))
    move = torch.eye(4, dtype=F64)
    move[:3, :3], move[:3, 3] = turn, torch.tensor([0.5, -2.0, 1.0], dtype=F64)
    quats = torch.tensor(Rotation.from_matrix((turn @ reference.rotation(scene.quats)).numpy()).as_quat())
    moved = replace(
        scene,
        means=scene.means @ turn.T + move[:3, 3],
        quats=quats[:, [3, 0, 1, 2]],
        viewmats=scene.viewmats @ torch.linalg.inv(move),
    )
    render, _, _ = reference.rasterization(**scene.arguments())
    assert render.std() > 0.01, "the scene shows nothing"
    assert (render - reference.rasterization(**moved.arguments())[0]).abs().max() < 1e-10, "frames are mixed up"


def flat_layers(opacities: list[float], **thresholds: float) -> tuple[Tensor, Tensor]:
    """One pixel under layers of constant alpha, of colours 1, 10, 100 .., over a background of 1000."""
    count = len(opacities)
    return reference.rasterize(
        torch.full((1, count, 2), 0.5, dtype=F64),
        torch.full((1, count, 3), 1.0, dtype=F64) * torch.tensor([1.0, 0.0, 1.0], dtype=F64),
        torch.tensor([opacities], dtype=F64),
        10.0 ** torch.arange(count, dtype=F64)[None, :, None],
        torch.tensor([[1000.0]], dtype=F64),
        torch.ones(1, count, dtype=F64),  # all at one depth: ties go by index
        1,
        1,
        **thresholds,
    )


def test_layers_blend_front_to_back_and_stop() -> None:
    render, alpha = flat_layers([0.5, 0.25, 0.002])
    assert abs(render.item() - (0.5 + 0.5 * 0.25 * 10 + 0.375 * 1000)) < 1e-9, "ties, or a layer below the cut-off"
    assert abs(alpha.item() - 0.625) < 1e-12, "alpha is not 1 - T"
    render, alpha = flat_layers([0.99, 0.995, 0.5])
    assert abs(render.item() - (0.99 + 0.01 * 0.5 * 100 + 0.005 * 1000)) > 1, "skipped instead of stopped"
    assert abs(render.item() - (0.99 + 0.01 * 1000)) < 1e-9, "the pixel did not stop before T < 1e-4"
    render, alpha = flat_layers([1.0, 0.9, 0.2], transmittance_threshold=0.0)
    assert abs(alpha.item() - (1 - 0.001 * 0.1 * 0.8)) < 1e-12, "alpha not clamped at 0.999, or stopped at threshold 0"


def test_culled_gaussians_give_zeros_and_no_gradient() -> None:
    scene = scenes.make(6, 8, 17, 13, degree=1, beyond=0.0)
    bad = replace(
        scene,
        means=scene.means.index_fill(0, torch.tensor([0]), torch.nan),
        quats=scene.quats.index_fill(0, torch.tensor([1]), 0.0),
        scales=scene.scales.index_fill(0, torch.tensor([2]), torch.inf),
        opacities=scene.opacities.index_fill(0, torch.tensor([3]), 1 / 256),
        colors=scene.colors.index_fill(0, torch.tensor([4]), torch.nan),
    ).with_grad()
    render, _, meta = reference.rasterization(**bad.arguments())
    assert (meta["radii"] > 0).all(-1)[0].tolist() == [False] * 5 + [True] * 3, "wrong Gaussians are culled"
    assert render.isfinite().all() and render.std() > 0, "a culled Gaussian reaches the picture"
    render.square().sum().backward()
    for name, value in bad.tensors().items():
        assert value.grad is not None and value.grad.isfinite().all(), f"a culled Gaussian poisons d/d{name}"
        if name not in ("viewmats", "Ks", "backgrounds"):
            assert not value.grad[:5].any(), f"a culled Gaussian has a gradient to {name}"
            assert value.grad[5:].any(), f"the visible ones have no gradient to {name}"


def test_depth_modes_measure_depth() -> None:
    scene = scenes.make(7, 10, 17, 13, background=False, beyond=0.0)
    flat = replace(scene, viewmats=torch.eye(4, dtype=F64)[None])
    means = flat.means @ scene.viewmats[0, :3, :3].T + scene.viewmats[0, :3, 3]
    means[:, :2] *= 3.0 / means[:, 2:]
    means[:, 2] = 3.0
    flat = replace(flat, means=means)
    expected, alphas, _ = reference.rasterization(**flat.arguments(), render_mode="ED")
    seen = alphas > 0
    assert seen.any() and (expected[seen] - 3.0).abs().max() < 1e-9, "expected depth of a plane is not its depth"
    both, _, _ = reference.rasterization(**flat.arguments(), render_mode="RGB+D")
    rgb, _, _ = reference.rasterization(**flat.arguments())
    assert (both[..., :3] - rgb).abs().max() < 1e-14, "RGB+D changes the colours"
    assert (both[..., 3:] - 3.0 * alphas).abs().max() < 1e-9, "depth is not blended like a colour"


def test_ssim_at_a_pixel_is_its_definition() -> None:
    rng = np.random.default_rng(0)
    image, target = rng.random((11, 11, 1)), rng.random((11, 11, 1))
    taps = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    weights = np.outer(taps, taps) / taps.sum() ** 2

    def at(row: int, column: int) -> float:
        """SSIM of one pixel from padded windows, with centred moments."""
        x, y = (np.pad(v[..., 0], 5)[row : row + 11, column : column + 11] for v in (image, target))
        mx, my = (weights * x).sum(), (weights * y).sum()
        vx, vy = (weights * (x - mx) ** 2).sum(), (weights * (y - my) ** 2).sum()
        vxy = (weights * (x - mx) * (y - my)).sum()
        top = (2 * mx * my + 0.01**2) * (2 * vxy + 0.03**2)
        return float(top / ((mx * mx + my * my + 0.01**2) * (vx + vy + 0.03**2)))

    wanted = np.mean([at(row, column) for row in range(11) for column in range(11)])
    value = reference.ssim(torch.tensor(image), torch.tensor(target)).item()
    assert abs(value - wanted) < 1e-12, "SSIM differs from its definition"
    assert abs(reference.ssim(torch.tensor(image), torch.tensor(image)).item() - 1) < 1e-12, "SSIM(x, x) is not 1"
    loss = reference.photometric_loss(torch.tensor(image), torch.tensor(target), 0.3).item()
    l1 = np.abs(image - target).mean()
    assert abs(loss - (0.7 * l1 + 0.3 * (1 - wanted))) < 1e-12, "the loss mixes L1 and SSIM wrongly"


def test_adam_is_that_of_torch() -> None:
    rng = torch.Generator().manual_seed(0)
    start = torch.randn(7, generator=rng, dtype=F64)
    theirs = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([theirs], lr=0.1, eps=1e-3)
    ours, first, second = start, torch.zeros_like(start), torch.zeros_like(start)
    for step in range(1, 5):
        theirs.grad = torch.randn(7, generator=rng, dtype=F64)
        ours, first, second = reference.adam_step(ours, theirs.grad, first, second, step, 0.1, eps=1e-3)
        optimizer.step()
        assert (ours - theirs).abs().max() < 1e-14, f"Adam differs from torch at step {step}"
