"""Files that are written whole or not at all: links, permissions, strangers' files, kills, several files together."""

import errno
import itertools
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from splatlearn import files
from splatlearn.errors import SplatlearnError
from splatlearn.files import drop_link, remove_folder, replace_with_part, replacing, replacing_folder, sweep
from splatlearn.show.run_writer import FolderWriter

LEFT = f".splatlearn-{'0a' * 16}.tmp"


@pytest.fixture(autouse=True)
def afresh() -> Iterator[None]:
    """Folders count as not yet swept, as in a new process; the umask is the usual one."""
    files._swept.clear()
    before = os.umask(0o022)
    yield
    os.umask(before)


def write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- one file ----


def test_the_temporary_name_is_new_and_unguessable(tmp_path: Path) -> None:
    seen = set()
    for _ in range(3):
        with replacing(tmp_path / "a.png") as temporary:
            assert temporary.parent == tmp_path and temporary.suffix == ".png", "encoders go by the suffix"
            assert stat.S_ISREG(os.lstat(temporary).st_mode), "the name was not taken before it was given"
            seen.add(temporary.name)
            temporary.write_text("x")
    assert len(seen) == 3, "the same name twice"
    assert names(tmp_path) == ["a.png"]


def test_a_name_that_is_taken_is_never_written_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who guesses the name and lays a link there gains nothing."""
    precious = tmp_path / "precious"
    precious.write_text("mine")
    guesses = iter(["00" * 16, "11" * 16])
    monkeypatch.setattr(files.secrets, "token_hex", lambda _: next(guesses))
    (tmp_path / f".splatlearn-{'00' * 16}.tmp.txt").symlink_to(precious)
    with pytest.raises(SplatlearnError, match="File exists"):
        write(tmp_path / "a.txt", "new")
    assert precious.read_text() == "mine" and not (tmp_path / "a.txt").exists()


def test_a_temporary_file_that_became_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    with pytest.raises(SplatlearnError, match="exchanged"), replacing(tmp_path / "a.txt") as temporary:
        temporary.unlink()
        temporary.symlink_to(tmp_path / "precious")
    assert names(tmp_path) == ["precious"] and (tmp_path / "precious").read_text() == "mine"


@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_are_those_of_the_umask_or_of_the_old_file(tmp_path: Path, umask: int, mode: int) -> None:
    os.umask(umask)
    write(tmp_path / "new", "x")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == mode
    (tmp_path / "new").chmod(0o640)
    write(tmp_path / "new", "y")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640, "a file that was there lost its permissions"


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    for target in (tmp_path / "disk" / "old", tmp_path / "disk" / "dangling"):
        if target.name == "old":
            target.write_text("old")
        link = tmp_path / f"{target.name}.txt"
        link.symlink_to(target)
        write(link, "new")
        assert link.is_symlink() and target.read_text() == "new", "the link was replaced, or its target was not"
    assert names(tmp_path / "disk") == ["dangling", "old"], "litter beside the target"


def test_links_that_lead_nowhere_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "lost").symlink_to(tmp_path / "absent" / "file")
    for name in ("loop", "lost"):
        with pytest.raises(SplatlearnError, match=f"{name} could not be written"):
            write(tmp_path / name, "x")
    assert names(tmp_path) == ["loop", "lost"], "a folder was made behind a user's link"


def test_what_cannot_be_replaced_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("old")
    cases = {"folder": "is a folder", "pipe": "device or a pipe", "file/inside": "Not a directory", "a\0b": "null"}
    for name, reason in cases.items():
        with pytest.raises(SplatlearnError, match=reason), replacing(tmp_path / name):
            pytest.fail("the work began")
    with pytest.raises(SplatlearnError, match="device or a pipe"):
        write(Path("/dev/null"), "x")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode), "a device was replaced by a file"
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(SplatlearnError, match="file is read-only.*untouched"):
        write(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old"


def test_a_read_only_folder_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(SplatlearnError, match=r"a\.txt could not be written \(Permission denied\)"):
        write(tmp_path / "a.txt", "x")
    assert not names(tmp_path)


def test_long_names_and_suffixes(tmp_path: Path) -> None:
    for name in ("a" * 251 + ".png", "a." + "b" * 253, "é" * 120 + ".txt", ".hidden", "no suffix"):
        write(tmp_path / name, "x")
        assert (tmp_path / name).read_text() == "x"


# ---- several files, and folders ----


def pair(folder: Path, text: str) -> None:
    def main(path: Path, part: str) -> None:
        path.write_text(f"{text} {part}")

    replace_with_part(folder / "a.gltf", folder / "a.bin", main, text.encode())


def is_whole(folder: Path, texts: set[str]) -> bool:
    """Whether the file names a part of the same writing."""
    text, part = (folder / "a.gltf").read_text().split()
    return text in texts and (folder / part).read_text() == text


def replace_until(last: int, after: bool) -> None:
    """Let this process be killed at its `last` call of os.replace, before or after its work."""
    real, calls = os.replace, []

    def doomed(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == last:
            if after:
                real(source, target)
            os.kill(os.getpid(), signal.SIGKILL)
        real(source, target)

    os.replace = doomed  # type: ignore[assignment]


def test_a_pair_is_never_mixed_whatever_call_is_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two kills in a row, at any two of the renames."""
    monkeypatch.setattr(os, "fsync", lambda _: None)  # the order counts here, not the disk
    moments = [(last, after) for last in range(1, 5) for after in (False, True)]
    for number, both in enumerate(list(itertools.product(moments, moments))[::5]):
        folder = tmp_path / str(number)
        folder.mkdir()
        pair(folder, "old")
        for moment, text in zip(both, ("second", "third"), strict=True):
            if (child := os.fork()) == 0:
                replace_until(*moment)
                pair(folder, text)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == signal.SIGKILL, "nothing was killed"
            assert is_whole(folder, {"old", "second", "third"}), f"killed at {both}: a file with another's part"
        files._swept.clear()
        pair(folder, "last")
        assert is_whole(folder, {"last"}) and names(folder) == ["a.bin", "a.gltf"], "another name, or litter"


def test_a_folder_appears_whole_and_takes_the_place_of_an_old_one(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with replacing_folder(tmp_path / "f") as folder:
            (folder / "sub").mkdir()
            (folder / "sub" / "x").write_text(text)
            assert text == "old" or (tmp_path / "f" / "sub" / "x").read_text() == "old"
        assert (tmp_path / "f" / "sub" / "x").read_text() == text
    with pytest.raises(ZeroDivisionError), replacing_folder(tmp_path / "f") as folder:
        (folder / "y").write_text("half")
        raise ZeroDivisionError
    assert names(tmp_path) == ["f"] and names(tmp_path / "f") == ["sub"], "half of a folder is there, or litter"
    remove_folder(tmp_path / "f")
    assert not names(tmp_path)


def test_folders_are_exchanged_in_two_steps_where_the_system_knows_no_single_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files.ctypes, "CDLL", lambda *_, **__: object())
    for text in ("old", "new"):
        with replacing_folder(tmp_path / "f") as folder:
            (folder / "x").write_text(text)
    assert (tmp_path / "f" / "x").read_text() == "new" and names(tmp_path) == ["f"]


# ---- what a kill has left ----

KILLED = """
import os, signal, sys
from pathlib import Path
from splatlearn.files import replacing, replacing_folder
with replacing(Path(sys.argv[1]) / "a.txt") as one, replacing_folder(Path(sys.argv[1]) / "f") as two:
    one.write_text("half")
    (two / "b").write_text("half")
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    strangers = [".a.123.tmp.txt", ".splatlearn-0.tmp", f"{LEFT}", f"splatlearn-{'0a' * 16}.tmp", ".tmp"]
    (tmp_path / "precious").write_text("mine")
    for name in strangers:
        if name == LEFT:
            (tmp_path / name).symlink_to(tmp_path / "precious")  # we make no links
        else:
            (tmp_path / name).write_text("a stranger's")
    environment = {**os.environ, "PYTHONPATH": str(Path(files.__file__).parents[1])}
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        before = names(tmp_path)
        assert len(before) == len(strangers) + 3
        write(tmp_path / "mine.txt", "x")
        assert names(tmp_path) == sorted([*before, "mine.txt"]), "a living process lost its temporary files"
        process.kill()
    assert names(tmp_path) == sorted([*before, "mine.txt"]), "nothing was left to sweep"
    files._swept.clear()
    write(tmp_path / "mine.txt", "y")
    assert names(tmp_path) == sorted([*strangers, "mine.txt", "precious"]), "litter stays, or a stranger's file is gone"
    assert (tmp_path / "precious").read_text() == "mine"


def test_sweep_looks_into_subfolders_only_when_asked_and_never_through_links(tmp_path: Path) -> None:
    for folder in ("a/b", "c"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / LEFT).write_text("half")
    (tmp_path / "a" / "link").symlink_to(tmp_path / "c")
    assert sweep(tmp_path / "a") == 0 and sweep(tmp_path / "absent") == 0
    assert sweep(tmp_path / "a", deep=True) == 1
    assert not names(tmp_path / "a" / "b") and names(tmp_path / "c") == [LEFT]


def test_nothing_is_swept_where_locks_are_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise OSError(37, "No locks available")

    (tmp_path / LEFT).write_text("half")
    monkeypatch.setattr(files.fcntl, "flock", unknown)
    write(tmp_path / "a", "x")
    assert names(tmp_path) == [LEFT, "a"], "a file was deleted that another process may hold"


# ---- links in a run folder ----


def test_a_run_of_a_stranger_cannot_reach_out_of_its_folder(tmp_path: Path) -> None:
    pictures, run = tmp_path / "pictures", tmp_path / "run"
    (pictures / "me").mkdir(parents=True)
    (pictures / "me" / "a.png").write_text("mine")
    run.mkdir()
    (run / "report.html").symlink_to(pictures / "me" / "a.png")
    (run / "eval").symlink_to(pictures)
    writer = FolderWriter(run)
    writer.save("report.html", "<p>")
    writer.remove_others("eval", ".png")
    assert (pictures / "me" / "a.png").read_text() == "mine", "a file outside of the run was overwritten or deleted"
    assert (run / "report.html").read_text() == "<p>" and not (run / "report.html").is_symlink()
    drop_link(run / "absent")


def _failing_last_sync(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    real = files._sync_folder

    def sync(path: Path) -> None:
        if path == folder:
            raise OSError(errno.EIO, "Input/output error")
        real(path)

    monkeypatch.setattr(files, "_sync_folder", sync)


def test_a_rename_that_is_not_confirmed_is_not_called_untouched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    _failing_last_sync(monkeypatch, tmp_path)
    with pytest.raises(SplatlearnError, match="file is written, but the disk does not confirm it"):
        with files.replacing(tmp_path / "file") as path:
            path.write_text("new")
    with pytest.raises(SplatlearnError, match="folder is written, but the disk does not confirm it"):
        with files.replacing_folder(tmp_path / "folder") as path:
            (path / "inner").write_text("new")
    assert (tmp_path / "file").read_text() == "new" and (tmp_path / "folder/inner").exists()


def test_a_folder_that_cannot_be_replaced_keeps_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where two folders cannot exchange their names, the second of two renames may fail."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/old").write_text("old")
    monkeypatch.setattr(files.ctypes, "CDLL", lambda *_, **__: object())
    real = os.rename

    def rename(source: Path, target: Path) -> None:
        if str(source).endswith(".tmp"):
            raise OSError(errno.EIO, "Input/output error")
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(SplatlearnError, match="what was there before is untouched"):
        with files.replacing_folder(tmp_path / "folder") as path:
            (path / "new").write_text("new")
    assert [file.name for file in (tmp_path / "folder").iterdir()] == ["old"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]
