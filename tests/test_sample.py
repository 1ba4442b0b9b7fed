"""splatlearn sample: it writes what the run's model writes, streams it, and tells what is wrong in a sentence."""

import io
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from splatlearn.cli import main
from splatlearn.run import open_run
from splatlearn.text.sampling import generate

TEXT = "".join(f"the {kind} {i} is naïve;\n" for i in range(60) for kind in ("cat", "dog", "猫"))
MODEL = ["--model.context", "16", "--model.width", "16", "--model.heads", "2", "--model.layers", "1"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three short runs: of characters, of bytes, of pairs; the text that they learned from is gone."""
    folder = tmp_path_factory.mktemp("runs")
    text = folder / "text.txt"
    text.write_text(TEXT)
    config = folder / "text.yaml"
    config.write_text("task: text\nsteps: 40\nevaluate_every: 0\nseed: 3\ndevice: cpu\n")
    common = ["train", str(config), *MODEL, "--data.cache", str(folder / "cache"), "--data.path", str(text)]
    for kind in ("character", "byte"):
        assert main([*common, "--data.tokenizer", kind, "--out", str(folder / kind)]) == 0
    few = ["--pairs.numbers", "100", "--pairs.dates", "100", "--pairs.holdout", "0.02"]
    pairs = ["--learn", "pairs", "--model.encoder_layers", "1", *few, "--model.context", "80"]
    assert main([*common[:2], *MODEL[2:], *pairs, "--out", str(folder / "pairs")]) == 0
    text.unlink()
    shutil.rmtree(folder / "cache")
    return folder


def sampled(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    capsys.readouterr()
    code = main(["sample", *map(str, words)])
    told = capsys.readouterr()
    assert code == 0, told.err
    return told.out


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    capsys.readouterr()
    assert main(["sample", *map(str, words)]) == 1, "what is wrong is not refused"
    told = capsys.readouterr()
    assert told.err.count("\n") == 1 and not told.out, "more than a sentence on stderr"
    return told.err


def test_it_writes_what_the_model_writes(runs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    task, _ = open_run_of(runs / "character", text, tmp_path)
    tokens = torch.tensor([task.tokenizer.encode("the cat")])
    drawn = generate(task.model, tokens, 30, temperature=0.5, generator=torch.Generator().manual_seed(5))
    expected = "the cat" + task.tokenizer.decode(int(token) for token in drawn)
    found = sampled(
        capsys, runs / "character", "--prompt", "the cat", "--tokens", 30, "--temperature", 0.5, "--seed", 5
    )
    assert found == expected + "\n", "another model writes, or options have no effect"
    assert len(set(found)) > 5, "nothing was written"


def open_run_of(run: Path, text: Path, folder: Path) -> tuple[object, int]:
    """The task of a run whose text is elsewhere now."""
    copy = folder / "copy"
    shutil.copytree(run, copy)
    lines = (copy / "config.yaml").read_text().replace(str(run.parent / "text.txt"), str(text))
    (copy / "config.yaml").write_text(lines)
    return open_run(copy)


@pytest.mark.parametrize(
    "words",
    [
        ["--temperature", 0],
        ["--top-k", 1],
        ["--top-p", 1e-6],
        ["--min-p", 1],
        ["--temperature", 1e-4],
    ],
)
def test_options_that_leave_one_token_agree(
    words: list[object], runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    greedy = sampled(capsys, runs / "character", "--prompt", "the ", "--tokens", 40, "--temperature", 0)
    found = sampled(capsys, runs / "character", "--prompt", "the ", "--tokens", 40, "--seed", 9, *words)
    assert found == greedy, "the option does not leave the most likely token"
    free = sampled(capsys, runs / "character", "--prompt", "the ", "--tokens", 40, "--seed", 9)
    assert free != greedy, "without options nothing is drawn"
    penalised = sampled(
        capsys, runs / "character", "--prompt", "the ", "--tokens", 40, "--repetition-penalty", 5, *words
    )
    assert penalised != greedy, "the penalty has no effect"


def test_seeds_and_counts(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [runs / "character", "--tokens", 20]
    one, two = (sampled(capsys, *words, "--seed", seed) for seed in (4, 5))
    assert one == sampled(capsys, *words, "--seed", 4) != two, "a seed is no seed"
    both = sampled(capsys, *words, "--seed", 4, "--count", 2)
    assert both == f"{one}{'-' * 20}\n{two}", "further samples are not those of further seeds"


def test_stop_strings_end_it(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [runs / "character", "--prompt", "the ", "--tokens", 60, "--temperature", 0]
    whole = sampled(capsys, *words)
    for stop in ([whole[10:12]], [whole[20:22], whole[14:15]]):
        written = whole[len("the ") :]
        cut = min(written.index(each) for each in stop)
        options = [word for each in stop for word in ("--stop", each)]
        assert sampled(capsys, *words, *options) == f"the {written[:cut]}\n", "it goes on beyond a stop string"


def test_the_prompt_comes_from_standard_input(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def given(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    given("naïve\n".encode())
    found = sampled(capsys, runs / "byte", "--prompt", "-", "--tokens", 5)
    assert found.startswith("naïve\n"), "standard input is not the prompt"
    given(b"na\xefve")
    message = "standard input must be UTF-8 text, but byte 2 does not begin"
    assert message in refused(capsys, runs / "byte", "--prompt", "-")


def test_text_is_shown_as_it_is_written(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[bytes] = []

    class Terminal(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, content: bytes) -> int:  # type: ignore[override]
            shown.append(bytes(content))
            return len(content)

    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(Terminal(), encoding="utf-8", write_through=True))  # type: ignore[type-var]
    assert main(["sample", str(runs / "byte"), "--prompt", "猫", "--tokens", "60", "--temperature", "2"]) == 0
    assert len(shown) > 20, "text is kept back until it is complete"
    for part in shown:
        part.decode("utf-8")  # raises where a character comes in two parts
    assert b"".join(shown).decode().startswith("猫")


def test_a_terminal_that_cannot_show_a_character(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="ascii"))
    assert main(["sample", str(runs / "character"), "--prompt", "the 猫", "--tokens", "3"]) == 0
    sys.stdout.flush()
    assert shown.getvalue().startswith(b"the ?"), "a traceback, or nothing, where the terminal knows no such character"


def test_pairs_are_answered(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = sampled(capsys, runs / "pairs", "--prompt", "forty-two", "--tokens", 12)
    assert found == sampled(capsys, runs / "pairs", "--prompt", "forty-two", "--tokens", 12, "--seed", 1)
    assert "forty" not in found and len(found) <= 13, "the question is repeated, or the answer has no end"
    assert "this run answers questions" in refused(capsys, runs / "pairs")


def test_what_cannot_be_sampled_is_told(runs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = runs / "character"
    cases: list[tuple[list[object], str]] = [
        ([run, "--prompt", "the é"], "character 5 of the text, 'é', is not among the"),
        ([run, "--prompt", "t" * 17], "must fit the model's context of 16 tokens, got 17"),
        ([runs / "byte", "--prompt", "a\udcff"], "the text is not UTF-8: character 2"),
        ([run, "--count", 0], "--count must be at least 1, got 0"),
        ([run, "--seed", -1], "--seed must be at least 0"),
        ([run, "--tokens", -1], "must be at least 0, got -1"),
        ([run, "--temperature", -1], "the temperature must be at least 0"),
        ([run, "--top-p", 0], "top-p must be above 0"),
        ([run, "--stop", ""], "--stop must hold at least one character"),
        ([tmp_path], "is not a run folder"),
        ([run, "--device", "tpu"], "device must be auto, cpu"),
        ([run, "--top", 3], "unrecognized arguments"),
    ]
    for words, message in cases:
        assert message in refused(capsys, *words), f"{words} is told otherwise"
    (tmp_path / "config.yaml").write_text("task: line\n")
    assert "is not the run of a text" in refused(capsys, tmp_path)
    (tmp_path / "config.yaml").write_text("task: text\n")
    assert "holds no checkpoint to go on from" in refused(capsys, tmp_path)


def test_a_checkpoint_of_something_else_is_told(runs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(runs / "character", copy)
    text = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(text.replace("width: 16", "width: 32"))
    assert "must hold 'embedding.token_embedding.weight' as torch.float32" in refused(capsys, copy)
    known = json.loads((next((copy / "checkpoints").iterdir()) / "state.json").read_text())["tokenizer"]["characters"]
    (copy / "config.yaml").write_text(text.replace(f"vocabulary: {len(known)}", "vocabulary: 9"))
    assert f"must be that of the checkpoint, {len(known)}, got 9" in refused(capsys, copy)
