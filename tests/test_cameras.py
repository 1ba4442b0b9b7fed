"""Every camera model of stage project: values against the oracle, and gradients to the camera and to the Gaussians."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import scenes
import torch
from torch import Tensor
from torch.autograd import gradcheck

from splatlearn.errors import SplatlearnError
from splatlearn.ops import reference
from splatlearn.ops.cameras import CAMERA_MODELS, CameraModel
from splatlearn.ops.project import project
from splatlearn.ops.rasterization import rasterization

pytestmark = pytest.mark.usefixtures("backend")
OFF: dict[str, Any] = dict(alpha_threshold=0.0, transmittance_threshold=0.0)
NAMES = ("means", "quats", "scales", "opacities", "sh0", "shN", "viewmats", "Ks")


def scene_of(model: str, seed: int, **options: Any) -> scenes.Scene:
    """A scene that the model shows at about the size at which a pinhole does."""
    width, height = options.pop("size", (17, 13))
    scene = scenes.make(seed, options.pop("count", 6), width, height, **{"cameras": 2, "degree": 2, **options})
    if model == "pinhole":
        return scene
    points = torch.einsum("cij,nj->cni", scene.viewmats[:, :3, :3], scene.means) + scene.viewmats[:, None, :3, 3]
    Ks = scene.Ks.clone()
    Ks[:, :2, :2] /= points[..., 2].median()
    return replace(scene, Ks=Ks)


def inputs_of(scene: scenes.Scene, raw: bool = False) -> tuple[Tensor, ...]:
    sh0, shN = scene.sh()
    assert sh0 is not None and shN is not None
    activated = (scene.scales.log(), scene.opacities.logit()) if raw else (scene.scales, scene.opacities)
    return scene.means, scene.quats, *activated, sh0, shN, scene.viewmats, scene.Ks


def leaves(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(tensor.detach().clone().requires_grad_() for tensor in tensors)


def test_every_model_has_an_oracle() -> None:
    assert CAMERA_MODELS.keys() == reference.CAMERAS.keys(), "a camera model is without its oracle"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("model", CAMERA_MODELS)
def test_projection_is_that_of_the_oracle(model: str, antialiased: bool, dtype: torch.dtype) -> None:
    scene = scene_of(model, 400, count=40, size=(33, 31), sizes_px=(0.5, 8.0))
    options: dict[str, Any] = dict(sh_degree=2, antialiased=antialiased, camera_model=model)
    got = project(*(tensor.to(dtype) for tensor in inputs_of(scene)), 33, 31, **options)
    wanted = reference.project(*inputs_of(scene), 33, 31, **options)
    visible = (wanted.radii > 0).all(-1)
    assert 20 < visible.sum() < visible.numel(), "the scene shows too little, or everything"
    assert torch.equal((got.radii > 0).all(-1), visible), "another Gaussian is culled than by the oracle"
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    for name in ("means2d", "depths", "conics", "opacities", "colors"):
        value, true = getattr(got, name).double(), getattr(wanted, name)
        assert ((value - true).abs() <= tolerance * true.abs().clamp(min=1)).all(), f"{name} differ from the oracle"
    assert ((got.radii - wanted.radii).abs() <= (dtype == torch.float32)).all(), "radii differ from the oracle"


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("model", CAMERA_MODELS)
def test_projection_passes_gradcheck(model: str, raw: bool, antialiased: bool) -> None:
    scene = scene_of(model, 410, count=4, sizes_px=(0.7, 6.0), beyond=0.2)

    def outputs(*inputs: Tensor) -> tuple[Tensor, ...]:
        options: dict[str, Any] = dict(sh_degree=2, antialiased=antialiased, raw=raw, alpha_threshold=0.0)
        return project(*inputs, 17, 13, camera_model=model, **options)[:5]  # type: ignore[return-value]

    inputs = leaves(inputs_of(scene, raw))
    values = outputs(*inputs)
    assert (values[3] > 0).sum() >= 6, "the scene shows too few Gaussians"
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(value.shape, generator=generator, dtype=value.dtype) for value in values]
    for name, gradient in zip(NAMES, torch.autograd.grad(values, inputs, weights), strict=True):
        assert gradient.any(), f"no gradient reaches {name}"
        if name == "Ks":
            read = gradient[:, (0, 1, 0, 1), (0, 1, 2, 2)]
            assert read.all() and gradient.count_nonzero() == read.numel(), "a gradient of fx, fy, cx, cy is missing"
    assert gradcheck(outputs, inputs, eps=1e-6, atol=1e-6, rtol=1e-4), "a gradient differs from finite differences"


@pytest.mark.parametrize("model", CAMERA_MODELS)
def test_gradients_are_those_of_the_oracle(model: str) -> None:
    scene = scene_of(model, 420, count=30, size=(33, 31), sizes_px=(0.5, 8.0))
    found = []
    for function in (project, reference.project):
        inputs = leaves(inputs_of(scene))
        values = function(*inputs, 33, 31, sh_degree=2, antialiased=True, camera_model=model)[:5]
        generator = torch.Generator().manual_seed(1)
        weights = [torch.randn(value.shape, generator=generator, dtype=value.dtype) for value in values]
        found.append(torch.autograd.grad(values, inputs, weights))
    for name, gradient, wanted in zip(NAMES, *found, strict=True):
        assert wanted.any(), f"no gradient reaches {name}"
        assert (gradient - wanted).abs().max() <= 1e-9 * wanted.abs().max().clamp(min=1), f"{name} differ"


@pytest.mark.parametrize("mode", ["RGB", "RGB+ED"])
@pytest.mark.parametrize("model", CAMERA_MODELS)
def test_rendering_is_that_of_the_oracle_and_passes_gradcheck(model: str, mode: str) -> None:
    scene = scene_of(model, 430, count=4, degree=1, sizes_px=(3.0, 8.0), beyond=0.0)
    names = tuple(scene.tensors())

    def render(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        filled: dict[str, Any] = dict(zip(names, tensors, strict=True))
        arguments = replace(scene, **filled).arguments()
        return rasterization(**arguments, **OFF, camera_model=model, render_mode=mode)[:2]

    inputs = leaves(tuple(scene.tensors().values()))
    image, alphas = render(*inputs)
    wanted, wanted_alphas, _ = reference.rasterization(**scene.arguments(), **OFF, camera_model=model, render_mode=mode)
    assert image.std() > 0.01 and alphas.max() > 0.1, "the image is empty"
    assert (image - wanted).abs().max() < 1e-9 and (alphas - wanted_alphas).abs().max() < 1e-10, "another image"
    for name, gradient in zip(names, torch.autograd.grad(image.square().sum(), inputs), strict=True):
        assert gradient.any(), f"no gradient reaches {name}"
    assert gradcheck(render, inputs, eps=1e-6, atol=1e-6, rtol=1e-4, fast_mode=True), "a gradient is wrong"


def test_size_does_not_depend_on_depth_in_an_orthographic_camera() -> None:
    scene = scene_of("ortho", 440, count=1, degree=0, cameras=1, beyond=0.0, sizes_px=(3.0, 5.0))
    forward = scene.viewmats[0, 2, :3]
    pairs = [project(scene.means + step * forward, scene.quats, scene.scales, scene.opacities, None, None,
                     scene.viewmats, scene.Ks, 17, 13, camera_model="ortho") for step in (0.0, 2.5)]  # fmt: skip
    near, far = pairs
    assert near.radii.all(), "the Gaussian is not visible"
    assert torch.allclose(near.means2d, far.means2d) and torch.allclose(near.conics, far.conics), "depth matters"
    assert torch.allclose(far.depths - near.depths, torch.tensor(2.5, dtype=torch.float64)), "the depth did not change"


@pytest.mark.parametrize("model", CAMERA_MODELS)
def test_a_camera_without_focal_length_shows_nothing(model: str) -> None:
    """Where nothing reads Ks on the host, as on CUDA, the kernels cull everything; CPU and CUDA do it alike."""
    scene = scene_of(model, 450, count=8, cameras=1, beyond=0.0)
    centers = torch.linalg.inv(scene.viewmats)[:, :3, 3]
    shown = []
    for index in (0, 1):
        for focal in (-1.0, 0.0):
            Ks = scene.Ks.clone()
            Ks[:, index, index] *= focal
            gaussians = inputs_of(replace(scene, Ks=Ks))
            result = project(*gaussians, 17, 13, sh_degree=2, camera_model=model, camera_centers=centers)
            shown.append(bool(result.radii.any()))
    assert project(*inputs_of(scene), 17, 13, sh_degree=2, camera_model=model, camera_centers=centers).radii.any()
    assert not any(shown), "a camera of a focal length not above 0 shows a Gaussian"


@pytest.mark.parametrize("backend", ["cpu"], indirect=True)
def test_wrong_models_and_coefficients_are_refused() -> None:
    scene = scene_of("pinhole", 460)
    with pytest.raises(SplatlearnError, match="camera_model must be one of pinhole, ortho, but is 'fisheye'"):
        project(*inputs_of(scene), 17, 13, sh_degree=2, camera_model="fisheye")
    for coeffs in (torch.zeros(2, 1, dtype=torch.float64), torch.zeros(2, 0, dtype=torch.float64)):
        with pytest.raises(SplatlearnError, match="camera_coeffs of the model 'ortho' must be 0 per camera"):
            project(*inputs_of(scene), 17, 13, sh_degree=2, camera_model="ortho", camera_coeffs=coeffs)


@pytest.mark.parametrize("backend", ["cpu", "emulated"], indirect=True)
def test_the_library_refuses_a_number_of_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = scene_of("pinhole", 470)
    monkeypatch.setitem(CAMERA_MODELS, "pinhole", CameraModel(99, 0))
    with pytest.raises(SplatlearnError, match="no camera model of this number"):
        project(*inputs_of(scene), 17, 13, sh_degree=2)
