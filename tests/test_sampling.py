"""Sampling: each filter is its definition, draws follow the chances, the cache changes nothing, text streams whole."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from splatlearn.errors import SplatlearnError
from splatlearn.text.sampling import Choice, generate, keep_min_p, keep_top_k, keep_top_p, penalised, stream
from splatlearn.text.tokenizers import KINDS, ByteTokenizer, make_tokenizer
from splatlearn.text.transformer import Transformer

CONTEXT = 8


def model(vocabulary: int = 11, encoder_layers: int = 0, position: str = "learned") -> Transformer:
    config = Transformer.Config(vocabulary, CONTEXT, 16, 2, 2, encoder_layers, position=position, dropout=0.3)  # type: ignore[arg-type]
    made = Transformer(config, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(1.7)  # so that chances differ, as those of a new model hardly do
    return made


def logits(rows: int = 50, kinds: int = 12, seed: int = 0) -> Tensor:
    """[rows, kinds], some of them with values that are alike."""
    drawn = torch.randn(rows, kinds, generator=torch.Generator().manual_seed(seed)) * 3
    drawn[-1] = 0.5  # all alike
    drawn[0, 3:5] = drawn[0].max()  # some alike
    return drawn


# ---- the filters, each against its definition written out in plain Python ----


def chances(row: list[float]) -> list[float]:
    exponentials = [math.exp(value - max(row)) for value in row]
    return [value / sum(exponentials) for value in exponentials]


def by_rank(row: list[float]) -> list[int]:
    return sorted(range(len(row)), key=lambda token: (-row[token], token))


def top_k(row: list[float], k: float) -> set[int]:
    return set(by_rank(row)[: int(k)])


def top_p(row: list[float], p: float) -> set[int]:
    kept, total = set(), 0.0
    for token in by_rank(row):
        kept.add(token)
        total += chances(row)[token]
        if total >= p:
            break
    return kept


def min_p(row: list[float], p: float) -> set[int]:
    return {token for token, chance in enumerate(chances(row)) if chance >= p * max(chances(row)) * (1 - 1e-6)}


@pytest.mark.parametrize(
    ("filtered", "defined", "values"),
    [
        (keep_top_k, top_k, [1, 2, 5, 11, 12]),
        (keep_top_p, top_p, [0.01, 0.3, 0.51, 0.93, 0.999]),
        (keep_min_p, min_p, [1e-6, 0.02, 0.3, 0.999, 1.0]),
    ],
)
def test_a_filter_keeps_what_its_definition_keeps(filtered, defined, values) -> None:  # type: ignore[no-untyped-def]
    given, sizes = logits(), set()
    for value in values:
        found = filtered(given, value)
        for before, after in zip(given.tolist(), found.tolist(), strict=True):
            kept = {token for token, logit in enumerate(after) if logit > -math.inf}
            assert kept == defined(before, value), f"{defined.__name__} of {value} keeps other tokens"
            assert all(after[token] == before[token] for token in kept), "a token that stays has another logit"
            sizes.add(len(kept))
    assert len(sizes) > 4, "the filter keeps as many tokens whatever is asked"


def test_the_penalty_is_its_definition() -> None:
    given = logits()
    seen = torch.rand(given.shape, generator=torch.Generator().manual_seed(1)) < 0.4
    for penalty in (1.3, 0.7):
        found = penalised(given, seen, penalty)
        for before, there, after in zip(given.flatten().tolist(), seen.flatten(), found.flatten(), strict=True):
            expected = before if not there else before / penalty if before > 0 else before * penalty
            assert float(after) == pytest.approx(expected), "a logit is changed otherwise"
        assert ((found <= given) if penalty > 1 else (found >= given)).all(), "the penalty works the wrong way"


def test_the_filters_are_those_of_transformers() -> None:
    process = pytest.importorskip("transformers.generation.logits_process")
    given, tokens = logits(40, 30, 9)[:-1] / 2, torch.randint(30, (39, 6), generator=torch.Generator().manual_seed(0))
    seen = torch.zeros(39, 30, dtype=torch.bool).scatter(1, tokens, True)
    pairs = [
        (penalised(given, seen, 1.4), process.RepetitionPenaltyLogitsProcessor(1.4)),
        (keep_top_k(given[1:], 5), process.TopKLogitsWarper(5)),  # of equal logits that keeps more
        (keep_top_p(given, 0.85), process.TopPLogitsWarper(0.85)),
        (keep_min_p(given, 0.07), process.MinPLogitsWarper(0.07)),
    ]
    for found, oracle in pairs:
        rows = slice(len(given) - len(found), None)
        assert torch.allclose(found, oracle(tokens[rows], given[rows].clone())), f"not as {type(oracle).__name__}"


def test_changes_follow_each_other_in_the_order_told() -> None:
    given = logits(2, 12, 3)[:1]
    seen = torch.zeros_like(given, dtype=torch.bool)
    seen[0, int(given.argmax())] = True
    expected = keep_min_p(keep_top_p(keep_top_k(penalised(given, seen, 1.5) / 0.7, 6), 0.9), 0.05).softmax(dim=-1)
    found = Choice(0.7, 6, 0.9, 0.05, 1.5).chances(given, seen)
    assert torch.allclose(found, expected), "the order is another one"
    assert torch.allclose(Choice().chances(given, seen), given.softmax(dim=-1)), "the defaults change something"
    assert not torch.allclose(Choice(top_k=6, temperature=0.7).chances(given), expected), "the test compares nothing"


def test_zero_temperature_takes_the_most_likely() -> None:
    given = logits()
    for choice in (Choice(0.0), Choice(0.0, top_k=3, top_p=0.1, min_p=0.5)):
        assert torch.equal(choice.draw(given), given.argmax(dim=-1)), "greedy is not"
    assert torch.equal(Choice(top_k=1).draw(given), given.argmax(dim=-1)), "one of one is not the most likely"
    greedy = Choice(0.0, repetition_penalty=50.0)
    seen = torch.nn.functional.one_hot(given.argmax(dim=-1), given.shape[-1]).bool()
    assert not torch.equal(greedy.draw(given.abs(), seen), given.abs().argmax(dim=-1)), "greedy ignores the penalty"


@pytest.mark.parametrize("choice", [Choice(), Choice(1.4, 8, 0.95, 0.02)])
def test_draws_follow_the_chances(choice: Choice) -> None:
    """Pearson's chi-square of 40,000 draws: beyond its 1 - 1e-5 quantile, the draws are from something else."""
    from scipy.stats import chi2

    row = logits(2, 12, 5)[:1] / 2
    count, expected = 40_000, choice.chances(row)[0].double()
    drawn = choice.draw(row.expand(count, -1), None, torch.Generator().manual_seed(0))
    counts = torch.bincount(drawn, minlength=12).double()
    possible = expected > 0
    assert counts[~possible].sum() == 0, "a token that was filtered out is drawn"
    distance = ((counts - count * expected).square() / (count * expected))[possible].sum()
    degrees = int(possible.sum()) - 1
    assert degrees >= 3 and float(distance) < chi2.ppf(1 - 1e-5, degrees), "draws do not follow the chances"


def test_logits_that_are_not_finite_are_told() -> None:
    with pytest.raises(SplatlearnError, match="not finite"):
        Choice().draw(torch.tensor([[0.0, math.nan]]))


# ---- writing ----


def written(made: Transformer, tokens: Tensor, count: int, **keys: object) -> Tensor:
    keys.setdefault("generator", torch.Generator().manual_seed(7))
    return torch.stack(list(generate(made, tokens, count, **keys)), dim=1)  # type: ignore[arg-type]


class Heard(torch.nn.Module):
    """A model that keeps the logits by which each token was chosen."""

    def __init__(self, inner: Transformer) -> None:
        super().__init__()
        self.inner, self.config, self.last = inner, inner.config, []

    def forward(self, tokens: Tensor, **keys: object) -> Tensor:
        found = self.inner(tokens, **keys)
        self.last.append(found[:, -1])
        return found  # type: ignore[no-any-return]

    last: list[Tensor]


@pytest.mark.parametrize("position", ["learned", "sinusoidal", "rotary"])
@pytest.mark.parametrize("encoder_layers", [0, 2])
def test_the_cache_changes_no_logit(position: str, encoder_layers: int) -> None:
    made = model(position=position, encoder_layers=encoder_layers)
    tokens = torch.tensor([[1, 2, 3], [4, 5, 6]])
    keys: dict[str, object] = {}
    if encoder_layers:
        keys["source"] = torch.tensor([[7, 8, 9, 1], [1, 2, 0, 0]])
        keys["source_mask"] = keys["source"] != 0
    heard = [Heard(made), Heard(made)]
    with_cache, without = (written(each, tokens, 30, cache=i == 0, **keys) for i, each in enumerate(heard))
    assert torch.equal(with_cache, without), "the cache changes what is written"
    for one, two in zip(heard[0].last, heard[1].last, strict=True):
        assert (one - two).abs().max() < 1e-5, "cached and uncached logits differ"
    assert len(set(with_cache.flatten().tolist())) > 4, "nothing but a token or two is written"


def test_the_window_is_what_is_said_of_it() -> None:
    made, tokens = model(), torch.tensor([[1, 2, 3]])
    heard = Heard(made).eval()
    text = torch.cat([tokens, written(heard, tokens, 20)], dim=1)
    begin = 0
    for step, found in enumerate(heard.last):
        end = tokens.shape[1] + step
        if end - begin > CONTEXT:
            begin = end - CONTEXT // 2
        with torch.no_grad():
            expected = made(text[:, begin:end])[:, -1]
        assert torch.allclose(found, expected, atol=1e-5), f"token {end} was chosen from another window"
    assert begin > CONTEXT, "the window did not move twice: the test shows too little"


def test_a_seed_is_a_seed_and_the_model_is_as_before() -> None:
    made, tokens = model().train(), torch.tensor([[1, 2]])
    one, two = written(made, tokens, 20), written(made, tokens, 20)
    assert torch.equal(one, two), "one seed writes two texts: is dropout on?"
    assert made.training, "the model is left in eval mode"
    assert not torch.equal(one, written(made, tokens, 20, generator=torch.Generator().manual_seed(8)))
    assert all(not drawn.requires_grad for drawn in generate(made, tokens, 2)), "writing makes a graph"


def test_greedy_rows_do_not_depend_on_each_other() -> None:
    made, tokens = model(), torch.tensor([[1, 2], [3, 4], [5, 6]])
    together = written(made, tokens, 15, temperature=0.0)
    for row in range(3):
        alone = written(made, tokens[row : row + 1], 15, temperature=0.0)
        assert torch.equal(together[row : row + 1], alone), "a row is written otherwise beside others"


def test_rows_end_at_their_stop_tokens() -> None:
    made, tokens = model(), torch.tensor([[1, 2], [3, 4], [5, 5]])
    free = written(made, tokens, 25, temperature=0.0)
    stop = int(free[0, 3])
    found = written(made, tokens, 25, temperature=0.0, stop=[stop])
    for before, after in zip(free.tolist(), found.tolist(), strict=True):
        place = before.index(stop) if stop in before else len(before)
        assert after[: place + 1] == before[: len(after)][: place + 1], "a row changed before its end"
        assert set(after[place:]) <= {stop}, "a row goes on after its end"
    alone = written(made, tokens[:1], 25, temperature=0.0, stop=[stop])
    assert alone.shape[1] == free[0].tolist().index(stop) + 1, "writing goes on when all rows have ended"
    assert written(made, torch.tensor([[1, stop]]), 3, stop=[stop]).shape[1] >= 1, "the prompt's last token ends it"


def test_the_penalty_sees_prompt_and_text() -> None:
    heard, seen = Heard(model()), {1, 2, 3}
    text = written(heard, torch.tensor([[1, 2, 3]]), 30, temperature=0.0, repetition_penalty=3.0)[0].tolist()
    changed = 0
    for given, token in zip(heard.last, text, strict=True):
        there = torch.tensor([[kind in seen for kind in range(11)]])
        assert token == int(penalised(given, there, 3.0).argmax()), "the penalty counts other tokens than those there"
        changed += token != int(given.argmax())
        seen.add(token)
    assert changed > 3, "the penalty decides nothing: the test shows too little"


@pytest.mark.parametrize(
    ("tokens", "count", "keys", "message"),
    [
        (torch.zeros(1, 0, dtype=torch.int64), 1, {}, r"from 1 to the context of 8, got \[1, 0\]"),
        (torch.zeros(1, 9, dtype=torch.int64), 1, {}, r"from 1 to the context of 8, got \[1, 9\]"),
        (torch.zeros(4, dtype=torch.int64), 1, {}, r"got \[4\]"),
        (torch.zeros(1, 1, dtype=torch.int64), -1, {}, "at least 0, got -1"),
        (torch.zeros(1, 1, dtype=torch.int64), 1, {"temperature": -0.1}, "temperature must be at least 0"),
        (torch.zeros(1, 1, dtype=torch.int64), 1, {"temperature": math.nan}, "temperature must be at least 0"),
        (torch.zeros(1, 1, dtype=torch.int64), 1, {"top_k": -1}, "top-k must be at least 1, or 0"),
        (torch.zeros(1, 1, dtype=torch.int64), 1, {"top_p": 0.0}, "top-p must be above 0 and at most 1"),
        (torch.zeros(1, 1, dtype=torch.int64), 1, {"min_p": 1.1}, "min-p must be from 0 to 1"),
        (torch.zeros(1, 1, dtype=torch.int64), 1, {"repetition_penalty": 0.0}, "penalty must be above 0"),
    ],
)
def test_bad_settings_are_told_at_once(tokens: Tensor, count: int, keys: dict[str, float], message: str) -> None:
    with pytest.raises(SplatlearnError, match=message):
        generate(model(), tokens, count, **keys)  # type: ignore[arg-type]


# ---- streaming ----

TEXT = "naïve 漢字 🐈‍⬛ stop STOP end."


@pytest.mark.parametrize("kind", KINDS)
def test_text_streams_in_whole_characters(kind: str) -> None:
    tokenizer = make_tokenizer(kind, TEXT, 260)
    parts = list(stream(tokenizer, tokenizer.encode(TEXT)))
    assert "".join(parts) == TEXT and "\ufffd" not in "".join(parts), "streaming changes the text"
    assert len(parts) > 15, "text is held back although it is complete"


def test_text_comes_as_early_as_it_can() -> None:
    given: list[int] = []

    def tokens() -> Iterator[int]:
        for byte in "aé漢b".encode():
            given.append(byte)
            yield byte

    shown = [(part, len(given)) for part in stream(ByteTokenizer(), tokens())]
    assert shown == [("a", 1), ("é", 3), ("漢", 6), ("b", 7)], "a character comes late, or in parts"


def test_bytes_that_are_no_text_are_marked() -> None:
    assert "".join(stream(ByteTokenizer(), b"a\xffb\xe6\xbc")) == "a\ufffdb\ufffd", "bad bytes raise, or are lost"


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (["STOP"], "naïve 漢字 🐈‍⬛ stop "),
        (["STOP", "漢字"], "naïve "),
        (["字 "], "naïve 漢"),
        (["end.."], TEXT),
        (["n"], ""),
        (["🐈", "ïve 漢字 🐈"], "na"),
        ([], TEXT),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_stop_string_ends_the_text_and_is_left_out(kind: str, stop: list[str], expected: str) -> None:
    tokenizer = make_tokenizer(kind, TEXT, 260)
    rest = iter(tokenizer.encode(TEXT) + tokenizer.encode("more") if kind != "character" else tokenizer.encode(TEXT))
    found = "".join(stream(tokenizer, rest, stop))
    if expected == TEXT and kind != "character":
        expected += "more"
    assert found == expected, "the stop string is shown, or text before it is lost"


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(SplatlearnError, match="got an empty one"):
        list(stream(ByteTokenizer(), b"abc", ["x", ""]))
