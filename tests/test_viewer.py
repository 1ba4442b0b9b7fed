"""What the viewer draws is what the rasterizer draws; each mode shows what it says; photographs lie in place."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from tiny_scene import cameras, gaussians

from splatlearn.ops.rasterization import rasterization
from splatlearn.scene.cameras import Camera
from splatlearn.scene.gaussians import Gaussians
from splatlearn.scene.keyframes import pinhole_camera, rotation_of
from splatlearn.show.pictures import to_uint8
from splatlearn.viewer.count import blended
from splatlearn.viewer.drawing import MODES, Look, Snapshot, crop_range, draw, shortest_axes
from splatlearn.viewer.photos import pose_of, warped

SIZE = 48
AHEAD = Camera("", SIZE, SIZE, np.array([[SIZE, 0, SIZE / 2], [0, SIZE, SIZE / 2], [0, 0, 1.0]]), np.eye(4))


def splats(*rows: dict[str, list[float] | float]) -> Gaussians:
    """A few Gaussians by mean, standard deviations, opacity, colour and quaternion."""
    mean, scale, opacity, rgb, quat = (
        torch.tensor([row.get(name, default) for row in rows], dtype=torch.float32)
        for name, default in (
            ("mean", [0, 0, 4.0]),
            ("scale", [0.3] * 3),
            ("opacity", 0.9),
            ("rgb", [0.5] * 3),
            ("quat", [1.0, 0, 0, 0]),
        )  # fmt: skip
    )
    sh0 = ((rgb - 0.5) / 0.28209479177387814)[:, None]
    tensors = {"means": mean, "scales": scale.log(), "quats": quat, "opacities": opacity.logit(), "sh0": sh0}
    return Gaussians(tensors | {"shN": torch.zeros(len(rows), 0, 3)})


def middle(image: np.ndarray) -> np.ndarray:
    return image[SIZE // 2, SIZE // 2].astype(float)


def shown(cloud: Gaussians, **look: object) -> np.ndarray:
    return draw(Snapshot(cloud), AHEAD, Look(**look)).image  # type: ignore[arg-type]


# ---- pictures ----


@pytest.mark.parametrize("antialiased", [False, True])
def test_colour_is_the_very_picture_of_the_model(antialiased: bool) -> None:
    cloud, camera = gaussians(), cameras()[2]
    with torch.no_grad():
        cloud.shN.normal_(generator=torch.Generator().manual_seed(1))
        background = torch.tensor([0.2, 0.5, 0.8])
        for degree in (0, 1):
            wanted = cloud(
                camera,
                background=background,
                sh_degree=degree,
                rasterize_mode="antialiased" if antialiased else "classic",
            ).image
            look = Look(sh_degree=degree, background=(0.2, 0.5, 0.8))
            found = draw(Snapshot(cloud, antialiased=antialiased), camera, look).image
            assert (found == to_uint8(wanted)).all(), "the page would show other pixels than the rasterizer"
    assert found.std() > 20, "the picture is empty"


def test_a_pose_of_the_browser_is_the_camera_of_the_rasterizer() -> None:
    """An asymmetric scene: any mirrored axis or inverted rotation puts the picture elsewhere."""
    for camera in cameras():
        fov = math.degrees(2 * math.atan(camera.height / 2 / camera.K[1, 1]))
        again = pinhole_camera("", camera.width, camera.height, fov, camera.center, rotation_of(camera))
        np.testing.assert_allclose(again.world_to_camera, camera.world_to_camera, atol=1e-12)
        np.testing.assert_allclose(again.K, camera.K, atol=1e-9)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_draws_something_of_every_size(mode: str) -> None:
    snapshot = Snapshot(gaussians())
    for width, height in ((16, 16), (50, 37), (33, 130)):
        picture = draw(snapshot, cameras()[0].scaled(width, height), Look(mode=mode))
        assert picture.image.shape == (height, width, 3) and picture.image.dtype == np.uint8
        assert picture.image.std() > 5, f"{mode} shows nothing"


@pytest.mark.parametrize("mode", MODES)
def test_nothing_in_view_is_no_error(mode: str) -> None:
    behind = splats({"mean": [0, 0, -4.0]})
    image = draw(Snapshot(behind), AHEAD, Look(mode=mode, background=(1.0, 0.0, 0.0))).image
    assert len(np.unique(image.reshape(-1, 3), axis=0)) == 1, "something is drawn that is behind the camera"


def test_near_is_brighter_than_far() -> None:
    image = shown(
        splats({"mean": [-1.0, 0, 3.0], "opacity": 0.99}, {"mean": [2.0, 0, 6.0], "opacity": 0.99}), mode="depth"
    ).astype(float)
    assert image[SIZE // 2, 8].sum() > image[SIZE // 2, SIZE - 8].sum() + 100, "depth is drawn the wrong way round"


def test_opacity_is_alpha() -> None:
    cloud = splats({"opacity": 0.6, "rgb": [1, 0, 0]})
    image = shown(cloud, mode="opacity")
    with torch.no_grad():
        alpha = cloud(AHEAD).alpha
    assert (image == to_uint8(alpha)).all(), "opacity is not the rasterizer's alpha"


def test_normals_are_of_the_shortest_axis_and_face_the_camera() -> None:
    blue = np.array([128, 128, 255])
    flat = [0.4, 0.4, 0.01]
    for quat in ([1.0, 0, 0, 0], [0, 1.0, 0, 0]):  # turned over, the disc is the same
        found = middle(shown(splats({"scale": flat, "quat": quat}), mode="normals"))
        assert np.abs(found - blue).max() <= 40, f"a disc that faces the camera must be blue, but is {found}"
    half = math.sin(math.pi / 8), math.cos(math.pi / 8)  # 45 degrees about y: the normal points to the right or left
    right = middle(shown(splats({"scale": flat, "quat": [half[1], 0, -half[0], 0], "opacity": 0.99}), mode="normals"))
    left = middle(shown(splats({"scale": flat, "quat": [half[1], 0, half[0], 0], "opacity": 0.99}), mode="normals"))
    assert right[0] > left[0] + 100, "a disc turned to the right must be redder than one turned to the left"
    axes = shortest_axes(torch.tensor([[half[1], 0, half[0], 0]]), torch.tensor([[1.0, 1.0, 0.1]]))
    torch.testing.assert_close(axes, torch.tensor([[math.sqrt(0.5), 0, math.sqrt(0.5)]]))


def test_ellipsoids_are_solid() -> None:
    cloud = splats({"mean": [0, 0, 3.0], "opacity": 0.2, "rgb": [1, 0, 0]}, {"mean": [0, 0, 5.0], "rgb": [0, 1, 0]})
    red, green, _ = middle(shown(cloud, mode="ellipsoids"))
    assert red > 240 and green < 10, "what is behind shines through an ellipsoid"
    edges = np.abs(np.diff(shown(cloud, mode="ellipsoids")[SIZE // 2, :, 0].astype(int))).max()
    assert edges > 90, "an ellipsoid must end at once, not fade"
    hidden = splats({"mean": [0, 0, 3.0], "opacity": 0.05, "rgb": [1, 0, 0]}, {"mean": [0, 0, 5.0], "rgb": [0, 1, 0]})
    assert middle(shown(hidden, mode="ellipsoids"))[1] > 200, "fog hides what it is in front of"


def test_the_count_is_that_of_a_plain_loop_over_all_splats() -> None:
    cloud, camera = gaussians(400, seed=3), cameras()[1]
    with torch.no_grad():
        cloud.opacities.uniform_(-3, 4, generator=torch.Generator().manual_seed(0))
        viewmat, K = (torch.from_numpy(m).float()[None] for m in (camera.world_to_camera, camera.K))
        arguments = (cloud.means, cloud.quats, cloud.scales.exp(), cloud.opacities.sigmoid())
        _, alpha, meta = rasterization(
            *arguments, torch.ones(400, 1), viewmat, K, camera.width, camera.height, packed=False
        )
    found = blended(meta)
    means, conics, opacities = (meta[name][0].double() for name in ("means2d", "conics", "opacities"))
    wanted = torch.zeros_like(found)
    order = [i for i in meta["depths"][0].argsort(stable=True).tolist() if meta["radii"][0, i].min() > 0]
    y, x = torch.meshgrid(torch.arange(camera.height) + 0.5, torch.arange(camera.width) + 0.5, indexing="ij")
    left, going = torch.ones(found.shape, dtype=torch.float64), torch.ones(found.shape, dtype=torch.bool)
    for i in order:
        dx, dy = x - means[i, 0], y - means[i, 1]
        power = 0.5 * (conics[i, 0] * dx * dx + conics[i, 2] * dy * dy) + conics[i, 1] * dx * dy
        a = (opacities[i] * torch.exp(-power)).clamp(max=0.999)
        drawn = a >= 1 / 255
        going &= ~drawn | (left * (1 - a) >= 1e-4)
        wanted += (drawn & going).int()
        left = torch.where(drawn & going, left * (1 - a), left)
    torch.testing.assert_close(1 - left.float(), alpha[0, ..., 0], atol=1e-3, rtol=0)  # the loop is the rasterizer's
    differ = (found - wanted).abs()
    assert wanted.max() > 12 and (differ > 0).float().mean() < 0.01 and differ.max() <= 1, "the count is wrong"


# ---- controls ----


def test_a_snapshot_is_a_copy() -> None:
    cloud = gaussians()
    snapshot = Snapshot(cloud)
    before = draw(snapshot, cameras()[0], Look()).image
    with torch.no_grad():
        cloud.means.add_(1)
    assert (draw(snapshot, cameras()[0], Look()).image == before).all(), "a training step changes what is being drawn"


def test_size_and_crop() -> None:
    cloud = splats({"mean": [-1.0, 0, 4.0]}, {"mean": [1.0, 0, 4.0]})
    whole = shown(cloud).astype(int)
    left = shown(cloud, crop=((-math.inf, 0.0), (-math.inf, math.inf), (-math.inf, math.inf))).astype(int)
    assert whole[:, SIZE // 2 + 6 :].sum() > 0 and left[:, SIZE // 2 + 6 :].sum() == 0, "the crop keeps what is outside"
    assert left[:, : SIZE // 2 - 6].sum() > 0, "the crop takes what is inside"
    smaller, larger = (int((shown(cloud, size=size) > 0).sum()) for size in (0.5, 2.0))
    assert smaller < (whole > 0).sum() < larger, "the size of splats does nothing"
    empty = shown(cloud, crop=((5.0, 6.0), (5.0, 6.0), (5.0, 6.0)))
    assert empty.sum() == 0, "an empty box shows something"


def test_the_crop_reaches_all_but_strays() -> None:
    cloud = gaussians(2000)
    with torch.no_grad():
        cloud.means[0] = 1e6
    low, high = crop_range(cloud.means.detach())
    assert high.max() < 10 and low.min() > -10, "one stray makes the controls useless"
    inside = ((cloud.means >= low) & (cloud.means <= high)).all(dim=1).float().mean()
    assert inside > 0.95, "the controls do not reach the scene"


# ---- photographs ----

LENS = Camera("p", 60, 40, np.array([[50.0, 0, 27], [0, 55.0, 23], [0, 0, 1]]), np.eye(4))


def test_all_of_a_photograph_is_in_view_of_its_pose() -> None:
    for width, height in ((800, 500), (300, 900)):
        key = pose_of(LENS, width, height)
        camera = pinhole_camera("", width, height, key.fov, key.position, key.wxyz)
        corners = np.array([[0, 0, 1], [60, 0, 1], [0, 40, 1], [60, 40, 1]]) @ np.linalg.inv(LENS.K).T @ camera.K.T
        x, y = corners[:, 0] / corners[:, 2], corners[:, 1] / corners[:, 2]
        assert x.min() > -1e-6 and x.max() < width + 1e-6 and y.min() > -1e-6 and y.max() < height + 1e-6, "cut off"
        assert min(x.min(), width - x.max(), y.min(), height - y.max()) < 1e-6, "it could be larger"


def test_a_photograph_lies_on_the_render_of_the_same_scene() -> None:
    """The photo is a render by an odd lens; warped into the window's lens it must meet the window's own render."""
    cloud = gaussians()
    pose = cameras()[0].world_to_camera
    photo = dataclasses.replace(LENS, world_to_camera=pose)
    with torch.no_grad():
        taken = torch.from_numpy(to_uint8(cloud(photo.scaled(240, 160)).image).copy())
    photo = photo.scaled(240, 160)
    key = pose_of(photo, 300, 200)
    camera = pinhole_camera("", 300, 200, key.fov, key.position, key.wxyz)
    render = draw(Snapshot(cloud), camera, Look()).image.astype(float)
    image, inside = warped(taken, photo, camera)
    assert inside.mean() > 0.5
    error = np.abs(image - render)[inside[..., 0]].mean()
    shifted = np.abs(np.roll(image, 2, axis=1) - render)[inside[..., 0]].mean()
    assert error < 3 and error < shifted / 3, f"the photograph lies beside the render: {error}, two pixels on {shifted}"
    small, small_inside = warped(taken, photo, camera.scaled(60, 40))
    wanted = draw(Snapshot(cloud), camera.scaled(60, 40), Look()).image.astype(float)
    assert np.abs(small - wanted)[small_inside[..., 0]].mean() < 8, "a photograph shrinks to noise"
