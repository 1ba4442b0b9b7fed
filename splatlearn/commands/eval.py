"""splatlearn eval: measures a run, and writes figures and pictures into its eval folder."""

import json
from pathlib import Path
from typing import Any

from splatlearn import run as runs
from splatlearn.commands.arguments import Parser
from splatlearn.commands.opened import open_run, picture_name
from splatlearn.errors import SplatlearnError
from splatlearn.files import replacing


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
    if hasattr(task, "points"):
        _write_points(folder, task.points)
    if hasattr(task, "sample"):
        add_line(folder / "eval" / "samples.jsonl", task.sample(step))
    _write_json(folder / "eval" / "metrics.json", result)
    write_report(folder)
    return result


def _scene(task: Any, folder: Path, lpips: bool) -> dict[str, Any]:
    """The figures; photograph and render of every view, and where the cameras are, go into the eval folder."""
    from splatlearn.scene.evaluate import evaluate
    from splatlearn.show.pictures import save_png
    from splatlearn.show.report_space import space_record

    kept = set()

    def keep(camera: Any, render: Any, photo: Any) -> None:
        name = picture_name(camera.name)
        kept.add(name)
        save_png(folder / "eval" / "photos" / name, photo)
        save_png(folder / "eval" / "renders" / name, render)

    result = evaluate(task, lpips=lpips, progress=True, each=keep)
    for view in result["views"]:
        view["picture"] = picture_name(view["name"])
    for old in (folder / "eval").glob("*/*.png"):  # of views that were held out then, and are not now
        if old.parent.name in ("photos", "renders") and old.name not in kept:
            old.unlink()
    scene = task.scene
    record = space_record(scene.train, scene.test, scene.points, scene.point_colors)
    _write_json(folder / "eval" / "space.json", record, indent=None)
    return result


def _write_points(folder: Path, points: Any) -> None:
    """The line's points, for the report and for whoever wants to draw them."""
    rows = zip(points.x.flatten().tolist(), points.y.flatten().tolist(), strict=True)
    with replacing(folder / "eval" / "points.csv") as path:
        path.write_text("x,y\n" + "".join(f"{x:.9g},{y:.9g}\n" for x, y in rows))


def write_versions(folder: Path) -> None:
    """Writes versions.json: what a run was made with."""
    import platform

    import numpy
    import torch

    import splatlearn

    cuda = torch.cuda.is_available()
    _write_json(
        folder / "versions.json",
        {
            "splatlearn": splatlearn.__version__,
            "torch": torch.__version__,
            "numpy": numpy.__version__,
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}",
            "threads": torch.get_num_threads(),
            "graphics card": torch.cuda.get_device_name() if cuda else None,
            "CUDA of torch": torch.version.cuda if cuda else None,
        },
    )


def add_line(path: Path, row: dict[str, Any]) -> None:
    """Adds a line of a step; those of later steps, of a run that stopped after its last checkpoint, go."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    kept = [line for line in lines if json.loads(line)["step"] < row["step"]]
    with replacing(path) as temporary:
        temporary.write_text("\n".join([*kept, json.dumps(row)]) + "\n", encoding="utf-8")


def _write_json(path: Path, content: dict[str, Any], indent: int | None = 1) -> None:
    try:
        text = json.dumps(content, indent=indent, allow_nan=False)
    except ValueError:
        raise SplatlearnError(f"{path} is not written: a figure of it is not finite") from None
    with replacing(path) as temporary:
        temporary.write_text(text + "\n")


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
