"""splatlearn demo: the whole way on data of its own: photographs, their cameras, training, evaluation, a turntable."""

import shutil
import time
from pathlib import Path

from splatlearn import config as configs
from splatlearn import trainer
from splatlearn.commands import render
from splatlearn.commands.arguments import Parser
from splatlearn.errors import SplatlearnError
from splatlearn.run import open_run

STEPS = 2500


def run(words: list[str]) -> None:
    parser = Parser("demo", __doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("demo"), help="folder to write (default: demo); it must be new or empty"
    )
    parser.add_argument("--photos", type=int, default=40, help="photographs to make (default: 40)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"training steps (default: {STEPS})")
    parser.add_argument("--seed", type=int, default=0, help="seed of all that is random (default: 0)")
    arguments = parser.parse_args(words)
    demo(arguments.out, arguments.photos, arguments.steps, arguments.seed)


def demo(out: Path, photos: int, steps: int, seed: int) -> None:
    """Makes `out`/photos, `out`/colmap and the run folder `out`/run."""
    from splatlearn.demo.still_life import make_photographs
    from splatlearn.scene.reconstruct import Settings, reconstruct
    from splatlearn.scene.training.task import SceneTask

    if photos < 8 or steps < 1:
        raise SplatlearnError(
            f"a demo needs --photos of at least 8 and --steps of at least 1, got {photos} and {steps}"
        )
    if out.exists() and any(out.iterdir()):
        raise SplatlearnError(f"{out} exists already and is not empty: name another folder with --out")
    began = time.perf_counter()
    print(f"1/4  {photos} photographs of a still life, by ray casting through a distorted lens")
    make_photographs(out / "photos", count=photos, seed=seed)
    print("2/4  structure from motion: where was the camera?")
    summary = reconstruct(out / "photos", out / "colmap", Settings(seed=seed))
    print(f"     {summary.registered} of {summary.total} photographs placed, {summary.points:,} points")
    shutil.rmtree(out / "photos")  # the COLMAP folder holds them
    print("3/4  training: forward, loss, backward, update, repeat")
    run_folder = out / "run"
    settings = {"out": run_folder, "steps": steps, "seed": seed, "data.path": out / "colmap"}
    words = [word for name, value in (SMALLER | settings).items() for word in (f"--{name}", str(value))]
    result = trainer.train(SceneTask, configs.load(SceneTask.Config, configs.shipped("scene_fast.yaml"), words))
    print("4/4  a turntable")
    task, _ = open_run(run_folder)
    render.render(task, run_folder, "orbit", run_folder / "renders" / "orbit.mp4", render.Wish(frames=90))
    from splatlearn.show.report import write_report

    write_report(run_folder)
    print(_ending(out, result["psnr"], time.perf_counter() - began))


# What configs/scene_fast.yaml has for larger pictures.
SMALLER: dict[str, object] = {"coarse": [0.1], "densify.cap": 60000}


def _ending(out: Path, psnr: float, seconds: float) -> str:
    return f"""
done in {seconds:.0f} s: held-out PSNR {psnr:.2f} dB. It wrote
  {out}/run/report.html         curves, figures and pictures: open it in a browser
  {out}/run/renders/orbit.mp4   the turntable
  {out}/run/point_cloud.ply     the Gaussians, for any splat viewer
  {out}/run/eval/               photographs and renders of held-out views
  {out}/colmap/                 the photographs and their cameras
try next
  splatlearn train configs/scene.yaml --data.path MY_COLMAP_FOLDER --out runs/mine
  splatlearn render {out}/run --path interpolate --out flight.gif
  splatlearn train configs/line.yaml"""
