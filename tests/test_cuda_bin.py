"""Stage bin by the CUDA kernels: lists made ahead of their length, what is sorted, many tiles, too many instances."""

from __future__ import annotations

from typing import Any

import pytest
import scenes
import torch
from conftest import moved
from test_cuda_kernels import CARD, KERNELS, draw
from torch import Tensor

from splatlearn.errors import SplatlearnError
from splatlearn.ops import bin as stage_bin
from splatlearn.ops import capacity as capacities
from splatlearn.ops import native
from splatlearn.ops.bin import bin as bin_tiles
from splatlearn.ops.bin import sorting
from splatlearn.ops.rasterization import rasterization
from splatlearn.ops.rasterize import rasterize

WAYS = pytest.mark.parametrize("way", ["all", "tile"])


@pytest.mark.parametrize("backend", KERNELS, indirect=True)
@pytest.mark.parametrize("capacity", [(1, 10**5), (10**5, 1), (40, 40), (10**5, 10**5)], ids=str)
@pytest.mark.parametrize("name", ["67x67", "five-cameras", "aside", "none"])
@WAYS
def test_lists_made_ahead_are_those_made_exactly(
    way: str, name: str, capacity: tuple[int, int], backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capacities, "_capacities", {})
    exact = draw(name, torch.float32)
    calls: list[str] = []
    call = native.call
    monkeypatch.setattr(native, "call", lambda stage, *rest: (calls.append(stage), call(stage, *rest))[1])
    for device in ("cpu", "cuda:0"):
        capacities._capacities[torch.device(device)] = capacities.ListSize(*capacity)
    with sorting(way):
        ahead = draw(name, torch.float32)
    needed = capacities.ListSize(int((exact["tiles_per_gauss"] > 0).sum()), len(exact["flatten_ids"]))
    again = not capacities.ListSize(*capacity).holds(needed)
    assert calls.count("rasterize_forward") == 1 + again, "not drawn again exactly where the room is too small"
    for key, value in exact.items():
        assert torch.equal(ahead[key], value), f"{key} depends on the room that its lists had"
    assert capacities._capacities[torch.device(CARD[backend] + ":0" * (backend == "cuda"))].holds(needed), (
        "the room does not grow"
    )


@pytest.mark.parametrize("backend", KERNELS, indirect=True)
def test_depths_are_sorted_of_what_touches_a_tile_alone(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sorted_rows: list[int] = []
    call = native.call

    def spy(stage: str, params: Any, tensor: Tensor) -> None:
        if stage == "bin_write":
            sorted_rows.append(params.n_listed)
        call(stage, params, tensor)

    monkeypatch.setattr(native, "call", spy)
    monkeypatch.setattr(capacities, "_capacities", {})
    scene = scenes.make(5, 700, 33, 31, degree=0, beyond=2.0).to(torch.float32)
    _, _, meta = rasterization(**scene.arguments(), packed=False)
    listed = int((meta["tiles_per_gauss"] > 0).sum())
    assert sorted_rows == [listed] and 0 < listed < 350, "rows that no tile lists are sorted too"


def crowd(dtype: torch.dtype) -> dict[str, Any]:
    """Two cameras of 3x3 tiles: 1,500 Gaussians in one tile, of twelve depths; some cover all or touch none."""
    rng = torch.Generator().manual_seed(5)
    count = 1600
    means2d = 16 + 16 * torch.rand(count, 2, generator=rng, dtype=dtype)
    means2d[-50:] = 100 * torch.rand(50, 2, generator=rng, dtype=dtype) - 26
    conics = torch.tensor([4.0, 0.5, 4.0], dtype=dtype).repeat(count, 1)
    conics[::97] /= 4000
    depths = 1 + torch.randint(12, (count,), generator=rng).to(dtype) / 8
    opacities = torch.full((count,), 0.5, dtype=dtype)
    opacities[5::50] = 0.001  # below the alpha threshold
    radii = torch.full((count, 2), 99, dtype=torch.int32)
    radii[7::50] = 0
    ids = torch.arange(count) % 16 // 15
    tensors = {"means2d": means2d, "conics": conics, "opacities": opacities, "depths": depths, "radii": radii}
    return {**tensors, "width": 45, "height": 41, "n_cameras": 2, "camera_ids": ids}


@pytest.mark.parametrize("backend", KERNELS, indirect=True)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_both_ways_of_sorting_list_by_tile_and_depth_and_row(dtype: torch.dtype, backend: str) -> None:
    given = crowd(dtype)
    lists = {}
    for way in ("all", "tile", "auto"):
        with sorting(way):
            lists[way] = bin_tiles(**given)
    assert lists["all"].tile_offsets.diff().max() > 1024, "no list is longer than what a block holds in shared memory"
    for way in ("tile", "auto"):
        for field, value in lists["all"]._asdict().items():
            assert value is None or torch.equal(getattr(lists[way], field), value), f"{field} depends on the sorting"
    ids, offsets, slots = lists["all"].gaussian_ids.long(), lists["all"].tile_offsets, lists["all"].slots
    tile = torch.repeat_interleave(torch.arange(18), offsets.diff())
    depth = given["depths"][ids]
    for i in range(1, len(ids)):
        before, after = ((int(tile[j]), float(depth[j]), int(ids[j])) for j in (i - 1, i))
        assert before < after, f"instance {i} is in another place, or listed twice"
    assert torch.equal(given["camera_ids"][ids], tile // 9), "a row is in another camera's list"
    assert torch.equal(slots.sort().values, torch.arange(len(ids))), "two instances share a slot"
    assert torch.equal(torch.searchsorted(lists["all"].row_offsets, slots, right=True) - 1, ids), (
        "a slot is another row's"
    )


def test_no_other_way_of_sorting() -> None:
    with (
        pytest.raises(SplatlearnError, match='^sorting takes one of auto, all, tile, but got "quick"$'),
        sorting("quick"),
    ):
        pass


@pytest.mark.parametrize("backend", KERNELS, indirect=True)
@WAYS
def test_more_tiles_than_16_bits_can_number(way: str, backend: str) -> None:
    """A strip of 65,540 tiles, Gaussians at its ends and on both sides of tile 65,535."""
    width, tiles = 16 * 65540, [0, 1, 65534, 65535, 65536, 65539]
    x = torch.tensor([16.0 * tile + 8 for tile in tiles])
    means2d = torch.stack([x, torch.full_like(x, 0.5)], -1)
    conics, opacities = torch.tensor([1.0, 0.0, 1.0]).repeat(len(tiles), 1), torch.full((len(tiles),), 0.5)
    radii = torch.full((len(tiles), 2), 4, dtype=torch.int32)
    with sorting(way):
        lists = bin_tiles(means2d, conics, opacities, torch.ones(len(tiles)), radii, width, 1, n_cameras=1)
    assert lists.gaussian_ids.tolist() == list(range(len(tiles))), "an instance is lost or in another place"
    counts = lists.tile_offsets.diff()
    assert counts.nonzero()[:, 0].tolist() == tiles and int(counts.sum()) == len(tiles), "a tile has another's list"
    render, _ = rasterize(means2d, conics, opacities, torch.ones(len(tiles), 1), None, lists, width, 1)
    assert (render[0, 0, x.long(), 0] > 0.4).all() and float(render.sum()) < 3 * len(tiles), "drawn in another place"


@pytest.mark.parametrize("backend", ["emulated"], indirect=True)
def test_more_instances_than_can_be_numbered_are_refused(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = scenes.case("67x67").scene.to(torch.float32).arguments()
    _, _, meta = rasterization(**given)
    count = len(meta["flatten_ids"])
    monkeypatch.setattr(capacities, "MAX_INSTANCES", count - 1)
    monkeypatch.setattr(capacities, "_capacities", {})
    with pytest.raises(SplatlearnError, match=rf"{count:,} .*need [\d,]+ bytes.* at most {count - 1:,}") as caught:
        rasterization(**given)
    assert "\n" not in str(caught.value), "the error is not one sentence"


@pytest.mark.parametrize("backend", KERNELS, indirect=True)
@WAYS
def test_rows_of_no_camera_are_in_no_list(way: str, backend: str) -> None:
    """What a CUDA device is not waited for to refuse: the native code alone, since on the CPU the ids are looked at."""
    means2d, conics = torch.full((4, 2), 8.0), torch.tensor([0.1, 0.0, 0.1]).repeat(4, 1)
    tensors = [means2d, conics, torch.full((4,), 0.5), torch.ones(4), torch.full((4, 2), 9, dtype=torch.int32)]
    tensors = [moved(tensor, CARD[backend]) for tensor in [*tensors, torch.tensor([0, 7, -1, 1])]]
    names = ("means2d", "conics", "opacities", "depths", "radii", "camera_ids")
    inputs = native.BinInputs(
        context=native.context(tensors[0]),
        n_rows=4,
        n_cameras=2,
        width=16,
        height=16,
        alpha_threshold=1 / 255,
        **dict(zip(names, tensors, strict=True)),
    )
    counts, row_offsets, block_offsets = tensors[4].new_empty(4), tensors[5].new_empty(5), tensors[5].new_empty(2, 2)
    params = native.BinCount(inputs=inputs, counts=counts, row_offsets=row_offsets, block_offsets=block_offsets)
    native.call("bin_count", params, row_offsets)
    counted = stage_bin._Counted(inputs, tensors[0], counts, row_offsets, block_offsets, 2, 3)
    with sorting(way):
        lists = stage_bin._write(counted, capacities.ListSize(4, 4))
    assert row_offsets.tolist() == [0, 1, 1, 1, 2], "a row of no camera has instances, whose gradients nobody writes"
    assert lists.tile_offsets.tolist() == [0, 1, 2], "a row of no camera is drawn"
    assert lists.gaussian_ids[:2].tolist() == [0, 3], "a row is in another camera's list"
