"""Files of a run that are cut, flipped or full of nonsense: the report and the comparison open all the same."""

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_report import Page, scene_run, with_views

from splatlearn.errors import SplatlearnError
from splatlearn.show.report import write_report
from splatlearn.show.report.compare import write_comparison

NONSENSE: list[Any] = [None, True, -1, 0, 1e308, 10**400, float("nan"), "x", "\ud800", [], {}, [[]], ["a"], {"a": 1}]
ROUNDS = 60


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs with every file that a report reads."""
    found = []
    for name in ("one", "two"):
        run = with_views(scene_run(tmp_path_factory.mktemp(name)), 2, (12, 16))
        (run / "eval" / "samples.jsonl").write_text('{"text": "a", "prompt": "b", "step": 3}\n')
        (run / "eval" / "points.csv").write_text("x,y\n1,2\n3,4\n")
        (run / "eval" / "history.jsonl").write_text('{"step": 3, "psnr": 3.0}\n{"step": 5, "psnr": 4.0}\n')
        found.append(run)
    return found[0], found[1]


def mutated(tree: Any, source: random.Random) -> Any:
    """A copy of what JSON holds, with parts of it replaced or gone."""
    if source.random() < 0.15:
        return source.choice(NONSENSE)
    if isinstance(tree, dict):
        return {key: mutated(value, source) for key, value in tree.items() if source.random() > 0.05}
    return [mutated(value, source) for value in tree[:20]] if isinstance(tree, list) else tree


def damaged(name: str, content: bytes, source: random.Random) -> bytes:
    """The content of a file after some accident."""
    accident = source.random()
    if accident < 0.2:
        return content[: source.randrange(len(content))]
    if accident < 0.4 or name.endswith(".csv"):
        flipped = bytearray(content)
        for _ in range(source.randint(1, 8)):
            flipped[source.randrange(len(flipped))] = source.randrange(256)
        return bytes(flipped)
    if name.endswith(".jsonl"):
        rows = [json.loads(line) for line in content.decode().splitlines() if line.endswith("}")]
        return "\n".join(json.dumps(mutated(row, source)) for row in rows).encode()
    tree = yaml.safe_load(content) if name.endswith(".yaml") else json.loads(content)
    return json.dumps(mutated(tree, source)).encode()


def test_whatever_the_files_hold_the_pages_open(runs: tuple[Path, Path], tmp_path: Path) -> None:
    run, other = runs
    whole = {path: path.read_bytes() for path in run.rglob("*") if path.suffix in (".json", ".jsonl", ".yaml", ".csv")}
    assert len(whole) >= 8, "the files were not found"
    for seed in range(ROUNDS):
        source = random.Random(seed)
        path = source.choice(sorted(whole))
        path.write_bytes(damaged(path.name, whole[path], source))
        try:
            page = Page(write_report(run))
            assert "fox run" in page.text, f"seed {seed}: {path.name} costs the page"
            for pair in ((run, other), (other, run)):
                write_comparison(*pair, tmp_path / "page.html")
        except SplatlearnError as error:  # of a run that holds nothing any more
            assert "nothing to compare" in str(error), f"seed {seed}, {path.name}: {error}"
        finally:
            path.write_bytes(whole[path])


def test_a_name_that_is_no_text(runs: tuple[Path, Path], tmp_path: Path) -> None:
    run = tmp_path / os.fsdecode(b"r\xffn")
    try:
        shutil.copytree(runs[0], run)
    except OSError:
        pytest.skip("this disk takes no such name")
    assert write_report(run).stat().st_size > 10_000, "a folder's name costs the page"
    assert write_comparison(run, runs[1], tmp_path / "page.html").stat().st_size > 10_000
