"""The chain check: it passes what is right, and finds every planted break by kind and line of code."""

import inspect
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from splatlearn.cli import main
from splatlearn.commands import check_gradients as check_gradients_command
from splatlearn.commands.check_gradients import check as check_gradients_of
from splatlearn.errors import SplatlearnError
from splatlearn.gradients import Chain, check_gradients
from splatlearn.line import squared_error

X = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(6, 2)
Y = torch.sin(3 * X)


def model() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"w1": (2, 4), "b1": (4,), "w2": (4, 2)}
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for name, shape in shapes.items()
    }


class WrongByHalf(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, v):  # type: ignore[no-untyped-def]
        (x,) = ctx.saved_tensors
        return x * v


def whole(p: dict[str, Tensor]) -> Tensor:
    hidden = torch.tanh(X @ p["w1"] + p["b1"])
    mask = hidden.detach() > 0  # harmless: a comparison, on values
    order = hidden.argsort(dim=1)  # harmless: the values are gathered, and pass their gradients on
    hidden = torch.where(mask, hidden, 0.1 * hidden).gather(1, order)
    scaled = hidden.clone()
    scaled.mul_(1.5)  # harmless: autograd knows of it
    return F.mse_loss(scaled @ p["w2"], Y)


def detached(p: dict[str, Tensor]) -> Tensor:
    hidden = torch.tanh(X @ p["w1"] + p["b1"])
    hidden = hidden.detach() + 0.5 * hidden  # BREAK
    return F.mse_loss(hidden @ p["w2"], Y)


def detached_wholly(p: dict[str, Tensor]) -> Tensor:
    hidden = torch.tanh(X @ p["w1"] + p["b1"]).data  # BREAK
    return F.mse_loss(hidden @ p["w2"], Y)


def written_behind(p: dict[str, Tensor]) -> Tensor:
    hidden = torch.tanh(X @ p["w1"] + p["b1"]) + 1
    hidden.data.mul_(3)  # BREAK
    return F.mse_loss(hidden @ p["w2"], Y)


def written_without_gradients(p: dict[str, Tensor]) -> Tensor:
    hidden = torch.sin(X @ p["w1"] + p["b1"])
    with torch.no_grad():
        hidden[:, 1] = 0.5  # BREAK
    return F.mse_loss(hidden @ p["w2"], Y)


def written_after_saving(p: dict[str, Tensor]) -> Tensor:
    hidden = torch.tanh(X @ p["w1"] + p["b1"])
    hidden += 1.0  # BREAK
    return F.mse_loss(hidden @ p["w2"], Y)


def cast(p: dict[str, Tensor]) -> Tensor:
    hidden = X @ p["w1"] + p["b1"]
    steps = (hidden * 10).long()  # BREAK
    return F.mse_loss(steps.double() @ p["w2"], Y)


def chosen(p: dict[str, Tensor]) -> Tensor:
    hidden = X @ p["w1"] + p["b1"]
    best = hidden.argmax(dim=1)  # BREAK
    return F.mse_loss(p["w2"][best], Y)


def dead(p: dict[str, Tensor]) -> Tensor:
    hidden = X @ p["w1"] + p["b1"] - 100
    hidden = torch.relu(hidden)  # BREAK
    return F.mse_loss(hidden @ p["w2"] + p["w2"].sum(), Y)


def infinite(p: dict[str, Tensor]) -> Tensor:
    hidden = (X @ p["w1"] + p["b1"]) * 0.0
    hidden = torch.sqrt(hidden.square())  # BREAK
    return F.mse_loss(hidden @ p["w2"], Y)


def wrong(p: dict[str, Tensor]) -> Tensor:
    hidden = torch.tanh(X @ p["w1"] + p["b1"])
    hidden = WrongByHalf.apply(hidden)  # BREAK
    return F.mse_loss(hidden @ p["w2"], Y)


def left_torch(p: dict[str, Tensor]) -> Tensor:
    hidden = torch.tanh(X @ p["w1"] + p["b1"])
    scale = hidden.norm().item()  # BREAK
    return F.mse_loss(hidden @ p["w2"] / scale, Y)


def without_gradients(p: dict[str, Tensor]) -> Tensor:
    hidden = torch.tanh(X @ p["w1"] + p["b1"])
    with torch.no_grad():
        scale = hidden.abs().max()  # BREAK
    return F.mse_loss(hidden @ p["w2"] / scale, Y)


def checked(function: Callable[[dict[str, Tensor]], Tensor]) -> Chain:
    parameters = model()
    before = {name: value.detach().clone() for name, value in parameters.items()}
    chain = check_gradients(lambda: function(parameters), parameters)
    for name, value in parameters.items():
        assert torch.equal(value, before[name]) and value.grad is None, f"the check changed '{name}'"
    return chain


def test_a_whole_chain_is_whole() -> None:
    chain = checked(whole)
    assert chain.broken is None, f"a chain without fault is called broken: {chain.broken}"
    for name, (analytic, numeric) in chain.slopes.items():
        assert analytic == pytest.approx(numeric, rel=1e-6) and abs(analytic) > 1e-3, f"'{name}' was not compared"
    compared = [link for link in chain.links if link.error is not None]
    assert len(compared) >= 6 and {"tanh", "mse_loss"} <= {link.name for link in compared}, "links are missing"
    good = [link.error for link in compared if link.gradient_norm and link.name != "detach"]
    assert max(error or 0 for error in good) < 1e-5, "a right derivative differs from the numeric one"


PLANTED = [
    (detached, "a detach", ("w1", "b1")),
    (detached_wholly, "a detach", ("w1", "b1")),
    (written_behind, "an in-place write", ("w1", "b1")),
    (written_without_gradients, "an in-place write", ("w1", "b1")),
    (written_after_saving, "an in-place write", ("b1", "w1")),
    (cast, "an integer cast", ("w1", "b1")),
    (chosen, "an argmax", ("w1", "b1")),
    (dead, "a zero gradient", ("w1", "b1")),
    (infinite, "a non-finite gradient", ("w1", "b1")),
    (wrong, "a wrong derivative", ("w1", "b1")),
    (left_torch, "a value taken out of its tensor", ("w1", "b1")),
    (without_gradients, "a computation without gradients", ("w1", "b1")),
]


@pytest.mark.parametrize(("function", "kind", "cut"), PLANTED, ids=[row[0].__name__ for row in PLANTED])
def test_a_planted_break_is_found(
    function: Callable[[dict[str, Tensor]], Tensor], kind: str, cut: tuple[str, ...]
) -> None:
    lines, start = inspect.getsourcelines(function)
    expected = start + next(i for i, line in enumerate(lines) if "# BREAK" in line)
    broken = checked(function).broken
    assert broken is not None, "the break was not found"
    assert broken.kind == kind, f"the break is called {broken.kind}"
    assert broken.where.startswith(f"test_gradients.py:{expected}: "), f"another line is blamed: {broken.where}"
    assert set(broken.parameters) == set(cut), "other parameters are said to be cut off"
    assert "\n" not in str(broken) and kind in str(broken), "the break is not told in one sentence"


def test_a_function_of_ones_own_is_a_link() -> None:
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(1, 2, generator=generator, dtype=torch.float64).requires_grad_()
    b = torch.randn(1, generator=generator, dtype=torch.float64).requires_grad_()
    chain = check_gradients(lambda: squared_error(w, b, X, Y[:, :1]), {"w": w, "b": b})
    assert chain.broken is None and [link.name for link in chain.links] == ["SquaredError"]
    assert chain.links[0].error is not None and chain.links[0].error < 1e-6


def test_a_transformers_chain_is_whole() -> None:
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    network = torch.nn.Sequential(torch.nn.Embedding(9, 16), layer, torch.nn.Linear(16, 9)).double()
    tokens = torch.arange(24).remainder(7).reshape(2, 12)
    chain = check_gradients(
        lambda: F.cross_entropy(network(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()),
        dict(network.named_parameters()),
    )
    assert chain.broken is None, f"a chain without fault is called broken: {chain.broken}"
    assert len(chain.slopes) == 15 and any(link.name == "multi_head_attention_forward" for link in chain.links)


def test_an_unused_parameter_is_told() -> None:
    p = model() | {"unused": torch.ones(3, dtype=torch.float64, requires_grad=True)}
    broken = check_gradients(lambda: whole(p), p).broken
    assert broken is not None and broken.parameters == ("unused",) and "not depending" in broken.kind


def test_what_cannot_be_checked_is_named() -> None:
    p = model()
    with pytest.raises(SplatlearnError, match="no parameters"):
        check_gradients(lambda: whole(p), {})
    with pytest.raises(SplatlearnError, match="'w' must be a float64 leaf .* torch.float32"):
        check_gradients(lambda: whole(p), {"w": torch.ones(2, requires_grad=True)})
    with pytest.raises(SplatlearnError, match="scalar tensor, got .6, 2."):
        check_gradients(lambda: X @ p["w1"] @ p["w2"], p)
    with pytest.raises(SplatlearnError, match="another loss each time"):
        check_gradients(lambda: whole(p) * torch.rand(()), p)


def test_the_apply_of_functions_is_put_back() -> None:
    before = torch.autograd.Function.__dict__["apply"]
    checked(whole)
    assert torch.autograd.Function.__dict__["apply"] is before, "every later Function is still recorded"


@pytest.mark.parametrize("task", ["line", "scene", "text"])
def test_the_learners_chains_are_whole(task: str, capsys: pytest.CaptureFixture[str]) -> None:
    chain = check_gradients_of(task)
    assert chain.broken is None, f"{task}: {chain.broken}"
    for name, (analytic, numeric) in chain.slopes.items():
        assert abs(analytic) > 1e-6, f"the slope of '{name}' is nothing to compare"
        assert analytic == pytest.approx(numeric, rel=1e-5), f"the gradient of '{name}' is wrong"
    names = {link.name for link in chain.links if link.gradient_norm and link.error is not None}
    expected = {
        "line": {"matmul", "add", "sub"},
        "scene": {"exp", "sigmoid", "Project", "Rasterize", "Photometric"},
        "text": {"embedding", "layer_norm", "linear", "scaled_dot_product_attention", "gelu", "cross_entropy"},
    }
    assert expected[task] <= names, "a stage was not compared"
    assert main(["check-gradients", "--task", task]) == 0
    assert "the chain is whole" in capsys.readouterr().out


@pytest.mark.parametrize("encoder_layers", [0, 1])
def test_both_shapes_of_the_transformer_are_whole(encoder_layers: int) -> None:
    function, parameters = check_gradients_command.text_example(encoder_layers)
    chain = check_gradients(function, parameters)
    assert chain.broken is None, f"{chain.broken}"
    crossed = [name for name in parameters if ".cross." in name]
    assert bool(crossed) == bool(encoder_layers), "the encoder-decoder has no cross-attention"
    for name, (analytic, numeric) in chain.slopes.items():
        assert analytic == pytest.approx(numeric, rel=1e-4, abs=1e-8), f"the gradient of '{name}' is wrong"


def test_a_break_within_the_transformer_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from splatlearn.text import attention

    whole = attention.attend

    def cut(q: Tensor, k: Tensor, v: Tensor, *more: object) -> Tensor:
        return whole(q, k.detach(), v, *more)  # type: ignore[arg-type]  # BREAK

    monkeypatch.setattr(attention, "attend", cut)
    broken = check_gradients_of("text").broken
    lines, start = inspect.getsourcelines(test_a_break_within_the_transformer_is_found)
    expected = start + next(i for i, line in enumerate(lines) if "# BREAK" in line)
    assert broken is not None and broken.kind == "a detach", f"the break is called {broken}"
    assert broken.where.startswith(f"test_gradients.py:{expected}: "), f"another line is blamed: {broken.where}"


def test_a_learner_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-gradients", "--task", "sound"]) == 1
    assert "invalid choice: 'sound'" in capsys.readouterr().err
    with pytest.raises(SplatlearnError, match="one of line, scene, text, got 'sound'"):
        check_gradients_of("sound")


def test_the_command_fails_for_a_broken_chain(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parameters = model()
    monkeypatch.setattr(check_gradients_command, "line_example", lambda: (lambda: detached(parameters), parameters))
    assert main(["check-gradients", "--task", "line"]) == 1, "a broken chain exits as if it were whole"
    assert "broken by a detach (detach) at test_gradients.py:" in capsys.readouterr().out
