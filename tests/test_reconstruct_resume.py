"""A reconstruction that was stopped, by Ctrl-C or by kill -9 at any moment, goes on; nothing half-made ever counts."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pycolmap
import pytest
import sfm_photos
from sfm_photos import hashes

from splatlearn.errors import SplatlearnError
from splatlearn.scene.reconstruct import Settings, copies, reconstruct
from splatlearn.scene.reconstruct.work import FOLDER, Work

PHOTOS = 7
ALONE = Settings(threads=1)

# Kills itself as with kill -9 at a moment that its first word names, as often as that moment has been let pass.
DOOMED = """
import os, signal, sys
from pathlib import Path
from splatlearn.scene.reconstruct import Settings, copies, phases, pipeline, reconstruct

moment, photos, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
die = lambda: os.kill(os.getpid(), signal.SIGKILL)
phases.POLL_SECONDS = 0.002
run, copy, replace = phases.Bench.run, copies.copy_photo, os.replace

def doomed_run(self, title, unit, total, done, work):
    limit = {"find features": 3, "match": 8, "place": 4}[title]
    return run(self, title, unit, total, lambda: die() if title == moment and done() >= limit else done(), work)

def doomed_copy(source, target, max_size, **options):
    if moment == "copy" and target.name == "photo 4.jpg":
        target.with_name(f".splatlearn-{'0' * 32}.tmp.jpg").write_bytes(b"half")
        die()
    copy(source, target, max_size, **options)

def doomed_replace(source, target):
    if moment == "move" and Path(target).name == "0":
        die()
    replace(source, target)

phases.Bench.run, copies.copy_photo, pipeline.os.replace = doomed_run, doomed_copy, doomed_replace
reconstruct(photos, out, Settings(threads=1), progress=False)
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sfm_photos.make(tmp_path_factory.mktemp("photos"), PHOTOS)


@pytest.fixture(scope="module")
def whole(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run that nobody stops makes of them."""
    out = tmp_path_factory.mktemp("whole") / "out"
    reconstruct(photos, out, ALONE, progress=False)
    return out


def test_killed_at_every_phase_it_still_comes_to_the_same_end(photos: Path, whole: Path, tmp_path: Path) -> None:
    out, before = tmp_path / "out", hashes(photos)
    for moment in ("copy", "find features", "match", "place", "move"):
        words = [sys.executable, "-c", DOOMED, moment, str(photos), str(out)]
        done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == -signal.SIGKILL, f"{moment}: it was not killed there: {done.stderr[-2000:]}"
        assert not (out / "sparse" / "0").exists(), f"{moment}: a model was left that is not complete"
        if moment != "move":
            assert [path.name for path in out.iterdir()] == [FOLDER], f"{moment}: results came before their time"
    report = reconstruct(photos, out, ALONE, progress=False)
    assert report.seconds_of_phases == {}, "what was complete was done again"
    for part in ("images", "sparse"):
        assert hashes(out / part) == hashes(whole / part), f"{part} are not those of a run that nobody stopped"
    assert not (out / FOLDER).exists() and hashes(photos) == before, "something was left behind, or a photo changed"


def test_a_second_run_at_the_same_time_is_refused(photos: Path, tmp_path: Path) -> None:
    with Work(tmp_path / "out").locked(), pytest.raises(SplatlearnError, match=f"in use by process {os.getpid()} on "):
        reconstruct(photos, tmp_path / "out", ALONE, progress=False)


def stop_before(monkeypatch: Any, phase: str) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pycolmap, phase, stopped)


def test_ctrl_c_keeps_what_is_complete(photos: Path, tmp_path: Path, monkeypatch: Any) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_before(patch, "incremental_mapping")
        reconstruct(photos, out, ALONE, progress=False)
    for needless in ("extract_features", "match_exhaustive"):
        monkeypatch.setattr(pycolmap, needless, lambda *_, **__: pytest.fail("a complete phase is done again"))
    monkeypatch.setattr(copies, "copy_photo", lambda *_, **__: pytest.fail("photographs are copied again"))
    assert reconstruct(photos, out, ALONE, progress=False).registered == PHOTOS


def test_other_settings_redo_what_depends_on_them(photos: Path, tmp_path: Path, monkeypatch: Any) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_before(patch, "incremental_mapping")
        reconstruct(photos, out, ALONE, progress=False)
    monkeypatch.setattr(copies, "copy_photo", lambda *_, **__: pytest.fail("photographs are copied again"))
    again: list[str] = []
    for name in ("extract_features", "match_exhaustive", "match_sequential"):
        original = getattr(pycolmap, name)
        monkeypatch.setattr(
            pycolmap, name, lambda *a, _name=name, _do=original, **k: (again.append(_name), _do(*a, **k))[1]
        )
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_before(patch, "incremental_mapping")
        reconstruct(photos, out, Settings(threads=1, matching="sequential"), progress=False)
    assert again == ["match_sequential"], "matching in another way must redo the matches, and only these"
    again.clear()
    report = reconstruct(photos, out, Settings(threads=1, cameras="per-image"), progress=False)
    assert again == ["extract_features", "match_exhaustive"] and len(report.cameras) == report.registered


def test_other_photographs_begin_anew(photos: Path, tmp_path: Path, monkeypatch: Any) -> None:
    some, out = tmp_path / "some", tmp_path / "out"
    some.mkdir()
    for index in range(6):
        os.link(photos / f"photo {index}.jpg", some / f"photo {index}.jpg")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_before(patch, "match_exhaustive")
        reconstruct(some, out, ALONE, progress=False)
    (some / "photo 0.jpg").unlink()
    report = reconstruct(some, out, ALONE, progress=False)
    assert report.total == 5 and "photo 0.jpg" not in hashes(out / "images"), "a photograph that is gone lives on"


def test_a_damaged_state_costs_only_time(photos: Path, tmp_path: Path, monkeypatch: Any) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_before(patch, "match_exhaustive")
        reconstruct(photos, out, ALONE, progress=False)
    for name in ("state.json", "photos.json"):
        text = (out / FOLDER / name).read_text()
        json.loads(text)
        (out / FOLDER / name).write_text(text[: len(text) // 2])
    assert reconstruct(photos, out, ALONE, progress=False).registered == PHOTOS


def test_a_damaged_database_is_told(photos: Path, tmp_path: Path, monkeypatch: Any) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_before(patch, "match_exhaustive")
        reconstruct(photos, out, ALONE, progress=False)
    (out / FOLDER / "database.db").write_bytes(b"no database" * 1000)
    with pytest.raises(SplatlearnError, match="start afresh|pycolmap failed"):
        reconstruct(photos, out, ALONE, progress=False)
