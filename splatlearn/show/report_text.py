"""The language learner's own part of a report: what it writes by itself."""

import json
from typing import Any

from splatlearn.show.report_html import escaped
from splatlearn.show.run_folder import RunFolder

MOST_SAMPLES = 6
LONGEST = 3000  # characters shown of a sample

STYLE = """
.samples { display: grid; gap: 16px; grid-template-columns: repeat(auto-fill, minmax(min(100%, 420px), 1fr)); }
.sample { padding: 14px 20px; margin: 0; } .sample p { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere;
  font: 13.5px/1.6 ui-monospace, "DejaVu Sans Mono", monospace; max-height: 340px; overflow-y: auto; }
.sample p b { color: var(--accent); font-weight: 600; }
.sample figcaption { font-size: 12.5px; color: var(--soft); margin-top: 8px; }
"""


def samples_section(run: RunFolder) -> str:
    """The last samples of eval/samples.jsonl, newest first, prompts emphasised; "" where there are none to read."""
    figures = "".join(map(_figure, read_samples(run)))
    intro = "<h2>What it writes</h2><p>Sampled from the model; the emphasised words were given.</p>"
    return f'{intro}<div class="samples">{figures}</div>' if figures else ""


def read_samples(run: RunFolder) -> list[dict[str, Any]]:
    """Rows with a "text", perhaps with "prompt" and "step"; lines that are damaged are left out."""
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


def _figure(row: dict[str, Any]) -> str:
    prompt = row.get("prompt") if isinstance(row.get("prompt"), str) else ""
    text = row["text"]
    told = text[:LONGEST] + (" …" if len(text) > LONGEST else "")
    step = row.get("step")
    when = f"<figcaption>after step {step:,}</figcaption>" if isinstance(step, int) else ""
    return f'<figure class="card sample"><p tabindex="0"><b>{escaped(prompt)}</b>{escaped(told)}</p>{when}</figure>'
