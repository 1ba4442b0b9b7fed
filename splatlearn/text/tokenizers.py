"""Tokenizers: text to integers and back, by bytes, by characters, or by pieces of words that a corpus taught (BPE).

All three give back exactly the text that they took, and hand out the bytes of each token, as a token may end in the
middle of a character. A tokenizer's `state` is JSON, so that a run carries its own and needs its corpus no more.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from splatlearn.errors import SplatlearnError

TokenizerKind = Literal["byte", "character", "bpe"]
KINDS: tuple[str, ...] = get_args(TokenizerKind)
PROBE = "Probe  é漢🐈\t\r\n\0 e\u0301"  # who changes, drops or cannot spell a thing shows it here
BYTES = 256  # what a byte can be, and so the least vocabulary of byte pairs


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
        import tokenizers

        try:
            self._inner = tokenizers.Tokenizer.from_str(definition)
        except Exception as error:  # the library raises Exception itself
            raise SplatlearnError(f"not the definition of a BPE tokenizer: {error}") from error
        self._definition = definition
        self.vocabulary = self._inner.get_vocab_size()
        try:
            kept = self.decode(self.encode(PROBE)) == PROBE
        except KeyError:
            kept = False
        if not kept:
            raise SplatlearnError("not the definition of a BPE tokenizer over bytes: it does not give back every text")

    @classmethod
    def read(cls, path: Path) -> "BPETokenizer":
        """The tokenizer of a ``tokenizer.json``, such as GPT-2's. Raises SplatlearnError naming the file."""
        try:
            return cls(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise SplatlearnError(f"cannot read the tokenizer {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise SplatlearnError(
                f"{path} is not UTF-8 text: byte {error.start:,} does not begin a character"
            ) from error
        except SplatlearnError as error:
            raise SplatlearnError(f"{path} is {error}") from error

    @classmethod
    def train(cls, texts: Iterable[str], vocabulary: int) -> "BPETokenizer":
        """Learns up to ``vocabulary`` tokens, at least the 256 bytes; fewer if the texts hold no more pairs."""
        from tokenizers import Tokenizer as Inner
        from tokenizers import decoders, models, pre_tokenizers, trainers

        if vocabulary < BYTES:
            raise SplatlearnError(f"the vocabulary of byte pairs must be at least {BYTES}, got {vocabulary}")
        inner = Inner(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        trainer = trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False)
        inner.train_from_iterator(texts, trainer)
        return cls(inner.to_str())

    def array(self, text: str) -> np.ndarray:
        return self.arrays([text])[0]

    def arrays(self, texts: Sequence[str]) -> list[np.ndarray]:
        for text in texts:
            _utf8(text)
        encoded = self._inner.encode_batch_fast(list(texts), add_special_tokens=False)  # on all cores, without offsets
        return [np.array(each.ids, dtype=np.uint32) for each in encoded]

    def spell(self, tokens: Iterable[int]) -> bytes:
        return b"".join(self._pieces[token] for token in tokens)

    def state(self) -> dict[str, Any]:
        return {"kind": self.kind, "definition": self._definition}

    @cached_property
    def _pieces(self) -> list[bytes]:
        """The bytes of each token: the library writes each byte as a printable character."""
        byte_of = _bytes_of_characters()
        added = {token for token, _ in self._inner.get_added_tokens_decoder().items()}
        words = [self._inner.id_to_token(token) or "" for token in range(self.vocabulary)]
        return [
            word.encode("utf-8") if token in added else bytes(byte_of[character] for character in word)
            for token, word in enumerate(words)
        ]


def _bytes_of_characters() -> dict[str, int]:
    """GPT-2's way to write bytes as printable characters, inverted: those that print in Latin-1 are themselves, the
    others, in order, are the characters from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(BYTES) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


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
