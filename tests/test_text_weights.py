"""Checkpoints and state dicts with the parameter names of version 0.1.0 are still read, and mean the same model."""

import shutil
from pathlib import Path

import pytest
import torch

from splatlearn import checkpoint
from splatlearn.cli import main
from splatlearn.errors import SplatlearnError
from splatlearn.run import open_run
from splatlearn.text.transformer import Transformer
from splatlearn.text.weights import RENAMED, current_names

OLD_RUN = Path(__file__).parent / "data" / "text_run_0.1"  # written by version 0.1.0
OLD_SAMPLE = "the loop the.\n2: back again the.\n2: back back th"  # what it sampled greedily from this run
OLD_LOSS = 0.4679599251858024  # what it measured on the held-out text


def with_old_names(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    old = {new: name for name, new in RENAMED.items()}
    return {".".join(old.get(part, part) for part in name.split(".")): tensor for name, tensor in tensors.items()}


def tiny(seed: int) -> Transformer:
    sizes = Transformer.Config(vocabulary=11, context=6, width=8, heads=2, layers=2, encoder_layers=1, bias=True)
    return Transformer(sizes, torch.Generator().manual_seed(seed))


def test_an_old_state_dict_loads() -> None:
    source, target = tiny(1), tiny(2)
    old = with_old_names(source.state_dict())
    names = " ".join(old)
    for part in RENAMED:
        assert f".{part}." in names, f"the model has no old name with {part}: the test shows nothing"
    given = dict(old)
    target.load_state_dict(old)
    assert old.keys() == given.keys(), "the caller's dictionary was changed"
    assert all(map(torch.equal, source.parameters(), target.parameters())), "the old names give another model"
    target.load_state_dict(source.state_dict())  # the new names, too
    with pytest.raises(RuntimeError, match="o_proj"):
        target.load_state_dict({name: tensor for name, tensor in old.items() if ".mix." not in name})


def test_current_names_stay_as_they_are() -> None:
    tensors = dict(tiny(1).state_dict())
    assert list(current_names(tensors)) == list(tensors), "a current name was changed"


def test_a_run_of_the_old_version_samples_the_same_text(capsys: pytest.CaptureFixture[str]) -> None:
    tensors, _ = checkpoint.load(OLD_RUN / "checkpoints" / "step_0000200")
    assert "decoder.0.feed_forward.widen.weight" in tensors, "the fixture has no old names: the test shows nothing"
    words = ["sample", str(OLD_RUN), "--prompt", "the loop", "--temperature", "0", "--tokens", "40", "--device", "cpu"]
    assert main(words) == 0
    assert capsys.readouterr().out == OLD_SAMPLE + "\n", "the old checkpoint is another model"


def test_a_run_of_the_old_version_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    shutil.copytree(OLD_RUN, tmp_path / "run")
    text = ["--data.path", str(tmp_path / "run" / "text.txt")]
    task, step = open_run(tmp_path / "run", text)
    assert step == 200, "it resumes at another step"
    assert task.evaluate()["loss"] == pytest.approx(OLD_LOSS, rel=1e-5), "the old checkpoint is another model"
    moments = task.optimizer.moments["decoder.0.feed_forward.fc1.weight"]
    assert all(moment.abs().sum() > 0 for moment in moments), "the moments of the optimizer were not read"


def test_a_missing_parameter_is_reported_by_its_current_name(tmp_path: Path) -> None:
    tensors, state = checkpoint.load(OLD_RUN / "checkpoints" / "step_0000200")
    task, _ = open_run(OLD_RUN, ["--data.path", str(OLD_RUN / "text.txt"), "--data.cache", str(tmp_path)])
    del tensors["decoder.0.attention.mix.weight"]
    with pytest.raises(SplatlearnError, match=r"must hold 'decoder.0.attention.o_proj.weight' as .*, got none"):
        task.load_state(tensors, state)
