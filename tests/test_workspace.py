"""A workspace: the bits of training are those without one, its memory is found again, and nobody else's is touched."""

from pathlib import Path

import pytest
import tiny_scene
import torch

from splatlearn import config, loop
from splatlearn.ops import workspace
from splatlearn.ops.rasterization import rasterization
from splatlearn.ops.workspace import Workspace
from splatlearn.scene.training.losses import Photometric
from splatlearn.scene.training.task import SceneTask

SETTINGS = {
    "steps": 30, "sh_degree": 2, "sh_every": 4, "densify.start": 4, "densify.every": 6, "densify.stop": 0.9,
    "densify.gradient": 1e-6, "densify.cap": 90, "densify.reset_every": 12, "coarse": "[0.3]", "device": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_scene.write(tmp_path_factory.mktemp("tiny") / "scene")


def make(folder: Path) -> SceneTask:
    words = [word for key, value in (SETTINGS | {"data.path": folder}).items() for word in (f"--{key}", str(value))]
    return SceneTask(config.load(SceneTask.Config, None, words))


def test_training_has_the_same_bits_without_a_workspace(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of Gaussians and the picture's size change, so that memory is given again in other shapes."""
    within = make(folder)
    loop.fit(within, 30, progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(workspace, "current", lambda like: None)
        without = make(folder)
        loop.fit(without, 30, progress=False)
    assert len(without.gaussians) > len(make(folder).gaussians), "nothing grew, so that sizes did not change"
    for name, tensor in without.state()[0].items():
        assert torch.equal(tensor, within.state()[0][name]), f"{name} was written over while it was needed"


def test_a_step_finds_the_memory_of_the_step_before(folder: Path) -> None:
    task = make(folder)
    loop.fit(task, 3, progress=False)

    def places() -> dict[str, int]:
        term = task.losses["photometric"]
        assert isinstance(term, Photometric)
        memory = task.training_step.space._memory | term.space._memory
        return {name: held.data_ptr() for name, held in memory.items()}

    before = places()
    task.forward(task.batch(4))
    assert {"render", "instance_rows", "v_image", "v_colors"} <= set(before), "a stage does not use the workspace"
    assert {name for name, place in places().items() if before[name] != place} <= {"row_ids", "slots"}, "made anew"


def drawn(shift: float) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    means = torch.randn(20, 3, generator=random) * 0.3 + torch.tensor([shift, 0, 3])
    view, K = torch.eye(4)[None], torch.tensor([[[30.0, 0, 16], [0, 30, 16], [0, 0, 1]]])
    quats, scales = torch.ones(20, 4), torch.full((20, 3), 0.1)
    return rasterization(means, quats, scales, torch.full((20,), 0.9), torch.rand(20, 3), view, K, 32, 32)[0]


def test_pictures_are_their_callers_own_unless_a_workspace_was_asked_for() -> None:
    first = drawn(0.0)
    kept = first.clone()
    assert first.abs().sum() > 1, "nothing is drawn"
    with Workspace():
        drawn(0.5)
    drawn(-0.5)
    assert torch.equal(first, kept), "a picture was written over that nobody had given away"


def test_memory_is_given_again_by_name_and_grows_with_what_is_asked() -> None:
    space = Workspace()
    small = space.take("a", (10, 3), torch.float32)
    assert small.shape == (10, 3) and space.take("a", (10, 3), torch.float32).data_ptr() == small.data_ptr()
    assert space.take("b", (10, 3), torch.float32).data_ptr() != small.data_ptr(), "two names share memory"
    assert space.take("a", (5,), torch.int64).data_ptr() == small.data_ptr(), "what fits is allocated anew"
    large = space.take("a", (100_000, 3), torch.float32)
    large.fill_(1)
    assert large.shape == (100_000, 3) and large.sum() == 300_000
    assert space.take("a", (0, 3), torch.float32).numel() == 0
    assert space.taken("a", "never") >= 1_200_000, "memory that is kept is not told of"
    again = space.take("a", (100_000, 3), torch.float32)
    assert again.data_ptr() == large.data_ptr(), "memory that shrank is lost"
    again.requires_grad_()
    assert not space.take("a", (100_000, 3), torch.float32).requires_grad, "a tensor is given away twice"


def test_a_workspace_ends_with_its_block() -> None:
    space, probe = Workspace(), torch.zeros(1)
    assert workspace.current(probe) is None
    with space:
        assert workspace.current(probe) is space
        with Workspace():
            assert workspace.current(probe) is not space
        assert workspace.current(probe) is space
    assert workspace.current(probe) is None
