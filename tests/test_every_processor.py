"""The native stages give the same bits on every instruction set that this processor has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_scene

from splatlearn.errors import SplatlearnError
from splatlearn.ops import native

TESTS = Path(__file__).resolve().parent
DIGESTS = "import sys, native_digests, splatlearn.ops.native as n; n.set_reproducible(bool(int(sys.argv[1]))); "
DIGESTS += "print('level', n.isa_level()); native_digests.main()"


def started(level: str, reproducible: bool) -> subprocess.Popen[str]:
    environment = {**os.environ, "SPLATLEARN_ISA": level, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", DIGESTS, str(int(reproducible))]
    return subprocess.Popen(
        command, env=environment, cwd=TESTS, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_every_level_gives_the_same_bits() -> None:
    levels = native.isa_levels()
    if len(levels) < 2:
        pytest.skip(f"this processor has one level, {levels}")
    runs = {level: started(level, level == "x86-64-v2") for level in levels}
    results = {}
    for level, run in runs.items():
        out, err = run.communicate(timeout=300)
        assert run.returncode == 0, f"{level}: {err[-2000:]}"
        first, *lines = out.splitlines()
        assert first == f"level {level}"
        results[level] = dict(line.rsplit(" ", 1) for line in lines)
    best = results[levels[0]]
    assert len(best) > 100
    for level, digests in results.items():
        different = [name for name in best if digests.get(name) != best[name]]
        assert not different and len(digests) == len(best), f"{level} differs from {levels[0]} in {different}"


@pytest.mark.parametrize("name", ["x86-64-v5", "avx512", "X86-64-V3", "neon;", "x" * 500, "x86-64-v2,x86-64-v3"])
def test_an_unknown_level_is_refused_in_a_sentence(name: str) -> None:
    code = "import splatlearn.ops.native as n\ntry: n.isa_level()\nexcept n.SplatlearnError as e: print(e)"
    environment = {**os.environ, "SPLATLEARN_ISA": name, "PYTHONPATH": str(TESTS.parent)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    said = done.stdout.strip()
    assert "SPLATLEARN_ISA" in said and name[:40] in said and len(said) < 300, done.stderr[-500:] or said
    assert all(level in said for level in native.isa_levels())


def test_reproducible_is_refused_where_a_library_has_bits_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Portable:
        @staticmethod
        def splatlearn_set_reproducible(wanted: int) -> int:
            return not wanted

    monkeypatch.setattr(native, "_load", lambda path: Portable)
    with pytest.raises(SplatlearnError, match="reproducible"):
        native.set_reproducible(True)


def test_a_scene_is_learned_with_the_same_bits_on_every_level(tmp_path: Path) -> None:
    """The whole step: native stages, densification, exposures, and PyTorch's own operations between them."""
    if not {"x86-64-v3", "x86-64-v4"} <= set(native.isa_levels()):
        pytest.skip("this processor has no AVX-512")
    tiny_scene.write(tmp_path / "scene")
    config = tmp_path / "scene.yaml"
    densify = "densify: {start: 5, every: 5, stop: 0.9, gradient: 1e-6}"
    config.write_text(f"task: scene\nsteps: 30\nexposure: true\nreproducible: true\n{densify}\n")
    runs = {}
    for level, capability in (("x86-64-v2", "avx2"), ("x86-64-v3", "avx2"), ("x86-64-v4", "avx512")):
        command = [sys.executable, "-m", "splatlearn", "train", str(config), "--data.path", str(tmp_path / "scene")]
        environment = {**os.environ, "SPLATLEARN_ISA": level, "ATEN_CPU_CAPABILITY": capability}
        environment["PYTHONPATH"] = os.pathsep.join([str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
        out = tmp_path / level
        runs[level] = subprocess.Popen(
            [*command, "--out", str(out)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    for level, run in runs.items():
        _, err = run.communicate(timeout=300)
        assert run.returncode == 0, err[-1000:]
        versions = json.loads((tmp_path / level / "versions.json").read_text())
        assert versions["instruction set"] == level
    learned = [(tmp_path / level / "point_cloud.ply").read_bytes() for level in runs]
    assert learned[0] == learned[1] == learned[2]
    assert b"element vertex 60\n" not in learned[0], "the number of Gaussians must have changed"
