"""What a run folder holds, read with patience: the report must open for a run that a crash cut short, too.

A file that is missing or damaged is left out; nothing here raises for what it finds.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from splatlearn import notices

VIDEO_TYPES = {".mp4": "video/mp4", ".gif": "image/gif"}
HISTORY = ("psnr", "ssim", "lpips", "loss", "bits_per_byte")  # what is charted of evaluations while training
LARGEST = 1e100  # of a number; JSON's may have any size, and squares of it must still be numbers
FIRST_VIDEOS = ("orbit", "turntable")  # the best to begin with


class Pair(NamedTuple):
    """A photograph and the render from its place, as PNG files of one name."""

    name: str
    photo: Path
    render: Path


@dataclass
class RunFolder:
    """The readable part of a run folder.

    config_text, config: config.yaml as it is, and parsed ({} if that fails).
    curves: the finite numbers of metrics.jsonl by key, as (step, value), ascending; those of the evaluations made
        while training (eval/history.jsonl) as test_psnr, test_ssim, test_loss ...
    metrics, versions: eval/metrics.json, versions.json.
    space: eval/space.json, where the photographs were taken, and points of the scene.
    pairs: eval/photos/*.png that have a render of their name in eval/renders.
    warnings: the sentences of warnings.jsonl, in order.
    views, videos: eval/*.png by name; *.mp4 and *.gif anywhere in the folder, the one to show first in front.
    """

    folder: Path
    config_text: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    space: dict[str, Any] = field(default_factory=dict)
    pairs: list[Pair] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    views: list[Path] = field(default_factory=list)
    videos: list[Path] = field(default_factory=list)

    @property
    def task(self) -> str:
        """line, scene, text, or "" if no file names it."""
        told = self.config.get("task")
        return told if isinstance(told, str) else ("scene" if "psnr" in self.metrics else "")

    def view_scores(self) -> tuple[list[str], list[dict[str, Any]]]:
        """Columns of numbers, and a row with a "name" for each view, where the metrics hold such a table."""
        for value in self.metrics.values():
            rows: list[dict[str, Any]] = []
            if isinstance(value, dict) and all(isinstance(row, dict) for row in value.values()):
                rows = [{**row, "name": str(name)} for name, row in value.items()]
            elif isinstance(value, list) and all(isinstance(row, dict) for row in value):
                rows = [{**row, "name": str(row.get("name", row.get("image", i)))} for i, row in enumerate(value)]
            if rows:
                return [key for key in rows[0] if is_number(rows[0][key])], rows
        return [], []


def read_run(folder: Path) -> RunFolder:
    """Read what there is."""
    import yaml

    run = RunFolder(folder, config_text=_text(folder / "config.yaml"))
    try:
        config = yaml.safe_load(run.config_text)
    except (yaml.YAMLError, ValueError, RecursionError):
        config = None
    run.config = config if isinstance(config, dict) else {}
    run.metrics = _mapping(folder / "eval" / "metrics.json")
    run.versions = _mapping(folder / "versions.json")
    run.space = _mapping(folder / "eval" / "space.json")
    run.curves = read_curves(_text(folder / "metrics.jsonl")) | _history(folder)
    run.pairs = _pairs(folder / "eval")
    run.warnings = notices.read(folder)
    run.views = _pictures(folder / "eval")
    run.videos = _videos(folder)
    return run


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether the value is a number that a chart can show: finite and of sane size (JSON's true and false are none)."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -LARGEST < value < LARGEST


def read_curves(text: str) -> dict[str, list[tuple[float, float]]]:
    """By key; of a step that is there twice the later line counts."""
    lines: dict[int, dict[str, Any]] = {}
    for line in text.splitlines():
        row = _parsed(line)
        if isinstance(row, dict) and is_number(step := row.get("step")) and isinstance(step, int):
            lines[step] = row
    curves: dict[str, list[tuple[float, float]]] = {}
    for step in sorted(lines):
        for key, value in lines[step].items():
            if is_number(value):
                curves.setdefault(key, []).append((step, float(value)))
    return curves


def _history(folder: Path) -> dict[str, list[tuple[float, float]]]:
    """The curves of the evaluations made while training, under names of their own."""
    found = read_curves(_text(folder / "eval" / "history.jsonl"))
    return {f"test_{key}": points for key, points in found.items() if key in HISTORY}


def _pairs(folder: Path) -> list[Pair]:
    photos = {path.name: path for path in _pictures(folder / "photos")}
    renders = _pictures(folder / "renders")
    return [Pair(path.stem, photos[path.name], path) for path in renders if path.name in photos]


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.png") if not path.name.startswith("."))


def _videos(folder: Path) -> list[Path]:
    """All videos; a GIF beside an MP4 of the same name is the same one again."""
    found = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in VIDEO_TYPES]
    found = [path for path in found if path.is_file() and not path.name.startswith(".")]
    films = {path.with_suffix("") for path in found if path.suffix.lower() == ".mp4"}
    once = [path for path in found if path.suffix.lower() == ".mp4" or path.with_suffix("") not in films]
    return sorted(once, key=lambda path: (not path.name.startswith(FIRST_VIDEOS), str(path)))


def _mapping(path: Path) -> dict[str, Any]:
    """A JSON object in a file; {} where there is none."""
    found = _parsed(_text(path))
    return found if isinstance(found, dict) else {}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
