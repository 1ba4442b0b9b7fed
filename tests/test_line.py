"""The line: it is learned by the same loop as all else, and lands on the answer of least squares."""

from pathlib import Path

import pytest
import torch

from splatlearn import config
from splatlearn.errors import SplatlearnError
from splatlearn.line import LinearNeuron, LineTask, NoisyLine
from splatlearn.loop import AnyTask, Callback, fit

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "line.yaml"


class Losses(Callback):
    def __init__(self) -> None:
        self.values: list[float] = []

    def on_step(self, step: int, loss: float, task: AnyTask) -> None:
        self.values.append(loss)


def test_the_shipped_config_ends_at_the_least_squares_line() -> None:
    task = LineTask(config.load(LineTask.Config, CONFIG))
    fit(task, task.config.steps, progress=False)
    x = torch.cat([task.points.x, torch.ones_like(task.points.x)], dim=1).cpu().double()
    weight, bias = torch.linalg.lstsq(x, task.points.y.cpu().double()).solution.flatten().tolist()
    found = task.evaluate()
    assert found["weight"] == pytest.approx(weight, abs=1e-3), "the slope is not that of least squares"
    assert found["bias"] == pytest.approx(bias, abs=1e-3), "the intercept is not that of least squares"
    assert abs(found["weight"] - 2) < 0.1 and abs(found["bias"] - 1) < 0.2, (
        "the data are not around y = 2x + 1"
    )
    assert found["loss"] == pytest.approx(0.25, rel=0.3), "the remaining loss is not the noise's variance"
    assert set(found) == {"loss", "weight", "bias"}, "eval/metrics.json would lack a field"


FIRST_LOSSES = [
    47.94281,
    39.19375,
    32.85463,
    27.85587,
    23.73907,
    20.27926,
    17.34527,
    14.8474,
    12.7172,
    10.89925,
]


def test_the_first_ten_losses_are_the_recorded_ones() -> None:
    losses = Losses()
    fit(LineTask(config.load(LineTask.Config, CONFIG)), 10, callbacks=[losses], progress=False)
    assert losses.values == pytest.approx(FIRST_LOSSES, rel=1e-5), "a refactor changed what is computed"


def test_the_start_is_the_one_told() -> None:
    task = LineTask(LineTask.Config(device="cpu"))
    assert task.metrics() == {"weight": -1.0, "bias": 8.0}, "training starts elsewhere"


def test_minibatches_are_points_of_the_data_and_vary() -> None:
    task = LineTask(LineTask.Config(batch=16, device="cpu"))
    one, two = task.batch(1), task.batch(2)
    assert one.x.shape == one.y.shape == (16, 1), "a minibatch has the wrong shape"
    assert not torch.equal(one.x, two.x), "every step sees the same minibatch"
    where = (one.x == task.points.x.T).float().argmax(dim=1)
    assert torch.equal(task.points.y[where], one.y), "x and y of a minibatch do not belong together"
    assert len(set(where.tolist())) == 16, "a point is drawn twice in one minibatch"


def test_a_seed_makes_the_data() -> None:
    data = [NoisyLine(NoisyLine.Config(), torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(data[0].x, data[1].x) and torch.equal(data[0].y, data[1].y), "one seed, two data sets"
    assert not torch.equal(data[0].x, data[2].x), "the seed has no effect"
    assert data[0].x.min() >= -2 and data[0].x.max() <= 4, "x leaves its range"


def test_without_noise_the_points_are_on_the_line() -> None:
    exact = NoisyLine.Config(noise=0.0, slope=3.0, intercept=-2.0)
    data = NoisyLine(exact, torch.Generator().manual_seed(0))
    assert torch.allclose(data.y, 3 * data.x - 2), "slope or intercept is not the one asked for"


def test_the_neuron_is_a_linear_map_of_any_size() -> None:
    neuron = LinearNeuron(3, 2)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        neuron.weight.copy_(torch.rand(2, 3, generator=generator))
        neuron.bias.copy_(torch.rand(2, generator=generator))
    x = torch.rand(4, 5, 3, generator=generator)
    expected = torch.nn.functional.linear(x, neuron.weight, neuron.bias)
    assert torch.allclose(neuron(x), expected), "y is not x Wᵀ + b"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data.count", "0"], "'data.count' must be at least 1"),
        (["--data.low", "5"], "'data.low' must be below 'data.high'"),
        (["--data.noise", "-1"], "'data.noise' must be at least 0"),
        (["--batch", "201"], "'batch' must be from 0 to 'data.count'"),
        (["--task", "scene"], "'--task' must be line"),
        (["--rte", "1"], "the nearest valid one is '--rate'"),
    ],
)
def test_bad_values_are_named(words: list[str], message: str) -> None:
    with pytest.raises(SplatlearnError, match=message):
        config.load(LineTask.Config, CONFIG, words)


def test_a_rate_too_large_stops_with_a_sentence() -> None:
    task = LineTask(LineTask.Config(rate=10.0, device="cpu"))
    with pytest.raises(SplatlearnError, match=r"step \d+ \(200 points\), before its update: .*not finite"):
        fit(task, 500, progress=False)


def test_a_checkpoint_of_something_else_is_refused() -> None:
    task = LineTask(LineTask.Config(device="cpu"))
    tensors, state = task.state()
    with pytest.raises(SplatlearnError, match="must hold 'bias' as torch.float32 .1., got none"):
        task.load_state({name: tensor for name, tensor in tensors.items() if name != "bias"}, state)
    with pytest.raises(SplatlearnError, match="'weight' as .*, got torch.float32 .2, 1."):
        task.load_state({**tensors, "weight": torch.zeros(2, 1)}, state)
