"""Real photographs: the measuring scenes train with the shipped configs, and the demo goes its whole way."""

import json
from pathlib import Path

import imageio.v3 as iio
import pytest

from splatlearn.cli import main

ROOT = Path(__file__).resolve().parents[1]


def state(folder: Path) -> list[tuple[str, int]]:
    """Names and times of change of all files below a folder."""
    return sorted((str(path), path.stat().st_mtime_ns) for path in folder.rglob("*"))


@pytest.mark.parametrize(("name", "config", "least"), [("fox", "scene", 19.0), ("fern", "scene_fast", 17.0)])
def test_a_real_scene_is_learned(shared_scenes: Path, tmp_path: Path, name: str, config: str, least: float) -> None:
    """At a quarter of the size and for a moment: that the whole way works, not how good it gets."""
    data = shared_scenes / name
    before = state(data)
    words = ["--data.path", str(data), "--data.downscale", "4", "--steps", "200", "--out", str(tmp_path / "run")]
    assert main(["train", str(ROOT / f"configs/{config}.yaml"), *words]) == 0
    figures = json.loads((tmp_path / "run" / "eval" / "metrics.json").read_text())
    assert figures["split"] == "test" and len(figures["views"]) == {"fox": 7, "fern": 3}[name], "another split"
    assert figures["psnr"] > least, "held-out photographs are not learned"
    assert state(data) == before, "the user's folder changed"


def test_a_malformed_model_is_refused(shared_scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data.path", str(shared_scenes / "malformed"), "--out", str(tmp_path / "run")]
    assert main(["train", str(ROOT / "configs/scene.yaml"), *words]) == 1
    message = capsys.readouterr().err.strip()
    assert "\n" not in message and "malformed" in message and not (tmp_path / "run").exists()


def test_the_demo_goes_its_whole_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--photos", "20", "--steps", "150"]) == 0
    figures = json.loads((out / "run" / "eval" / "metrics.json").read_text())
    assert figures["psnr"] > 14 and figures["num_gaussians"] > 500, "the still life is not learned"
    frames = iio.imread(out / "run" / "renders" / "orbit.mp4")
    assert len(frames) == 90 and frames[0].std() > 10, "the turntable shows nothing"
    assert "orbit" in (out / "run" / "report.html").read_text(), "the report lacks the turntable"
    assert "try next" in capsys.readouterr().out
    assert main(["demo", "--out", str(out)]) == 1, "a demo must not write over another one"
