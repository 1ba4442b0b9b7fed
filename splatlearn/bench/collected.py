"""The JSON files that `scripts/on_gpu.sh` leaves, put together: the table of goals, and a section for docs/LOG.md."""

import json
from pathlib import Path
from typing import Any

from splatlearn.bench import goals
from splatlearn.errors import SplatlearnError
from splatlearn.files import replacing

SUMMARY = "on_gpu.json"


def collect(folder: Path) -> dict[str, Any]:
    """Writes goals.json, goals.md (for the README) and log.md (for docs/LOG.md) into `folder`; what they tell.

    Raises:
        SplatlearnError: the folder is missing, holds no figures, or a file that is no JSON.
    """
    if not folder.is_dir():
        raise SplatlearnError(f"--collect must name a folder of results, got {str(folder)!r}")
    parts = {
        path.stem: _read(path) for path in sorted(folder.glob("*.json")) if path.name not in (SUMMARY, "goals.json")
    }
    if not parts:
        raise SplatlearnError(f"{folder} holds no results of scripts/on_gpu.sh, such as bench_fox.json")
    figures = _figures(parts)
    found = goals.rows(figures)
    told: dict[str, Any] = {
        "goals": [row._asdict() for row in found],
        "card": _text(folder / "card.txt"),
        "figures": figures,
        "others": {name: part for name, part in parts.items() if part not in figures.values()},
    }
    text = goals.table(found)
    for name, content in (
        ("goals.json", json.dumps(told, indent=1) + "\n"),
        ("goals.md", text + "\n"),
        ("log.md", _section(folder, text, parts)),
    ):
        with replacing(folder / name) as path:
            path.write_text(content)
    return told


def _figures(parts: dict[str, Any]) -> dict[str, Any]:
    """The parts under the names of `goals`; of several benchmarks of one kind, one with photographs or replays wins."""
    figures = {name: part for name, part in parts.items() if name.startswith(("train_", "reference_", "scaling"))}
    for name in sorted(parts, key=lambda name: ("fox" in name, "replay" in name)):
        kind = goals.kind_of(parts[name])
        if name.startswith("bench_") and kind:
            figures[kind] = figures.get(kind, {}) | parts[name]
    return figures


def _section(folder: Path, text: str, parts: dict[str, Any]) -> str:
    """What docs/LOG.md needs: date, card, command, the table, each stage, and what failed."""
    summary = _read(folder / SUMMARY) if (folder / SUMMARY).is_file() else {}
    lines = [f"### On a card, {summary.get('date', 'no date')}", "", f"{_text(folder / 'card.txt')}.", ""]
    lines += ["`bash scripts/on_gpu.sh`, medians, each ratio from one process:", "", text, ""]
    for name, part in parts.items():
        stages = part.get("stages_ms")
        if stages:
            shares = {stage: part["stages"].get(stage, {}).get("roofline") for stage in stages}
            told = ", ".join(
                f"{stage} {ms:.3f} ms" + (f" ({shares[stage]:.0%} of its roofline)" if shares[stage] else "")
                for stage, ms in stages.items()
            )
            lines.append(f"- {name}: {told}.")
        if "psnr" in part:
            seconds = part.get("wall_seconds", part.get("train_seconds", 0.0))
            lines.append(f"- {name}: {part['psnr']:.2f} dB after {part['steps']:,} steps, {seconds:.1f} s.")
        if "same_bits" in part:
            told = "the same bits" if part["same_bits"] else "OTHER BITS"
            lines.append(
                f"- {name}: {told}; {part['plain_seconds']:.1f} s without, {part['replayed_seconds']:.1f} s with."
            )
    if summary.get("failed"):
        lines.append(f"- Failed: {', '.join(summary['failed'])}; see their logs.")
    return "\n".join(lines) + "\n"


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise SplatlearnError(f"{path} is no JSON: {error}") from None


def _text(path: Path) -> str:
    return path.read_text().strip() if path.is_file() else "an unknown machine"
