"""The native core's values against the dense oracle: projection, tiles, picture."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import scenes
import torch
from torch import Tensor

from splatlearn.ops import reference
from splatlearn.ops.bin import bin as bin_tiles
from splatlearn.ops.native import isa_level
from splatlearn.ops.project import project
from splatlearn.ops.rasterization import rasterization
from splatlearn.ops.rasterize import rasterize

pytestmark = pytest.mark.usefixtures("backend")
ROOT = Path(__file__).parents[1]
# What rounding allows: float64 proves the equations, float32 that they are computed well.
DTYPES = {torch.float64: 1e-10, torch.float32: 1e-5}


def error(value: Tensor, wanted: Tensor) -> float:
    """The largest difference, relative where the wanted value is beyond 1."""
    assert value.shape == wanted.shape, f"shape {tuple(value.shape)} instead of {tuple(wanted.shape)}"
    if not wanted.numel():
        return 0.0
    return float(((value.double() - wanted).abs() / wanted.abs().clamp(min=1.0)).max())


def draw(case: scenes.Case, dtype: torch.dtype) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """The native picture."""
    return rasterization(**case.scene.to(dtype).arguments(), **case.options, packed=False)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", scenes.CASES)
def test_picture_is_that_of_the_oracle(name: str, dtype: torch.dtype) -> None:
    case = scenes.case(name)
    render, alphas, meta = draw(case, dtype)
    wanted, wanted_alphas, wanted_meta = reference.rasterization(**case.scene.arguments(), **case.options)
    assert render.dtype == alphas.dtype == dtype, "the picture's dtype is not that of the scene"
    assert bool(wanted_alphas.any()) == case.shows, "the scene shows nothing, or shows what it should not"
    assert error(alphas, wanted_alphas) <= DTYPES[dtype], "alphas differ from the oracle"
    if case.options.get("render_mode") in (
        "ED",
        "RGB+ED",
    ):  # a quotient by alpha = 1 - T, exact to a rounding of 1
        render, wanted = render.double(), wanted.clone()
        render[..., -1:] *= wanted_alphas
        wanted[..., -1:] *= wanted_alphas
    assert error(render, wanted) <= DTYPES[dtype], "colours differ from the oracle"
    assert torch.equal((meta["radii"] > 0).all(-1), (wanted_meta["radii"] > 0).all(-1)), "culling differs"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("name", ["degree-4", "67x67", "behind", "five-cameras", "none"])
def test_projection_is_that_of_the_oracle(name: str, antialiased: bool, dtype: torch.dtype) -> None:
    scene = scenes.off_thresholds(scenes.case(name).scene, antialiased=antialiased)
    options: dict[str, Any] = dict(sh_degree=scene.sh_degree, antialiased=antialiased)

    def run(project: Any, scene: scenes.Scene) -> Any:
        gaussians = (scene.means, scene.quats, scene.scales, scene.opacities, *scene.sh())
        return project(*gaussians, scene.viewmats, scene.Ks, scene.width, scene.height, **options)

    got, wanted = run(project, scene.to(dtype)), run(reference.project, scene)
    for field in ("means2d", "depths", "conics", "opacities", "colors"):
        value, true = getattr(got, field), getattr(wanted, field)
        assert error(value, true) <= DTYPES[dtype], f"{field} differ from the oracle"
    assert got.radii.dtype == torch.int32, "radii are not int32"
    slack = 0 if dtype == torch.float64 else 1  # ceil may go either way
    assert ((got.radii - wanted.radii).abs() <= slack).all(), "radii differ from the oracle"


@pytest.mark.parametrize("option", ["near_plane", "far_plane", "radius_clip", "eps2d", "alpha_threshold"])
def test_projection_options_cull_as_the_oracle(option: str) -> None:
    scene = scenes.make(61, 40, 33, 31, degree=0)
    values = {"near_plane": 3.5, "far_plane": 4.0, "radius_clip": 6.0, "eps2d": 2.0, "alpha_threshold": 0.3}
    changed: dict[str, Any] = {option: values[option]}
    gaussians = (
        scene.means,
        scene.quats,
        scene.scales,
        scene.opacities,
        *scene.sh(),
        scene.viewmats,
        scene.Ks,
    )
    got = project(*gaussians, 33, 31, **changed)
    wanted = reference.project(*gaussians, 33, 31, **changed)
    plain = reference.project(*gaussians, 33, 31)
    assert not torch.equal(wanted.radii, plain.radii), "the option does nothing in this scene"
    assert torch.equal(got.radii, wanted.radii), f"{option} culls differently"
    assert error(got.conics, wanted.conics) < 1e-10, f"{option} changes the conics differently"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["67x67", "64x31", "needles", "huge", "tiny", "crowd", "five-cameras", "aside"])
def test_tiles_hold_all_that_is_drawn_in_depth_order(name: str, dtype: torch.dtype) -> None:
    scene = scenes.case(name).scene
    width, height, cameras, count = scene.width, scene.height, len(scene.viewmats), len(scene.means)
    sh = scene.to(dtype).sh()
    flat = scene.to(dtype)
    projection = project(
        flat.means, flat.quats, flat.scales, flat.opacities, *sh, flat.viewmats, flat.Ks, width, height
    )
    means2d, depths, conics, opacities, _, radii, _ = projection
    tiles = bin_tiles(means2d, conics, opacities, depths, radii, width, height, n_cameras=cameras)
    columns, rows = -(-width // 16), -(-height // 16)
    offsets, ids = tiles.tile_offsets.tolist(), tiles.gaussian_ids.long()
    assert len(offsets) == cameras * columns * rows + 1 and offsets[0] == 0, "tile_offsets has the wrong length"
    assert offsets == sorted(offsets) and offsets[-1] == len(ids), "tile_offsets is no prefix sum of the instances"
    pixels = reference.pixel_centres(width, height, torch.float64)
    tile_of_pixel = (pixels[:, 1] // 16).long() * columns + (pixels[:, 0] // 16).long()
    drawn = 0
    for camera in range(cameras):
        dense = [v[camera].double() for v in (means2d, conics, opacities)]
        raw = reference.blend(dense[0], dense[1], dense[2], pixels, 0.0, 0.0).raw
        for tile in range(columns * rows):
            index = camera * columns * rows + tile
            mine = ids[offsets[index] : offsets[index + 1]]
            local = mine - camera * count
            assert ((local >= 0) & (local < count)).all(), "a tile lists a Gaussian of another camera"
            assert len(set(mine.tolist())) == len(mine), "a tile lists a Gaussian twice"
            keys = [(float(depths[camera, g]), int(g)) for g in local]
            assert keys == sorted(keys), "a tile is not in depth order with ties by index"
            needed = (raw[tile_of_pixel == tile] >= 1 / 255).any(0).nonzero()[:, 0]
            missing = set(needed.tolist()) - set(local.tolist())
            assert not missing, f"tile {tile} of camera {camera} lacks Gaussians {missing} that it must draw"
            drawn += len(needed)
    assert (drawn > 0) == scenes.case(name).shows, "the scene proves nothing"
    boxes = int((radii > 0).all(-1).sum()) * columns * rows
    assert len(ids) <= boxes and len(ids) <= 1.2 * drawn + 4 * cameras * columns * rows, "tiles are not culled tightly"


def test_equal_depths_are_blended_by_index() -> None:
    scene = scenes.case("31x33").scene
    gaussians = (
        scene.means,
        scene.quats,
        scene.scales,
        scene.opacities,
        *scene.sh(),
        scene.viewmats,
        scene.Ks,
    )
    means2d, depths, conics, opacities, colors, radii = reference.project(*gaussians, 31, 33)
    assert colors is not None
    level = torch.ones_like(depths)
    tiles = bin_tiles(means2d, conics, opacities, level, radii, 31, 33, n_cameras=2)
    render, _ = rasterize(means2d, conics, opacities, colors, None, tiles, 31, 33, n_cameras=2)
    by_index, _ = reference.rasterize(means2d, conics, opacities, colors, None, level, 31, 33)
    by_depth, _ = reference.rasterize(means2d, conics, opacities, colors, None, depths, 31, 33)
    assert error(by_depth, by_index) > 0.01, "the order does not matter in this scene, so it proves nothing"
    assert error(render, by_index) < 1e-10, "Gaussians of equal depth are not blended by index"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_crowd_stops_early(dtype: torch.dtype) -> None:
    case = scenes.case("crowd")
    stopped, alphas, _ = draw(case, dtype)
    scene = case.scene.to(dtype).arguments()
    whole, _, _ = rasterization(**scene, transmittance_threshold=0.0)
    assert alphas.max() < 1 - 1e-4 + 1e-6, "a pixel went on below the transmittance threshold"
    assert error(stopped, whole.double()) > 1e-6, "this scene never stops early, so it proves nothing"


LEVEL_SCRIPT = """
import sys, pytest
from splatlearn.ops.native import isa_level
level, *arguments = sys.argv[1:]
sys.exit(77 if isa_level() != level else pytest.main(arguments))
"""
LEVEL_CASES = "67x67 or 1x67 or degree-4 or needles or crowd or uncut or 17 or 5-channels or RGB+ED"


@pytest.mark.parametrize("backend", ["cpu"], indirect=True)
@pytest.mark.parametrize("level", ["x86-64-v2", "x86-64-v3", "x86-64-v4"])
def test_every_instruction_set_level(level: str) -> None:
    """The library picks a level once a process, so each is tested in one of its own."""
    if isa_level() == level:
        pytest.skip(f"{level} is what all other tests run on")
    chosen = f"cpu and ((oracle and ({LEVEL_CASES})) or loss_and_gradient or of_torch)"
    files = [f"test_{name}.py" for name in ("ops_forward", "ops_backward", "photometric", "adam")]
    command = [
        sys.executable,
        "-c",
        LEVEL_SCRIPT,
        level,
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        *files,
        "-k",
        chosen,
    ]
    environment = dict(os.environ, SPLATLEARN_ISA=level, OMP_NUM_THREADS="1")
    done = subprocess.run(command, cwd=ROOT / "tests", env=environment, capture_output=True, text=True, timeout=300)
    if done.returncode == 77:
        pytest.skip(f"this processor has no {level}")
    assert done.returncode == 0, f"on {level}: {done.stdout[-1500:]}"
