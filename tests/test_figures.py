"""The figures: each shows what it was given, files come in all formats, and the planar learner's derivatives hold."""

import math
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from splatlearn.cli import main
from splatlearn.commands import figures as command
from splatlearn.landscape import landscape
from splatlearn.line import LineTask, hard
from splatlearn.line.landscape import NeuronPath
from splatlearn.loop import fit
from splatlearn.scene.gaussians import Gaussians
from splatlearn.scene.readers.colmap import ColmapScene
from splatlearn.show import planar, sculpture
from splatlearn.show.figures import style, trained
from splatlearn.show.figures.attention import attention_figure
from splatlearn.show.figures.basins import basins_figure, measure
from splatlearn.show.figures.bowl import bowl_figure, steps_shown
from splatlearn.show.figures.chain import chain_figure, links_shown
from splatlearn.show.figures.covariance import covariance_matrix
from splatlearn.show.figures.fitting import fitting_figure
from splatlearn.show.figures.hard import START, hard_figure
from splatlearn.show.figures.line import line_figure
from splatlearn.show.figures.modules import MOST, blocks_of, folded, modules_figure
from splatlearn.show.figures.pipeline import pipeline_figure
from splatlearn.show.figures.slices import slices_figure
from splatlearn.show.figures.timelapse import timelapse_figure, timelapse_frame
from splatlearn.text import Transformer, attention_maps


def texts(figure: object) -> str:
    """All that is written in a figure."""
    from matplotlib.text import Text

    return " | ".join(text.get_text() for text in figure.findobj(Text))  # type: ignore[attr-defined]


def drawn(figure: object) -> np.ndarray:
    picture = style.pixels(figure, dpi=50)  # type: ignore[arg-type]
    assert picture.std() > 5, "the figure is blank"
    return picture


@pytest.fixture(scope="module")
def line() -> tuple[LineTask, NeuronPath]:
    task, path = LineTask(LineTask.Config(device="cpu", steps=225)), NeuronPath()
    fit(task, 225, callbacks=[path], progress=False)
    return task, path


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> trained.SceneRun:
    folder = sculpture.write_folder(tmp_path_factory.mktemp("sculpture"), count=6)
    return trained.train(ColmapScene.Config(path=str(folder)), steps=40, frames=8, progress=False)


@pytest.fixture(scope="module")
def text() -> trained.TextRun:
    return trained.train_text(steps=40, every=5, progress=False)


def test_the_line_is_drawn_where_it_is(line: tuple[LineTask, NeuronPath]) -> None:
    task, path = line
    figure = line_figure(task.points.x, task.points.y, path.points, 225, task.bowl.minimum)
    assert "step 225: y =  1.949 x + 1.178" in texts(figure), "weight and bias are not told"
    early = line_figure(task.points.x, task.points.y, path.points, 0, task.bowl.minimum)
    assert "step 0: y = -1.000 x + 8.000" in texts(early), "the first guess is not told"
    assert np.abs(drawn(figure).astype(float) - drawn(early)).mean() > 1, "the line does not move"


def test_the_bowls_walk_grows(line: tuple[LineTask, NeuronPath]) -> None:
    task, path = line
    assert "first guess" in texts(bowl_figure(task.bowl, path.points, 10)) and steps_shown(225, 24)[0] == 0
    assert steps_shown(225, 24)[-1] == 225, "the animation does not end at the last step"
    assert not np.array_equal(
        drawn(bowl_figure(task.bowl, path.points, 10)), drawn(bowl_figure(task.bowl, path.points))
    )


def test_trapped_and_escaping_are_told_as_measured() -> None:
    told = texts(hard_figure())
    begin = torch.tensor([START], dtype=torch.float64)
    reached = [
        int(hard.ends(walk, begin)[0]) == 0 for walk in hard.WALKS if walk.name not in ("Nesterov", "large steps")
    ]
    assert told.count("escapes") == sum(reached) >= 2 and told.count("trapped") == len(reached) - sum(reached) >= 1
    labels = measure(8)
    told = texts(basins_figure(labels))
    for name, ends in labels.items():
        assert name in told and f"{hard.success(ends):.0%}" in told, f"the share of {name} is not told"


def test_a_covariance_has_its_axes() -> None:
    matrix = covariance_matrix(2.0, 0.5, 30)
    variances, vectors = np.linalg.eigh(matrix)
    assert variances == pytest.approx([0.25, 4.0]), "standard deviations are not the axes' lengths"
    assert abs(vectors[:, 1] @ [math.cos(math.pi / 6), 0.5]) == pytest.approx(1), "the long axis is turned elsewhere"


def test_the_planar_gradient_by_hand_is_autograds() -> None:
    target = planar.picture(12).double()
    rows = planar.fit(target.float(), count=9, steps=5, keep=3).rows[-1].double().requires_grad_()
    (by_autograd,) = torch.autograd.grad((planar.render(rows, 12) - target).square().mean(), rows)
    by_hand, loss = planar.gradient(rows.detach(), target)
    assert (by_autograd.abs().amax(dim=0) > 1e-6).all(), "a column of zeros is compared"
    assert torch.allclose(by_hand, by_autograd, rtol=1e-11, atol=1e-15), "a formula in the docs is wrong"
    assert loss == pytest.approx(float((planar.render(rows.detach(), 12) - target).square().mean()))


def test_gaussians_learn_the_picture() -> None:
    target = planar.picture(24)
    fitted = planar.fit(target, count=60, steps=60, keep=5)
    assert fitted.losses[-1] < 0.1 * fitted.losses[0], "nothing is learned"
    assert fitted.steps[0] == 0 and fitted.steps[-1] == 60 and len(fitted.rows) == len(fitted.steps)
    assert "60 Gaussians" in texts(figure := fitting_figure(target, fitted))
    drawn(figure)


def test_a_scene_emerges(scene: trained.SceneRun) -> None:
    assert scene.steps[0] == 0 and scene.steps[-1] == 40 and len(scene.losses) == 40
    errors = [float((picture - scene.photo / 255).abs().mean()) for picture in scene.pictures]
    assert errors[-1] < 0.6 * errors[0], "the last picture is not nearer to the photograph"
    drawn(timelapse_figure(scene.pictures, scene.steps, scene.photo))
    assert f"step {scene.steps[3]}" in texts(
        timelapse_frame(scene.pictures[3], scene.steps[3], scene.losses, scene.photo)
    )


def test_the_pipeline_shows_a_steps_own_results(scene: trained.SceneRun) -> None:
    model = Gaussians(scene.snapshots[4])
    figure = pipeline_figure(model, scene.camera, scene.photo, scene.task.scene.points)
    told = texts(figure)
    assert "Gaussians; the 9 that weigh most" in told and "5  error: loss 0." in told
    drawn(figure)
    assert all(value.grad is None for value in model.parameters()), "the figure leaves gradients behind"


def test_a_landscapes_slices(line: tuple[LineTask, NeuronPath]) -> None:
    task, path = line
    snapshots = [{"weight": p[:1].reshape(1, 1), "bias": p[1:]} for p in path.points[::25].float()]
    slices = [
        landscape(
            task.neuron, lambda model, batch: (model(batch.x) - batch.y).square().mean(), task.points, plane=kind,
            trajectory=snapshots, size=5, progress=False,
        )
        for kind in ("random", "trajectory", "hessian")
    ]  # fmt: skip
    told = texts(figure := slices_figure(slices, "a neuron"))
    assert "100.0% of variance" in told and "λ = 7.9 and 1.52" in told, "what the planes say is not told"
    drawn(figure)


def test_blocks_are_the_models_own() -> None:
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = torch.nn.Sequential(
        torch.nn.Embedding(20, 8), torch.nn.TransformerEncoder(layer, 2), torch.nn.Linear(8, 20)
    )
    blocks = blocks_of(model.train(), lambda: model(torch.arange(6)[None]))
    assert [block.path for block in blocks][:2] == ["0", "1"] and blocks[-1].path == "2", (
        "the order is not that of the run"
    )
    assert blocks[-1].shape == (1, 6, 20) and blocks[-1].parameters == 8 * 20 + 20
    told = texts(figure := modules_figure(blocks, "a Transformer"))
    assert "TransformerEncoderLayer  layers.0" in told and "1×6×20" in told, "modules or shapes are missing"
    depths = {block.path: block.depth for block in blocks}
    assert depths["1"] == 0 and depths["1.layers.0"] == 1 and depths["1.layers.0.linear1"] == 2, "nested wrongly"
    assert not any(module._forward_hooks for module in model.modules()), "hooks are left in the model"
    drawn(figure)


def test_layers_that_are_alike_are_opened_once() -> None:
    model = Transformer(Transformer.Config(11, 8, 8, 2, 5), torch.Generator().manual_seed(0))
    blocks = blocks_of(model, lambda: model(torch.arange(6)[None]))
    assert len(blocks) > MOST and len(folded(blocks)) == len(blocks) - 4 * 10, "other blocks are left out"
    told = texts(modules_figure(blocks, "deep"))
    assert "opened once" in told and "Block  decoder.4" in told and told.count("FeedForward") == 1
    pair = Transformer(Transformer.Config(11, 8, 8, 2, 1, 1), torch.Generator().manual_seed(0))
    source, tokens = torch.arange(7)[None], torch.arange(3)[None]
    blocks = blocks_of(pair, lambda: pair(tokens, source=source))
    shapes = {block.path: block.shape for block in blocks}
    assert shapes["embedding"] == shapes["encoder.0"] == (1, 7, 8), "not the shape of the call that is listed"
    paths = [block.path for block in blocks]
    assert shapes["decoder.0"] == (1, 3, 8) and "decoder" not in paths, "a list of modules is listed"
    assert paths.index("decoder.0.cross") == paths.index("decoder.0.cross.o_proj") - 1, "cross-attention is not there"


def test_a_transformer_is_watched_while_it_learns(text: trained.TextRun) -> None:
    assert text.losses[-1] < 0.8 * text.losses[0] and len(text.losses) == 40, "nothing is learned"
    assert [step for step, _ in text.writings] == [0, 5, 40], "what it wrote is of other steps"
    assert len({writing for _, writing in text.writings}) == 3, "learning does not change what is written"
    assert len(text.snapshots) == 9, "the path lacks points"
    last = dict(text.task.model.named_parameters())
    assert all(torch.equal(last[name], value) for name, value in text.snapshots[-1].items()), "the path ends elsewhere"


def test_attention_is_drawn_as_it_is(text: trained.TextRun) -> None:
    model, tokens = text.task.model.eval(), text.batch.tokens[0, :7]
    maps = [weights[0] for weights in attention_maps(model, tokens[None])]
    assert len(maps) == 2 and maps[0].shape == (4, 7, 7), "a layer or a head is missing"
    letters = ["a", " ", "\n", "d", "e", "f", "g"]
    told = texts(figure := attention_figure(maps, letters, "watched"))
    assert all(f"layer {layer}, head {head}" in told for layer in (1, 2) for head in (1, 2, 3, 4)), "a head is not told"
    assert "␣" in told and "⏎" in told, "blanks cannot be seen"
    drawn_maps = [image.get_array() for axes in figure.axes for image in axes.get_images()]
    expected = torch.stack(maps).flatten(0, 1).numpy()
    assert np.allclose(np.stack(drawn_maps), expected), "a panel shows another head"
    assert np.allclose(expected.sum(axis=-1), 1, atol=1e-5) and np.triu(expected[0], 1).max() == 0
    drawn(figure)


def test_the_transformers_blocks_are_listed(text: trained.TextRun) -> None:
    blocks = blocks_of(text.task.model, lambda: text.task.model(text.batch.tokens))
    named = {block.path: block for block in blocks}
    assert named["decoder.1.attention.qkv_proj"].shape == (16, 48, 192), "queries, keys and values have another shape"
    assert named["head"].shape[-1] == text.task.tokenizer.vocabulary and named["decoder.0"].depth == 0
    assert len(blocks) <= MOST, "the figure leaves out blocks of the very model that it is made for"


@pytest.mark.parametrize("learn", ["corpus", "pairs"])
def test_a_runs_own_transformer_is_drawn(learn: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.txt").write_text("one two three four five six seven\n" * 40)
    (tmp_path / "run.yaml").write_text("task: text\nsteps: 3\nevaluate_every: 0\ndevice: cpu\n")
    words = ["--model.width", "16", "--model.heads", "2", "--model.layers", "1", "--out", str(tmp_path / "run")]
    if learn == "corpus":
        words += ["--data.path", str(tmp_path / "text.txt"), "--data.cache", str(tmp_path / "cache")]
    else:
        words += ["--learn", "pairs", "--model.encoder_layers", "1", "--model.context", "80"]
        words += ["--pairs.numbers", "100", "--pairs.dates", "100"]
    assert main(["train", str(tmp_path / "run.yaml"), *words]) == 0
    story = command.Story(tmp_path / "run")
    task, batch, steps = story.reader
    assert steps == 3 and task.config.model.width == 16, "another Transformer is drawn"
    assert (batch.source is not None) == (learn == "pairs")
    assert main(["figures", "--only", "i", "--run", str(tmp_path / "run"), "--still", "--out", str(tmp_path)]) == 0
    assert iio.imread(tmp_path / "i_attention.png").std() > 5, "nothing is drawn"


def test_a_large_models_attention_is_drawn_in_part() -> None:
    maps = [torch.softmax(torch.zeros(12, 5, 5), dim=-1)] * 12
    told = texts(attention_figure(maps, list("abcde"), "large"))
    assert "the first of 12 layers of 12 heads" in told and "layer 6, head 6" in told and "layer 7" not in told


def test_files_of_every_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["figures", "--only", "b,e,j", "--out", str(tmp_path), "--still"]) == 0
    names = {"b_loss", "e_gaussian", "j_chain"}
    assert {path.name for path in tmp_path.iterdir()} == {f"{n}.{kind}" for n in names for kind in style.FORMATS}
    assert (tmp_path / "b_loss.svg").read_text().startswith("<?xml") and iio.imread(tmp_path / "b_loss.png").std() > 5
    assert (tmp_path / "b_loss.pdf").read_bytes().startswith(b"%PDF")
    assert "wrote 9 files" in capsys.readouterr().out, "what was made is not told"


def test_figures_of_the_transformer(
    text: trained.TextRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trained, "train_text", lambda: text)
    assert main(["figures", "--only", "i", "--out", str(tmp_path), "--still"]) == 0
    names = {"i_modules", "i_attention"}
    assert {path.name for path in tmp_path.iterdir()} == {f"{n}.{kind}" for n in names for kind in style.FORMATS}
    slices = command._text_slices(command.Story())
    assert [each.plane.kind for each in slices] == ["random", "trajectory", "hessian"]
    told = texts(figure := slices_figure(slices, "a Transformer"))
    assert "of variance" in told and "λ = " in told, "what the planes say is not told"
    drawn(figure)


def test_animations(tmp_path: Path, line: tuple[LineTask, NeuronPath]) -> None:
    task, path = line
    figures = (line_figure(task.points.x, task.points.y, path.points, step, task.bowl.minimum) for step in (0, 20, 225))
    paths = style.animate(figures, tmp_path, "a", fps=2, dpi=40)
    assert [p.suffix for p in paths] == [".mp4", ".gif"] and paths[0].stat().st_size > 1000
    frames = iio.imread(paths[1])
    assert len(frames) == 3 and np.abs(frames[0].astype(float) - frames[2]).mean() > 1, "the animation stands still"


def test_a_chain_shows_the_links_that_work() -> None:
    chains = command.Story().chains
    assert set(chains) == {"line", "scene", "text"}, "a learner has no panel"
    assert [link.name for link in links_shown(chains["line"])] == ["matmul", "add", "sub", "pow", "mean"]
    names = [link.name for link in links_shown(chains["text"])]
    block = ["layer_norm", "linear", "scaled_dot_product_attention", "linear", "add"]
    assert names[2:7] == block and {"embedding", "gelu", "cross_entropy"} <= set(names), "a stage is left out"
    told = texts(figure := chain_figure(chains))
    assert told.count("analytic = numeric") == 3 and "attention  2×2×12×8" in told
    drawn(figure)


def test_what_makes_no_figures_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["figures", "--only", "z"]) == 1 and "got 'z'" in capsys.readouterr().err
    assert main(["figures", "--run", str(tmp_path)]) == 1 and "not a run folder" in capsys.readouterr().err
    (tmp_path / "config.yaml").write_text("task: line\n")
    assert main(["figures", "--run", str(tmp_path), "--only", "h", "--out", str(tmp_path / "o")]) == 1
    assert "not the run of a scene" in capsys.readouterr().err
