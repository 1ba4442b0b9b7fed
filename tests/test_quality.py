"""The house's order: ruff and mypy are content, the native library keeps its promises, CI runs the README's command."""

import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from splatlearn.ops import native

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("words", [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]], ids=" ".join)
def test_tool_is_content(words: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_compiler_is_told_in_one_sentence(tmp_path: Path) -> None:
    script = ROOT / "setup.py"
    environment = {"PATH": str(tmp_path), "HOME": str(tmp_path)}
    folders = ["--build-lib", str(tmp_path), "--build-temp", str(tmp_path)]
    command = [sys.executable, str(script), "-q", "build_ext", *folders]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode != 0 and "no C++ compiler was found" in last and "apt install g++" in last, done.stderr


@pytest.mark.skipif(not shutil.which("nm"), reason="nm is not here")
def test_levels_share_no_code() -> None:
    """A weak template compiled for one instruction set must never be merged into another level."""
    listing = subprocess.run(["nm", "-C", str(native.CPU_LIBRARY)], capture_output=True, text=True, check=True).stdout
    weak = [line for line in listing.splitlines() if re.search(r" [WVu] ", line) and "splatlearn_v" not in line]
    allowed = ("__gmon_start__", "_ITM_", "__cxa_finalize", "__gxx_personality")
    assert not [line for line in weak if not any(name in line for name in allowed)], weak
    exported = [line.split()[-1] for line in listing.splitlines() if " T " in line]
    entries = {f"splatlearn_{name}" for name in native.STAGES}
    assert entries <= set(exported), "an entry point is missing"


def test_core_knows_no_torch_and_no_python() -> None:
    listing = subprocess.run(["ldd", str(native.CPU_LIBRARY)], capture_output=True, text=True).stdout
    assert "libgomp" in listing and "torch" not in listing and "libpython" not in listing, listing


def test_ci_runs_the_readme() -> None:
    commands = re.findall(r"^(pip install .*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    test = next(command for command in commands if "pytest" in command)
    assert test in (ROOT / ".ci/run").read_text(), "CI must run exactly the README's test command"


def test_dependencies_have_a_tested_range() -> None:
    """Without an upper bound the next major release of a library breaks every installation."""
    text = (ROOT / "pyproject.toml").read_text()
    listed = re.search(r"^dependencies = \[(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert listed
    requirements = [Requirement(line) for line in re.findall(r'"([^"]+)"', listed[1])]
    assert len(requirements) > 10
    for requirement in requirements:
        operators = {specifier.operator for specifier in requirement.specifier}
        assert operators == {">=", "<"}, f"{requirement} must have a lowest version and an upper bound"
        installed = metadata.version(requirement.name).split("+")[0]
        assert requirement.specifier.contains(installed, prereleases=True), f"{installed} is not {requirement}"


def test_native_lines_fit_in_120_columns() -> None:
    paths = [path for path in (ROOT / "csrc").rglob("*") if path.suffix in (".h", ".cpp", ".cu")]
    assert len(paths) > 50, "the native sources were not found"
    for path in paths:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            assert len(line) <= 120 and line == line.rstrip(), f"{path.relative_to(ROOT)}:{number}: {line}"
