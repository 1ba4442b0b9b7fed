"""PSNR, SSIM and LPIPS against values that can be worked out by hand."""

import math

import numpy as np
import pytest
import torch

from splatlearn.errors import SplatlearnError
from splatlearn.scene import metrics
from splatlearn.scene.metrics import psnr


def test_psnr_by_hand() -> None:
    zero = torch.zeros(4, 6, 3)
    assert psnr(zero, zero + 0.1) == pytest.approx(20.0, abs=1e-6), "PSNR is not -10·log10(MSE)"
    half = zero.clone()
    half[:2] = 0.1
    assert psnr(zero, half) == pytest.approx(20 + 10 * math.log10(2), abs=1e-6), "not a mean over pixels"
    assert psnr(zero, zero) == math.inf, "equal images divide by zero"


def test_psnr_takes_bytes_arrays_and_batches() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 256, (2, 5, 7, 3), dtype=np.uint8) for _ in range(2))
    mse = np.mean((a.astype(np.float64) - b) ** 2)
    expected = 10 * math.log10(255**2 / mse)
    assert psnr(a, b) == pytest.approx(expected, abs=1e-9), "bytes wrap around or are scaled wrongly"
    mixed = psnr(torch.from_numpy(a).double() / 255, b)
    assert mixed == pytest.approx(expected, abs=1e-9), "a float render against a byte photo is scaled wrongly"


def test_psnr_sums_in_float64() -> None:
    image = torch.zeros(1500, 2000, 3)
    image[0, 0, 0] = 1.0
    target = image + 1e-4  # a large error would hide what float32 sums lose
    exact = np.mean((image.double().numpy() - target.double().numpy()) ** 2)
    assert psnr(image, target) == pytest.approx(-10 * math.log10(exact), abs=1e-9), "summed in float32"


def test_psnr_leaves_the_graph_alone() -> None:
    render = torch.full((2, 2, 3), 0.5, requires_grad=True)
    assert psnr(render, torch.zeros(2, 2, 3)) == pytest.approx(6.0206, abs=1e-4), "fails on a render in the graph"


@pytest.mark.parametrize("shapes", [((4, 4, 3), (4, 5, 3)), ((4, 4), (4, 4)), ((3, 4, 5), (3, 4, 5))])
def test_wrong_shapes_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(SplatlearnError, match="H,W,3"):
        psnr(torch.zeros(shapes[0]), torch.zeros(shapes[1]))


def test_ssim_ends_and_kinds() -> None:
    pytest.importorskip("splatlearn.ops.photometric", reason="ops are not there yet")
    rng = np.random.default_rng(1)
    photo = rng.integers(0, 256, (24, 31, 3), dtype=np.uint8)
    assert metrics.ssim(photo, photo) == pytest.approx(1.0, abs=1e-5), "equal images are not alike"
    other = rng.integers(0, 256, (24, 31, 3), dtype=np.uint8)
    value = metrics.ssim(torch.from_numpy(photo).float() / 255, other)
    assert abs(value) < 0.2, "unrelated noise is called alike"
    assert metrics.ssim(photo, other) == pytest.approx(value, abs=1e-4), "bytes and floats differ"


def test_lpips_says_what_is_missing() -> None:
    try:
        import torchmetrics  # noqa: F401
    except ImportError:
        with pytest.raises(SplatlearnError, match="lpips"):
            metrics.lpips(torch.zeros(64, 64, 3), torch.zeros(64, 64, 3))
    with pytest.raises(SplatlearnError, match="vgg or alex"):
        metrics.lpips(torch.zeros(64, 64, 3), torch.zeros(64, 64, 3), "resnet")
