"""Warnings: printed once, kept in the run folder from before it exists, shown in the report."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tqdm import tqdm

from splatlearn import notices
from splatlearn.notices import collected, recording, warn
from splatlearn.show.report import write_report


def test_a_sentence_is_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    for sentence in ("One lens is odd.", "Two lenses are odd.", "One lens is odd."):
        warn(sentence)
    assert capsys.readouterr().err == (
        "splatlearn: warning: One lens is odd.\nsplatlearn: warning: Two lenses are odd.\n"
    )
    assert collected() == ["One lens is odd.", "Two lenses are odd."]


def test_a_name_cannot_break_the_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with recording() as record:
        record.write_into(tmp_path)
        warn("a\n\x1b[2Jb\udcff is odd.")
    assert capsys.readouterr().err == "splatlearn: warning: a\\n\\x1b[2Jb\\udcff is odd.\n"
    assert notices.read(tmp_path) == ["a\\n\\x1b[2Jb\\udcff is odd."]


def test_a_progress_bar_stays_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with tqdm(total=2, file=stream, desc="bar") as bar:
        bar.update()
        warn("The lens is odd.")
    lines = stream.getvalue().replace("\r", "\n").split("\n")
    assert "splatlearn: warning: The lens is odd." in lines, "the bar and the warning share a line"


@pytest.mark.parametrize("stderr", [None, "closed"])
def test_without_stderr_it_is_kept(monkeypatch: pytest.MonkeyPatch, stderr: str | None) -> None:
    stream = io.StringIO()
    stream.close()
    monkeypatch.setattr(sys, "stderr", stream if stderr else None)
    warn("The lens is odd.")
    assert collected() == ["The lens is odd."]


class TestRunFolder:
    def test_warnings_from_before_the_folder_are_written(self, tmp_path: Path) -> None:
        run = tmp_path / "run"
        with recording() as record:
            warn("Before.")
            run.mkdir()
            record.write_into(run)
            warn("Within.")
            warn("Before.")
        warn("After.")
        lines = (run / "warnings.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == [{"warning": "Before."}, {"warning": "Within."}]

    def test_two_runs_of_a_process_have_their_own(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            with recording() as record:
                record.write_into(tmp_path / name)
                warn("Of both.")
                warn(f"Of {name}.")
        assert notices.read(tmp_path / "a") == ["Of both.", "Of a."]
        assert notices.read(tmp_path / "b") == ["Of both.", "Of b."]
        assert capsys.readouterr().err.count("Of both.") == 1

    def test_a_resumed_run_adds_only_new_ones(self, tmp_path: Path) -> None:
        for sentence in ("Old.", "New."):
            with recording() as record:
                warn("Old.")
                warn(sentence)
                record.write_into(tmp_path)
        assert (tmp_path / "warnings.jsonl").read_text().count("\n") == 2

    def test_a_folder_that_cannot_be_written_stops_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "warnings.jsonl").mkdir()
        with recording() as record:
            record.write_into(tmp_path)
            warn("The lens is odd.")
        assert collected() == ["The lens is odd."]

    def test_damaged_lines_are_left_out(self, tmp_path: Path) -> None:
        (tmp_path / "warnings.jsonl").write_bytes(b'{"warning": "Good."}\n{"warn\n[1]\n{"warning": 3}\n\xff\xfe\n')
        assert notices.read(tmp_path) == ["Good."]

    def test_the_report_shows_them_at_the_top(self, tmp_path: Path) -> None:
        (tmp_path / "config.yaml").write_text("task: line\n")
        (tmp_path / "warnings.jsonl").write_text('{"warning": "<b>a.png</b> is black."}\n')
        page = write_report(tmp_path).read_text(encoding="utf-8")
        assert "<li>&lt;b&gt;a.png&lt;/b&gt; is black.</li>" in page
        assert page.index("is black.") < page.index("<h2>"), "below the first section nobody sees it"

    def test_a_report_without_warnings_has_no_box(self, tmp_path: Path) -> None:
        (tmp_path / "config.yaml").write_text("task: line\n")
        assert 'class="warnings"' not in write_report(tmp_path).read_text(encoding="utf-8")


def test_only_the_first_process_prints_and_writes(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys; from splatlearn import notices\n"
        "with notices.recording() as record:\n"
        "    record.write_into(pathlib.Path(sys.argv[1])); notices.warn('The lens is odd.')"
    )
    for rank, count in (("1", 0), ("0", 1)):
        done = subprocess.run(
            [sys.executable, "-c", program, tmp_path],
            env={**os.environ, "RANK": rank},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr.count("The lens is odd.") == count == len(notices.read(tmp_path))
