"""A run goes on with what it was learning from: the keys that fix its tensors, and the data, wherever they lie."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_scene
from PIL import Image

from splatlearn import checkpoint, notices, provenance
from splatlearn.cli import main
from splatlearn.run import last_checkpoint

ROOT = Path(__file__).resolve().parents[1]
SCENE = str(ROOT / "configs" / "scene.yaml")
TEXT = str(ROOT / "configs" / "text_cpu.yaml")
LINE = str(ROOT / "configs" / "line.yaml")


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `scene`, and `run`, which learned from it for two steps."""
    root = tmp_path_factory.mktemp("begun")
    tiny_scene.write(root / "scene")
    words = ["--data.path", str(root / "scene"), "--out", str(root / "run"), "--steps", "2", "--sh_degree", "1"]
    assert main(["train", SCENE, *words, "--device", "cpu"]) == 0
    return root


@pytest.fixture
def root(begun: Path, tmp_path: Path) -> Path:
    """A copy of `begun` at another path, which the config of its run names."""
    shutil.copytree(begun, tmp_path / "copy")
    config = tmp_path / "copy" / "run" / "config.yaml"
    config.write_text(config.read_text().replace(str(begun), str(tmp_path / "copy")))
    return tmp_path / "copy"


def resume(run: Path, *more: str, steps: int = 3) -> int:
    return main(["train", "--resume", str(run), "--steps", str(steps), *more])


def refusal(capsys: pytest.CaptureFixture[str], run: Path, *more: str) -> str:
    """The one sentence with which resuming ends; the run folder stays as it was."""
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert resume(run, *more) == 1
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before, "the run was touched"
    told = capsys.readouterr().err.strip()
    sentence = told.replace("\r", "\n").splitlines()[-1].strip()  # after warnings and progress bars
    assert sentence.startswith("splatlearn train: ") and "Traceback" not in told and len(sentence) < 400, told
    return sentence


def replace(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def change_photograph(scene: Path) -> None:
    path = scene / "images" / "view_3.png"
    pixels = np.asarray(Image.open(path)).copy()
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(path)


def change_focal_length(scene: Path) -> None:
    replace(scene / "sparse/0/cameras.txt", " 45 45 ", " 45 45.0001 ")


def change_frame(scene: Path) -> None:
    path = scene / "sparse/0/images.txt"
    rows = [line.split() for line in path.read_text().splitlines()]
    path.write_text("".join(" ".join([*r[:5], f"{float(r[5]) + 1}", *r[6:]]) + "\n" if r else "\n" for r in rows))


def change_split(scene: Path) -> None:
    (scene / "sparse/0/test.txt").write_text("view_4.png\n")


def remove_photograph(scene: Path) -> None:
    path = scene / "sparse/0/images.txt"
    path.write_text("".join(f"{line}\n\n" for line in path.read_text().splitlines() if line and "view_5" not in line))


def swap_photographs(scene: Path) -> None:
    one, two = (scene / "images" / f"view_{index}.png" for index in (1, 2))
    one.rename(scene / "aside.png")
    two.rename(one)
    (scene / "aside.png").rename(two)


CHANGES: dict[Callable[[Path], None], str] = {
    change_photograph: "changed photographs of view_3.png (",
    change_focal_length: "changed intrinsics of view_0.png, view_1.png, view_2.png and 6 more (",
    change_frame: "changed poses of view_0.png, view_1.png, view_2.png and 6 more (",
    change_split: "changed split of view_0.png, view_4.png, view_8.png (",
    remove_photograph: "missing photographs view_5.png",
    swap_photographs: "changed photographs of view_1.png, view_2.png (",
}


class TestSceneData:
    @pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
    def test_a_change_is_refused_by_name(
        self, root: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Path], None]
    ) -> None:
        change(root / "scene")
        sentence = refusal(capsys, root / "run")
        assert "data are not those of the checkpoint of step 2" in sentence and "--allow-changed-data" in sentence
        assert CHANGES[change] in sentence
        assert main(["eval", str(root / "run")]) == 1, "figures of other data stand for those of the run"

    def test_it_goes_on_if_asked_to_and_says_so_in_the_report(self, root: Path) -> None:
        change_photograph(root / "scene")
        assert resume(root / "run", "--allow-changed-data") == 0
        (sentence,) = [warning for warning in notices.read(root / "run") if "view_3" in warning]
        assert sentence.startswith("After step 2 the data are not those of the checkpoint: changed photographs")
        assert sentence in (root / "run" / "report.html").read_text(encoding="utf-8")
        assert resume(root / "run", steps=4) == 0, "the new checkpoint is of the changed data"

    def test_a_moved_folder_with_other_times_is_the_same(self, root: Path) -> None:
        (root / "scene").rename(root / "moved")
        for path in (root / "moved").rglob("*"):
            os.utime(path, (1, 1))
        assert resume(root / "run", "--data.path", str(root / "moved")) == 0
        assert not [warning for warning in notices.read(root / "run") if "not those" in warning]

    def test_points_are_not_needed_any_more(self, root: Path) -> None:
        (root / "scene/sparse/0/points3D.txt").unlink()
        assert resume(root / "run") == 0
        assert main(["render", str(root / "run"), "--frames", "2", "--size", "16x16"]) == 0


class TestMasks:
    def test_a_new_mask_is_a_change(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (root / "scene/masks").mkdir()
        Image.new("L", (tiny_scene.WIDTH, tiny_scene.HEIGHT), 255).save(root / "scene/masks/view_6.png.png")
        assert "new masks view_6.png (" in refusal(capsys, root / "run", "--data.masks", "masks")


class TestSceneKeys:
    @pytest.mark.parametrize(
        "words",
        [
            ("--sh_degree", "0"),
            ("--sh_degree", "3"),
            ("--init", "random"),
            ("--init", "other.ply"),
            ("--antialiased", "true"),
            ("--exposure", "true"),
            ("--seed", "7"),
        ],
    )
    def test_a_change_is_refused_by_name(
        self, root: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, str]
    ) -> None:
        sentence = refusal(capsys, root / "run", *words)
        assert f"'{words[0][2:]}' is " in sentence and "in the checkpoint and cannot change, got " in sentence

    def test_an_edited_config_is_noticed(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        replace(root / "run/config.yaml", "sh_degree: 1", "sh_degree: 0")
        assert "'sh_degree' is 1 in the checkpoint and cannot change, got 0" in refusal(capsys, root / "run")

    def test_all_else_may_change(self, root: Path) -> None:
        words = ("--rates.sh0", "1e-3", "--densify.cap", "100", "--log_every", "1", "--evaluate_every", "0")
        assert resume(root / "run", *words) == 0


class TestCheckpointsOfBefore:
    @pytest.fixture
    def old(self, root: Path) -> Path:
        tensors, state = checkpoint.load(last_checkpoint(root / "run"))
        del state[provenance.KEY]
        checkpoint.save(root / "run" / "checkpoints", 2, tensors, state)
        return root

    def test_they_go_on_with_a_warning(self, old: Path) -> None:
        change_photograph(old / "scene")
        assert resume(old / "run") == 0
        assert any("has no record of its data" in warning for warning in notices.read(old / "run"))

    def test_their_keys_are_those_of_the_config_file(self, old: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "'sh_degree' is 1 in the checkpoint" in refusal(capsys, old / "run", "--sh_degree", "0")


@pytest.mark.parametrize(
    "forged",
    [None, [], {}, {"keys": {}}, {"keys": [], "data": {}}, {"keys": {}, "data": {"poses": []}},
     {"keys": {}, "data": {"poses": {"view_1.png": 3}}}],
)  # fmt: skip
def test_a_forged_record_is_one_sentence(root: Path, capsys: pytest.CaptureFixture[str], forged: object) -> None:
    tensors, state = checkpoint.load(last_checkpoint(root / "run"))
    checkpoint.save(root / "run" / "checkpoints", 2, tensors, {**state, provenance.KEY: forged})
    assert "checkpoint's state 'provenance' must" in refusal(capsys, root / "run")


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("taught")
    (root / "text").mkdir()
    for name in ("a", "b", "c"):
        lines = [f"{name}{i} the quick brown fox jumps over the lazy dog and {i * 7} jugs\n" for i in range(60)]
        (root / "text" / f"{name}.txt").write_text("".join(lines))
    shape = ["--model.layers", "2", "--model.width", "32", "--model.context", "16", "--batch", "2"]
    where = ["--data.path", str(root / "text"), "--data.cache", str(root / "cache"), "--out", str(root / "run")]
    assert main(["train", TEXT, *where, *shape, "--steps", "1", "--sample_length", "3"]) == 0
    return root


class TestText:
    @pytest.fixture
    def root(self, taught: Path, tmp_path: Path) -> Path:
        shutil.copytree(taught, tmp_path / "copy")
        replace(tmp_path / "copy/run/config.yaml", str(taught), str(tmp_path / "copy"))
        return tmp_path / "copy"

    def test_a_changed_file_is_refused_by_name(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        replace(root / "text" / "b.txt", "brown fox", "fox brown")
        assert "changed files of b.txt (--allow-changed-data goes on)" in refusal(capsys, root / "run")
        assert resume(root / "run", "--allow-changed-data") == 0
        assert any("changed files of b.txt" in warning for warning in notices.read(root / "run"))

    @pytest.mark.parametrize("key", ["data.holdout", "data.seed"])
    def test_another_split_is_refused(self, root: Path, capsys: pytest.CaptureFixture[str], key: str) -> None:
        value = {"data.holdout": "0.3", "data.seed": "5"}[key]
        assert f"changed {key} (" in refusal(capsys, root / "run", f"--{key}", value)

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("layers", "1"),
            ("heads", "8"),
            ("width", "16"),
            ("feed_forward", "64"),
            ("position", "learned"),
            ("norm", "rms"),
            ("norm_first", "false"),
            ("activation", "relu"),
            ("tie_weights", "false"),
            ("vocabulary", "5"),
        ],
    )
    def test_another_model_is_refused_by_name(
        self, root: Path, capsys: pytest.CaptureFixture[str], key: str, value: str
    ) -> None:
        assert f"'model.{key}' is " in refusal(capsys, root / "run", f"--model.{key}", value)

    def test_dropout_and_rate_may_change(self, root: Path) -> None:
        assert resume(root / "run", "--model.dropout", "0.1", "--optimizer.rate", "1e-4") == 0


def test_a_line_knows_its_points(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "points.csv"
    table.write_text("x,y\n" + "".join(f"{x},{2 * x + 1}\n" for x in range(10)))
    run = tmp_path / "run"
    assert main(["train", LINE, "--data.csv", str(table), "--out", str(run), "--steps", "3"]) == 0
    for key, value in (("rate", "1e-3"), ("optimizer", "adam"), ("weight", "5")):
        assert f"'{key}' is " in refusal(capsys, run, f"--{key}", value)
    replace(table, "9,19", "9,18")
    assert "changed points (" in refusal(capsys, run)


def test_names_come_or_go_once() -> None:
    old = {"photographs": {"a": "1", "b": "2"}, "poses": {"a": "1", "b": "2"}, "masks": {"a": "1"}, "gone": {"": "1"}}
    new = {"photographs": {"b": "3", "c": "4"}, "poses": {"b": "2", "c": "4"}, "masks": {"b": "1"}}
    told = provenance.differences(old, new)
    assert told == "changed photographs of b; missing photographs a; new photographs c; new masks b"


def test_the_record_survives_json(root: Path) -> None:
    _, state = checkpoint.load(last_checkpoint(root / "run"))
    assert json.loads(json.dumps(state[provenance.KEY])) == state[provenance.KEY]
    assert set(state[provenance.KEY]["data"]) == {"photographs", "masks", "poses", "intrinsics", "split"}
