"""The shares of Gaussians in the errors of photographs, against weights found one Gaussian at a time."""

import tiny_scene
import torch

from splatlearn import rasterization
from splatlearn.scene.cameras import Camera
from splatlearn.scene.gaussians import Gaussians
from splatlearn.scene.training.survey import shares_of_errors
from splatlearn.scene.view import View


def weights_of(cloud: Gaussians, camera: Camera) -> torch.Tensor:
    """[N, H, W] what each Gaussian counts in each pixel: its own picture where it alone is white."""
    viewmat, K = (torch.from_numpy(matrix).float()[None] for matrix in (camera.world_to_camera, camera.K))
    image, _, _ = rasterization(
        cloud.means, cloud.quats, cloud.scales, cloud.opacities, torch.eye(len(cloud)), viewmat, K,
        camera.width, camera.height, raw=True, packed=False,
    )  # fmt: skip
    return image[0].detach().permute(2, 0, 1)


def test_shares_are_weights_times_errors() -> None:
    cloud, cameras = tiny_scene.gaussians(12), tiny_scene.cameras(2)
    generator = torch.Generator().manual_seed(0)
    shape = (tiny_scene.HEIGHT, tiny_scene.WIDTH, 3)
    photos = [torch.randint(0, 256, shape, generator=generator).byte(), torch.rand(shape, generator=generator)]
    mask = torch.zeros(tiny_scene.HEIGHT, tiny_scene.WIDTH, dtype=torch.uint8)
    mask[10:, 20:] = 255
    masks = [None, mask]
    shares = shares_of_errors(
        (cloud(c), View(c, {"image": p} if m is None else {"image": p, "mask": m}))
        for c, p, m in zip(cameras, photos, masks, strict=True)
    )
    expected = torch.zeros(12)
    for camera, photo, counted in zip(cameras, photos, masks, strict=True):
        target = photo / 255 if photo.dtype == torch.uint8 else photo
        errors = (cloud(camera).image.detach() - target).abs().sum(dim=-1)
        errors = errors if counted is None else errors * (counted > 0)
        expected += (weights_of(cloud, camera) * errors).sum(dim=(1, 2))
    assert expected.min() > 0, "a Gaussian of the test is not seen: the test would not see it either"
    torch.testing.assert_close(shares, expected, rtol=1e-4, atol=1e-4)


def test_a_perfect_picture_has_no_errors_and_nothing_is_left_behind() -> None:
    cloud, camera = tiny_scene.gaussians(12), tiny_scene.cameras(1)[0]
    shares = shares_of_errors([(cloud(camera), View(camera, {"image": cloud(camera).image.detach()}))])
    assert torch.equal(shares, torch.zeros(12)), "errors were seen where there are none"
    assert all(parameter.grad is None for parameter in cloud.parameters()), "a survey leaves gradients to a step"
