"""The public function as research code meets it: gsplat's names and shapes, clear sentences for mistakes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import scenes
import torch
from torch import Tensor

import splatlearn
from splatlearn.errors import SplatlearnError
from splatlearn.ops import capacity as capacities
from splatlearn.ops.rasterization import rasterization

pytestmark = pytest.mark.usefixtures("backend")
TENSORS = ("means", "quats", "scales", "opacities", "colors", "viewmats", "Ks", "backgrounds")


def arguments(name: str = "degree-2", dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Valid arguments: 2 cameras, SH of degree 2, 21 x 18 pixels."""
    return scenes.case(name).scene.to(dtype).arguments()


@pytest.mark.parametrize("backend", ["cpu", "emulated"], indirect=True)
def test_it_is_the_public_name() -> None:
    public = getattr(splatlearn, "rasterization", None)
    assert public is rasterization, "splatlearn.rasterization is something else"


def test_positional_call_of_gsplat() -> None:
    given = arguments()
    names = ("means", "quats", "scales", "opacities", "colors", "viewmats", "Ks", "width", "height")
    given["backgrounds"] = None
    by_name = rasterization(**given)
    by_place = rasterization(*[given.pop(name) for name in names], **given)
    assert torch.equal(by_place[0], by_name[0]), "positions and names of the arguments disagree"


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("D", 1), ("ED", 1), ("RGB+D", 4), ("RGB+ED", 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_shapes_and_meta(mode: str, channels: int, packed: bool, dtype: torch.dtype) -> None:
    given = arguments(dtype=dtype)
    render, alphas, meta = rasterization(**given, render_mode=mode, packed=packed)
    assert render.shape == (2, 18, 21, channels) and render.dtype == dtype, "shape or dtype of the picture"
    assert alphas.shape == (2, 18, 21, 1) and alphas.dtype == dtype, "shape or dtype of alphas"
    rows: tuple[int, ...] = (2, len(given["means"]))
    if packed:
        rows = (len(meta["gaussian_ids"]),)
        assert 0 < rows[0] < 2 * len(given["means"]), "packed keeps culled Gaussians"
        assert meta["camera_ids"].shape == rows and meta["camera_ids"].unique().tolist() == [0, 1], "camera_ids"
    shapes = {"means2d": (2,), "radii": (2,), "depths": (), "conics": (3,), "opacities": ()}
    for key, tail in shapes.items():
        assert tuple(meta[key].shape) == rows + tail, f"meta[{key!r}] has the shape {tuple(meta[key].shape)}"
    sizes = {"width": 21, "height": 18, "tile_width": 2, "tile_height": 2, "tile_size": 16, "n_cameras": 2}
    for key, value in sizes.items():
        assert meta[key] == value, f"meta[{key!r}] is {meta[key]} instead of {value}"
    assert meta["isect_offsets"].shape == (2, 2, 2), "isect_offsets is not [C, tile_height, tile_width]"
    assert int(meta["tiles_per_gauss"].sum()) == len(meta["flatten_ids"]) > 0, "tiles_per_gauss does not add up"


def test_colors_of_each_camera() -> None:
    given = arguments("3-channels")
    both = dict(given, viewmats=given["viewmats"].repeat(2, 1, 1), Ks=given["Ks"].repeat(2, 1, 1))
    both["backgrounds"] = given["backgrounds"].repeat(2, 1)
    both["colors"] = torch.stack([given["colors"], 1 - given["colors"]])
    render, _, _ = rasterization(**both)
    for camera in range(2):
        alone, _, _ = rasterization(**dict(given, colors=both["colors"][camera]))
        assert torch.equal(render[camera], alone[0]), f"camera {camera} does not use its own colours"


def test_sh_degree_limits_the_bases() -> None:
    given = arguments()
    full, _, _ = rasterization(**given)
    low, _, _ = rasterization(**dict(given, sh_degree=1))
    cut, _, _ = rasterization(**dict(given, sh_degree=1, colors=given["colors"][:, :4].contiguous()))
    assert torch.equal(low, cut) and not torch.equal(low, full), "bases beyond sh_degree count"


@pytest.mark.parametrize("name", ["degree-2", "17-channels", "RGB+ED", "none", "aside"])
def test_packed_is_only_a_layout(name: str) -> None:
    case, results = scenes.case(name), []
    for packed in (True, False):
        scene = case.scene.with_grad()
        render, alphas, _ = rasterization(**scene.arguments(), **case.options, packed=packed)
        (render.square().sum() + alphas.sum()).backward()
        results.append([render, alphas, *(v.grad for v in scene.tensors().values() if v.grad is not None)])
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other), "packed changes a picture or a gradient"


def test_a_pair_of_coefficients_is_their_concatenation() -> None:
    given = arguments()
    pair = (given["colors"][:, :1].contiguous(), given["colors"][:, 1:].contiguous())
    plain = rasterization(**given)[0]
    assert torch.equal(rasterization(**dict(given, colors=pair))[0], plain), "(sh0, shN) is read wrongly"


def test_known_camera_centers_are_those_found_by_inverting() -> None:
    given = arguments(dtype=torch.float64)
    centers = torch.linalg.inv(given["viewmats"])[:, :3, 3].contiguous()
    found, known = rasterization(**given)[0], rasterization(**given, camera_centers=centers)[0]
    assert torch.allclose(found, known, atol=1e-12), "colours are seen from elsewhere"
    elsewhere = rasterization(**given, camera_centers=centers + 1)[0]
    assert not torch.allclose(found, elsewhere, atol=1e-3), "the centres given are not used, so this proves nothing"
    for change, word in (
        ({"camera_centers": centers[:1]}, "camera_centers must have shape"),
        ({"camera_centers": centers, "viewmats": given["viewmats"].clone().requires_grad_()}, "camera_centers do not"),
    ):
        with pytest.raises(SplatlearnError, match=f"^{word}"):
            rasterization(**(given | change))


def test_schedule_details_change_nothing() -> None:
    plain = rasterization(**arguments())[0]
    other = rasterization(**arguments(), tile_size=8, channel_chunk=2)[0]
    assert torch.equal(plain, other), "a detail of the schedule changes the picture"


@pytest.mark.parametrize("norm", [1e-12, 1e-3, 1e3, 1e12])
def test_the_norm_of_quaternions_does_not_matter(norm: float) -> None:
    given = arguments()
    plain, _, _ = rasterization(**given)
    scaled, _, _ = rasterization(**dict(given, quats=norm * given["quats"]))
    assert (scaled - plain).abs().max() < 1e-5, f"quaternions of norm {norm} are not normalised"


def test_cameras_do_not_meet() -> None:
    given = arguments()
    together, _, _ = rasterization(**given)
    for camera in range(2):
        one = {name: given[name][camera : camera + 1] for name in ("viewmats", "Ks", "backgrounds")}
        alone, _, _ = rasterization(**dict(given, **one))
        assert torch.equal(alone[0], together[camera]), "a camera's picture depends on the other cameras"


def test_arguments_are_left_alone() -> None:
    scene = scenes.case("degree-2").scene.with_grad()
    before = {name: value.detach().clone() for name, value in scene.tensors().items()}
    render, alphas, _ = rasterization(**scene.arguments())
    (render.sum() + alphas.sum()).backward()
    for name, value in scene.tensors().items():
        assert torch.equal(value, before[name]), f"{name} was written to"


def test_without_gradients() -> None:
    scene = scenes.case("degree-2").scene
    with torch.no_grad():
        render, _, meta = rasterization(**scene.with_grad().arguments())
    assert not render.requires_grad and not meta["means2d"].requires_grad, "a graph is kept under no_grad"


def test_views_and_expanded_tensors_are_drawn_alike() -> None:
    given = arguments()
    plain, _, _ = rasterization(**given)
    for name in TENSORS:
        strided = torch.stack([given[name], given[name]], -1)[..., 0]
        assert not strided.is_contiguous()
        try:
            render, _, _ = rasterization(**dict(given, **{name: strided}))
        except SplatlearnError as refusal:
            assert name in str(refusal), f"the refusal of a non-contiguous {name} does not name it"
        else:
            assert torch.equal(render, plain), f"a non-contiguous {name} is read wrongly"


SPOIL: dict[str, Callable[[Tensor], Any]] = {
    "short": lambda v: v[:-1],
    "flat": lambda v: v.flatten(),
    "integer": lambda v: v.long(),
    "other dtype": lambda v: v.double(),
    "half": lambda v: v.half(),
    "elsewhere": lambda v: v.to("meta"),
    "no tensor": lambda v: v.tolist(),
    "longer rows": lambda v: torch.cat([v, v], -1),
}


@pytest.mark.parametrize("backend", ["cpu"], indirect=True)
@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("how", SPOIL)
def test_a_wrong_tensor_is_named_in_one_sentence(name: str, how: str) -> None:
    given = arguments()
    if how == "flat" and name == "opacities":
        given["opacities"] = given["opacities"][:, None]
    else:
        given[name] = SPOIL[how](given[name])
    with pytest.raises(SplatlearnError) as caught:
        rasterization(**given)
    message = str(caught.value)
    # N and the dtype are what means says, C what viewmats says: if those are wrong, the others do not fit.
    blamed = set(TENSORS) if name in ("means", "viewmats") else {name}
    assert any(message.startswith(word) for word in blamed), f"the error does not name {name}: {message}"
    assert "\n" not in message and len(message) < 300, f"the error is not one sentence: {message}"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (dict(width=0), "width"),
        (dict(height=-3), "height"),
        (dict(sh_degree=5), "sh_degree"),
        (dict(sh_degree=3), "sh_degree"),
        (dict(render_mode="RGBD"), "render_mode"),
        (dict(rasterize_mode="mip"), "rasterize_mode"),
        (dict(eps2d=-1.0), "eps2d"),
        (dict(near_plane=float("nan")), "near_plane"),
        (dict(alpha_threshold=-0.1), "alpha_threshold"),
        (dict(transmittance_threshold=float("nan")), "transmittance_threshold"),
        (dict(viewmats=torch.zeros(2, 4, 4)), "viewmats"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_wrong_option_is_named_in_one_sentence(change: dict[str, Any], word: str) -> None:
    with pytest.raises(SplatlearnError, match=word) as caught:
        rasterization(**dict(arguments(), **change))
    assert "\n" not in str(caught.value), "the error is not one sentence"


@pytest.mark.parametrize("backend", ["cpu"], indirect=True)
@pytest.mark.parametrize(
    "change",
    [
        dict(sparse_grad=True),
        dict(distributed=True),
        dict(segmented=True),
        dict(camera_model="fisheye"),
        dict(covars=torch.zeros(20, 3, 3)),
        dict(with_ut=True),
        dict(with_eval3d=True),
        dict(radial_coeffs=torch.zeros(2, 4)),
        dict(tangential_coeffs=torch.zeros(2, 2)),
        dict(thin_prism_coeffs=torch.zeros(2, 4)),
        dict(viewmats_rs=torch.zeros(2, 4, 4)),
    ],
    ids=lambda change: "-".join(change),
)
def test_what_is_not_supported_says_so(change: dict[str, Any]) -> None:
    with pytest.raises(NotImplementedError, match=next(iter(change))):
        rasterization(**dict(arguments(), **change))


def test_unknown_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match="no_such_argument"):
        rasterization(**arguments(), no_such_argument=1)


@pytest.mark.parametrize("backend", ["cpu", "emulated"], indirect=True)
def test_a_scene_too_large_for_memory_is_refused_before_it_is_allocated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = scenes.make(70, 600, 1024, 1024, degree=0, sizes_px=(500.0, 900.0), opacities=(0.9, 1.0))
    monkeypatch.setattr(capacities, "available_memory", lambda: 10**7)
    with pytest.raises(SplatlearnError, match=r"need [\d,]+ bytes") as caught:
        rasterization(**scene.to(torch.float32).arguments())
    assert "10,000,000" in str(caught.value), "the error does not say what is available"
    monkeypatch.undo()
    render, _, _ = rasterization(**scene.to(torch.float32).arguments())
    assert render.std() > 0, "with memory enough the same scene must be drawn"


# Calls of the single stages that would make native code read beyond its tensors, were they not refused.
HOSTILE = {
    "tiles of a smaller picture": ("rasterize(*rows, None, tiles, 210, 180, n_cameras=2)", "tiles"),
    "tiles of more Gaussians": (
        "rasterize(*[v[:, :4] for v in rows], None, tiles, 21, 18, n_cameras=2)",
        "tiles",
    ),
    "tiles of fewer cameras": ("rasterize(*rows, None, tiles, 21, 18, n_cameras=50)", "tiles"),
    "camera ids out of range": (
        "bin(*flat, 21, 18, n_cameras=2, camera_ids=torch.full((40,), 7))",
        "camera_ids",
    ),
    "camera ids of int32": (
        "bin(*flat, 21, 18, n_cameras=2, camera_ids=torch.zeros(40).int())",
        "camera_ids",
    ),
    "rows that cameras do not divide": ("bin(*flat, 21, 18, n_cameras=3)", "n_cameras"),
    "radii elsewhere": ("bin(*flat[:4], flat[4].to('meta'), 21, 18, n_cameras=2)", "radii"),
    "photo elsewhere": ("photometric_loss(rows[0], torch.zeros(2, 20, 2).byte().to('meta'))", "target"),
    "records of fewer rows": (
        "rasterize(*rgb, None, tiles, 21, 18, n_cameras=2, records=torch.ones(2, 19, 12))",
        "records",
    ),
    "records of other channels": (
        "rasterize(*rows, None, tiles, 21, 18, n_cameras=2, records=torch.ones(2, 20, 12))",
        "records",
    ),
    "no cameras": ("rasterization(*cloud, torch.zeros(0, 4, 4), torch.zeros(0, 3, 3), 21, 18)", "viewmats"),
}
HOSTILE_SCRIPT = """
import sys, torch
from splatlearn.errors import SplatlearnError
from splatlearn.ops.bin import bin
from splatlearn.ops.photometric import photometric_loss
from splatlearn.ops.rasterization import rasterization
from splatlearn.ops.rasterize import rasterize
row = torch.rand(2, 20, generator=torch.Generator().manual_seed(0))
means2d = torch.stack([row * 21, row.flip(1) * 18], -1)
conics = torch.tensor([0.1, 0.0, 0.1]).repeat(2, 20, 1)
radii = torch.full((2, 20, 2), 11, dtype=torch.int32)
flat = (means2d, conics, row, 1 + row, radii)
tiles = bin(*flat, 21, 18, n_cameras=2)
rows = (means2d, conics, row, means2d)
rgb = (means2d, conics, row, conics)
cloud = (conics[0], torch.ones(20, 4), conics[0], row[0], conics[0])
try:
    eval(sys.argv[1])
except SplatlearnError as error:
    print("refused:", error)
"""


@pytest.mark.parametrize("backend", ["cpu"], indirect=True)
@pytest.mark.parametrize("name", HOSTILE)
def test_stages_refuse_what_would_leave_their_memory(name: str) -> None:
    """In a process of its own, for a missing check may end it."""
    call, word = HOSTILE[name]
    command = [sys.executable, "-c", HOSTILE_SCRIPT, call]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"the process ended with {done.returncode}: {done.stderr[-300:]}"
    assert done.stdout.startswith("refused:"), "native code read beyond its tensors"
    assert word in done.stdout and len(done.stdout.splitlines()) == 1, f"no clear sentence: {done.stdout}"
