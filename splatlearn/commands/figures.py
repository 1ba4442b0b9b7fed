"""splatlearn figures: every figure of the story, computed here and now, as SVG, PDF and PNG, and as MP4 and GIF."""

import tempfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from splatlearn import config
from splatlearn.commands import check_gradients
from splatlearn.commands.arguments import Parser
from splatlearn.errors import SplatlearnError
from splatlearn.run import config_of, open_run, task_class

if TYPE_CHECKING:
    from splatlearn.landscape import Landscape
    from splatlearn.show.figures.trained import SceneRun, TextRun
    from splatlearn.text.batches import Batch
    from splatlearn.text.task import TextTask

FRAMES = 24
READ, LETTERS = 9, 28  # the held-out window, and how much of it, that the Transformer is watched reading


def run(words: list[str]) -> None:
    parser = Parser("figures", __doc__)
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder to write (default: figures)")
    parser.add_argument(
        "--run",
        type=Path,
        help="run folder of a scene, to train on its photographs for g, h and k (default: a sculpture), or of a text, "
        "to draw its Transformer in i (default: a small one)",
    )
    parser.add_argument("--only", help="letters of the figures to make, such as a,c,h (default: all)")
    parser.add_argument("--still", action="store_true", help="no animations")
    parser.add_argument("--html", action="store_true", help="write the interactive page, OUT/story.html, instead")
    arguments = parser.parse_args(words)
    if arguments.html:
        print(f"wrote {write_page(arguments.out / 'story.html', Story(arguments.run))}")
        return
    letters = arguments.only.split(",") if arguments.only else list(FIGURES)
    for letter in letters:
        if letter not in FIGURES:
            raise SplatlearnError(f"--only must name figures out of {', '.join(FIGURES)}, got {letter!r}")
    paths = make(arguments.out, letters, Story(arguments.run), animations=not arguments.still)
    print(f"wrote {len(paths)} files to {arguments.out}")


class Story:
    """What the figures are drawn from, each part computed when a figure first needs it."""

    def __init__(self, run: Path | None = None) -> None:
        self.run = run
        self.kind: type = type(None) if run is None else task_class(config_of(run))

    @cached_property
    def line(self) -> tuple[Any, Any]:
        """The shipped line, trained, and its path."""
        from splatlearn.line.landscape import NeuronPath
        from splatlearn.line.task import LineTask
        from splatlearn.loop import fit

        task, path = LineTask(LineTask.Config(device="cpu")), NeuronPath()
        fit(task, task.config.steps, callbacks=[path], progress=False)
        return task, path

    @cached_property
    def planar(self) -> tuple[torch.Tensor, Any]:
        """A picture, and the Gaussians that learned it."""
        from splatlearn.show import planar

        target = planar.picture(48)
        return target, planar.fit(target, count=200, steps=240, keep=FRAMES)

    @cached_property
    def scene(self) -> "SceneRun":
        """A short training on the run's photographs, or on the sculpture."""
        from splatlearn.scene.readers.colmap import ColmapScene
        from splatlearn.scene.training.task import SceneTask
        from splatlearn.show import sculpture
        from splatlearn.show.figures import trained
        from splatlearn.text.task import TextTask

        if self.run is not None and not issubclass(self.kind, TextTask):
            if not issubclass(self.kind, SceneTask):
                raise SplatlearnError(f"{self.run} is not the run of a scene: figures g and h need one")
            data = config.load(self.kind.Config, config_of(self.run)).data
            return trained.train(data, steps=400, frames=FRAMES, init="sfm")
        with tempfile.TemporaryDirectory() as folder:
            sculpture.write_folder(Path(folder))
            return trained.train(ColmapScene.Config(path=folder), steps=300, frames=FRAMES)

    @cached_property
    def text(self) -> "TextRun":
        """A small Transformer after a short training on Python's documentation."""
        from splatlearn.show.figures import trained

        return trained.train_text()

    @cached_property
    def reader(self) -> tuple["TextTask", "Batch", int]:
        """A trained Transformer's task, held-out rows for it to read, and its steps: of the run, or of `text`."""
        from splatlearn.text.task import TextTask

        if self.run is None or not issubclass(self.kind, TextTask):
            return self.text.task, self.text.batch, len(self.text.losses)
        task, step = open_run(self.run)
        batch = next(iter(task.test.all(16, 16 * task.config.model.context)))
        return task, batch.to(task.device), step

    @cached_property
    def chains(self) -> dict[str, Any]:
        """The chain of each learner that is here."""
        return {name: check_gradients.check(name) for name in check_gradients.TASKS}


def make(out: Path, letters: list[str], story: Story, animations: bool = True) -> list[Path]:
    """Writes the figures of these letters, and their animations, into `out`."""
    paths = []
    for letter in tqdm(letters, desc="figures", unit="figure"):
        paths += FIGURES[letter](out, story, animations)
    return paths


def write_page(path: Path, story: Story) -> Path:
    """The interactive page, with the figures that it shows made for it."""
    from splatlearn.show.story import SHOWN, write_story

    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), sorted({name[0] for name in SHOWN}), story, animations=False)
        pictures = {name: (Path(folder) / f"{name}.png").read_bytes() for name in SHOWN}
    task, _ = story.line
    return write_story(path, (task.points.x, task.points.y), pictures, story.text.writings)


# ---- one function a letter ----


def _line(out: Path, story: Story, animations: bool) -> list[Path]:
    from splatlearn.show.figures import style
    from splatlearn.show.figures.bowl import steps_shown
    from splatlearn.show.figures.line import line_figure

    task, path = story.line
    last = len(path.points) - 1

    def draw(step: int) -> Any:
        return line_figure(task.points.x, task.points.y, path.points, step, task.bowl.minimum)

    paths = style.write(draw(last), out, "a_line")
    return paths + (style.animate(map(draw, steps_shown(last, 2 * FRAMES)), out, "a_line") if animations else [])


def _loss(out: Path, story: Story, _animations: bool) -> list[Path]:
    from splatlearn.show.figures import style
    from splatlearn.show.figures.loss import loss_figure

    task, path = story.line
    return style.write(loss_figure(path.losses, task.bowl.floor), out, "b_loss")


def _bowl(out: Path, story: Story, animations: bool) -> list[Path]:
    from splatlearn.show.figures import style
    from splatlearn.show.figures.bowl import bowl_figure, steps_shown

    task, path = story.line
    paths = style.write(bowl_figure(task.bowl, path.points), out, "c_bowl")
    figures = (bowl_figure(task.bowl, path.points, step) for step in steps_shown(len(path.points) - 1, FRAMES))
    return paths + (style.animate(figures, out, "c_bowl") if animations else [])


def _hard(out: Path, _story: Story, animations: bool) -> list[Path]:
    from splatlearn.show.figures import basins, style
    from splatlearn.show.figures.bowl import steps_shown
    from splatlearn.show.figures.hard import hard_figure

    paths = style.write(hard_figure(), out, "d_hard")
    paths += style.write(basins.basins_figure(basins.measure()), out, "d_basins")
    figures = (hard_figure(step=step) for step in steps_shown(300, FRAMES))
    return paths + (style.animate(figures, out, "d_hard") if animations else [])


def _gaussian(out: Path, _story: Story, _animations: bool) -> list[Path]:
    from splatlearn.show.figures import style
    from splatlearn.show.figures.gaussian import gaussian_figure

    return style.write(gaussian_figure(), out, "e_gaussian")


def _covariance(out: Path, _story: Story, _animations: bool) -> list[Path]:
    from splatlearn.show.figures import style
    from splatlearn.show.figures.covariance import covariance_figure

    return style.write(covariance_figure(), out, "f_covariance")


def _emerging(out: Path, story: Story, animations: bool) -> list[Path]:
    from splatlearn.show.figures import style
    from splatlearn.show.figures.fitting import fitting_figure
    from splatlearn.show.figures.timelapse import timelapse_figure, timelapse_frame

    (target, fit), scene = story.planar, story.scene
    paths = style.write(fitting_figure(target, fit), out, "g_picture")
    paths += style.write(timelapse_figure(scene.pictures, scene.steps, scene.photo), out, "g_scene")
    if not animations:
        return paths
    paths += style.animate((fitting_figure(target, fit, kept) for kept in range(len(fit.rows))), out, "g_picture", 8)
    moments = zip(scene.pictures, scene.steps, strict=True)
    frames = (timelapse_frame(picture, step, scene.losses, scene.photo) for picture, step in moments)
    return paths + style.animate(frames, out, "g_scene", 8)


def _pipeline(out: Path, story: Story, _animations: bool) -> list[Path]:
    from splatlearn.scene.gaussians import Gaussians
    from splatlearn.show.figures import style
    from splatlearn.show.figures.pipeline import pipeline_figure

    run = story.scene
    midway = Gaussians(run.snapshots[len(run.snapshots) // 2])
    return style.write(pipeline_figure(midway, run.camera, run.photo, run.task.scene.points), out, "h_pipeline")


def _transformer(out: Path, story: Story, _animations: bool) -> list[Path]:
    from splatlearn.show.figures import style
    from splatlearn.show.figures.attention import attention_figure
    from splatlearn.show.figures.modules import blocks_of, modules_figure
    from splatlearn.text import attention_maps

    task, batch, steps = story.reader
    model, known = task.model.eval(), task.tokenizer.vocabulary
    blocks = blocks_of(model, lambda: model(batch.tokens, source=batch.source, source_mask=batch.source_mask))
    paths = style.write(modules_figure(blocks, "The Transformer, block by block"), out, "i_modules")
    row = min(READ, len(batch.tokens) - 1)
    read, source = batch.tokens[row, :LETTERS], None
    if batch.source is not None and batch.source_mask is not None:
        read, source = read[batch.targets[row, :LETTERS] >= 0], batch.source[row][batch.source_mask[row]][None]
    maps = [weights[0] for weights in attention_maps(model, read[None], source=source)]
    letters = [task.tokenizer.decode([token]) if token < known else "·" for token in read.tolist()]
    title = f"Attention after {steps:,} steps, reading held-out text"
    return paths + style.write(attention_figure(maps, letters, title), out, "i_attention")


def _chain(out: Path, story: Story, _animations: bool) -> list[Path]:
    from splatlearn.show.figures import style
    from splatlearn.show.figures.chain import chain_figure

    return style.write(chain_figure(story.chains), out, "j_chain")


def _slices(out: Path, story: Story, _animations: bool) -> list[Path]:
    from splatlearn.show.figures import style
    from splatlearn.show.figures.slices import slices_figure

    paths = style.write(slices_figure(_line_slices(story), "Slices of a neuron's landscape"), out, "k_slices_line")
    paths += style.write(slices_figure(_scene_slices(story), "Slices of a scene's landscape"), out, "k_slices_scene")
    return paths + style.write(
        slices_figure(_text_slices(story), "Slices of a Transformer's landscape"), out, "k_slices_text"
    )


def _line_slices(story: Story) -> "list[Landscape]":
    from splatlearn.landscape import landscape

    task, path = story.line
    walked = path.points[::15].float()
    snapshots = [{"weight": point[:1].reshape(1, 1), "bias": point[1:]} for point in walked]

    def loss(model: torch.nn.Module, batch: Any) -> torch.Tensor:
        return torch.nn.functional.mse_loss(model(batch.x), batch.y)

    return _three(
        lambda **given: landscape(task.neuron, loss, task.points, trajectory=snapshots, size=31, **given), 8.0
    )


def _scene_slices(story: Story) -> "list[Landscape]":
    from splatlearn.landscape import landscape
    from splatlearn.ops.photometric import photometric_loss

    run = story.scene

    def loss(model: torch.nn.Module, photo: torch.Tensor) -> torch.Tensor:
        return photometric_loss(model(run.camera).image, photo)

    snapshots = [dict(snapshot) for snapshot in run.snapshots[4:]]  # the first ones, all noise, would fill the plane
    return _three(
        lambda **given: landscape(run.task.gaussians, loss, run.photo, trajectory=snapshots, size=19, **given), None
    )


def _text_slices(story: Story) -> "list[Landscape]":
    from splatlearn.landscape import landscape
    from splatlearn.text.evaluation import cross_entropy

    run = story.text

    def loss(model: torch.nn.Module, batch: Any) -> torch.Tensor:
        return cross_entropy(model(batch.tokens), batch.targets) / batch.targets.numel()

    snapshots = run.snapshots[1:]  # the first one, before any step, would fill the plane
    return _three(
        lambda **given: landscape(run.task.model, loss, run.batch, trajectory=snapshots, size=19, **given), None
    )


def _three(make_one: Callable[..., Any], span: float | None) -> "list[Landscape]":
    """Of one model the slices by random directions, by its own path, and by the Hessian."""
    seeded = torch.Generator().manual_seed(0)
    spans = {"random": None, "trajectory": None, "hessian": span}
    return [make_one(plane=kind, span=spans[kind], generator=seeded, progress=False) for kind in spans]


FIGURES: dict[str, Callable[[Path, Story, bool], list[Path]]] = {
    "a": _line,
    "b": _loss,
    "c": _bowl,
    "d": _hard,
    "e": _gaussian,
    "f": _covariance,
    "g": _emerging,
    "h": _pipeline,
    "i": _transformer,
    "j": _chain,
    "k": _slices,
}
