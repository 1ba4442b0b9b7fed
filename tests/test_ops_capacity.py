"""A training step that waits for nothing: where its lists lack room it changes no bit, and can be made again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import scenes
import torch
from conftest import BACKENDS, moved
from torch import Tensor

from splatlearn.errors import SplatlearnError
from splatlearn.ops import capacity as capacities
from splatlearn.ops import native
from splatlearn.ops.adam import Group, adam_step, adam_steps
from splatlearn.ops.capacity import Capacity, ListSize
from splatlearn.ops.photometric import photometric_loss
from splatlearn.ops.rasterization import rasterization

NAMES = ("means", "quats", "scales", "opacities", "colors")
KERNELS = [name for name in BACKENDS if name != "cpu"]


@pytest.fixture(params=BACKENDS)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """Where tensors are, with nothing known of earlier views."""
    monkeypatch.setattr(capacities, "_capacities", {})
    if request.param == "emulated":
        with native.emulated(request.getfixturevalue("emulated_library")):
            yield torch.device("cpu")
    else:
        yield torch.empty(0, device="cuda" if request.param == "cuda" else "cpu").device


class Training:
    """The parameters and moments of a scene that learns from its cameras, one a step."""

    def __init__(self, device: torch.device) -> None:
        self.scene = scenes.make(7, 60, 67, 45, cameras=3, degree=1, sizes_px=(1.0, 9.0)).to(torch.float32)
        self.given = {key: moved(value, str(device)) for key, value in self.scene.arguments().items()}
        self.groups = {name: [self.given[name].clone(), *(torch.zeros_like(self.given[name]) for _ in range(2))]
                       for name in NAMES}  # fmt: skip
        self.seen = torch.zeros(60, dtype=torch.int64, device=device)
        self.pull = torch.zeros(60, device=device)
        self.photo = torch.full((1, 45, 67, 3), 128, dtype=torch.uint8, device=device)

    def step(self, number: int, capacity: Capacity | None, sparse: bool = False) -> None:
        camera = number % 3
        detached = {name: tensors[0].detach().requires_grad_() for name, tensors in self.groups.items()}
        views = {name: self.given[name][camera : camera + 1] for name in ("viewmats", "Ks", "backgrounds")}
        given = self.given | detached | views
        if capacity is None:
            render, _, meta = rasterization(**given, packed=False)
        else:
            with capacity:
                render, _, meta = rasterization(**given, packed=False)
        meta["means2d"].retain_grad()
        photometric_loss(render, self.photo).backward()
        visible, skip = (meta["radii"][0] > 0).all(-1), None if capacity is None else capacity.overflow
        self.pull += meta["means2d"].grad[0].norm(dim=-1)
        self.seen += visible if skip is None else visible & (skip == 0)
        groups = [
            Group(tensors[0], detached[name].grad, *tensors[1:], lr=1e-3) for name, tensors in self.groups.items()
        ]
        adam_steps(groups, step=number, visible=visible if sparse else None, skip=skip)

    def state(self) -> list[Tensor]:
        tensors = [tensor for group in self.groups.values() for tensor in group]
        return [tensor.clone().cpu() for tensor in [*tensors, self.seen, self.pull]]


def same(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("device", KERNELS, indirect=True)
@pytest.mark.parametrize("sparse", [False, True])
def test_a_step_without_room_changes_no_bit(device: torch.device, sparse: bool) -> None:
    training, capacity = Training(device), Capacity(device)
    training.step(1, capacity, sparse)
    assert capacity.resolve() and not int(capacity.overflow), "the first view, which is waited for, lacks room"
    before = training.state()
    for room_left in (ListSize(1, 10**5), ListSize(10**5, 1), ListSize(20, 40)):
        capacities._capacities[device] = room_left
        training.step(2, capacity, sparse)
        assert int(capacity.overflow) == 1, "the device does not say that the lists lack room"
        assert same(training.state(), before), "a step without room changes a parameter, a moment or a statistic"
        training.step(3, capacity, sparse)
        assert same(training.state(), before), "a step after one without room is made before that is made again"
        assert not capacity.resolve(), "the host does not learn that the lists lacked room"
        assert not int(capacity.overflow), "the flag stays, so that no later step changes anything"
    training.step(2, capacity, sparse)
    assert capacity.resolve(), "there is still no room"
    assert not same(training.state(), before), "nothing moved, so this proves nothing"


def learn(training: Training, capacity: Capacity | None, steps: int, forget: tuple[int, ...] = ()) -> int:
    """Makes the steps as the head of room.py tells; before those of `forget` all but a little room is lost."""
    repeated = 0
    for number in range(1, steps + 1):
        if capacity is not None and not capacity.resolve():
            training.step(number - 1, capacity)
            repeated += 1
        if number in forget:
            capacities._capacities.update(dict.fromkeys(capacities._capacities, ListSize(10**5, 30)))
        training.step(number, capacity)
    while capacity is not None and not capacity.resolve():
        training.step(steps, capacity)
        repeated += 1
    return repeated


def test_training_in_a_room_has_the_bits_of_training_without(device: torch.device) -> None:
    plain, roomy = Training(device), Training(device)
    learn(plain, None, 8)
    repeated = learn(roomy, Capacity(device), 8, forget=(3, 8))
    assert repeated == (2 if native.runs_kernels(plain.pull) else 0), (
        "a step that lacked room is not made again, or one that had it is"
    )
    assert same(plain.state(), roomy.state()), "training in a room is another training"


@pytest.mark.parametrize("device", KERNELS, indirect=True)
def test_views_of_a_step_are_settled_together(device: torch.device) -> None:
    training, capacity = Training(device), Capacity(device)
    training.step(1, capacity)
    counts = []
    for camera in range(3):
        views = {name: training.given[name][camera : camera + 1] for name in ("viewmats", "Ks", "backgrounds")}
        _, _, meta = rasterization(**(training.given | views), packed=False)
        counts.append(int(meta["tiles_per_gauss"].sum()))
    capacities._capacities[device] = ListSize(100, min(counts))
    for number in (1, 2, 3):
        training.step(number, capacity)
    assert not capacity.resolve()
    assert capacities._capacities[device].instances >= max(counts), "there is room for some of the step's views only"


@pytest.mark.parametrize("device", KERNELS, indirect=True)
def test_a_view_that_never_fits_is_refused(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    training, capacity = Training(device), Capacity(device)
    training.step(1, capacity)
    assert capacity.resolve()
    before = training.state()
    capacities._capacities[device] = ListSize(100, 10)
    monkeypatch.setattr(capacities, "MAX_INSTANCES", 20)
    training.step(2, capacity)
    with pytest.raises(SplatlearnError, match=r"instances, .*need [\d,]+ bytes.* at most 20 ") as caught:
        capacity.resolve()
    assert "\n" not in str(caught.value), "the error is not one sentence"
    assert same(training.state(), before), "a view that was refused has changed something"
    assert capacity.resolve() and not int(capacity.overflow), "a refused view is refused for ever"


@pytest.mark.parametrize("device", KERNELS, indirect=True)
def test_only_what_is_within_a_room_is_put_off(device: torch.device) -> None:
    training, capacity, other = Training(device), Capacity(device), Capacity(device)
    training.step(1, capacity)
    capacities._capacities[device] = ListSize(100, 10)
    with capacity:
        with other:
            pass
        training.step(2, None)  # `rasterization` here sees the room that is around it
    assert int(capacity.overflow) == 1 and not int(other.overflow), "a room within another one takes its place for good"
    assert not capacity.resolve() and other.resolve()
    capacities._capacities[device] = ListSize(100, 10)
    before = training.state()
    training.step(3, None)
    assert not int(capacity.overflow) and capacity.resolve(), "a room is used after it was left"
    assert not same(training.state(), before), "without a room the lists lack room"


def test_the_flag_of_adam(device: torch.device) -> None:
    state = [torch.linspace(-1, 1, 300, device=device), *(torch.ones(300, device=device) for _ in range(3))]
    before = [tensor.clone() for tensor in state]
    adam_step(*state, step=1, lr=0.1, skip=torch.ones(1, dtype=torch.int32, device=device))
    assert same(state, before), "a step to be skipped is made"
    adam_step(*state, step=1, lr=0.1, skip=torch.zeros(1, dtype=torch.int32, device=device))
    assert not torch.equal(state[0], before[0]), "a step not to be skipped is skipped"
    with pytest.raises(SplatlearnError, match=r"^skip must be int32 \[1\]"):
        adam_step(*state, step=1, lr=0.1, skip=torch.zeros(1, device=device))


@pytest.mark.parametrize("device", ["cuda"] if torch.cuda.is_available() else [], indirect=True)
def test_a_step_in_a_room_waits_for_nothing(device: torch.device) -> None:
    """PyTorch raises at each operation that would wait for the device."""
    training, capacity = Training(device), Capacity(device)
    training.step(1, capacity)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for number in (2, 3):
            capacity.resolve()
            training.step(number, capacity)
    finally:
        torch.cuda.set_sync_debug_mode("default")
