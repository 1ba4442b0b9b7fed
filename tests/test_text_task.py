"""Text as a task: it learns through the loop, resumes bit for bit, adds parts up to the whole, and refuses clearly."""

import json
import math
from functools import partial
from pathlib import Path

import pytest
import torch
from test_loop import assert_same_run, train

from splatlearn import checkpoint, config, notices, run
from splatlearn.cli import main
from splatlearn.errors import SplatlearnError
from splatlearn.loop import AnyTask, Callback, fit
from splatlearn.text.batches import IGNORE_INDEX, Windows
from splatlearn.text.evaluation import bits_per_byte
from splatlearn.text.optimizer import AdamW
from splatlearn.text.task import TextTask, Unlearned
from splatlearn.text.throughput import Throughput, flops_per_token

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SMALL = ["--model.width", "16", "--model.heads", "2", "--model.layers", "2", "--model.context", "16", "--batch", "8"]
PAIRS = ["--learn", "pairs", "--model.encoder_layers", "1", "--model.context", "80", "--pairs.numbers", "300"]
PAIRS += ["--pairs.dates", "300"]


class Losses(Callback):
    def __init__(self) -> None:
        self.values: list[float] = []

    def on_step(self, step: int, loss: float, task: AnyTask) -> None:
        self.values.append(loss)


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of text that never repeats itself, made by rule."""
    words = ["the", "loop", "goes", "forward", "to", "its", "loss", "and", "back", "again"]
    lines = [f"{n}: " + " ".join(words[(n * k + k) % 10] for k in range(1, 9)) + ".\n" for n in range(400)]
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join(lines))
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens of tests stay out of the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def made(text: Path, *words: str) -> TextTask:
    words = ("--device", "cpu", "--steps", "20", "--data.path", str(text), *SMALL, *words)
    return TextTask(config.load(TextTask.Config, None, words))


def losses_of(task: TextTask, steps: int) -> list[float]:
    losses = Losses()
    fit(task, steps, callbacks=[losses], progress=False)
    return losses.values


# ---- it learns ----


def test_it_learns_by_heart(text: Path) -> None:
    task = made(text, "--steps", "150", "--optimizer.rate", "1e-2", "--optimizer.warmup", "10")
    losses = losses_of(task, 150)
    assert losses[0] == pytest.approx(math.log(task.tokenizer.vocabulary), abs=0.3), "it does not begin by guessing"
    assert sum(losses[-10:]) / 10 < 1.3, "it does not learn"
    found = task.evaluate()
    assert set(found) == {"loss", "perplexity", "bits_per_byte"}, "eval/metrics.json would lack a field"
    assert found["loss"] < 1.5, "what it learned does not hold for the text held out"
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"])), "perplexity is another"
    assert found["bits_per_byte"] == pytest.approx(found["loss"] / math.log(2)), (
        "bits a byte of ASCII characters differ"
    )


FIRST_LOSSES = {
    "corpus": [3.68484, 3.44873, 3.22158, 2.91553, 2.89098, 2.72865, 2.61295, 2.71235, 2.5423, 2.31575],
    "pairs": [4.59756, 4.61566, 4.00343, 3.84069, 3.87934, 3.54503, 3.5175, 3.2087, 3.09988, 2.95467],
}


@pytest.mark.parametrize("kind", FIRST_LOSSES)
def test_the_first_ten_losses_are_the_recorded_ones(text: Path, kind: str) -> None:
    assert first_losses(text, kind) == pytest.approx(FIRST_LOSSES[kind], rel=1e-4), (
        "a refactor changed what is computed"
    )


def first_losses(text: Path, kind: str) -> list[float]:
    choice = PAIRS if kind == "pairs" else []
    return losses_of(made(text, *choice, "--optimizer.rate", "1e-2", "--optimizer.warmup", "2"), 10)


@pytest.mark.parametrize(
    "choice",
    [[], ["--model.dropout", "0.2"], ["--model.attention_dropout", "0.2", "--accumulate", "4"], PAIRS],
    ids=" ".join,
)
def test_a_resumed_run_equals_an_uninterrupted_one(text: Path, tmp_path: Path, choice: list[str]) -> None:
    train(made(text, *choice), tmp_path / "whole", 12)
    train(made(text, *choice), tmp_path / "parts", 5)
    task = made(text, *choice)
    start = run.resume(task, tmp_path / "parts")
    assert start == 5, "resume starts at another step"
    train(task, tmp_path / "parts", 12, start)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_training_leaves_the_global_generator_alone(text: Path) -> None:
    before = torch.random.get_rng_state()
    task = made(text, "--model.dropout", "0.2")
    losses_of(task, 2)
    task.evaluate()
    task.sample(2)
    assert torch.equal(before, torch.random.get_rng_state()), "training drew from the global generator"


def test_dropout_differs_from_step_to_step_and_is_off_in_evaluation(text: Path) -> None:
    task = made(text, "--model.dropout", "0.5")
    batch = task.batch(1)
    one = task.forward(batch)
    assert torch.equal(one, task.forward(batch)), "a step's dropout is not decided by its number"
    task.batch(2)
    assert not torch.equal(one, task.forward(batch)), "every step drops the same"
    assert task.evaluate() == task.evaluate(), "dropout goes on in evaluation"
    assert task.model.training, "evaluation leaves the model in its own mode"


@pytest.mark.parametrize("choice", [[], PAIRS], ids=["corpus", "pairs"])
def test_parts_add_up_to_the_whole(text: Path, choice: list[str]) -> None:
    whole = made(text, *choice)
    parts = made(text, *choice, "--accumulate", "4")
    assert losses_of(parts, 5) == pytest.approx(losses_of(whole, 5), abs=1e-5), "parts make another step"


def test_bfloat16_is_near(text: Path) -> None:
    exact, near = losses_of(made(text), 5), losses_of(made(text, "--precision", "bfloat16"), 5)
    assert near != exact and near == pytest.approx(exact, abs=0.05), "bfloat16 has no effect, or too much"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no CUDA card")
def test_a_card_learns_the_same(text: Path) -> None:
    exact = losses_of(made(text), 5)
    card = losses_of(made(text, "--device", "cuda", "--precision", "float32"), 5)
    assert card == pytest.approx(exact, abs=1e-3), "the card learns something else"
    near = losses_of(made(text, "--device", "cuda", "--model.dropout", "0.1"), 5)
    assert near == pytest.approx(exact, abs=0.5), "bfloat16 with dropout does not learn on the card"


# ---- batches ----


def test_windows_are_the_text_and_what_follows() -> None:
    import numpy as np

    windows = Windows(np.arange(100, dtype=np.uint16), 7, "the text")
    rows = windows.draw(1000, torch.Generator().manual_seed(0))
    assert rows.min() == 0 and rows.max() == 92, "some tokens are never learned from, or windows leave the text"
    batch = windows.batch(rows[:5])
    assert torch.equal(batch.tokens + 1, batch.targets) and batch.tokens.shape == (5, 7), "targets are not what follows"
    seen = torch.cat([b.targets.flatten() for b in windows.all(3, 1000)])
    assert seen.tolist() == list(range(1, 100)), "an evaluation leaves tokens out, or asks twice"
    few = list(windows.all(3, 30))
    assert sum(b.num_targets for b in few) == 28 and few[-1].tokens.max() > 60, (
        "few windows are not spread over the text"
    )


def test_pairs_ask_for_their_answers_alone() -> None:
    task = TextTask(config.load(TextTask.Config, None, ["--device", "cpu", *SMALL, *PAIRS]))
    batch = task.batch(1)
    assert batch.source is not None and batch.source_mask is not None
    assert batch.num_targets == int((batch.targets != IGNORE_INDEX).sum()), "the count of targets is another"
    with torch.no_grad():
        loss = task.loss(task.forward(batch), batch)
    logits = task.model(batch.tokens, source=batch.source, source_mask=batch.source_mask)
    one_by_one = [
        -logits[b, t].log_softmax(-1)[batch.targets[b, t]].item()
        for b, t in (batch.targets != IGNORE_INDEX).nonzero().tolist()
    ]
    assert loss.item() == pytest.approx(sum(one_by_one) / len(one_by_one), abs=1e-4), "padding is asked for, too"
    found = task.evaluate()
    assert 0 <= found["exact_match"] <= 1 and found["loss"] > 0, "pairs are not measured"


# ---- the update ----


def test_the_update_is_pytorchs() -> None:
    settings = AdamW.Config(rate=1e-2, warmup=3, decay=0.3, clip=0.5)
    generator = torch.Generator().manual_seed(0)
    values = {"matrix": torch.randn(4, 3, generator=generator), "bias": torch.randn(5, generator=generator)}
    ours = {name: torch.nn.Parameter(value.clone()) for name, value in values.items()}
    theirs = {name: torch.nn.Parameter(value.clone()) for name, value in values.items()}
    groups = [{"params": [theirs["matrix"]], "weight_decay": 0.3}, {"params": [theirs["bias"]], "weight_decay": 0.0}]
    oracle = torch.optim.AdamW(groups, betas=(settings.beta1, settings.beta2))
    optimizer = AdamW(settings, 10, ours.items())
    rates = []
    for step in range(1, 11):
        for name in values:
            ours[name].grad = torch.randn(values[name].shape, generator=generator)
            theirs[name].grad = ours[name].grad.clone()  # type: ignore[union-attr]
        for group in oracle.param_groups:
            group["lr"] = optimizer.rate(step)
        torch.nn.utils.clip_grad_norm_(theirs.values(), 0.5)
        oracle.step()
        optimizer.step(step)
        rates.append(optimizer.last_rate)
        assert all(parameter.grad is None for parameter in ours.values()), "gradients are not cleared"
    for name in values:
        assert torch.allclose(ours[name], theirs[name], atol=1e-6), f"{name} is updated in another way"
    assert rates[:3] == pytest.approx([1e-2 / 3, 2e-2 / 3, 1e-2]), "the rate does not warm up"
    assert rates[-1] == pytest.approx(1e-3) and sorted(rates[2:], reverse=True) == rates[2:], (
        "it does not fall to a tenth"
    )
    assert rates[5] == pytest.approx(1e-2 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 3 / 7)))), "it is no cosine"


def test_the_pace_counts_tokens_and_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    import splatlearn.text.throughput as module

    clock = iter([0.0, 100.0, 200.0, 202.0, 300.0, 302.0])  # the first step, slow as it is, does not count
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
    pace = Throughput(flops_per_token(1000, 2, 8, 4), torch.device("cpu"))
    assert flops_per_token(1000, 2, 8, 4) == 6 * 1000 + 12 * 2 * 8 * 4, "operations are counted otherwise"
    for _ in range(3):
        pace.begin()
        pace.end(5000)
    assert str(pace) == "2,500 tokens/s", "the speed is another, or a CPU has an MFU"
    pace.peak = 1e8
    assert str(pace) == "2,500 tokens/s, MFU 17%", "the share of a card's arithmetic is another"


def test_bits_a_byte_count_bytes() -> None:
    assert bits_per_byte(math.log(2), 30, 60) == pytest.approx(0.5), "one bit for each two bytes is half a bit a byte"


# ---- the commands ----


def test_train_and_eval_leave_what_is_promised(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "run")
    words = ["--data.path", str(text), *SMALL, "--steps", "6", "--evaluate_every", "3", "--sample_every", "3"]
    words += ["--sample_length", "9", "--prompt", "7: the", "--device", "cpu", "--out", out, "--log_every", "2"]
    assert main(["train", str(CONFIGS / "text_cpu.yaml"), *words]) == 0
    told = capsys.readouterr()
    assert "tokens/s" in told.err and "held out: loss" in told.out, (
        "the bar shows no speed, or evaluations are not told"
    )
    history = [json.loads(line) for line in (tmp_path / "run" / "eval" / "history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in history] == [3, 6] and history[0]["bits_per_byte"] > 0, "evaluations left no trace"
    samples = [json.loads(line) for line in (tmp_path / "run" / "eval" / "samples.jsonl").read_text().splitlines()]
    assert [row["step"] for row in samples] == [3, 6], "samples left no trace"
    assert all(row["prompt"] == "7: the" and len(row["text"]) == 9 for row in samples), "another sample"
    lines = run.read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 4, 6] and lines[-1]["gradient_norm"] > 0, "a metric is missing"
    figures = json.loads((tmp_path / "run" / "eval" / "metrics.json").read_text())
    assert main(["eval", out]) == 0
    again = json.loads((tmp_path / "run" / "eval" / "metrics.json").read_text())
    assert figures["loss"] == again["loss"] == history[1]["loss"], "the same weights are measured otherwise"
    assert (tmp_path / "run" / "report.html").stat().st_size > 1000, "there is no report"


# ---- what a user can do wrong ----


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.heads", "3"], "'model.heads' must divide the width 16, got 3"),
        (["--model.context", "100000"], "the text to learn from must be longer than 'model.context', 100000 tokens"),
        (["--model.context", "2000"], "the held-out text must be longer than 'model.context', 2000 tokens"),
        (["--model.vocabulary", "5"], "'model.vocabulary' must be 0 or that of the text, [0-9]+, got 5"),
        (["--accumulate", "3"], "'accumulate' must divide the batch of 8, got 3"),
        (["--batch", "0"], "'batch' must be at least 1, got 0"),
        (["--learn", "pairs"], "'model.encoder_layers' must be above 0 to learn pairs, and 0 to learn a corpus, got 0"),
        (["--model.encoder_layers", "1"], "and 0 to learn a corpus, got 1"),
        (["--prompt", "Ü"], "'Ü', is not among"),
        (["--optimizer.rate", "0"], "'optimizer.rate' must be above 0"),
        (["--optimizer.beta2", "1"], "'optimizer.beta2' must be at least 0 and below 1, got 1"),
        (["--optimizer.final", "2"], "'optimizer.final' must be at least 0 and at most 1, got 2"),
        (["--optimizer.clip", "-1"], "'optimizer.clip' must be at least 0, got -1"),
        ([*PAIRS, "--model.context", "32"], "'model.context' must hold the longest pair of [0-9]+ tokens, got 32"),
    ],
)
def test_bad_values_are_named(text: Path, words: list[str], message: str) -> None:
    with pytest.raises(SplatlearnError, match=message):
        made(text, *words)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00\xd8"])
def test_a_bad_file_is_one_sentence(tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.txt").write_bytes(content)
    words = ["train", str(CONFIGS / "text_cpu.yaml"), "--data.path", str(tmp_path / "bad.txt")]
    assert main([*words, "--out", str(tmp_path / "run")]) == 1
    told = capsys.readouterr().err.strip()
    assert "bad.txt" in told and "\n" not in told, "the file is not named in one sentence"
    assert not (tmp_path / "run").exists(), "a run that never began left its folder"


@pytest.mark.parametrize(("losses", "count"), [((4.61, 4.6), 1), ((4.61, 4.2), 0), ((4.4, 4.61), 0)])
def test_a_loss_that_stays_at_guessing_is_noticed(losses: tuple[float, float], count: int) -> None:
    watch = Unlearned(100)
    for step in range(1, 500):
        if watch.wants(step):
            watch.on_step(step, losses[step // 400], None)  # type: ignore[arg-type]
    assert sum("that of guessing (4.605" in each for each in notices.collected()) == count


def test_a_checkpoint_of_something_else_is_refused(text: Path, tmp_path: Path) -> None:
    train(made(text), tmp_path / "run", 1)
    tensors, state = checkpoint.load(checkpoint.latest(tmp_path / "run" / "checkpoints"))  # type: ignore[arg-type]
    (tmp_path / "other.txt").write_text(text.read_text().replace("loop", "LOOP"))
    with pytest.raises(SplatlearnError, match="vocabulary must be that of the text, .* tokens, got .* tokens"):
        made(tmp_path / "other.txt").load_state(tensors, state)
    with pytest.raises(SplatlearnError, match="vocabulary must be that of the text, .* got none"):
        made(text).load_state(tensors, {})
    turned = text.read_text()[::-1]  # the same characters
    (tmp_path / "turned.txt").write_text(turned)
    with pytest.raises(SplatlearnError, match="text must be the one at hand, SHA-256 .*, got .*: has it changed"):
        made(tmp_path / "turned.txt").load_state(tensors, {"tokenizer": state["tokenizer"], "text": state["text"]})
    with pytest.raises(SplatlearnError, match=r"must hold 'embedding.token_embedding.weight' as .*, 24\], got "):
        made(text, "--model.width", "24").load_state(tensors, state)
    with pytest.raises(SplatlearnError, match="must hold 'norm.weight' as .*, got none"):
        made(text).load_state({name: tensor for name, tensor in tensors.items() if name != "norm.weight"}, state)
    with pytest.raises(SplatlearnError, match="must hold the tensors of its config and no others, got 'layers.9"):
        made(text).load_state({**tensors, "layers.9.bias": torch.zeros(1)}, state)


def test_a_compiler_that_is_missing_is_told(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(SplatlearnError, match="'compile' needs a C\\+\\+ compiler, but no-such-compiler is not here"):
        made(text, "--compile")


# ---- torch.compile: its tracing, as a test has no time for what its compiler does after it ----


def test_a_compiled_model_learns_the_same(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--model.position", "rotary", "--accumulate", "2"]
    expected = losses_of(made(text, *words), 3)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager", fullgraph=True))
    task = made(text, *words, "--compile")
    assert losses_of(task, 3) == pytest.approx(expected, abs=1e-5), "the compiled model learns something else"
    assert task.state()[0].keys() == made(text, *words).state()[0].keys(), "its checkpoints have other names"


def test_a_compiler_that_fails_is_one_sentence(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> object:
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=broken))
    with pytest.raises(SplatlearnError, match="cannot run .*no such instruction.*; leave 'compile' out"):
        losses_of(made(text, "--compile"), 1)


# ---- the same bits ----


def test_a_reproducible_text_has_the_same_bits_for_any_number_of_threads(text: Path) -> None:
    before = torch.get_num_threads()
    sizes = ("--model.width", "128", "--model.context", "64", "--batch", "12", "--reproducible", "true")
    found = []
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            task = made(text, *sizes)
            losses_of(task, 8)
            found.append(task.state()[0])
    finally:
        torch.set_num_threads(before)
    one, four = found
    assert all(torch.equal(one[name], four[name]) for name in one), "threads change the bits"


def test_reproducible_texts_need_a_cpu(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("splatlearn.text.task.choose_device", lambda _: torch.device("cuda"))
    with pytest.raises(SplatlearnError, match="'reproducible' needs the device cpu"):
        made(text, "--reproducible", "true")
