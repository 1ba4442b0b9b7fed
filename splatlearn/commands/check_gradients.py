"""splatlearn check-gradients: walks each learner from its parameters to its loss and compares every derivative.

A learner is checked on a small example of its own, in float64, link by link.
"""

import math
import tempfile
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from splatlearn.commands.arguments import Parser
from splatlearn.errors import SplatlearnError
from splatlearn.gradients import Chain, check_gradients

Example = tuple[Callable[[], Tensor], Mapping[str, Tensor]]
TASKS = ("line", "scene", "text")


def run(words: list[str]) -> int:
    parser = Parser("check-gradients", __doc__)
    parser.add_argument("--task", choices=TASKS, help="check one learner (default: all)")
    arguments = parser.parse_args(words)
    broken = 0
    for name in [arguments.task] if arguments.task else TASKS:
        chain = check(name)
        print(table(name, chain))
        broken += chain.broken is not None
    return 1 if broken else 0


def check(task: str, progress: bool = False) -> Chain:
    """The chain of a learner: line, scene or text. Raises SplatlearnError for another name."""
    if task not in TASKS:
        raise SplatlearnError(f"the learner to check must be one of {', '.join(TASKS)}, got {task!r}")
    function, parameters = {"line": line_example, "scene": scene_example, "text": text_example}[task]()
    return check_gradients(function, parameters, progress=progress)


def line_example() -> Example:
    """The shipped line, through the parts that the loop calls."""
    from splatlearn.line.task import LineTask, Points

    task = LineTask(LineTask.Config(device="cpu"))
    task.neuron.double()
    task.points = Points(task.points.x.double(), task.points.y.double())
    return lambda: task.loss(task.forward(task.points), task.points), dict(task.named_parameters())


def scene_example(count: int = 12, size: int = 24) -> Example:
    """A few random Gaussians before a camera, against a picture of others.

    The cut-offs of the rasterizer, which make its result jump by up to 1/255, are switched off.
    """
    from splatlearn.ops.photometric import photometric_loss
    from splatlearn.ops.rasterization import rasterization

    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    parameters = {
        "means": draw(count, 3) * 0.6 + torch.tensor([0.0, 0.0, 4.0], dtype=torch.float64),
        "scales": draw(count, 3) * 0.3 - 1.0,
        "quats": draw(count, 4),
        "opacities": draw(count),
        "sh0": draw(count, 1, 3) * 0.3 + 1.0,
        "shN": draw(count, 3, 3) * 0.1,
    }
    viewmats = torch.eye(4, dtype=torch.float64)[None]
    K = torch.tensor([[[size, 0, size / 2], [0, size, size / 2], [0, 0, 1]]], dtype=torch.float64)

    def picture() -> Tensor:
        p = parameters
        image, _, _ = rasterization(
            p["means"], p["quats"], p["scales"].exp(), p["opacities"].sigmoid(), (p["sh0"], p["shN"]),
            viewmats, K, size, size, sh_degree=1, packed=False, alpha_threshold=0.0, transmittance_threshold=0.0,
        )  # fmt: skip
        return image[0]

    target = picture() * 0.6 + 0.2
    for name in parameters:
        parameters[name].requires_grad_()
    return lambda: photometric_loss(picture(), target.detach()), parameters


def text_example(encoder_layers: int = 0) -> Example:
    """A small Transformer of either shape, through the parts that the loop calls, on a batch of its embedded data."""
    from splatlearn.text.corpus import Corpus
    from splatlearn.text.task import TextTask
    from splatlearn.text.transformer import Transformer

    shape = Transformer.Config(context=12, width=16, heads=2, layers=1, bias=True)
    learn: Literal["corpus", "pairs"] = "corpus"
    if encoder_layers:
        shape.context, shape.encoder_layers, learn = 72, encoder_layers, "pairs"
    with tempfile.TemporaryDirectory() as folder:
        data = Corpus.Config(cache=folder)
        task = TextTask(TextTask.Config(learn=learn, data=data, model=shape, batch=2, device="cpu"))
        batch = task.batch(1)
    task.model.double()
    return lambda: task.loss(task.forward(batch), batch), dict(task.named_parameters())


def table(task: str, chain: Chain) -> str:
    """The links and slopes as text, and the verdict in a sentence."""
    lines = [f"{task}: {'link':<29}{'shape':<15}{'|gradient|':>11}{'error':>10}   line of code"]
    for link in chain.links:
        if link.gradient_norm is None and not (chain.broken and link.where == chain.broken.where):
            continue  # it is beside the chain
        norm = "" if link.gradient_norm is None else f"{link.gradient_norm:.3g}"
        error = "" if link.error is None else f"{link.error:.1e}"
        shape = "x".join(map(str, link.shape)) or "scalar"
        lines.append(f"  {link.name:<29}{shape:<15}{norm:>11}{error:>10}   {link.where[:80]}")
    for name, (analytic, numeric) in chain.slopes.items():
        scale = max(abs(analytic), abs(numeric))
        difference = abs(analytic - numeric) / scale if scale > 0 and math.isfinite(scale) else 0.0
        lines.append(
            f"  slope of '{name}': analytic {analytic:.8g}, numeric {numeric:.8g}, difference {difference:.1e}"
        )
    lines.append(
        f"  {chain.broken}" if chain.broken else "  the chain is whole: every parameter gets its true gradient"
    )
    return "\n".join(lines)
