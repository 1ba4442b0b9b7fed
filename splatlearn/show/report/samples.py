"""What a language model writes: the samples of a text's run."""

import json
from typing import Any, NamedTuple

from splatlearn.show.report.run_folder import RunFolder

MOST_SAMPLES = 6
MAX_LENGTH = 3000  # characters shown of a sample


class Sample(NamedTuple):
    """A sample as the template shows it."""

    prompt: str
    text: str
    step: int | None


def samples_section(run: RunFolder) -> list[Sample]:
    """The last samples of eval/samples.jsonl, newest first."""
    return [_sample(row) for row in read_samples(run)]


def read_samples(run: RunFolder) -> list[dict[str, Any]]:
    """Rows with a "text", and possibly a "prompt" and a "step"; damaged lines are left out."""
    try:
        lines = (run.folder / "eval" / "samples.jsonl").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and isinstance(row.get("text"), str):
            rows.append(row)
    return rows[-MOST_SAMPLES:][::-1]


def _sample(row: dict[str, Any]) -> Sample:
    prompt, text, step = row.get("prompt"), row["text"], row.get("step")
    shown = text[:MAX_LENGTH] + (" …" if len(text) > MAX_LENGTH else "")
    return Sample(prompt if isinstance(prompt, str) else "", shown, step if isinstance(step, int) else None)
