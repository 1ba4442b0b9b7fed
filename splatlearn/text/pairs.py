"""Pairs for an encoder-decoder: numbers in words to digits, and dates as people write them to ISO 8601, generated.

    one hundred and four thousand and seven      104007
    the 3rd of March 1987                        1987-03-03

Neither can be copied letter by letter: a word's digit depends on where it stands, and a date's parts change places.
What is held out is numbers and days that are never learned from, in whatever form they are written; numbers below 100,
whose words the others are made of, are all learned from.
"""

import datetime
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from splatlearn.config import key
from splatlearn.errors import SplatlearnError
from splatlearn.text.batches import IGNORE_INDEX, Batch
from splatlearn.text.sampling import generate
from splatlearn.text.tokenizers import CharacterTokenizer

if TYPE_CHECKING:
    from splatlearn.text.transformer import Transformer

UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()
MONTHS = "January February March April May June July August September October November December".split()
FIRST, LAST = datetime.date(1900, 1, 1).toordinal(), datetime.date(2099, 12, 31).toordinal()
LEARNED = 100  # numbers below are all learned from ...
REPEATED = 20  # ... this many times, as they are few


def words(number: int) -> str:
    """A whole number from 0 to 999,999 in English words, with the "and" of British usage."""
    if number < 20:
        return UNITS[number]
    if number < 100:
        return TENS[number // 10] + (f"-{UNITS[number % 10]}" if number % 10 else "")
    if number < 1000:
        return f"{UNITS[number // 100]} hundred" + (f" and {words(number % 100)}" if number % 100 else "")
    rest = number % 1000
    joint = "" if rest == 0 else f" and {words(rest)}" if rest < 100 else f" {words(rest)}"
    return f"{words(number // 1000)} thousand{joint}"


def ordinal(day: int) -> str:
    """1st, 2nd, 3rd, 4th, .. 11th, .. 31st."""
    ending = "th" if 10 <= day % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return f"{day}{ending}"


FORMS: tuple[Callable[[datetime.date, str], str], ...] = (
    lambda date, month: f"{date.day} {month} {date.year}",
    lambda date, month: f"{month} {date.day}, {date.year}",
    lambda date, month: f"the {ordinal(date.day)} of {month} {date.year}",
    lambda date, month: f"{date.day} {month[:3]} {date.year}",
    lambda date, month: f"{month[:3]} {date.day}, {date.year}",
    lambda date, month: f"{date.day}.{date.month}.{date.year}",
)
ALPHABET = "".join(map(chr, range(32, 127)))


TOGETHER = 256  # sources that are answered at once
Pair = tuple[list[int], list[int]]  # source and target


class Pairs:
    """Texts and their answers as tokens.

    train, test: lists of (source, target), each a list of tokens without `begin`, `end` and `pad`, which follow those
    of ``tokenizer``; vocabulary counts them all; longest: what a model's context must hold; summary: a sentence.
    """

    @dataclass
    class Config:
        """How many pairs."""

        numbers: int = key(20_000, "numbers from 100 to 999,999, beside all those below 100")
        dates: int = key(20_000, "days of the years 1900 to 2099")
        holdout: float = key(0.05, "share of numbers and days that are held out")
        seed: int = key(0, "seed of what is drawn and of what is held out")

        def __post_init__(self) -> None:
            if not 0 < self.holdout < 1:
                raise SplatlearnError(f"'pairs.holdout' must be above 0 and below 1, got {self.holdout}")
            for name, most in (("numbers", 200_000), ("dates", LAST - FIRST + 1)):
                if not 100 <= getattr(self, name) <= most:
                    raise SplatlearnError(f"'pairs.{name}' must be from 100 to {most:,}, got {getattr(self, name)}")

    def __init__(self, config: Config) -> None:
        self.config = config
        self.tokenizer = CharacterTokenizer(ALPHABET)
        self.pad, self.begin, self.end = range(self.tokenizer.vocabulary, self.tokenizer.vocabulary + 3)
        self.vocabulary = self.tokenizer.vocabulary + 3
        draw = random.Random(config.seed)
        self.train = self._encoded([(words(number), str(number)) for number in range(LEARNED)]) * REPEATED
        self.test: list[Pair] = []
        for texts in (number_texts(config.numbers, draw), date_texts(config.dates, draw)):
            held = max(1, round(len(texts) * config.holdout))
            self.test += self._encoded(texts[:held])
            self.train += self._encoded(texts[held:])
        self.longest = max(max(len(source), len(target) + 1) for source, target in self.train + self.test)
        shown = (self.tokenizer.decode(source) for source, _ in (self.test[0], self.test[-1]))
        self.summary = (
            f"{len(self.train):,} pairs to learn from and {len(self.test):,} held out, such as "
            + " and ".join(map(repr, shown))
        )

    def _encoded(self, texts: Sequence[tuple[str, str]]) -> list[Pair]:
        tokens = iter(self.tokenizer.encode("".join(source + target for source, target in texts)))
        return [(list(islice(tokens, len(source))), list(islice(tokens, len(target)))) for source, target in texts]

    def sources(self, sources: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        """Sequences of tokens as [B, S] int64, padded on the right, and the mask of what is real, [B, S] bool."""
        padded = _padded(sources, self.pad)
        return padded, padded != self.pad

    def batch(self, pairs: Sequence[Pair]) -> Batch:
        """What a step learns from: the target after `begin` is asked for token by token, and `end` at last."""
        source, mask = self.sources([source for source, _ in pairs])
        tokens = _padded([[self.begin, *target] for _, target in pairs], self.pad)
        targets = _padded([[*target, self.end] for _, target in pairs], IGNORE_INDEX)
        return Batch(tokens, targets, int((targets != IGNORE_INDEX).sum()), source, mask)

    def answers(self, model: "Transformer", sources: Sequence[list[int]], **keys: Any) -> Iterator[list[int]]:
        """What the model answers to each source, up to `end`; greedily, or as ``keys`` of `generate` say."""
        device = next(model.parameters()).device
        for first in range(0, len(sources), TOGETHER):
            source, mask = self.sources(sources[first : first + TOGETHER])
            begin = torch.full((len(source), 1), self.begin, device=device)
            given: dict[str, Any] = {"temperature": 0.0, "stop": [self.end], "source": source.to(device)}
            given |= {"source_mask": mask.to(device), **keys}
            written = list(generate(model, begin, model.config.context, **given))
            for row in torch.stack(written, dim=1).tolist():
                yield row[: row.index(self.end)] if self.end in row else row

    def exact_match(self, model: "Transformer", pairs: Sequence[Pair]) -> float:
        """The share of ``pairs`` that the model answers without a fault."""
        answers = self.answers(model, [source for source, _ in pairs])
        return sum(answer == target for answer, (_, target) in zip(answers, pairs, strict=True)) / len(pairs)


class PairRows:
    """The training or held-out pairs, chosen by their numbers: the counterpart of `Windows` for pairs."""

    def __init__(self, pairs: Pairs, test: bool = False) -> None:
        self.pairs = pairs
        self.rows = pairs.test if test else pairs.train

    def draw(self, count: int, generator: torch.Generator) -> np.ndarray:
        """Draw the numbers of ``count`` random pairs, [count] int64."""
        return torch.randint(len(self.rows), (count,), generator=generator).numpy()

    def num_targets(self, rows: np.ndarray) -> int:
        """The number of targets of these pairs: the tokens of each answer, and its end."""
        return sum(len(self.rows[row][1]) + 1 for row in rows)

    def batch(self, rows: np.ndarray) -> Batch:
        """The pairs numbered ``rows`` [B], padded to the longest of them."""
        return self.pairs.batch([self.rows[row] for row in rows])

    def all(self, size: int, most: int) -> Iterator[Batch]:
        """Iterate over every pair once, in batches of ``size``; ``most`` limits only a corpus."""
        for first in range(0, len(self.rows), size):
            yield self.pairs.batch(self.rows[first : first + size])


def _padded(rows: Sequence[list[int]], filler: int) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [filler] * (longest - len(row)) for row in rows])


def number_texts(count: int, draw: random.Random) -> list[tuple[str, str]]:
    """``count`` different numbers of 3 to 6 digits; each length is as likely as any other, while it has numbers."""
    found: dict[int, None] = {}
    while len(found) < count:
        digits = draw.randint(3, 6)
        found[draw.randrange(10 ** (digits - 1), 10**digits)] = None
    chosen = list(found)
    draw.shuffle(chosen)  # as short numbers run out, later draws are longer
    return [(words(number), str(number)) for number in chosen]


def date_texts(count: int, draw: random.Random) -> list[tuple[str, str]]:
    """``count`` different days, each in one of `FORMS`, and in ISO form."""
    days = map(datetime.date.fromordinal, draw.sample(range(FIRST, LAST + 1), count))
    return [(draw.choice(FORMS)(day, MONTHS[day.month - 1]), day.isoformat()) for day in days]
