"""Evaluations while a scene learns, and the end of a training that gains no more."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_scene

from splatlearn.cli import main
from splatlearn.scene import evaluate
from splatlearn.scene.evaluate import Patience
from splatlearn.show.run_writer import FolderWriter

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_scene.write(tmp_path_factory.mktemp("tiny") / "scene")


def words(folder: Path, out: Path, *more: str) -> list[str]:
    recipe = ["train", str(ROOT / "configs" / "scene.yaml"), "--data.path", str(folder), "--out", str(out)]
    return [*recipe, "--steps", "30", "--sh_degree", "0", "--device", "cpu", *more]


def given(monkeypatch: pytest.MonkeyPatch, figures: list[float]) -> None:
    """Evaluations while training find these PSNRs, one after another."""
    measure = evaluate.evaluate

    def found(task: Any, writer: Any = None, lpips: bool = False) -> Any:
        return measure(task, writer, lpips) | ({} if writer else {"psnr": figures.pop(0)})

    monkeypatch.setattr(evaluate, "evaluate", found)


def steps_of(out: Path) -> Any:
    return json.loads((out / "eval" / "metrics.json").read_text())["steps"]


def test_a_training_that_gains_no_more_ends(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given(monkeypatch, [20.0, 21.0, 20.9, 21.0, 30.0])
    out = tmp_path / "run"
    assert main(words(folder, out, "--evaluate_every", "5", "--patience", "2")) == 0
    assert steps_of(out) == 20, "two evaluations without a gain come after step 20, and the figures must say so"
    assert json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["step"] <= 20, "it went on learning"
    assert "no better than 21.00 dB in the last 2 evaluations" in capsys.readouterr().out, "nobody is told why"
    assert (out / "checkpoints" / "step_0000020").is_dir(), "where it ended nothing is kept to go on from"


def test_a_training_that_gains_goes_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, [20.0, 19.0, 21.0, 20.0, 22.0, 21.0])
    assert main(words(folder, tmp_path / "run", "--evaluate_every", "5", "--patience", "2")) == 0
    assert steps_of(tmp_path / "run") == 30, "one evaluation without a gain is not two"


def test_patience_is_remembered_by_a_resumed_run(tmp_path: Path) -> None:
    (tmp_path / "eval").mkdir()
    lines = [{"step": step, "psnr": psnr} for step, psnr in ((5, 20.0), (10, 21.0), (15, 20.5), (20, 35.0))]
    (tmp_path / "eval" / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    callback = Patience(FolderWriter(tmp_path), 5, patience=2)
    callback.on_start(15, None)  # type: ignore[arg-type]
    assert (callback.best, callback.waited) == (21.0, 1), "lines up to the checkpoint count, and no others"


@pytest.mark.parametrize("setting", [("--patience", "2"), ("--patience", "-1"), ("--evaluate_every", "-5")])
def test_a_bad_setting_is_one_sentence(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], setting: tuple[str, str]
) -> None:
    assert main(words(folder, tmp_path / "run", *setting)) == 1
    message = capsys.readouterr().err
    assert setting[0][2:] in message and message.count("\n") == 1 and not (tmp_path / "run").exists()
