"""--init FILE: read when the run begins and not needed afterwards; it needs no points."""

import shutil
from pathlib import Path

import pytest
import tiny_scene

from splatlearn import config, notices
from splatlearn.cli import main
from splatlearn.scene.gaussians import Gaussians

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `scene` and `start.ply`; the working directory."""
    tiny_scene.write(tmp_path / "scene")
    tiny_scene.gaussians(40, seed=3).save_ply(tmp_path / "start.ply")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(*more: str) -> int:
    recipe = ["train", str(ROOT / "configs" / "scene.yaml"), "--data.path", "scene", "--out", "run", "--steps", "2"]
    return main([*recipe, "--sh_degree", "1", "--device", "cpu", *more])


@pytest.mark.parametrize("name", ["start.ply", "~/start.ply"])
def test_the_file_is_not_needed_after_the_start(root: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("HOME", str(root))
    assert train("--init", name) == 0
    assert config.peek(root / "run" / "config.yaml", "init") == str(root / "start.ply")
    assert len(Gaussians.load(root / "run" / "point_cloud.ply")) == 40
    (root / "start.ply").unlink()
    (root / "elsewhere").mkdir()
    monkeypatch.chdir(root / "elsewhere")
    run = str(root / "run")
    assert main(["eval", run]) == 0
    assert main(["render", run, "--frames", "2", "--size", "16x16"]) == 0
    assert main(["export", run, "--out", "out.ply"]) == 0
    assert main(["train", "--resume", run, "--steps", "3"]) == 0
    assert config.peek(root / "run" / "config.yaml", "init") == str(root / "start.ply")


def test_a_resumed_run_makes_the_bits_of_a_whole_one(root: Path) -> None:
    assert train("--init", "start.ply", "--steps", "4", "--checkpoint_every", "2", "--out", "whole") == 0
    shutil.copytree("whole", "run")
    shutil.rmtree("run/checkpoints/step_0000004")  # as if it had stopped after step 2
    (root / "run/point_cloud.ply").unlink()
    (root / "start.ply").unlink()
    assert main(["train", "--resume", "run"]) == 0
    names = ["point_cloud.ply", "checkpoints/step_0000004/tensors.safetensors"]
    whole, parts = ([(root / run / name).read_bytes() for name in names] for run in ("whole", "run"))
    assert whole == parts


class TestPoints:
    def without(self, root: Path, how: str) -> Path:
        file = root / "scene/sparse/0/points3D.txt"
        if how == "absent":
            file.unlink()
        elif how == "empty":
            file.write_text("# 3D point list\n")
        elif how == "stale":  # the points were cleaned, and images.txt names one that is gone
            file.write_text("7 0 0 1 9 9 9 0\n")
            images = file.with_name("images.txt")
            images.write_text(images.read_text().replace("\n\n", "\n10 10 7 20 20 8\n"))
        else:
            file.write_text("1 0 nan 0 9 9 9 0\n")
        return file

    @pytest.mark.parametrize("how", ["absent", "empty", "stale", "damaged"])
    def test_a_file_needs_none(self, root: Path, how: str) -> None:
        self.without(root, how)
        assert train("--init", "start.ply") == 0
        assert main(["render", "run", "--frames", "2", "--size", "16x16"]) == 0
        said = [warning for warning in notices.read(root / "run") if "going on without points" in warning]
        assert len(said) == (how in ("stale", "damaged")), "unusable points are not said, or missing ones are"

    @pytest.mark.parametrize("how", ["absent", "empty"])
    @pytest.mark.parametrize("init", ["sfm", "random"])
    def test_without_a_file_the_remedy_is_named(
        self, root: Path, capsys: pytest.CaptureFixture[str], how: str, init: str
    ) -> None:
        self.without(root, how)
        assert train("--init", init) == 1
        sentence = capsys.readouterr().err.strip()
        assert "holds no points" in sentence and "--init FILE" in sentence and "\n" not in sentence
        assert not (root / "run").exists()

    def test_binary_models_too(self, root: Path) -> None:
        from colmap_samples import SampleImage, SampleIntrinsics, write_scene

        shutil.rmtree(root / "scene")
        intrinsics = SampleIntrinsics("PINHOLE", 40, 30, (40, 40, 20, 15))
        write_scene(root / "scene", [intrinsics], [SampleImage(f"{name}.png") for name in "abc"])
        (root / "scene/sparse/0/points3D.bin").unlink()
        assert train("--init", "start.ply") == 0
