"""Tokenizers: what was encoded comes back to the last byte, states rebuild them, and the unknown is named."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from splatlearn.errors import SplatlearnError
from splatlearn.text.tokenizers import (
    KINDS,
    BPETokenizer,
    ByteTokenizer,
    CharacterTokenizer,
    Tokenizer,
    from_state,
    make_tokenizer,
)

TEXT = "the cat sat on the mat, the cat sat;\n\n\tnaïve café — 猫が座った 🐈‍⬛ \u0301e\r\n" * 20


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return make_tokenizer(request.param, TEXT, 300)


def strings(count: int) -> list[str]:
    """Random strings of the characters of TEXT, which every tokenizer made for it must know."""
    draw = random.Random(0)
    return ["".join(draw.choices(sorted(set(TEXT)), k=draw.randrange(0, 60))) for _ in range(count)]


def test_what_was_encoded_comes_back(tokenizer: Tokenizer) -> None:
    for text in ["", TEXT, *strings(200)]:
        tokens = tokenizer.encode(text)
        assert tokenizer.decode(tokens) == text, "a text is not the one that was encoded"
        assert tokenizer.spell(tokens) == text.encode(), "the bytes of tokens are not those of the text"
        assert all(type(token) is int and 0 <= token < tokenizer.vocabulary for token in tokens), "no token"
        assert np.array_equal(tokenizer.array(text), tokens) and tokenizer.array(text).dtype == np.uint32


def test_texts_together_are_texts_alone(tokenizer: Tokenizer) -> None:
    texts = ["", TEXT, *strings(30)]
    for text, tokens in zip(texts, tokenizer.arrays(texts), strict=True):
        assert np.array_equal(tokens, tokenizer.array(text)), "a text's tokens depend on its neighbours, or their order"


def test_tokens_spell_their_bytes_one_by_one(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode(TEXT)
    alone = b"".join(tokenizer.spell([token]) for token in tokens)
    assert alone == TEXT.encode(), "a token's bytes depend on its neighbours, so that nothing can be streamed"


def test_a_state_makes_an_equal_tokenizer(tokenizer: Tokenizer) -> None:
    state = json.loads(json.dumps(tokenizer.state()))
    again = from_state(state)
    assert type(again) is type(tokenizer) and again.vocabulary == tokenizer.vocabulary and again.state() == state
    assert all(again.encode(text) == tokenizer.encode(text) for text in strings(20)), "tokens changed with the state"


def test_vocabularies_are_what_they_say() -> None:
    assert ByteTokenizer().encode("é\n") == [0xC3, 0xA9, 10], "bytes are not those of UTF-8"
    assert CharacterTokenizer("banana").encode("nab") == [2, 0, 1], "characters are not in order of code points"
    bpe = BPETokenizer.train([TEXT], 300)
    assert bpe.vocabulary == 300 and len(bpe.encode(TEXT)) < 0.6 * len(TEXT.encode()), "no pairs were joined"
    assert BPETokenizer.train(["ab"], 300).vocabulary == 257, "a text of one pair makes one token beside the bytes"
    assert bpe.decode(bpe.encode("Ωmega\0 zürich 漢")) == "Ωmega\0 zürich 漢", "what was never seen cannot be spelled"
    assert len({bpe.spell([token]) for token in range(bpe.vocabulary)}) == 300, "two tokens spell the same bytes"


def test_byte_pairs_are_learned_the_same_each_time() -> None:
    one, two = (BPETokenizer.train([TEXT, *strings(50)], 320).state() for _ in range(2))
    assert one == two, "the same text teaches different tokens, so that a resumed run would not be the same"


def test_a_cut_character_is_marked() -> None:
    assert ByteTokenizer().decode("é".encode()[:1]) == "\ufffd", "an incomplete character is dropped or raises"


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_spelled_is_named(kind: str) -> None:
    tokenizer = make_tokenizer(kind, "abc\n", 256)
    with pytest.raises(SplatlearnError, match=r"character 3 .*'\\udcff'"):
        tokenizer.encode("ab\udcff")


def test_an_unknown_character_is_named() -> None:
    with pytest.raises(SplatlearnError, match="character 3 of the text, 'z', is not among the 3 characters"):
        CharacterTokenizer("abc").encode("abz")
    for text in ("\0", "~", "b" * 10 + "\U0001f408"):
        with pytest.raises(SplatlearnError, match="is not among"):
            CharacterTokenizer("abc").encode(text)


def definition(kind: str) -> str:
    """A tokenizer of the library that is none of bytes, or that changes what it reads."""
    from tokenizers import Tokenizer, models, normalizers

    if kind == "words":
        return str(Tokenizer(models.WordLevel({"Probe": 0, "?": 1}, unk_token="?")).to_str())
    inner = Tokenizer.from_str(BPETokenizer.train([TEXT], 300).state()["definition"])
    inner.normalizer = normalizers.Lowercase()
    return str(inner.to_str())


def test_a_definition_with_special_tokens(tmp_path: Path) -> None:
    """GPT-2's own has a token beside its byte pairs, which is written in the text as it is called."""
    from tokenizers import Tokenizer

    inner = Tokenizer.from_str(BPETokenizer.train([TEXT], 300).state()["definition"])
    inner.add_special_tokens(["<|endoftext|>"])
    path = tmp_path / "tokenizer.json"
    path.write_text(inner.to_str())
    tokenizer = BPETokenizer.read(path)
    assert tokenizer.vocabulary == 301, "the special token is not counted"
    tokens = tokenizer.encode("one<|endoftext|>two")
    assert 300 in tokens and tokenizer.decode(tokens) == "one<|endoftext|>two", "the special token is spelled"
    for content, message in ((b"{}", "tokenizer.json is not the definition"), (b"\xff", "is not UTF-8 text: byte 0")):
        path.write_bytes(content)
        with pytest.raises(SplatlearnError, match=message):
            BPETokenizer.read(path)
    with pytest.raises(SplatlearnError, match="cannot read the tokenizer .*nowhere.json: No such file"):
        BPETokenizer.read(tmp_path / "nowhere.json")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (None, "kind byte, character, bpe with its content, got null"),
        ({"kind": "words"}, 'got {"kind": "words"}'),
        ({"kind": "character"}, "with its content"),
        ({"kind": "character", "characters": ""}, "at least one character"),
        ({"kind": "bpe", "definition": "{}"}, "not the definition of a BPE tokenizer"),
        ({"kind": "bpe", "definition": "words"}, "does not give back every text"),
        ({"kind": "bpe", "definition": "lower"}, "does not give back every text"),
    ],
)
def test_a_state_of_something_else_is_refused(state: object, message: str) -> None:
    if isinstance(state, dict) and state.get("definition") in ("words", "lower"):
        state = {"kind": "bpe", "definition": definition(str(state["definition"]))}
    with pytest.raises(SplatlearnError, match=message):
        from_state(state)


def test_bad_settings_are_named() -> None:
    with pytest.raises(SplatlearnError, match="at least 256, got 255"):
        make_tokenizer("bpe", "abc", 255)
    with pytest.raises(SplatlearnError, match="'tokenizer' must be one of byte, character, bpe, got 'word'"):
        make_tokenizer("word", "abc", 300)
