"""splatlearn eval: measures a run, and writes figures and pictures into its eval folder."""

import json
from pathlib import Path
from typing import Any

from splatlearn import run as runs
from splatlearn.commands.arguments import Parser
from splatlearn.commands.opened import open_run, picture_name
from splatlearn.files import replacing

PICTURES = 8  # side-by-side pictures that are kept


def run(words: list[str]) -> None:
    parser = Parser("eval", __doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder")
    parser.add_argument("--lpips", action="store_true", help="also LPIPS (needs splatlearn[lpips] and weights)")
    arguments = parser.parse_args(words)
    task, step = open_run(arguments.run)
    print(sentence(evaluate_run(task, arguments.run, step, lpips=arguments.lpips)))


def evaluate_run(task: Any, folder: Path, step: int, *, lpips: bool = False) -> dict[str, Any]:
    """Evaluates a task; writes eval/metrics.json, pictures and report.html into its run folder; returns the figures."""
    from splatlearn.show.report import write_report

    result = _scene(task, folder, lpips) if hasattr(task, "gaussians") else task.evaluate()
    lines = runs.read_metrics(folder / "metrics.jsonl")
    result |= {"steps": step, "train_seconds": lines[-1]["seconds"] if lines else 0.0}
    with replacing(folder / "eval" / "metrics.json") as path:
        path.write_text(json.dumps(result, indent=1) + "\n")
    write_report(folder)
    return result


def _scene(task: Any, folder: Path, lpips: bool) -> dict[str, Any]:
    from splatlearn.scene.evaluate import evaluate
    from splatlearn.show.pictures import save_png, side_by_side

    cameras = task.scene.test or task.scene.train
    kept = {camera.name for camera in cameras[:: max(1, -(-len(cameras) // PICTURES))]}
    for old in (folder / "eval").glob("*.png"):
        old.unlink()

    def picture(camera: Any, render: Any, photo: Any) -> None:
        if camera.name in kept:
            save_png(folder / "eval" / picture_name(camera.name), side_by_side(photo, render))

    return evaluate(task, lpips=lpips, progress=True, each=picture)


def sentence(result: dict[str, Any]) -> str:
    """The figures in words."""
    if "psnr" not in result:
        return ", ".join(f"{name} {value:.4g}" for name, value in result.items())
    kind = "held-out" if result["split"] == "test" else "training"
    width, height = result["resolution"]
    return (
        f"{kind} PSNR {result['psnr']:.2f} dB, SSIM {result['ssim']:.3f} on {len(result['views'])} photographs at "
        f"{width}x{height}; {result['num_gaussians']:,} Gaussians, {result['steps']:,} steps, "
        f"{result['train_seconds']:.0f} s"
    )
