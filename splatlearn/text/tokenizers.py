"""Tokenizers: text to integers and back, by bytes, by characters, or by pieces of words that a corpus taught (BPE).

All three give back exactly the text that they took, and hand out the bytes of each token, as a token may end in the
middle of a character. A tokenizer's `state` is JSON, so that a run carries its own and needs its corpus no more.
"""

import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from tqdm import tqdm

from splatlearn.errors import SplatlearnError
from splatlearn.files import require_regular
from splatlearn.text import byte_level
from splatlearn.text.byte_level import BYTES, MOST_TOKENS

TokenizerKind = Literal["byte", "character", "bpe"]
KINDS: tuple[str, ...] = get_args(TokenizerKind)
PROBE = "Probe  é漢🐈\t\r\n\0 e\u0301"  # who changes, drops or cannot spell a thing shows it here
LONGEST_WORD = 1000  # bytes that byte pairs are learned from at once


class Tokenizer(ABC):
    """Text to tokens 0..vocabulary-1 and back."""

    kind: str
    vocabulary: int

    @abstractmethod
    def array(self, text: str) -> np.ndarray:
        """The tokens of a text, [N] uint32. Raises SplatlearnError for what the vocabulary cannot spell."""

    def arrays(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The tokens of several texts, each as `array`; where the tokenizer can, several at once."""
        return [self.array(text) for text in texts]

    @abstractmethod
    def spell(self, tokens: Iterable[int]) -> bytes:
        """The UTF-8 bytes that tokens stand for; a part of them may be an incomplete character."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """All of it, as JSON; `from_state` gives back an equal tokenizer."""

    def encode(self, text: str) -> list[int]:
        """The tokens of a text. Raises SplatlearnError for what the vocabulary cannot spell."""
        tokens: list[int] = self.array(text).tolist()
        return tokens

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens; bytes that are no UTF-8, as of a character cut in two, become U+FFFD."""
        return self.spell(tokens).decode("utf-8", errors="replace")


class ByteTokenizer(Tokenizer):
    """The bytes of UTF-8: no vocabulary to learn, and nothing that it cannot spell."""

    kind = "byte"
    vocabulary = BYTES

    def array(self, text: str) -> np.ndarray:
        return np.frombuffer(_utf8(text), dtype=np.uint8).astype(np.uint32)

    def spell(self, tokens: Iterable[int]) -> bytes:
        return bytes(tokens)

    def state(self) -> dict[str, Any]:
        return {"kind": self.kind}


class CharacterTokenizer(Tokenizer):
    """The characters of a given alphabet, by code point."""

    kind = "character"

    def __init__(self, characters: Iterable[str]) -> None:
        self.characters = sorted(set(characters))
        if not self.characters:
            raise SplatlearnError("a character tokenizer needs at least one character, got none")
        _utf8("".join(self.characters))  # no surrogates
        self.vocabulary = len(self.characters)
        self._points = np.array([ord(character) for character in self.characters], dtype=np.uint32)

    def array(self, text: str) -> np.ndarray:
        points = np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), dtype="<u4")
        tokens = np.searchsorted(self._points, points).clip(max=self.vocabulary - 1)
        strange = np.flatnonzero(self._points[tokens] != points)
        if len(strange):
            place = int(strange[0])
            raise SplatlearnError(
                f"character {place + 1} of the text, {text[place]!r}, is not among the {self.vocabulary} characters "
                "that the tokenizer knows"
            )
        return tokens.astype(np.uint32)

    def spell(self, tokens: Iterable[int]) -> bytes:
        return "".join(self.characters[token] for token in tokens).encode("utf-8")

    def state(self) -> dict[str, Any]:
        return {"kind": self.kind, "characters": "".join(self.characters)}


class BPETokenizer(Tokenizer):
    """Byte pair encoding (Sennrich et al. 2016) over bytes, as in GPT-2, by the `tokenizers` library.

    Its first tokens are the bytes, so that it can spell everything; each further one joins the pair of tokens that was
    most frequent in the text that it learned from, within words.
    """

    kind = "bpe"

    def __init__(self, definition: str) -> None:
        """``definition`` is the JSON of a byte-level tokenizer of the `tokenizers` library (a ``tokenizer.json``)."""
        with byte_level.quiet():
            self._inner = byte_level.load(definition)
            self._pieces = byte_level.pieces(self._inner)
            self._lengths = np.array([len(piece) for piece in self._pieces])
            self.vocabulary = len(self._pieces)
            self._definition = definition
            if self.decode(self._arrays([PROBE], byte_level.SECONDS)[0].tolist()) != PROBE:
                raise SplatlearnError(f"{byte_level.WHAT} over bytes: it does not give back every text")

    @classmethod
    def read(cls, path: Path) -> "BPETokenizer":
        """The tokenizer of a ``tokenizer.json``, such as GPT-2's. Raises SplatlearnError naming the file."""
        try:
            size = require_regular(path)
            if size > byte_level.MOST_BYTES:
                raise SplatlearnError(f"{path} must have at most {byte_level.MOST_BYTES:,} bytes, got {size:,}")
            content = path.read_text(encoding="utf-8")
        except OSError as error:
            raise SplatlearnError(f"cannot read the tokenizer {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise SplatlearnError(
                f"{path} is not UTF-8 text: byte {error.start:,} does not begin a character"
            ) from error
        try:
            return cls(content)
        except SplatlearnError as error:
            raise SplatlearnError(f"{path} is {error}") from error

    @classmethod
    def train(cls, texts: Iterable[str], vocabulary: int) -> "BPETokenizer":
        """Learn byte pairs from texts.

        A word longer than `LONGEST_WORD` bytes (DNA, base64, a line of JSON, Chinese without a comma) is learned from
        in pieces of that length, because the time for one word grows with the square of its length. Pairs across the
        ends of pieces do not count; words are encoded whole. Ctrl-C ends the wait at any time.

        Args:
            texts: read once.
            vocabulary: number of tokens, at least the 256 bytes; fewer are learned if the texts have no more pairs.
        """
        from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
        from tokenizers import Tokenizer as Inner

        if not BYTES <= vocabulary <= MOST_TOKENS:
            raise SplatlearnError(
                f"the vocabulary of byte pairs must be at least {BYTES} and at most {MOST_TOKENS:,}, got {vocabulary}"
            )
        inner = Inner(models.BPE())
        words = pre_tokenizers.ByteLevel(add_prefix_space=False)
        cut = pre_tokenizers.Split(Regex(f".{{1,{LONGEST_WORD}}}"), "isolated")
        inner.pre_tokenizer = pre_tokenizers.Sequence([words, cut])
        inner.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        trainer = trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False)
        stop = threading.Event()
        with tqdm(desc="learning byte pairs", unit=" characters", unit_scale=True, leave=False, delay=1) as bar:
            learn = partial(inner.train_from_iterator, _counted(texts, bar, stop), trainer)
            try:
                byte_level.guarded(learn, "byte pairs cannot be learned", tick=bar.refresh)
            finally:
                stop.set()
        inner.pre_tokenizer = words
        return cls(inner.to_str())

    def array(self, text: str) -> np.ndarray:
        return self.arrays([text])[0]

    def arrays(self, texts: Sequence[str]) -> list[np.ndarray]:
        return self._arrays(texts)

    def _arrays(self, texts: Sequence[str], seconds: float | None = None) -> list[np.ndarray]:
        sizes = [len(_utf8(text)) for text in texts]
        encode = partial(self._inner.encode_batch_fast, list(texts), add_special_tokens=False)  # on all cores
        encoded = byte_level.guarded(encode, "the tokenizer fails", seconds)
        found = [np.array(each.ids, dtype=np.uint32) for each in encoded]
        for tokens, size in zip(found, sizes, strict=True):
            if self._lengths[tokens].sum() != size:
                raise SplatlearnError("the tokenizer does not give back this text: its added tokens take in blanks")
        return found

    def spell(self, tokens: Iterable[int]) -> bytes:
        return b"".join(self._pieces[token] for token in tokens)

    def state(self) -> dict[str, Any]:
        return {"kind": self.kind, "definition": self._definition}


def _counted(texts: Iterable[str], bar: "tqdm[Any]", stop: threading.Event) -> Iterator[str]:
    """The texts, until ``stop``; their characters are counted on the bar."""
    for text in texts:
        if stop.is_set():
            raise SplatlearnError("the learning of byte pairs was stopped")
        _utf8(text)
        yield text
        bar.update(len(text))
    bar.set_description("learning byte pairs (all is read)", refresh=False)


def _utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise SplatlearnError(f"the text is not UTF-8: character {error.start + 1} is {text[error.start]!r}") from error


def make_tokenizer(kind: str, text: str | Iterable[str], vocabulary: int = 1024) -> Tokenizer:
    """The tokenizer called ``kind`` for a text, or texts: its characters, or byte pairs up to ``vocabulary``."""
    texts = [text] if isinstance(text, str) else text
    if kind == "byte":
        return ByteTokenizer()
    if kind == "character":
        return CharacterTokenizer(set().union(*texts))
    if kind == "bpe":
        return BPETokenizer.train(texts, vocabulary)
    raise SplatlearnError(f"'tokenizer' must be one of {', '.join(KINDS)}, got {kind!r}")


def from_state(state: Any) -> Tokenizer:
    """The tokenizer whose `state` this is. Raises SplatlearnError for anything else."""
    kind = state.get("kind") if isinstance(state, dict) else None
    if kind == "byte":
        return ByteTokenizer()
    if kind == "character" and isinstance(state.get("characters"), str):
        return CharacterTokenizer(state["characters"])
    if kind == "bpe" and isinstance(state.get("definition"), str):
        return BPETokenizer(state["definition"])
    told = json.dumps(state, default=str)[:60]
    raise SplatlearnError(f"the state of a tokenizer must be of kind {', '.join(KINDS)} with its content, got {told}")
