"""A corpus: text as two long arrays of tokens, one to learn from and one held out, read from disk as they are needed.

Tokens are kept in a cache, as encoding a large text takes minutes: ``$XDG_CACHE_HOME/splatlearn/text/KEY`` (by default
below ``~/.cache``), or the folder that ``cache`` names, but never the folder of the text. KEY is a hash of the text and
of all that decides its tokens, so that nothing in the cache is ever stale; files are written whole or not at all and
checked against their SHA-256 when they are opened. A cache can be deleted at any time.
"""

import hashlib
import json
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from splatlearn.config import key
from splatlearn.errors import SplatlearnError, brief
from splatlearn.files import replacing, require_regular
from splatlearn.notices import warn
from splatlearn.text.byte_level import BYTES, MOST_BYTES, MOST_TOKENS
from splatlearn.text.documents import Document, Part, gather, place_of, sha256_of, split, text_of
from splatlearn.text.tokenizers import BPETokenizer, Tokenizer, TokenizerKind, from_state, make_tokenizer

FORMAT = 1
INDEX = "tokens.json"
MOST_INDEX = 4 * MOST_BYTES  # bytes of an index, which has the definition of a tokenizer
DTYPES = ("uint16", "uint32")
AT_ONCE = 8  # pieces, of about a million characters each, that are encoded together


class Corpus:
    """A text's tokens.

    train, test: [N] memory-mapped uint16, or uint32 for a vocabulary above 65,536; nothing of one is in the other.
    tokenizer; sha256 of the text; test_bytes, the UTF-8 bytes of what is held out; summary, a sentence to print.

    Raises SplatlearnError for a text that is missing, empty, too short or not UTF-8.
    """

    @dataclass
    class Config:
        """Which text, and how it becomes tokens."""

        path: str = key(
            "", "a UTF-8 file, or a folder of them; empty: the topics of Python's own documentation", path=True
        )
        tokenizer: TokenizerKind = key("character", "what a token is")
        vocabulary: int = key(1024, "tokens that bpe learns from the text")
        tokenizer_file: str = key(
            "", "for bpe, a tokenizer.json to take instead of learning one, such as GPT-2's", path=True
        )
        holdout: float = key(0.1, "share of the text that is held out")
        seed: int = key(0, "seed of the choice of documents that are held out")
        cache: str = key("", "folder of the token cache; empty: splatlearn/text in the user's cache folder", path=True)

        def __post_init__(self) -> None:
            if not BYTES <= self.vocabulary <= MOST_TOKENS:
                raise SplatlearnError(
                    f"'data.vocabulary' must be at least {BYTES} and at most {MOST_TOKENS:,}, got {self.vocabulary}"
                )
            if not 0 < self.holdout < 1:
                raise SplatlearnError(f"'data.holdout' must be above 0 and below 1, got {self.holdout}")
            if self.tokenizer_file and self.tokenizer != "bpe":
                raise SplatlearnError(f"'data.tokenizer_file' is for the tokenizer bpe, got {self.tokenizer}")

    def __init__(self, config: Config) -> None:
        self.config = config
        place = cache_folder(config.cache)
        if config.path and place.resolve().is_relative_to(place_of(config.path, "data.path").resolve()):
            raise SplatlearnError(f"'data.cache' must be outside of the text's folder {config.path}, got {place}")
        documents, self.sha256 = gather(config.path)
        self._files = {_relative(document, config.path): document.group for document in documents if document.path}
        settings: dict[str, Any] = {"format": FORMAT, "text": self.sha256, "tokenizer": config.tokenizer}
        settings |= {"holdout": config.holdout, "seed": config.seed}
        given: Tokenizer | None = None
        if config.tokenizer_file:
            file = place_of(config.tokenizer_file, "data.tokenizer_file").resolve()
            config.tokenizer_file = str(file)  # a run resumes from anywhere
            given = BPETokenizer.read(file)
            settings["definition"] = given.state()
        elif config.tokenizer == "bpe":
            settings["vocabulary"] = config.vocabulary
        self.folder = place / _hash_of(settings)[:32]
        cached = read_index(self.folder, config.tokenizer, given)
        if cached is None:
            cached = self._build(*split(documents, config.holdout, config.seed), documents, given)
        index, self.tokenizer = cached
        self.train, self.test = (
            np.memmap(self.folder / f"{side}.bin", dtype=index["dtype"], mode="r") for side in ("train", "test")
        )
        self.train_bytes, self.test_bytes = (int(index["files"][side]["text_bytes"]) for side in ("train", "test"))
        self.summary = (
            f"{_name_of(config.path)}: {len(documents)} document{'s' * (len(documents) > 1)}, "
            f"{self.train_bytes + self.test_bytes:,} bytes, SHA-256 {self.sha256[:16]}; {len(self.train):,} tokens to "
            f"learn from and {len(self.test):,} held out, of {self.tokenizer.vocabulary:,} kinds"
        )

    def fingerprints(self) -> dict[str, dict[str, str]]:
        """The hashes that a resumed run compares: see `Task.fingerprints`."""
        files = {name: digest[:16] for name, digest in self._files.items()}
        return {
            **({"files": files} if len(files) > 1 else {"text": {"": self.sha256}}),
            "data.holdout": {"": repr(self.config.holdout)},
            "data.seed": {"": repr(self.config.seed)},
        }

    def _build(
        self, train: Sequence[Part], test: Sequence[Part], documents: Sequence[Document], given: Tokenizer | None
    ) -> tuple[dict[str, Any], Tokenizer]:
        """Encode both sides into the cache; return its index, which is written last, and the tokenizer."""
        whole = [Part(document) for document in documents] if self.config.tokenizer == "character" else train
        tokenizer = given or _tokenizer_for(self.config, whole)
        dtype = DTYPES[tokenizer.vocabulary > 1 << 16]
        index: dict[str, Any] = {"format": FORMAT, "dtype": dtype, "tokenizer": tokenizer.state(), "files": {}}
        total = sum(document.characters for document in documents)
        try:
            with tqdm(total=total, desc="encoding the text", unit="character", unit_scale=True, leave=False) as bar:
                for side, parts in (("train", train), ("test", test)):
                    path = self.folder / f"{side}.bin"
                    written = _write_tokens(path, text_of(parts), tokenizer, dtype, bar)
                    index["files"][side] = {"text_bytes": written, "sha256": sha256_of(path)}
            with replacing(self.folder / INDEX) as temporary:
                temporary.write_text(json.dumps({**index, "seal": _hash_of(index)}), encoding="utf-8")
        except SplatlearnError as error:
            if isinstance(error.__cause__, OSError):
                raise SplatlearnError(f"{error} 'data.cache' names another folder for the tokens.") from error
            raise
        return index, tokenizer


def _relative(document: Document, place: str) -> str:
    """The name of a document's file within the folder of the text, wherever that is."""
    return os.path.relpath(document.name, Path(place).expanduser())


def cache_folder(chosen: str = "") -> Path:
    """Where tokens are kept: the folder chosen, or splatlearn/text in the user's cache folder."""
    if chosen:
        return place_of(chosen, "data.cache")
    base = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(base) if os.path.isabs(base) else Path("~/.cache").expanduser()  # a relative one does not count (XDG)
    return root / "splatlearn" / "text"


def _tokenizer_for(config: Corpus.Config, parts: Sequence[Part]) -> Tokenizer:
    """Byte pairs are learned from what is learned from; the alphabet is that of the whole text."""
    if config.tokenizer == "character":
        alphabet: set[str] = set("\n") if len(parts) > 1 else set()  # documents have empty lines between them
        for piece in text_of(parts):
            alphabet.update(piece)
        return make_tokenizer(config.tokenizer, sorted(alphabet))
    return make_tokenizer(config.tokenizer, text_of(parts), config.vocabulary)


def _write_tokens(path: Path, pieces: Iterator[str], tokenizer: Tokenizer, dtype: str, bar: "tqdm[Any]") -> int:
    """Writes the tokens of a text; returns its bytes in UTF-8."""
    count = 0
    with replacing(path) as temporary, temporary.open("wb") as file:
        while some := list(islice(pieces, AT_ONCE)):
            for tokens in tokenizer.arrays(some):
                file.write(tokens.astype(dtype).tobytes())
            count += sum(len(piece.encode("utf-8")) for piece in some)
            bar.update(sum(map(len, some)))
    return count


def read_index(folder: Path, kind: str, given: Tokenizer | None) -> tuple[dict[str, Any], Tokenizer] | None:
    """The index of a cache and its tokenizer, or None if there is none or it is not whole: then it is made again.

    The seal shows damage, but anyone can write one. So everything that is used is checked as well.

    Args:
        folder: of one cache.
        kind: of the tokenizer that the cache must have.
        given: the very tokenizer, where it does not depend on the text.
    """
    if not (folder / INDEX).exists():
        return None
    try:
        if require_regular(folder / INDEX) > MOST_INDEX:
            raise ValueError("it is too large")
        index = json.loads((folder / INDEX).read_bytes())
        seal = index.pop("seal")
        tokenizer = from_state(index["tokenizer"])
        if seal != _hash_of(index) or index["format"] != FORMAT or tokenizer.kind != kind:
            raise ValueError("its index is damaged")
        if given is not None and tokenizer.state() != given.state():
            raise ValueError("its tokenizer is another one")
        for side in ("train", "test"):
            _check_tokens(folder / f"{side}.bin", index["files"][side], index["dtype"], tokenizer.vocabulary)
    except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        warn(f"The tokens in {folder} cannot be used and are made again: {brief(error, 100)}.")
        return None
    return dict(index), tokenizer


def _check_tokens(path: Path, facts: dict[str, Any], dtype: str, vocabulary: int) -> None:
    """Check a file of tokens: its type, size and hash, and that each token is in the vocabulary."""
    size = require_regular(path)
    if dtype not in DTYPES or type(facts["text_bytes"]) is not int or facts["text_bytes"] < 0:
        raise ValueError("its index is damaged")
    if size == 0 or size % np.dtype(dtype).itemsize or sha256_of(path) != facts["sha256"]:
        raise ValueError(f"{path.name} is damaged")
    if int(np.memmap(path, dtype=dtype, mode="r").max()) >= vocabulary:
        raise ValueError(f"{path.name} has tokens that are not in the vocabulary of {vocabulary:,}")


def _hash_of(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _name_of(path: str) -> str:
    return path or f"the documentation topics of Python {platform.python_version()}"
