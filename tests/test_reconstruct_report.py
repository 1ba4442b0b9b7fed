"""The report names a likely reason for each photograph that is missing; `train` offers to reconstruct photographs."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import sfm_photos
import yaml
from sfm_photos import hashes

from splatlearn import cli
from splatlearn.errors import SplatlearnError
from splatlearn.scene.reconstruct.gather import Photo
from splatlearn.scene.reconstruct.phases import Pairs
from splatlearn.scene.reconstruct.ready import is_photographs, ready
from splatlearn.scene.reconstruct.report import ADVICE, Missing, Report, diagnose, finite, why_none


def photo(name: str, sharpness: float = 500.0, brightness: float = 120.0) -> Photo:
    return Photo(name, 1, 1, 40, 30, "", sharpness, brightness, name)


GOOD = [photo(name) for name in ("a", "b", "c", "d")]
FEATURES = dict.fromkeys("abcd", 2000)


def reason(stray: Photo, features: int, inliers: dict[tuple[str, str], int], others: Any = ()) -> Missing:
    pairs = Pairs(FEATURES | {stray.name: features}, {("a", "b"): 300, ("b", "c"): 200, ("c", "d"): 90} | inliers)
    (missing,) = diagnose([*GOOD, stray], {"a", "b", "c", "d"}, list(others), pairs)
    assert missing.name == stray.name
    return missing


class TestReasons:
    def test_the_photograph_itself(self) -> None:
        assert reason(photo("x", brightness=3), 0, {}).kind == "dark"
        assert "too bright" in reason(photo("x", brightness=251), 5, {}).reason
        assert reason(photo("x"), 12, {}) == Missing(
            "x", "plain", "too few features: 12 features, where the others have about 2,000"
        )
        blurred = reason(photo("x", sharpness=20), 400, {("a", "x"): 4})
        assert blurred.kind == "blurred" and blurred.reason.startswith("blurred: 4% of the usual sharpness; 400")

    def test_how_it_relates_to_the_others(self) -> None:
        assert reason(photo("x"), 1900, {}).kind == "alone"
        assert reason(photo("x"), 1900, {("a", "x"): 9}).kind == "alone", "nine matches are chance"
        apart = reason(photo("x"), 1900, {("x", "y"): 99}, [{"x", "y", "z"}])
        assert apart.kind == "apart" and "separate group of 3 photographs" in apart.reason
        loose = reason(photo("x"), 1900, {("b", "x"): 31, ("d", "x"): 20})
        assert loose.kind == "loose" and "31 with b, its best, and 2 photographs in all" in loose.reason

    def test_only_with_others_that_are_missing_too(self) -> None:
        pairs = Pairs(FEATURES | {"x": 1900, "y": 1900}, {("a", "b"): 300, ("x", "y"): 80})
        found = diagnose([*GOOD, photo("x"), photo("y")], {"a", "b", "c", "d"}, [], pairs)
        assert [missing.kind for missing in found] == ["alone", "alone"]
        assert "only photographs that could not be placed either (y)" in found[0].reason

    def test_every_kind_has_advice(self) -> None:
        missing = tuple(Missing(kind, kind, kind) for kind in ADVICE)
        report = Report(30, 36, 1000, 0.5, 1.0, missing)
        assert report.advice() == list(ADVICE.values()) and "6 of 36 photographs could not be placed" in report.warning

    def test_when_nothing_could_be_placed(self) -> None:
        assert "too little detail" in why_none(Pairs({"a": 3, "b": 9, "c": 2}, {}))
        assert "3 pairs match but show no depth" in why_none(Pairs(FEATURES, dict.fromkeys(["ab", "bc", "ac"], 500)))  # type: ignore[arg-type]
        assert why_none(Pairs(FEATURES, {("a", "b"): 3})) == "no two match each other"


class TestReport:
    def test_the_error_is_judged(self) -> None:
        told = [Report(30, 30, 9, error, 1.0).text().splitlines()[0] for error in (0.6, 1.4, 3.0)]
        assert "0.60 px (good" in told[0] and "1.40 px (fair" in told[1] and "3.00 px (poor" in told[2]
        assert "--cameras per-image" in Report(30, 30, 9, 3.0, 1.0).text()
        assert Report(30, 30, 9, 0.6, 1.0).advice() == [], "advice where nothing is wrong"

    def test_matching_of_neighbours_is_mentioned(self) -> None:
        missing = tuple(Missing(f"{i}", "alone", "") for i in range(80))
        report = Report(220, 300, 9, 0.6, 1, missing, matching="sequential")
        assert any("--matching exhaustive" in line for line in report.advice())

    def test_both_files_say_the_same(self, tmp_path: Path) -> None:
        report = Report(2, 3, 9, 0.6, 1.0, (Missing("ü 1.jpg", "dark", "too dark"),), {"b": "a"}, (2, 3))
        report.write(tmp_path)
        told = json.loads((tmp_path / "reconstruction.json").read_text(encoding="utf-8"))
        assert told["missing"] == [{"name": "ü 1.jpg", "kind": "dark", "reason": "too dark"}]
        assert told["copies"] == {"b": "a"}
        assert told["advice"] == report.advice() and (tmp_path / "reconstruction.txt").read_text() == report.text()
        assert "2 separate groups were found; the largest is kept (2 photographs; the others have 3)" in report.text()
        assert finite(float("nan")) == 0.0


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sfm_photos.make(tmp_path_factory.mktemp("my walk") / "photos", 6)


class TestCommand:
    def test_from_photographs_to_a_run(self, photos: Path, tmp_path: Path, capsys: Any) -> None:
        """`train` on bare photographs with leave to reconstruct, then again, when that is done."""
        before = hashes(photos)
        config = Path(__file__).resolve().parents[1] / "configs" / "scene.yaml"
        for number, words in ((1, [config, "--data.path", photos]), (2, [photos])):  # with a config, and without one
            more = ["--out", tmp_path / str(number), "--steps", 2, "--data.reconstruct", "yes"]
            assert cli.main(["train", *map(str, [*words, *more])]) == 0, capsys.readouterr().err
        one, other = (yaml.safe_load((tmp_path / name / "config.yaml").read_text()) for name in "12")
        assert one | {"out": ""} == other | {"out": ""}, "without a config another recipe is taken"
        told = capsys.readouterr().out
        assert "6 of 6 photographs placed" in told and "was reconstructed before: learning from" in told
        assert hashes(photos) == before and (photos.parent / "photos_colmap" / "sparse" / "0").is_dir()
        assert f"path: {photos.parent / 'photos_colmap'}" in (tmp_path / "1" / "config.yaml").read_text()

    def test_what_train_takes_for_photographs(self, photos: Path, tmp_path: Path) -> None:
        (tmp_path / "runs").mkdir()
        (tmp_path / "runs" / "config.yaml").touch()
        (tmp_path / "model" / "sparse").mkdir(parents=True)
        (tmp_path / "walk.MP4").touch()
        taken = [
            is_photographs(tmp_path / name) for name in ("model", "walk.MP4", "runs", "runs/config.yaml", "nowhere")
        ]
        assert taken == [True, True, False, False, False] and is_photographs(photos)

    def test_without_a_terminal_the_command_is_named(self, photos: Path, tmp_path: Path, monkeypatch: Any) -> None:
        bare = sfm_photos.make(tmp_path / "bare photos", 2)
        monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
        with pytest.raises(
            SplatlearnError, match=r"run `splatlearn reconstruct '.*bare photos' '.*bare photos_colmap'`"
        ):
            ready(str(bare), "ask")
        assert ready(str(bare), "no") == str(bare), "asked though it must not"

    def test_a_terminal_is_asked(self, tmp_path: Path, monkeypatch: Any) -> None:
        bare, asked = sfm_photos.make(tmp_path / "bare", 2), []
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
        monkeypatch.setattr("builtins.input", lambda question: (asked.append(question), "n")[1])
        with pytest.raises(SplatlearnError, match="without cameras nothing can be learned"):
            ready(str(bare), "ask")
        assert len(asked) == 1 and "Find the cameras first" in asked[0] and not (tmp_path / "bare_colmap").exists()
        monkeypatch.setattr("builtins.input", lambda _: "")
        called = []
        monkeypatch.setattr(
            "splatlearn.scene.reconstruct.ready.reconstruct_and_report", lambda *words: called.append(words)
        )
        assert ready(str(bare), "ask") == str(tmp_path / "bare_colmap") and called == [(bare, tmp_path / "bare_colmap")]

    def test_other_folders_are_left_to_the_loader(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        (tmp_path / "model" / "sparse").mkdir(parents=True)
        for path in ("", "nowhere", "empty", "model"):
            told = str(tmp_path / path) if path else ""
            assert ready(told, "yes") == told, "something was reconstructed of no photographs"
        sfm_photos.make(tmp_path / "scene" / "images", 2)
        with pytest.raises(SplatlearnError, match="scene is a folder of photographs without their cameras"):
            ready(str(tmp_path / "scene"), "ask")

    def test_the_command(self, photos: Path, tmp_path: Path, capsys: Any) -> None:
        out = tmp_path / "out"
        assert cli.main(["reconstruct", str(photos), str(out), "--threads", "1", "--cameras", "shared"]) == 0
        told = capsys.readouterr()
        assert (out / "reconstruction.txt").read_text() in told.out and "--data.path" in told.out
        assert cli.main(["reconstruct", str(photos), str(out)]) == 1
        assert "expected no model there yet" in capsys.readouterr().err
        assert cli.main(["reconstruct", str(photos)]) == 1 and "OUT" in capsys.readouterr().err

    def test_ctrl_c_says_how_to_go_on(self, photos: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
        def stopped(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("pycolmap.match_exhaustive", stopped)
        assert cli.main(["reconstruct", str(photos), str(tmp_path / "out")]) == 130
        assert "the same command goes on from here" in capsys.readouterr().err
