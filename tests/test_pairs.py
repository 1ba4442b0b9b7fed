"""Pairs: words and forms are right, what is held out is never learned from, batches ask for what they should."""

import datetime
import random
import re

import pytest
import torch

from splatlearn.errors import SplatlearnError
from splatlearn.text.batches import IGNORE_INDEX
from splatlearn.text.pairs import LEARNED, MONTHS, TENS, UNITS, Pair, Pairs, date_texts, number_texts, words
from splatlearn.text.transformer import Transformer

SMALL = Pairs.Config(numbers=600, dates=600, holdout=0.1)


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    return Pairs(SMALL)


def texts(pairs: Pairs, chosen: list[Pair]) -> list[tuple[str, str]]:
    return [(pairs.tokenizer.decode(source), pairs.tokenizer.decode(target)) for source, target in chosen]


def value_of(text: str) -> int:
    """The number that words tell, added up word by word: the other way than `words` goes."""
    total, group = 0, 0
    for word in re.split(r" and | |-", text):
        if word == "thousand":
            total, group = total + 1000 * group, 0
        elif word == "hundred":
            group *= 100
        else:
            group += UNITS.index(word) if word in UNITS else 10 * TENS.index(word)
    return total + group


def day_of(text: str) -> datetime.date:
    """The day that a text tells, found by its parts."""
    if found := re.fullmatch(r"(\d+)\.(\d+)\.(\d+)", text):
        day, month, year = map(int, found.groups())
        return datetime.date(year, month, day)
    year = int(re.findall(r"\d{4}", text)[0])
    day = int(re.findall(r"\b\d{1,2}(?!\d)", text)[0])
    name = next(word for word in re.findall(r"[A-Z][a-z]+", text))
    return datetime.date(year, 1 + [month[:3] for month in MONTHS].index(name[:3]), day)


def test_words_tell_their_number() -> None:
    for number in [*range(2100), *range(9_990, 1_000_000, 977), 999_999]:
        assert value_of(words(number)) == number, "the words are those of another number"
    known = {0: "zero", 13: "thirteen", 42: "forty-two", 100: "one hundred", 342: "three hundred and forty-two"}
    known |= {2_007: "two thousand and seven", 104_000: "one hundred and four thousand"}
    known |= {21_150: "twenty-one thousand one hundred and fifty"}
    assert {number: words(number) for number in known} == known, "no one writes numbers so"


def test_dates_tell_their_day() -> None:
    found = date_texts(3000, random.Random(1))
    for text, answer in found:
        assert day_of(text).isoformat() == answer, f"{text!r} is another day"
    days = {answer for _, answer in found}
    assert len(days) == 3000 and min(days) < "1905" and max(days) > "2095", "days twice, or years left out"
    shapes = {re.sub(r"[a-z]+", "a", re.sub(r"\d+", "0", text)) for text, _ in found}
    assert len(shapes) >= 5, "a form of dates is never used"
    assert {ending for text, _ in found for ending in re.findall(r"\d(st|nd|rd|th)", text)} == {"st", "nd", "rd", "th"}
    for text in ("11st", "12nd", "13rd", "1th", "22th"):
        assert not any(f"the {text}" in each for each, _ in found), "an ordinal is written wrongly"


def test_numbers_of_all_lengths_are_drawn() -> None:
    answers = [answer for _, answer in number_texts(2000, random.Random(0))]
    assert len(set(answers)) == 2000, "a number is there twice"
    counts = [sum(len(answer) == digits for answer in answers) for digits in range(1, 7)]
    assert counts[:2] == [0, 0] and min(counts[2:]) > 300, "a length is rare"


@pytest.mark.parametrize("config", [SMALL, Pairs.Config(seed=3)], ids=["small", "shipped"])
def test_what_is_held_out_is_never_learned_from(config: Pairs.Config) -> None:
    made = Pairs(config)
    learned, held = texts(made, made.train), texts(made, made.test)
    assert not {answer for _, answer in learned} & {answer for _, answer in held}, "an answer is learned and asked for"
    assert not {source for source, _ in learned} & {source for source, _ in held}, "a question is learned and asked"
    numbers = sum("-" not in answer for _, answer in held)
    assert numbers == round(config.numbers * config.holdout), "another share of numbers is held out"
    assert len(held) - numbers == round(config.dates * config.holdout), "another share of dates is held out"
    assert {str(number) for number in range(LEARNED)} <= {answer for _, answer in learned}, "a word is never learned"
    for source, answer in [*learned[1900:2400], *held]:
        expected = day_of(source).isoformat() if "-" in answer else str(value_of(source))
        assert answer == expected, f"{source!r} has a wrong answer"


def test_a_seed_makes_the_pairs(pairs: Pairs) -> None:
    assert Pairs(SMALL).train == pairs.train and Pairs(SMALL).test == pairs.test, "one seed, two sets of pairs"
    assert Pairs(Pairs.Config(600, 600, 0.1, seed=1)).test != pairs.test, "the seed has no effect"
    assert "held out, such as '" in pairs.summary and f"{len(pairs.train):,} pairs" in pairs.summary


def test_special_tokens_follow_the_characters(pairs: Pairs) -> None:
    top = pairs.tokenizer.vocabulary
    assert [pairs.pad, pairs.begin, pairs.end, pairs.vocabulary] == [top, top + 1, top + 2, top + 3]
    largest = max(max(source + target) for source, target in pairs.train)
    assert largest < top, "a character is taken for a special token"
    assert pairs.longest >= max(len(source) for source, _ in pairs.train + pairs.test), "a context would be too short"


def test_a_batch_asks_for_the_answers(pairs: Pairs) -> None:
    chosen = [pairs.train[5], pairs.train[2700], pairs.test[0]]
    batch = pairs.batch(chosen)
    assert batch.source is not None and batch.source_mask is not None
    for row, (source, target) in enumerate(chosen):
        asked = batch.targets[row] != IGNORE_INDEX
        assert batch.source[row][batch.source_mask[row]].tolist() == source, "the source is another, or masked wrongly"
        assert batch.targets[row][asked].tolist() == [*target, pairs.end], "another answer is asked for"
        assert batch.tokens[row][asked].tolist() == [pairs.begin, *target], "a token does not precede its answer"
    assert batch.num_targets == sum(len(target) + 1 for _, target in chosen), "the mean would be over another number"
    assert not batch.source_mask.all() and (batch.source[~batch.source_mask] == pairs.pad).all()


class Knowing(torch.nn.Module):
    """Answers from a table, except that some answers are wrong: what generation makes of a model that knows."""

    def __init__(self, pairs: Pairs, wrong: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.config = Transformer.Config(pairs.vocabulary, 80, 8, 2, 1, 1)
        self.table = {tuple(source): [*target, pairs.end] for source, target in pairs.test}
        for source, _ in pairs.test[:wrong]:
            self.table[tuple(source)] = [1, pairs.end]
        self.mask: torch.Tensor
        self.source: torch.Tensor

    def forward(self, tokens, *, source=None, source_mask=None, cache=None):  # type: ignore[no-untyped-def]
        if source is not None:
            self.source, self.mask, self.written = source, source_mask, 0
        rows = []
        for source, mask in zip(self.source, self.mask, strict=True):
            answer = self.table[tuple(source[mask].tolist())]
            rows.append(answer[min(self.written, len(answer) - 1)])
        self.written += 1
        cache.layers[0].length += tokens.shape[1]
        return torch.nn.functional.one_hot(torch.tensor(rows), self.config.vocabulary)[:, None].float()


def test_exact_match_counts_whole_answers(pairs: Pairs) -> None:
    model: Transformer = Knowing(pairs, wrong=30)  # type: ignore[assignment]
    assert pairs.exact_match(model, pairs.test) == pytest.approx(1 - 30 / len(pairs.test)), "another share is right"
    answers = list(pairs.answers(model, [source for source, _ in pairs.test[25:40]]))
    assert answers[:5] == [[1]] * 5, "an answer goes on after its end"
    assert answers[5:] == [target for _, target in pairs.test[30:40]], "answers are in another order"


def test_an_untrained_model_answers_without_end(pairs: Pairs) -> None:
    config = Transformer.Config(pairs.vocabulary, pairs.longest, 8, 2, 1, 1)
    model = Transformer(config, torch.Generator().manual_seed(0))
    answers = list(pairs.answers(model, [source for source, _ in pairs.test[:3]]))
    assert len(answers) == 3 and all(len(answer) <= pairs.longest for answer in answers)
    assert pairs.exact_match(model, pairs.test[:20]) == 0.0, "what was never learned is answered"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"numbers": 99}, "'pairs.numbers' must be from 100 to 200,000, got 99"),
        ({"numbers": 200_001}, "'pairs.numbers' must be from 100 to 200,000, got 200001"),
        ({"dates": 73_050}, "'pairs.dates' must be from 100 to 73,049, got 73050"),
        ({"holdout": 1.0}, "'pairs.holdout' must be above 0 and below 1"),
    ],
)
def test_bad_settings_are_named(keys: dict[str, float], message: str) -> None:
    with pytest.raises(SplatlearnError, match=message):
        Pairs.Config(**keys)  # type: ignore[arg-type]
