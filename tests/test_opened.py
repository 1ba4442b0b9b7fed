"""What commands share: names of pictures, and run folders that are none."""

from pathlib import Path

import pytest

from splatlearn.errors import SplatlearnError
from splatlearn.run import open_run
from splatlearn.scene.evaluate import image_file
from splatlearn.scene.load import load_gaussians


def test_pictures_of_different_photographs_never_share_a_name() -> None:
    names = ["a.jpg", "sub/a.jpg", "pano.jpg#left", "pano.jpg#front", "pano.jpg", "b.c.png"]
    made = [image_file(name) for name in names]
    assert made == ["a.png", "sub_a.png", "pano_left.png", "pano_front.png", "pano.png", "b.c.png"], made


def test_what_is_no_run_is_told(tmp_path: Path) -> None:
    for call in (open_run, load_gaussians):
        with pytest.raises(SplatlearnError, match="not a run folder"):
            call(tmp_path)
    (tmp_path / "config.yaml").write_text("task: scene\n")
    for call in (open_run, load_gaussians):
        with pytest.raises(SplatlearnError, match="no checkpoint"):
            call(tmp_path)
    (tmp_path / "config.yaml").write_text("task: lines\n")
    with pytest.raises(SplatlearnError, match="'task' must be one of line, scene"):
        open_run(tmp_path)
