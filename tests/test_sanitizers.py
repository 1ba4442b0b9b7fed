"""The CPU library under AddressSanitizer and UndefinedBehaviorSanitizer, by scripts/sanitize.py."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from conftest import ROOT

# Each gives a native stage something that it must not touch.
PLANTED = {
    "heap-buffer-overflow": """
        short = torch.zeros(20)
        params = native.Adam(context=native.context(short), count=21, step=1, learning_rate=0.1, beta1=0.9, beta2=0.99,
                             eps=1e-8, parameter=short, gradient=torch.ones(21), exp_avg=torch.zeros(21),
                             exp_avg_sq=torch.zeros(21))
        native.call("adam", params, short)
    """,
    "misaligned address": """
        row, offsets = torch.ones(1, 3), torch.zeros(33, dtype=torch.uint8)[1:]
        inputs = native.BinInputs(context=native.context(row), n_rows=1, n_cameras=1, width=16, height=16,
                                  alpha_threshold=0.1, means2d=row, conics=row, opacities=row, depths=row,
                                  radii=torch.ones(1, 2, dtype=torch.int32))
        params = native.BinCount(inputs=inputs, counts=None, row_offsets=offsets, block_offsets=torch.zeros(2).long())
        native.call("bin_count", params, row)
    """,
}


def run(*tests: str) -> subprocess.CompletedProcess[str]:
    folder = Path(tempfile.gettempdir()) / f"splatlearn_sanitized_{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    command = [sys.executable, "scripts/sanitize.py", "--build", str(folder), "--", *tests]
    return subprocess.run(command if tests else command[:-1], cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module", autouse=True)
def gcc() -> None:
    compiler = shutil.which("g++")
    runtime = compiler and subprocess.run([compiler, "-print-file-name=libasan.so"], capture_output=True, text=True)
    if not runtime or not Path(runtime.stdout.strip()).is_absolute():
        pytest.skip("g++ with AddressSanitizer is not here")


@pytest.mark.parametrize("finding", PLANTED)
def test_a_planted_error_is_found(finding: str, tmp_path: Path) -> None:
    planted = tmp_path / "test_planted.py"
    imports = "import torch\nfrom splatlearn.ops import native\n\ndef test_planted():"
    planted.write_text(imports + PLANTED[finding])
    done = run(str(planted))
    assert done.returncode != 0 and finding in done.stdout + done.stderr, (done.stdout + done.stderr)[-2000:]


def test_the_stages_have_no_findings() -> None:
    done = run()
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert done.stdout.count(".") > 150, "hardly anything was run"
