"""The examples learn what they say they do, and stay short enough to be read in one sitting."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_image_is_fitted() -> None:
    module = example("fit_image")
    wanted = module.picture(None)
    fitted, losses = module.fit(wanted, 60, count=400)
    assert losses[-1] < losses[0] / 6, f"the loss fell only from {losses[0]:.3f} to {losses[-1]:.3f}"
    assert fitted.shape == wanted.shape and float((fitted - wanted).abs().mean()) < 0.06, "it is another picture"


def test_a_pose_is_found() -> None:
    turns, places, focal = example("camera_pose").find(120)
    assert turns[0] > 4 and turns[-1] < 0.05 * turns[0], f"the turn is still {turns[-1]:.2f} degrees off"
    assert places[0] > 0.2 and places[-1] < 0.05 * places[0], f"the place is still {places[-1]:.3f} off"
    assert abs(focal - 90) < 0.5, f"the focal length is {focal:.2f}, not 90"


def test_a_feature_is_learned() -> None:
    losses, right = example("feature_channel").learn(40)
    assert losses[-1] < losses[0] / 5, f"the loss fell only from {losses[0]:.3f} to {losses[-1]:.3f}"
    assert right > 0.98, f"only {right:.1%} of the pixels of unseen views are labelled right; chance is a quarter"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short_and_runs_as_a_script(path: Path, tmp_path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 80, "an example is to be read in one sitting"
    words = [str(path), "3"]
    if path.stem == "fit_image":
        from splatlearn.show.pictures import save_png

        save_png(tmp_path / "in.png", torch.rand(300, 400, 3))
        words = [str(path), "in.png", "3"]
    done = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "->" in done.stdout and "Warning" not in done.stderr, done.stderr
