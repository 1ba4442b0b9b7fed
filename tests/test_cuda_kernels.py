"""What is particular to the CUDA kernels: order of threads, many tiles, long lists, missing library. Values and
gradients are tested with those of the CPU backend, in the tests of each stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import scenes
import schedules
import torch
from conftest import moved
from torch import Tensor

from splatlearn.commands import bench
from splatlearn.errors import SplatlearnError
from splatlearn.ops import native
from splatlearn.ops.adam import Group, adam_steps
from splatlearn.ops.bin import bin as bin_tiles
from splatlearn.ops.bin import sorting
from splatlearn.ops.checks import check_tensor
from splatlearn.ops.photometric import photometric_loss
from splatlearn.ops.project import Options, _Project, project
from splatlearn.ops.rasterization import rasterization
from splatlearn.ops.rasterize import deterministic, rasterize

rasterize_there, bin_there = rasterize, bin_tiles  # for tensors that are on the card already
CARD = {"emulated": "cpu", "cuda": "cuda"}  # where tensors are when an operation is called without its wrapper
KERNELS = ["emulated", *(["cuda"] if torch.cuda.is_available() else [])]


def draw(name: str, dtype: torch.dtype, **options: Any) -> dict[str, Tensor]:
    """Picture, lists and all gradients of a case."""
    case = scenes.case(name)
    inputs = case.scene.to(dtype).with_grad()
    render, alphas, meta = rasterization(**inputs.arguments(), **case.options, **options)
    (render.square().sum() + alphas.sum()).backward()
    gradients = {name: value.grad for name, value in inputs.tensors().items() if value.grad is not None}
    lists = {name: meta[name] for name in ("flatten_ids", "isect_offsets", "tiles_per_gauss")}
    return {"render": render.detach(), "alphas": alphas.detach()} | lists | gradients


SAME = ("67x67", "crowd", "needles", "huge", "five-cameras", "17-channels", "RGB+D", "1-channels", "opaque")


@pytest.mark.parametrize("name", SAME)
def test_kernels_agree_with_the_cpu_backend(name: str, emulated_library: Path) -> None:
    wanted = draw(name, torch.float32)
    with native.emulated(emulated_library):
        got = draw(name, torch.float32)
    for key, value in wanted.items():
        if not value.is_floating_point():
            assert torch.equal(got[key], value), f"{key} differs from the CPU backend"
        elif key in ("render", "alphas"):
            assert (got[key] - value).abs().max() <= 1e-5, f"{key} differs from the CPU backend"
        else:
            assert (got[key] - value).norm() <= 1e-4 * value.norm(), f"the gradient to {key} differs"


def test_gaussians_of_many_tiles_agree_with_the_cpu_backend(emulated_library: Path) -> None:
    """Those of more than 64 tiles are summed by whole warps, and all listed so; up to 38 rows of 13 tiles here."""
    scene = scenes.make(80, 40, 200, 600, degree=1, cameras=2, sizes_px=(5.0, 400.0), opacities=(0.05, 0.3))

    def everything() -> dict[str, Tensor]:
        inputs = scene.with_grad()
        render, alphas, meta = rasterization(**inputs.arguments(), absgrad=True, packed=False)
        (render.square().sum() + alphas.sum()).backward()
        tiles = meta["tiles_per_gauss"]
        many = (tiles > 64).sum(1)
        assert tiles.max() == 38 * 13 and many.min() > 5 and many.max() < 35, "too few of a kind"
        lists = {name: meta[name] for name in ("flatten_ids", "isect_offsets")}
        gradients = {name: value.grad for name, value in inputs.tensors().items() if value.grad is not None}
        return {"render": render.detach(), "absgrad": meta["means2d"].absgrad} | lists | gradients

    wanted = everything()
    for way in ("all", "tile"):
        with native.emulated(emulated_library), sorting(way):
            got = everything()
        for key, value in wanted.items():
            if not value.is_floating_point():
                assert torch.equal(got[key], value), f"{key} differs from the CPU backend"
            error = (got[key] - value).double().norm()
            assert error <= 1e-9 * value.double().norm(), f"{key} differs from the CPU backend"


def long_lists(dtype: torch.dtype, channels: int, count: int = 900) -> dict[str, Tensor]:
    """Picture and gradients of faint Gaussians, hundreds a tile of which some pixels stop half way, others never."""
    scene = scenes.make(81, count, 21, 33, channels=channels, sizes_px=(2.0, 9.0), opacities=(0.01, 0.09), beyond=0.0)
    inputs = scene.to(dtype).with_grad()
    render, alphas, meta = rasterization(**inputs.arguments(), absgrad=True, packed=False)
    (render.square().sum() + alphas.square().sum()).backward()
    assert count < 900 or (meta["isect_offsets"].flatten().diff().max() > 2 * native.SPAN and alphas.max() > 0.999)
    gradients = {name: value.grad for name, value in inputs.tensors().items() if value.grad is not None}
    return {"render": render.detach(), "alphas": alphas.detach(), "absgrad": meta["means2d"].absgrad} | gradients


@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("channels", [1, 3, 4, 5])
def test_spans_of_long_lists_agree_with_the_cpu_backend(
    channels: int, dtype: torch.dtype, fixed: bool, emulated_library: Path
) -> None:
    """Backward begins each span with what forward has kept of the pixels; with five channels spans are whole lists."""
    wanted = long_lists(dtype, channels)
    with native.emulated(emulated_library), deterministic(fixed):
        got = long_lists(dtype, channels)
    close = 1e-4 if dtype == torch.float32 else 1e-10
    for key, value in wanted.items():
        assert value.any(), f"{key} is nothing, which proves nothing"
        assert (got[key] - value).norm() <= close * value.norm(), f"{key} differs from the CPU backend"


SCHEDULE_SCRIPT = """
import sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
from test_cuda_kernels import draw, long_lists, loss
from splatlearn.ops import bin as stage_bin
from splatlearn.ops import native
with native.emulated(Path(sys.argv[2])):
    results = {f"{name} {key}": value for name in ("67x67", "17-channels", "RGB+ED") for key, value in
               draw(name, torch.float32, absgrad=True).items()}
    with stage_bin.sorting("all"):
        results |= {f"all together {key}": value for key, value in draw("67x67", torch.float32).items()}
    torch.save(results | long_lists(torch.float32, 3, count=400) | loss(), sys.argv[3])
"""


def loss() -> dict[str, Tensor]:
    """The photometric loss of two noisy pictures, and its gradient."""
    rng = torch.Generator().manual_seed(0)
    image, photo = torch.rand(2, 37, 45, 3, generator=rng, requires_grad=True), torch.rand(2, 37, 45, 3, generator=rng)
    value = photometric_loss(image, photo)
    value.backward()
    assert image.grad is not None
    return {"loss": value.detach(), "gradient": image.grad}


def test_any_order_of_threads_gives_the_same_bits(tmp_path: Path, emulated_library: Path) -> None:
    """A missing barrier, or a sum whose order the kernel does not fix, gives other bits in some order."""
    results = schedules.results_of(SCHEDULE_SCRIPT, emulated_library, tmp_path)
    for other in results[1:]:
        for key, value in results[0].items():
            assert torch.equal(other[key], value), f"{key} depends on the order in which threads run"


@pytest.mark.parametrize("backend", KERNELS, indirect=True)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_records_of_project_are_those_that_rasterize_packs(dtype: torch.dtype, backend: str) -> None:
    scene = scenes.case("five-cameras").scene.to(dtype)
    gaussians = (scene.means, scene.quats, scene.scales, scene.opacities, *scene.sh(), scene.viewmats, scene.Ks)
    size = (scene.width, scene.height)
    p = project(*gaussians, *size, sh_degree=scene.sh_degree)
    assert p.records is not None and p.colors is not None
    tiles = bin_tiles(p.means2d, p.conics, p.opacities, p.depths, p.radii, *size, n_cameras=5)
    given = (p.means2d, p.conics, p.opacities, p.colors, None, tiles, *size)
    made, _ = rasterize(*given, n_cameras=5)
    taken, _ = rasterize(*given, n_cameras=5, records=p.records)
    assert made.any() and torch.equal(made, taken), "a record of project holds other numbers"
    listed = (tiles.row_offsets.diff() > 0).reshape(p.opacities.shape)
    assert listed.any() and torch.equal(p.records[listed][:, 6:9], p.colors[listed]), "a record's colours are another's"


@pytest.mark.parametrize("backend", KERNELS, indirect=True)
def test_a_list_of_many_batches(backend: str) -> None:
    """1,000 faint Gaussians on one pixel: in batches of 64 or 128, none lost at their borders."""
    count = 1000
    means2d = torch.full((count, 2), 8.3)
    conics = torch.tensor([0.02, 0.0, 0.02]).repeat(count, 1)
    opacities = torch.full((count,), 0.005, requires_grad=True)
    colors = torch.rand(count, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    depths, radii = torch.linspace(1, 2, count), torch.full((count, 2), 40, dtype=torch.int32)
    lists = bin_tiles(means2d, conics, opacities, depths, radii, 16, 16, n_cameras=1)
    assert len(lists.gaussian_ids) == count
    render, _ = rasterize(means2d, conics, opacities, colors, None, lists, 16, 16)
    render[0, 8, 8].sum().backward()
    alpha = 0.005 * torch.exp(torch.tensor(-0.02 * 0.2**2, dtype=torch.float64))
    weights = alpha * (1 - alpha) ** torch.arange(count, dtype=torch.float64)
    assert colors.grad is not None and opacities.grad is not None
    assert (colors.grad[:, 0].double() - weights).abs().max() < 1e-6, "a Gaussian is skipped or drawn twice"
    assert (render[0, 8, 8].detach().double() - weights @ colors.detach().double()).abs().max() < 1e-5


@pytest.mark.parametrize("backend", KERNELS, indirect=True)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_no_pixel_that_a_splat_reaches_is_skipped(dtype: torch.dtype, backend: str) -> None:
    """Each camera sees one splat: slivers of all directions, crumbs between pixel centres, some 3,000 pixels wide."""
    count, side = 300, 32
    rng = torch.Generator().manual_seed(0)
    long = 10 ** (4 * torch.rand(count, generator=rng, dtype=torch.float64) - 0.5)
    short = torch.minimum(long, 10 ** (torch.rand(count, generator=rng, dtype=torch.float64) - 0.3)) + 0.3
    turn = torch.pi * torch.rand(count, generator=rng, dtype=torch.float64)
    turn[::5] = torch.pi / 2 * torch.arange(count // 5)  # along an axis: nothing mixed
    cosine, sine, u, v = turn.cos(), turn.sin(), long**-2, short**-2
    conics = torch.stack([u * cosine**2 + v * sine**2, (u - v) * cosine * sine, u * sine**2 + v * cosine**2], 1).to(
        dtype
    )
    along = (torch.rand(count, generator=rng, dtype=torch.float64) - 0.5) * 3 * long
    means2d = side * torch.rand(count, 2, generator=rng, dtype=torch.float64)
    means2d = (means2d + along[:, None] * torch.stack([cosine, sine], 1)).to(dtype)
    opacities = (10 ** (-2.3 * torch.rand(count, generator=rng, dtype=torch.float64))).to(dtype)
    radii, depths = torch.full((count, 2), 10**5, dtype=torch.int32), torch.ones(count, dtype=dtype)
    camera = torch.arange(count)
    lists = bin_tiles(means2d, conics, opacities, depths, radii, side, side, n_cameras=count, camera_ids=camera)
    _, alphas = rasterize(
        means2d, conics, opacities, torch.ones(count, 3, dtype=dtype), None, lists, side, side, n_cameras=count
    )
    pixel = torch.arange(side, dtype=torch.float64) + 0.5
    dx, dy = pixel[None, None, :] - means2d[:, 0, None, None], pixel[None, :, None] - means2d[:, 1, None, None]
    a, b, c = (conics[:, j, None, None].double() for j in range(3))
    terms = torch.stack(torch.broadcast_tensors(a * dx * dx / 2, b * dx * dy, c * dy * dy / 2))
    exponent = opacities.double().log()[:, None, None] - terms.sum(0)
    over = exponent - torch.tensor(1 / 255, dtype=torch.float64).log()
    sure = over.abs() > 1e-4 + 3 * torch.finfo(dtype).eps * terms.abs().sum(0)  # what the pixel itself rounds off
    drawn = alphas[..., 0] > 0
    assert (over > 0).any(2).any(1).sum() > 100 and sure.double().mean() > 0.99, "too few are seen to prove a thing"
    assert not ((over > 0) & sure & ~drawn).any(), "a unit of pixels is skipped though the splat reaches it"
    assert not ((over < 0) & sure & drawn).any(), "a splat is drawn beyond its cut-off"


@pytest.mark.parametrize("backend", KERNELS, indirect=True)
@pytest.mark.parametrize("channels", [3, 5])
def test_long_spans_begin_first(channels: int, backend: str) -> None:
    """A row of tiles with lists of many lengths: each instance is in one span, and lengths fall but within a class."""
    lengths = torch.randint(0, 700, (40,), generator=torch.Generator().manual_seed(1))
    lengths[:6] = torch.tensor([0, 1, 7, 256, 512, 257])
    at, tiles = torch.repeat_interleave(torch.arange(40), lengths), len(lengths)
    count = len(at)
    means2d = torch.stack([16.0 * at + 8, torch.full((count,), 8.0)], 1)
    given = [
        means2d,
        torch.tensor([1.0, 0.0, 1.0]).repeat(count, 1),
        torch.full((count,), 0.02),
        torch.rand(count, channels),
    ]
    depths, radii = torch.linspace(1, 2, count), torch.full((count, 2), 4, dtype=torch.int32)
    given, depths, radii = moved((given, depths, radii), CARD[backend])
    given[3].requires_grad_()
    lists = bin_there(*given[:3], depths, radii, 16 * tiles, 16, n_cameras=1)
    render, _ = rasterize_there(*given, None, lists, 16 * tiles, 16)
    assert render.grad_fn is not None
    saved = [t for t in render.grad_fn.saved_tensors if t is not None and t.dtype == torch.int64]  # type: ignore[attr-defined]
    spans = next(t for t in saved if t.shape == (tiles + count // native.SPAN,)).cpu()
    used = spans[spans >= 0]
    assert (spans[len(used) :] == -1).all(), "a span comes after the end"
    rest = lengths[used >> 32] - (used & 0xFFFFFFFF)
    longest = native.SPAN if channels == 3 else 700  # as long as a list may be
    found = rest.clamp(max=longest)
    wanted = [(tile, first) for tile in range(tiles) for first in range(0, int(lengths[tile]), longest)]
    walked = list(zip((used >> 32).tolist(), (used & 0xFFFFFFFF).tolist(), strict=True))
    assert sorted(walked) == wanted, "an instance is walked twice or never"
    assert (found[1:] <= 9 / 8 * found[:-1] + 1).all() and found[0] >= 8 / 9 * found.max(), "a long one comes late"


@pytest.mark.parametrize("backend", KERNELS, indirect=True)
@pytest.mark.parametrize("focal", [0.0, -20.0, float("nan")])
def test_blind_cameras_see_nothing(focal: float, backend: str) -> None:
    """A CUDA device is not waited for to refuse them, so the kernel must cull."""
    scene = scenes.case("degree-2").scene.to(torch.float32)
    sh0, shN = scene.sh()
    Ks = scene.Ks.clone()
    Ks[1, 0, 0] = focal
    options = Options(scene.width, scene.height, 0.3, 0.01, 1e10, 0.0, 2, False, 1 / 255)
    centers = torch.linalg.inv(scene.viewmats)[:, :3, 3].contiguous()
    tensors = [scene.means, scene.quats, scene.scales, scene.opacities, scene.viewmats, Ks, sh0, shN, centers]
    *values, radii, _ = _Project.apply(*(moved(tensor, CARD[backend]) for tensor in tensors), None, options)
    assert (radii[0] > 0).any(), "the camera that can see sees nothing either"
    for value in [*values, radii]:
        assert not value[1].any(), "a camera without a focal length sees something"


def test_a_missing_cuda_library_is_told_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "CUDA_LIBRARY", tmp_path / "libsplatlearn_cuda.so")
    with pytest.raises(SplatlearnError, match=r"CUDA device need libsplatlearn_cuda\.so.*nvcc") as caught:
        native.library("cuda")
    assert "\n" not in str(caught.value), "the error is not one sentence"
    native.library("cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ["means", "viewmats", "backgrounds"])
def test_tensors_of_two_devices_are_refused(name: str) -> None:
    given = {key: value.cuda() if isinstance(value, Tensor) else value for key, value in
             scenes.case("degree-2").scene.to(torch.float32).arguments().items()}  # fmt: skip
    given[name] = given[name].cpu()
    with pytest.raises(SplatlearnError, match="is on c") as caught:
        rasterization(**given)
    assert "\n" not in str(caught.value), "the error is not one sentence"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_card_works_on_the_current_stream() -> None:
    scene = scenes.case("67x67").scene.to(torch.float32)
    given = {key: value.cuda() if isinstance(value, Tensor) else value for key, value in scene.arguments().items()}
    wanted, _, _ = rasterization(**given)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10**8)  # whoever does not queue behind this reads what is not there yet
        late = {key: value * 1 if isinstance(value, Tensor) else value for key, value in given.items()}
        got, _, _ = rasterization(**late)
    stream.synchronize()
    assert torch.equal(got, wanted), "the work is not queued on the current stream"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_step_on_a_card_waits_for_nothing_but_the_count() -> None:
    """PyTorch raises at each operation that would wait for the device; the count comes by an event of its own."""
    scene = scenes.case("67x67").scene.to(torch.float32)
    given = {key: moved(value, "cuda") for key, value in scene.arguments().items()}
    photo = torch.zeros(2, 67, 67, 3, dtype=torch.uint8, device="cuda")
    means = given["means"] = given["means"].requires_grad_()
    moments = torch.zeros_like(means), torch.zeros_like(means)

    def step(count: int) -> None:
        render, _, _ = rasterization(**given, packed=False)
        photometric_loss(render, photo).backward()
        assert means.grad is not None
        adam_steps([Group(means, means.grad, *moments, lr=1e-4)], step=count)
        means.grad = None

    step(1)  # the first step learns how much room the lists need
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(2)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_bench_refuses_gsplat_without_a_card() -> None:
    with pytest.raises(SplatlearnError, match="--gsplat needs --device cuda, got 'cpu'"):
        bench.run(["--gsplat"])


MIXED = {"means": "colors is on cpu", "quats": "quats is on cuda:0", "opacities": "opacities is on cuda:0"}
MIXED |= {"viewmats": "viewmats is on cuda:0", "Ks": "Ks is on cuda:0", "backgrounds": "backgrounds is on cuda:0"}


@pytest.mark.parametrize("name", MIXED)
def test_mixed_devices_are_told_in_one_sentence_without_a_card(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's fake tensors say that they are on a card; no library is asked for, and none is called with them."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    given = scenes.case("degree-2").scene.to(torch.float32).arguments()
    library = native.library
    monkeypatch.setattr(native, "library", lambda device="cpu": library("cpu"))
    with FakeTensorMode():
        here, elsewhere = (torch.empty(given[name].shape, device=f"cuda:{index}") for index in (0, 1))
    with pytest.raises(SplatlearnError, match=f"^{MIXED[name]}, but the other tensors are on c") as caught:
        rasterization(**(given | {name: here}), packed=False)
    assert "\n" not in str(caught.value), "the error is not one sentence"
    with pytest.raises(SplatlearnError, match=f"^{name} is on cuda:1, but the other tensors are on cuda:0$"):
        check_tensor(name, elsewhere, tuple(here.shape), here)
