"""The `tokenizers` library behind a guard: its definitions are checked, its panics caught, its work can be interrupted.

A ``tokenizer.json`` may come from a stranger, and the library trusts it: it panics on some, drops bytes that have no
token, cuts or pads texts, and runs regular expressions that take very long. `load` accepts byte-level BPE that gives
back every text, and nothing else.
"""

import json
import os
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from splatlearn.errors import SplatlearnError, brief

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BYTES = 256  # values of a byte, and so the smallest vocabulary of byte pairs
NEVER = {0xC0, 0xC1, *range(0xF5, 0x100)}  # bytes that UTF-8 never has
MOST_BYTES = 32 << 20  # of a definition; the largest public ones have about 30 MB
MOST_PARTS = 2_000_000  # commas and brackets; 200,000 tokens have 1.5 million
MOST_TOKENS = 300_000
MOST_ADDED = 300_000  # characters of added tokens
MOST_SPLITS = 16  # pre-tokenizers in a sequence
SECONDS = 1.5  # for the first text of a tokenizer
WAIT = 0.1  # seconds between two looks for Ctrl-C
SPLITTERS = {"Split", "Digits", "Punctuation"}  # pre-tokenizers that keep every character
WHAT = "not the definition of a BPE tokenizer"

Result = TypeVar("Result")


def load(definition: str) -> "Tokenizer":
    """The tokenizer of a definition: byte-level BPE that keeps every byte.

    Args:
        definition: the content of a ``tokenizer.json``.

    Raises:
        SplatlearnError: it is something else, or it is damaged; the message begins with `WHAT`.
    """
    import tokenizers

    content = json.dumps(_checked(definition))
    inner: Any = guarded(lambda: tokenizers.Tokenizer.from_str(content), WHAT)
    if not isinstance(inner.model, tokenizers.models.BPE):
        raise _lossy(f"its model is {type(inner.model).__name__}")
    _require_vocabulary(inner)
    return inner


def _checked(definition: str) -> dict[str, Any]:
    """What the library may see of a definition: it works on some parts before anyone can look at the result.

    Truncation, padding and post-processors, which would change the tokens of a text, are left out.
    """
    if len(definition) > MOST_BYTES:
        raise SplatlearnError(f"{WHAT}: it has {len(definition):,} characters, at most {MOST_BYTES:,} are read")
    if sum(map(definition.count, ",[{")) > MOST_PARTS:
        raise SplatlearnError(f"{WHAT}: it has more than {MOST_PARTS:,} parts")
    try:
        found = json.loads(definition)
    except (ValueError, RecursionError) as error:
        raise SplatlearnError(f"{WHAT}: it must be JSON, but {brief(error)}") from error
    if not isinstance(found, dict) or not isinstance(found.get("model"), dict):
        raise SplatlearnError(f"{WHAT}: it must be a JSON object with a 'model'")
    model = found["model"]
    if model.get("type", "BPE") != "BPE":
        raise _lossy(f"its model is {brief(repr(model['type']), 40)}")
    if found.get("normalizer") is not None:
        raise _lossy("it has a normalizer")
    if model.get("dropout"):
        raise _lossy("it chooses pairs at random (dropout)")
    _require_byte_level(found.get("pre_tokenizer"))
    _bound_tokens(model.get("vocab"), found.get("added_tokens"))
    kept = {key: found.get(key) for key in ("version", "added_tokens", "pre_tokenizer", "decoder", "model")}
    return {**kept, "truncation": None, "padding": None, "normalizer": None, "post_processor": None}


def guarded(
    work: Callable[[], Result],
    what: str,
    seconds: float | None = None,
    tick: Callable[[], object] = lambda: None,
) -> Result:
    """Run ``work`` of the library, in a thread so that Ctrl-C ends the wait for it.

    Args:
        work: releases the interpreter's lock while it computes.
        what: the beginning of the message of an error.
        seconds: how long to wait at most; None: for ever.
        tick: called about once per second of waiting.

    Raises:
        SplatlearnError: the library raises or panics, or the time is over. Errors of our own pass unchanged.
    """
    answer: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            answer.put((work(), None))
        except BaseException as error:  # a panic of the library is no Exception
            answer.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    waited = 0
    while True:
        try:
            result, error = answer.get(timeout=WAIT)
        except queue.Empty:
            waited += 1
            if seconds is not None and waited * WAIT >= seconds:
                raise SplatlearnError(f"{what}: it takes longer than {seconds:g} s for a short text") from None
            if waited % 10 == 0:
                tick()
            continue
        if error is None:
            return result  # type: ignore[no-any-return]
        if isinstance(error, SplatlearnError | KeyboardInterrupt | OSError):
            raise error
        raise SplatlearnError(f"{what}: {brief(error) or type(error).__name__}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Send the standard error of the process to nowhere: a panic prints a stack trace before it can be caught."""
    try:
        kept = os.dup(2)
    except OSError:  # closed
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def bytes_of_characters() -> dict[str, int]:
    """GPT-2's way to write bytes as printable characters, inverted.

    Bytes that print in Latin-1 are themselves; the others, in order, are the characters from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(BYTES) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


def pieces(inner: "Tokenizer") -> list[bytes]:
    """The bytes of each token: the library writes each byte as a printable character.

    Raises:
        SplatlearnError: a token has a character that stands for no byte.
    """
    byte_of = bytes_of_characters()
    added = inner.get_added_tokens_decoder()
    words = [inner.id_to_token(token) or "" for token in range(inner.get_vocab_size())]
    try:
        return [
            word.encode("utf-8") if token in added else bytes([byte_of[character] for character in word])
            for token, word in enumerate(words)
        ]
    except KeyError as error:
        raise _lossy(f"a token has the character {brief(repr(error.args[0]))}, which stands for no byte") from error


def _require_byte_level(pre_tokenizer: Any) -> None:
    """Check the pre-tokenizers: one ByteLevel, and others beside it that only split."""
    steps: Any = [pre_tokenizer]
    if isinstance(pre_tokenizer, dict) and pre_tokenizer.get("type") == "Sequence":
        steps = pre_tokenizer.get("pretokenizers")
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise _lossy("its pre-tokenizer must be ByteLevel, got none")
    kinds = [str(step.get("type")) for step in steps]
    if len(kinds) > MOST_SPLITS:
        raise _lossy(f"it has {len(kinds):,} pre-tokenizers, at most {MOST_SPLITS} are accepted")
    if kinds.count("ByteLevel") != 1 or not SPLITTERS.issuperset(set(kinds) - {"ByteLevel"}):
        raise _lossy(f"its pre-tokenizer must be ByteLevel, got {brief(', '.join(kinds), 60)}")
    for step in steps:
        if step["type"] == "ByteLevel" and step.get("add_prefix_space", True):
            raise _lossy("it adds a space in front of the text")
        if step.get("behavior") == "Removed":
            raise _lossy("it removes what it splits at")


def _bound_tokens(vocabulary: Any, added: Any) -> None:
    """Check the number of tokens; and the added ones, whose search needs much memory per character."""
    count = len(vocabulary) if isinstance(vocabulary, dict) else 0
    if count > MOST_TOKENS:
        raise SplatlearnError(f"{WHAT}: it has {count:,} tokens, at most {MOST_TOKENS:,} are read")
    tokens = [each for each in added if isinstance(each, dict)] if isinstance(added, list) else []
    if sum(len(str(token.get("content"))) for token in tokens) > MOST_ADDED:
        raise SplatlearnError(f"{WHAT}: its added tokens have more than {MOST_ADDED:,} characters")


def _require_vocabulary(inner: Any) -> None:
    """Check that the tokens are numbered from 0 without a gap, and that every byte of UTF-8 has one."""
    ids = inner.get_vocab(with_added_tokens=True)
    count = inner.get_vocab_size()
    if sorted(ids.values()) != list(range(count)):
        raise SplatlearnError(f"{WHAT}: its {count:,} tokens must be numbered from 0 without a gap or a repetition")
    missing = [byte for character, byte in bytes_of_characters().items() if character not in ids]
    missing = [byte for byte in missing if byte not in NEVER]
    if missing:
        raise _lossy(f"it has no token for the byte 0x{min(missing):02x}")


def _lossy(reason: str) -> SplatlearnError:
    return SplatlearnError(f"{WHAT} over bytes: it does not give back every text, as {reason}")
