"""A short round of the long campaigns of scripts/: killed trainings and failing disks, for the cheapest trainer."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


@pytest.mark.parametrize("words", [["kill_runs.py", "--kills", "2"], ["full_disk.py", "--faults", "4"]], ids=" ".join)
def test_a_round_of_a_campaign_finds_no_fault(words: list[str], tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPTS / words[0]), *words[1:], "--trainers", "line"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    row = done.stdout.splitlines()[-1]
    assert row.startswith("| line |") and row.endswith("| 0 |"), row
