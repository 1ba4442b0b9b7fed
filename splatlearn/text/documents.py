"""The documents of a corpus: a file, a folder of files or Python's own documentation, and how some are held out.

What is held out must be nowhere in what is learned from. Whole documents are held out, and those that repeat each other
stay together: a fifth of Python's topics is printed in several of them, so that parting them blindly would ask for what
was learned by heart.
"""

import codecs
import hashlib
import os
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from splatlearn.errors import SplatlearnError, brief

TEXT_SUFFIXES = (".txt", ".md", ".rst", ".text")  # these must be UTF-8; other files are looked at first
RUN = "config.yaml"  # beside a folder of checkpoints, it makes a folder that of a run
BLOCK = 1 << 20  # bytes read at once
MOST_FILES = 100_000  # of text in a folder
REPEATED = 80  # characters of a paragraph that, in two topics, makes them one document


@dataclass(frozen=True)
class Document:
    """A text: of a file, or, where ``path`` is None, ``text`` itself. Documents of one ``group`` are never parted."""

    name: str
    group: str
    path: Path | None = None
    text: str = ""

    def pieces(self, begin: int = 0, end: int | None = None) -> Iterator[str]:
        """Its characters ``begin`` to ``end``, in pieces of about a million, cut at line ends where there are any.

        A byte order mark is left out. Raises SplatlearnError, with the place, where a file is not UTF-8.
        """
        position = 0
        for piece in self._whole():
            part = piece[max(0, begin - position) : None if end is None else max(0, end - position)]
            position += len(piece)
            if part:
                yield part
            if end is not None and position >= end:
                return

    def _whole(self) -> Iterator[str]:
        rest = ""
        for text in _decoded(self.path) if self.path else [self.text]:
            cut = text.rfind("\n") + 1 or len(text)
            yield rest + text[:cut]
            rest = text[cut:]
        yield rest

    @cached_property
    def characters(self) -> int:
        return sum(map(len, self.pieces()))


class Part(NamedTuple):
    """Characters ``begin`` to ``end`` (None: all that follow) of a document."""

    document: Document
    begin: int = 0
    end: int | None = None


def gather(path: str) -> tuple[list[Document], str]:
    """The documents of a file or folder, or of Python's own documentation for "", and the SHA-256 of them all.

    The hash of one file is that of its bytes; of a folder, that of lines of hash and name, as `sha256sum` prints them.
    Raises SplatlearnError where there is nothing, or nothing that is text, or where text has NUL bytes.
    """
    if not path:
        found = python_topics()
        return found, hashlib.sha256("".join(document.text for document in found).encode()).hexdigest()
    place = place_of(path, "data.path")
    try:
        if place.is_dir():
            files = _texts_in(place)
            if not files:
                raise SplatlearnError(f"{place} holds no text: expected files in UTF-8 such as .txt or .md, got none")
        elif place.is_file():
            files = [place]
        else:
            raise SplatlearnError(f"{place} is no file or folder of text: expected one of UTF-8 files")
        hashes = [sha256_of(file, text=True) for file in files]
        size = sum(file.stat().st_size for file in files)
    except OSError as error:
        raise SplatlearnError(f"cannot read the text of {error.filename or place}: {error.strerror}") from error
    if size == 0:
        raise SplatlearnError(f"{place} is empty: expected text in UTF-8, got 0 bytes")
    found = [Document(str(file), each, file) for file, each in zip(files, hashes, strict=True)]
    if files == [place]:
        return found, hashes[0]
    lines = (f"{each}  {file.relative_to(place)}\n" for file, each in zip(files, hashes, strict=True))
    return found, hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


def place_of(path: str, key: str) -> Path:
    """A path of a config, with ``~`` for the home of a user. Raises SplatlearnError for what can be no path."""
    try:
        os.fsencode(path)
        if "\0" in path:
            raise ValueError("it has a NUL character")
        return Path(path).expanduser()
    except (ValueError, RuntimeError) as error:  # surrogates; "~" of an unknown user
        raise SplatlearnError(f"'{key}' must be a path, got {brief(repr(path), 60)}: {brief(error, 60)}") from error


def sha256_of(path: Path, text: bool = False) -> str:
    """The SHA-256 of a file's bytes; of ``text`` without NUL, which ends the reading of holes and binary files."""
    digest = hashlib.sha256()
    read = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            if text and (found := block.find(b"\0")) >= 0:
                utf16 = read == 0 and block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
                what = "it begins as UTF-16" if utf16 else f"byte {read + found:,} is NUL"
                raise SplatlearnError(f"{path} is not UTF-8 text: {what}")
            digest.update(block)
            read += len(block)
    return digest.hexdigest()


def python_topics() -> list[Document]:
    """The topics of Python's own `help()`, about 465,000 characters; which of them repeat each other is their group."""
    from pydoc_data.topics import topics

    names = sorted(topics)
    homes: dict[str, list[str]] = defaultdict(list)
    for name in names:
        for paragraph in paragraphs(topics[name]):
            homes[paragraph].append(name)
    group = {name: name for name in names}
    for shared in homes.values():
        merged = {group[name] for name in shared}
        group = {name: min(merged) if each in merged else each for name, each in group.items()}
    return [Document(name, group[name], text=topics[name].rstrip() + "\n") for name in names]


def paragraphs(text: str) -> set[str]:
    """The paragraphs of at least `REPEATED` characters, with the blanks between words made alike."""
    return {joined for each in text.split("\n\n") if len(joined := " ".join(each.split())) >= REPEATED}


def split(documents: Sequence[Document], holdout: float, seed: int) -> tuple[list[Part], list[Part]]:
    """What to learn from and what to hold out, about the share ``holdout`` of all characters, without overlap.

    Groups of documents are shuffled, and held out one by one as long as they fit. Where that leaves more than half of
    the share wanting, as with a single file, the rest is the tail of the longest document that is learned from.

    Raises SplatlearnError where the text is too short for both.
    """
    total = sum(document.characters for document in documents)
    share = total - int(total * (1 - holdout))
    groups: dict[str, list[Document]] = defaultdict(list)
    for document in documents:
        groups[document.group].append(document)
    order = sorted(groups)
    random.Random(seed).shuffle(order)
    held: set[str] = set()
    missing = share
    for name in order:
        size = sum(document.characters for document in groups[name])
        if 0 < size <= missing:
            held.add(name)
            missing -= size
    train = [Part(document) for document in documents if document.group not in held]
    test = [Part(document) for document in documents if document.group in held]
    if missing > share / 2:
        longest = max((part.document for part in train), key=lambda document: _cuttable(groups[document.group]))
        cut = max(0, longest.characters - missing)
        train = [Part(part.document, 0, cut) if part.document.group == longest.group else part for part in train]
        test.append(Part(longest, cut))
    if share < 1 or total - share < 1:
        raise SplatlearnError(f"a text of {total} characters is too short to hold out {holdout:g} of it")
    return train, test


def _cuttable(group: Sequence[Document]) -> tuple[bool, int]:
    """How well a group's tail can be cut off: copies of one text, or a text alone, before texts that share parts."""
    lengths = {document.characters for document in group}
    return len(lengths) == 1, max(lengths)


def text_of(parts: Sequence[Part]) -> Iterator[str]:
    """The pieces of all parts, one after another, with an empty line between documents."""
    for index, part in enumerate(parts):
        if index:
            yield "\n\n"
        yield from part.document.pieces(part.begin, part.end)


def _decoded(path: Path) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    read = 0  # bytes before this block
    try:
        with path.open("rb") as file:
            while True:
                block = file.read(BLOCK)
                waiting = len(decoder.getstate()[0])
                text = decoder.decode(block, final=not block)
                yield text.removeprefix("\ufeff") if read == 0 else text
                read += len(block)
                if not block:
                    return
    except UnicodeDecodeError as error:
        place = read - waiting + error.start
        raise SplatlearnError(f"{path} is not UTF-8 text: byte {place:,} does not begin a character") from error
    except OSError as error:
        raise SplatlearnError(f"cannot read the text of {path}: {error.strerror}") from error


def _texts_in(folder: Path) -> list[Path]:
    """All files of text below a folder, sorted; without hidden files, and without what runs have written.

    Links to folders are not followed. Raises SplatlearnError for more than `MOST_FILES` files.
    """
    found: list[Path] = []
    for root, folders, names in os.walk(folder):
        if RUN in names and "checkpoints" in folders:
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            file = Path(root, name)
            if name.startswith(".") or not file.is_file():
                continue
            if file.suffix.lower() in TEXT_SUFFIXES or _looks_like_text(file):
                found.append(file)
            if len(found) > MOST_FILES:
                raise SplatlearnError(f"{folder} must hold at most {MOST_FILES:,} files of text; join some of them")
    return sorted(found)


def _looks_like_text(file: Path) -> bool:
    """Whether the beginning of a file is UTF-8 without NUL, as that of pictures and programs is not."""
    with file.open("rb") as opened:
        head = opened.read(1 << 13)
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return b"\0" not in head
