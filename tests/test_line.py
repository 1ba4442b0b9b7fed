"""The line: it is learned by the same loop as all else, and lands on the answer of least squares."""

from pathlib import Path

import pytest
import torch

from splatlearn import checkpoint, config
from splatlearn.errors import SplatlearnError
from splatlearn.line import Bowl, LinearNeuron, LineTask, NoisyLine, squared_error
from splatlearn.line.optimizers import OPTIMIZERS, SCHEDULES, make_optimizer, make_schedule
from splatlearn.line.task import Points
from splatlearn.loop import AnyTask, Callback, fit

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "line.yaml"


class Losses(Callback):
    def __init__(self) -> None:
        self.values: list[float] = []

    def on_step(self, step: int, loss: float, task: AnyTask) -> None:
        self.values.append(loss)


def loaded(*words: str) -> LineTask:
    return LineTask(config.load(LineTask.Config, CONFIG, ["--device", "cpu", *words]))


def test_the_shipped_config_stops_early_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    task = loaded()
    fit(task, task.config.steps)
    found = task.evaluate()
    assert found["weight"] == pytest.approx(1.95, abs=0.01), "the shipped run ends elsewhere than the docs say"
    assert found["bias"] == pytest.approx(1.18, abs=0.01), "the shipped run ends elsewhere than the docs say"
    told = capsys.readouterr().out
    assert "an early stop" in told and "2.0158" in told and "0.9445" in told, "least squares is not told beside it"
    assert "4% of 2/lambda_max = 0.2532, so descent converges" in told, "convergence is not predicted"


def test_a_long_run_ends_at_the_least_squares_line(capsys: pytest.CaptureFixture[str]) -> None:
    task = loaded("--steps", "2000")
    fit(task, task.config.steps)
    x = torch.cat([task.points.x, torch.ones_like(task.points.x)], dim=1).double()
    weight, bias = torch.linalg.lstsq(x, task.points.y.double()).solution.flatten().tolist()
    found = task.evaluate()
    assert found["weight"] == pytest.approx(weight, abs=1e-3), "the slope is not that of least squares"
    assert found["bias"] == pytest.approx(bias, abs=1e-3), "the intercept is not that of least squares"
    assert abs(found["weight"] - 2) < 0.1 and abs(found["bias"] - 1) < 0.2, "the data are not around y = 2x + 1"
    assert found["loss"] == pytest.approx(0.25, rel=0.3), "the remaining loss is not the noise's variance"
    assert found["least_squares_weight"] == pytest.approx(weight), "another least-squares answer is told"
    assert {"loss", "weight", "bias"} <= set(found), "eval/metrics.json would lack a field"
    assert "that is the least-squares answer" in capsys.readouterr().out, "arrival is not told"


FIRST_LOSSES = [
    47.94281,
    46.06106,
    44.30356,
    42.65632,
    41.10732,
    39.64622,
    38.26412,
    36.95335,
    35.70723,
    34.52001,
]


def test_the_first_ten_losses_are_the_recorded_ones() -> None:
    losses = Losses()
    fit(loaded(), 10, callbacks=[losses], progress=False)
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
        (["--data.count", "0"], "'data.count' must be at least 2"),
        (["--data.low", "5"], "'data.low' must be below 'data.high'"),
        (["--data.noise", "-1"], "'data.noise' must be at least 0"),
        (["--batch", "201"], "'batch' must be from 0 to 200, the number of points"),
        (["--rate", "0"], "'rate' must be above 0"),
        (["--rate", "0.26"], "0.26 is beyond 2/lambda_max = 0.2532 of these points, so descent diverges"),
        (["--momentum", "1"], "'momentum' must be at least 0 and below 1"),
        (["--warmup", "0"], "'warmup' must be at least 1"),
        (["--optimizer", "sdg"], "'--optimizer' must be sgd|momentum|nesterov|adam|adamw"),
        (["--task", "scene"], "'--task' must be line"),
        (["--rte", "1"], "the nearest valid one is '--rate'"),
    ],
)
def test_bad_values_are_named(words: list[str], message: str) -> None:
    with pytest.raises(SplatlearnError, match=message):
        loaded(*words)


def test_a_rate_too_large_stops_with_a_sentence() -> None:
    task = LineTask(LineTask.Config(rate=10.0, diverge=True, device="cpu"))
    with pytest.raises(SplatlearnError, match=r"step \d+ \(200 points\), before its update: .*not finite"):
        fit(task, 500, progress=False)


def test_a_checkpoint_of_something_else_is_refused() -> None:
    task = LineTask(LineTask.Config(device="cpu"))
    tensors, state = task.state()
    with pytest.raises(SplatlearnError, match="must hold 'bias' as torch.float32 .1., got none"):
        task.load_state({name: tensor for name, tensor in tensors.items() if name != "bias"}, state)
    with pytest.raises(SplatlearnError, match="'weight' as .*, got torch.float32 .2, 1."):
        task.load_state({**tensors, "weight": torch.zeros(2, 1)}, state)


# ---- the hand-derived gradient ----


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (3, 1), (1, 4), (5, 2)])
def test_the_gradient_by_hand_is_autograds(inputs: int, outputs: int) -> None:
    generator = torch.Generator().manual_seed(inputs + 10 * outputs)
    neuron = LinearNeuron(inputs, outputs).double()
    with torch.no_grad():
        for parameter in neuron.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    x = torch.randn(17, inputs, generator=generator, dtype=torch.float64)
    y = torch.randn(17, outputs, generator=generator, dtype=torch.float64)
    weight, bias = neuron.weight, neuron.bias
    by_autograd = torch.autograd.grad(torch.nn.functional.mse_loss(neuron(x), y) * 3, [weight, bias])
    by_hand = torch.autograd.grad(squared_error(weight, bias, x, y) * 3, [weight, bias])
    for one, two in zip(by_hand, by_autograd, strict=True):
        assert one.abs().max() > 1e-3, "the test compares zeros"
        assert torch.allclose(one, two, rtol=1e-14, atol=1e-15), "the formula derived by hand is wrong"
    assert torch.autograd.gradcheck(squared_error, (weight, bias, x, y)), "the gradient is not the slope"
    assert torch.autograd.gradgradcheck(squared_error, (weight, bias, x, y)), "the Hessian is wrong"


def test_the_sums_of_the_docs_are_what_is_computed() -> None:
    x, y, w, b = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([3.0, 4.0, 10.0]), 0.5, 1.0
    weight, bias = torch.full((1, 1), w, requires_grad=True), torch.full((1,), b, requires_grad=True)
    squared_error(weight, bias, x[:, None], y[:, None]).backward()
    assert weight.grad is not None and bias.grad is not None
    assert weight.grad.item() == pytest.approx(2 / 3 * sum(((w * x + b) - y) * x)), "not (2/n) sum of residual times x"
    assert bias.grad.item() == pytest.approx(2 / 3 * sum((w * x + b) - y)), "not (2/n) sum of the residuals"


def test_a_neuron_without_inputs_is_refused() -> None:
    with pytest.raises(SplatlearnError, match="needs inputs and outputs, got 0 and 1"):
        LinearNeuron(0)


def test_shapes_that_do_not_fit_are_named() -> None:
    good = (torch.zeros(1, 2), torch.zeros(1), torch.zeros(5, 2), torch.zeros(5, 1))
    for i, bad in enumerate([torch.zeros(1, 3), torch.zeros(2), torch.zeros(0, 2), torch.zeros(5)]):
        with pytest.raises(SplatlearnError, match="needs weight .O,I."):
            squared_error(*good[:i], bad, *good[i + 1 :])


# ---- the bowl ----


def double(task: LineTask) -> LineTask:
    """The same task in float64."""
    task.neuron.double()
    task.points = Points(task.points.x.double(), task.points.y.double())
    return task


class Path64(Callback):
    def __init__(self) -> None:
        self.points: list[list[float]] = []

    def on_step(self, step: int, loss: float, task: AnyTask) -> None:
        self.points.append(list(task.metrics().values()))


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.25])
def test_descent_agrees_with_the_closed_form_step_by_step(rate: float) -> None:
    task, path = double(loaded("--rate", str(rate))), Path64()
    fit(task, 300, callbacks=[path], progress=False)
    closed = task.bowl.walk(torch.tensor([-1.0, 8.0]), rate, 300)[1:]
    worst = (torch.tensor(path.points, dtype=torch.float64) - closed).abs().max().item()
    assert worst < 1e-10, f"the loop is off the closed form by {worst:.2g}"


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "nesterov"])
@pytest.mark.parametrize("seed", range(6))
def test_eigenvalues_predict_convergence_and_divergence(seed: int, optimizer: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    spread, shift, beta = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
    x = torch.randn(30, 1, generator=generator, dtype=torch.float64) * (0.2 + 3 * spread) + 4 * shift
    y = torch.randn(30, 1, generator=generator, dtype=torch.float64)
    bowl = Bowl(x, y)
    limit = bowl.limit(0.0 if optimizer == "sgd" else beta, nesterov=optimizer == "nesterov")
    for factor, grows in ((0.98, False), (1.02, True)):
        neuron = LinearNeuron().double()
        with torch.no_grad():
            neuron.weight.fill_(float(bowl.minimum[0]) + 1)
            neuron.bias.fill_(float(bowl.minimum[1]) + 1)
        walker = make_optimizer(optimizer, neuron.parameters(), factor * limit, beta)
        sharp, heights = bowl.eigenvectors[:, 1], []
        for _ in range(1500):
            walker.zero_grad()
            squared_error(neuron.weight, neuron.bias, x, y).backward()
            walker.step()
            away = torch.cat([neuron.weight.flatten(), neuron.bias]).detach() - bowl.minimum
            heights.append(abs(float(away @ sharp)))
        late, early = max(heights[-50:]), max(heights[:50])
        assert (late > 10 * early) == grows, f"at {factor} of the limit the walk went from {early:.3g} to {late:.3g}"


def test_the_bowl_is_the_loss() -> None:
    task = double(loaded())
    points = torch.tensor([[-1.0, 8.0], [2.0, 1.0], [0.3, -4.0]], dtype=torch.float64, requires_grad=True)
    direct = torch.stack([(w * task.points.x + b - task.points.y).square().mean() for w, b in points])
    assert torch.allclose(task.bowl.loss(points), direct, rtol=1e-12), "the quadratic is not the mean squared error"
    (slope,) = torch.autograd.grad(direct.sum(), points)
    assert torch.allclose(task.bowl.gradient(points), slope, rtol=1e-11), "its gradient is not that of the loss"


# ---- optimizers and schedules ----


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_resumed_run_is_an_uninterrupted_one(optimizer: str, schedule: str, tmp_path: Path) -> None:
    words = ["--optimizer", optimizer, "--schedule", schedule, "--steps", "30", "--batch", "20"]
    whole, first, second = loaded(*words), loaded(*words), loaded(*words)
    fit(whole, 30, progress=False)
    fit(first, 13, progress=False)
    second.load_state(*checkpoint.load(checkpoint.save(tmp_path, 13, *first.state())))
    fit(second, 30, start=13, progress=False)
    assert second.metrics() == whole.metrics(), "the optimizer's or schedule's memory is lost in a checkpoint"
    assert whole.metrics() != {"weight": -1.0, "bias": 8.0}, "nothing was learned"


def test_names_make_different_walks() -> None:
    ends = set()
    for word, names in (("--optimizer", OPTIMIZERS), ("--schedule", SCHEDULES)):
        for name in names:
            task = loaded(word, name)
            fit(task, 60, progress=False)
            ends.add(tuple(task.metrics().values()))
    assert len(ends) == len(OPTIMIZERS) + len(SCHEDULES) - 2, "two names are the same walk"  # step: later than 60


def test_schedules_are_what_they_are_called() -> None:
    rates = {}
    for name in SCHEDULES:
        optimizer = make_optimizer("sgd", [torch.zeros(1, requires_grad=True)], 1.0)
        schedule = make_schedule(name, optimizer, steps=30, warmup=10)
        rates[name] = []
        for _ in range(30):
            rates[name].append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
    assert rates["constant"] == [1.0] * 30, "constant is not"
    assert rates["step"] == pytest.approx([1.0] * 10 + [0.1] * 10 + [0.01] * 10), "step does not fall in thirds"
    assert rates["cosine"][15] == pytest.approx(0.5) and rates["cosine"][-1] < 0.01, "cosine does not end near 0"
    assert rates["warmup"][:10] == pytest.approx([i / 10 for i in range(1, 11)]), "warm-up is no ramp"
    assert rates["warmup"][10:] == pytest.approx([1.0] * 20), "warm-up does not end at the rate"


def test_only_a_rate_that_stays_too_large_is_refused() -> None:
    loaded("--rate", "0.3", "--schedule", "cosine")
    loaded("--rate", "0.3", "--optimizer", "momentum")
    loaded("--rate", "0.3", "--optimizer", "adam")
    with pytest.raises(SplatlearnError, match="beyond the limit of nesterov = 0.17"):
        loaded("--rate", "0.3", "--optimizer", "nesterov")


# ---- a user's own points ----


def test_points_of_a_csv(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    path.write_text("\ufeffhours, marks\n0, 1\n1, 3\n\n2, 5.5\n")
    task = loaded("--data.csv", str(path))
    assert task.points.x.flatten().tolist() == [0, 1, 2] and task.points.y.flatten().tolist() == [1, 3, 5.5]
    assert task.bowl.minimum.tolist() == pytest.approx([2.25, 11 / 12]), "least squares of the file is wrong"


BAD_CSV = [
    ("", "at least 2 points to determine a line, got 0"),
    ("x,y\n", "at least 2 points to determine a line, got 0"),
    ("x,y\n1,2\n", "at least 2 points to determine a line, got 1"),
    ("1,2\n3,nan\n", "line 2: expected finite numbers, got '3,nan'"),
    ("1,2\n3,inf\n", "line 2: expected finite numbers"),
    ("1,2\n3\n", "line 2: expected two numbers, x,y, got '3'"),
    ("1,2,3\n4,5,6\n", "line 1: expected two numbers"),
    ("1,2\nx,y\n", "line 2: expected two numbers"),
    ("3,1\n3,2\n3,3\n", "different x to determine a slope, but all are 3"),
]


@pytest.mark.parametrize(("text", "message"), BAD_CSV)
def test_a_bad_csv_is_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "points.csv"
    path.write_text(text)
    with pytest.raises(SplatlearnError, match="points.csv") as caught:
        loaded("--data.csv", str(path))
    assert message in str(caught.value) and "\n" not in str(caught.value), "the error does not tell what is wrong"


def test_a_csv_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SplatlearnError, match="cannot read the points of .*absent.csv: No such file"):
        loaded("--data.csv", str(tmp_path / "absent.csv"))
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SplatlearnError, match="binary.csv: it is not UTF-8"):
        loaded("--data.csv", str(tmp_path / "binary.csv"))
