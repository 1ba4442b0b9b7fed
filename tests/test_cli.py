"""The commands as a user types them: train, resume, eval, render, export, bench, doctor; one sentence for errors."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import tiny_scene
import torch

import splatlearn
from splatlearn.cli import main
from splatlearn.scene.gaussians import Gaussians

ROOT = Path(__file__).resolve().parents[1]
SCENE, LINE = str(ROOT / "configs/scene.yaml"), str(ROOT / "configs/line.yaml")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a scene that was trained for a moment."""
    root = tmp_path_factory.mktemp("cli")
    out = root / "run"
    data = tiny_scene.write(root / "scene")
    words = ["train", SCENE, "--data.path", str(data), "--out", str(out), "--steps", "30", "--sh_degree", "1"]
    assert main([*words, "--evaluate_every", "20"]) == 0
    return out


def told(capsys: pytest.CaptureFixture[str], *words: str, code: int = 1) -> str:
    """The one sentence on stderr with which a command ends."""
    assert main(words) == code, f"{words} must fail"
    message = capsys.readouterr().err.strip()
    assert "\n" not in message and "Traceback" not in message and message, f"not one sentence: {message}"
    return message


def test_a_run_folder_holds_what_is_promised(run: Path) -> None:
    for name in (
        "config.yaml",
        "metrics.jsonl",
        "point_cloud.ply",
        "report.html",
        "eval/metrics.json",
        "versions.json",
    ):
        assert (run / name).stat().st_size > 0, f"{name} is missing"
    figures = json.loads((run / "eval" / "metrics.json").read_text())
    assert figures["split"] == "test" and figures["steps"] == 30 and figures["num_gaussians"] == 60
    assert figures["resolution"] == [tiny_scene.WIDTH, tiny_scene.HEIGHT] and figures["train_seconds"] > 0
    assert 5 < figures["psnr"] < 60 and 0 < figures["ssim"] <= 1
    for kind in ("photos", "renders"):
        picture = iio.imread(run / "eval" / kind / "view_0.png")
        assert picture.shape[1] == tiny_scene.WIDTH and picture.std() > 10, f"a picture of eval/{kind} shows nothing"
    history = [json.loads(line) for line in (run / "eval" / "history.jsonl").read_text().splitlines()]
    assert [line["step"] for line in history] == [20], "evaluation while training left no trace"


def test_eval_gives_the_figures_of_training(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = json.loads((run / "eval" / "metrics.json").read_text())
    assert main(["eval", str(run)]) == 0
    assert json.loads((run / "eval" / "metrics.json").read_text()) == before, "the checkpoint is not what was evaluated"
    assert f"{before['psnr']:.2f} dB" in capsys.readouterr().out


def test_export_draws_the_same_picture(run: Path, tmp_path: Path) -> None:
    assert main(["export", str(run), "--out", str(tmp_path / "out.ply")]) == 0
    camera = tiny_scene.cameras()[0]
    with torch.no_grad():
        exported = Gaussians.from_ply(tmp_path / "out.ply")(camera).image
        trained = Gaussians.from_ply(run / "point_cloud.ply")(camera).image
    assert trained.std() > 0.05 and torch.equal(exported, trained), "the exported scene looks different"


@pytest.mark.parametrize("path", ["test", "orbit", "interpolate"])
def test_render(run: Path, tmp_path: Path, path: str) -> None:
    out = tmp_path / ("pictures" if path == "test" else f"{path}.gif")
    words = [] if path == "test" else ["--frames", "4"]
    assert main(["render", str(run), "--path", path, *words, "--out", str(out)]) == 0
    frames = [iio.imread(p) for p in sorted(out.iterdir())] if path == "test" else iio.imread(out)
    assert len(frames) == (2 if path == "test" else 4) and all(np.std(frame) > 5 for frame in frames), "nothing is seen"


def test_ctrl_c_saves_and_resume_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = tiny_scene.write(tmp_path / "scene"), tmp_path / "run"
    words = ["train", SCENE, "--data.path", str(data), "--out", str(out), "--steps", "100000", "--log_every", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "splatlearn", *words], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not (out / "metrics.jsonl").exists() or (out / "metrics.jsonl").read_text().count("\n") < 5:
        assert process.poll() is None and time.monotonic() < deadline, "training did not begin"
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130 and f"splatlearn train --resume {out}" in errors, "it does not say how to go on"
    done = int(next((out / "checkpoints").glob("step_*")).name.removeprefix("step_"))
    assert main(["train", "--resume", str(out), "--steps", str(done + 2)]) == 0
    assert f"after step {done}" in capsys.readouterr().out
    assert json.loads((out / "eval" / "metrics.json").read_text())["steps"] == done + 2


def test_a_line_is_a_run_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "line"
    assert main(["train", LINE, "--out", str(out), "--steps", "400"]) == 0
    figures = json.loads((out / "eval" / "metrics.json").read_text())
    assert abs(figures["weight"] - 2) < 0.2 and abs(figures["bias"] - 1) < 0.4, "the line is not found"
    assert (out / "report.html").exists() and "weight" in capsys.readouterr().out
    assert "Gaussians" in told(capsys, "export", str(out)) and "scene" in told(capsys, "render", str(out))


def test_bench_writes_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "--count", "500", "--size", "96x64", "--steps", "3", "--json", str(tmp_path / "bench.json")]
    assert main([*words, "--peer-ms", "100"]) == 0
    figures = json.loads((tmp_path / "bench.json").read_text())
    stages = sum(figures["stages_ms"].values())
    assert figures["step_ms"] > 0 and stages == pytest.approx(figures["step_ms"]) and figures["instances"] > 500
    assert "rasterize backward" in (out := capsys.readouterr().out) and "times as long" in out


def test_doctor_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0, "something is missing from the test environment"
    assert "x86-64" in (out := capsys.readouterr().out) or "portable" in out
    assert main(["train", SCENE, "--help"]) == 0
    out = capsys.readouterr().out
    for key in ("--data.path", "--densify.gradient", "--rates.means", "--lambda_dssim", "default: 0.2"):
        assert key in out, f"--help does not tell of {key}"
    assert main([]) == 0 and "demo" in capsys.readouterr().out


def test_errors_are_one_sentence(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--resume" in told(capsys, "train", SCENE, "--data.path", str(run.parent / "scene"), "--out", str(run))
    assert "'--densify.gradient'" in told(capsys, "train", SCENE, "--densify.gradiant", "1")
    assert "steps" in told(capsys, "train", SCENE, "--steps", "many")
    assert "nowhere.yaml" in told(capsys, "train", "nowhere.yaml")
    assert "data" in told(capsys, "train", SCENE, "--out", str(tmp_path / "new")).lower()
    assert not (tmp_path / "new").exists(), "a run folder was made for nothing"
    (tmp_path / "empty").mkdir()
    assert "sparse" in told(capsys, "train", SCENE, "--data.path", str(tmp_path / "empty"))
    assert "config.yaml" in told(capsys, "eval", str(tmp_path / "empty"))
    assert ".ply" in told(capsys, "export", str(run), "--out", "scene.obj")
    assert ".mp4" in told(capsys, "render", str(run), "--out", str(tmp_path / "film.avi"))
    assert "'sideways'" in told(capsys, "render", str(run), "--path", "sideways")
    assert "'train'" in told(capsys, "trian", SCENE)
    assert "'--frob'" in told(capsys, "--frob")
    assert "--photos" in told(capsys, "demo", "--photos", "1", "--out", str(tmp_path / "demo"))
    assert "--size" in told(capsys, "bench", "--size", "huge")
    assert "--threads" in told(capsys, "bench", "--threads", "0")


def test_scripts_do_what_commands_do(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts/train.py"), LINE, "--out", str(tmp_path / "line"), "--steps", "3"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and (tmp_path / "line" / "eval" / "metrics.json").exists(), done.stderr
    assert {path.stem for path in (ROOT / "scripts").glob("*.py")} >= {"train", "eval", "render", "export", "bench"}


def test_import_is_light_and_public_names_are_there(tmp_path: Path) -> None:
    script = "import sys, splatlearn; splatlearn.rasterization, splatlearn.fit, splatlearn.Gaussians, "
    script += "splatlearn.ColmapScene; print(sorted({m.split('.')[0] for m in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = done.stdout
    for heavy in ("'matplotlib'", "'pycolmap'", "'scipy'", "'imageio'"):
        assert heavy not in loaded, f"import splatlearn loads {heavy}"
    for name in splatlearn.__all__:
        assert getattr(splatlearn, name).__doc__, f"{name} is not documented"
    with pytest.raises(AttributeError):
        _ = splatlearn.nothing
