"""Tokenizers: what was encoded comes back to the last byte, states rebuild them, and the unknown is named."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from splatlearn.errors import SplatlearnError
from splatlearn.text.tokenizers import (
    KINDS,
    LONGEST_WORD,
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


def test_ordinary_words_teach_what_the_library_learns_from_them() -> None:
    """Only words longer than `LONGEST_WORD` are cut."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    texts = [TEXT, *strings(200), "word" * (LONGEST_WORD // 4)]
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    assert BPETokenizer.train(texts, 400).state()["definition"] == inner.to_str(), "ordinary words are cut"


@pytest.mark.parametrize("letters", ["ACGT", "a", " ", "漢字仮名", "\n"])
def test_one_long_word_is_learned_from(letters: str) -> None:
    """In one piece, 300,000 letters took minutes, and four times as many ten times as long."""
    text = "".join(random.Random(0).choices(letters, k=300_000))
    tokenizer = BPETokenizer.train([text], 300)
    tokens = tokenizer.array(text)
    assert len(tokens) < 0.6 * len(text.encode()), "no pairs were learned from a long word"
    assert tokenizer.spell(tokens.tolist()) == text.encode(), "a long word is not given back"


def test_learning_hears_ctrl_c() -> None:
    import _thread
    import threading

    ended = threading.Event()

    def texts() -> Iterator[str]:
        yield TEXT
        _thread.interrupt_main()
        ended.wait(30)

    with pytest.raises(KeyboardInterrupt):
        BPETokenizer.train(texts(), 300)
    assert not ended.is_set(), "Ctrl-C is heard only after the learning"
    ended.set()


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


def edited(**changes: object) -> str:
    """The definition of a valid tokenizer after changes; a name with two underscores is a path into its JSON."""
    definition = json.loads(BPETokenizer.train([TEXT], 300).state()["definition"])
    for path, value in changes.items():
        parent = definition
        *keys, last = path.split("__")
        for each in keys:
            parent = parent[each]
        parent[last] = value
    return json.dumps(definition)


SPLIT = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__vocab": {"a": 0}}, "tokenizer: Token .* out of vocabulary"),
        ({"model__vocab": {"a": 0}, "model__merges": []}, "no token for the byte 0x"),
        ({"model__vocab": {"a": 1, "b": 1}, "model__merges": []}, "numbered from 0 without a gap"),
        ({"model__dropout": 0.5}, "at random"),
        ({"normalizer": {"type": "Replace", "pattern": {"String": ""}, "content": "x" * 99}}, "it has a normalizer"),
        ({"pre_tokenizer": None}, "must be ByteLevel, got none"),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [BYTE_LEVEL] * 9}}, "must be ByteLevel"),
        ({"pre_tokenizer": {**BYTE_LEVEL, "add_prefix_space": True}}, "adds a space in front"),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [SPLIT] * 99 + [BYTE_LEVEL]}}, "at most 16"),
        ({"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}, "its model is 'WordLevel'"),
    ],
)
def test_a_definition_that_loses_text_is_refused(
    changes: dict[str, object], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SplatlearnError, match=message) as raised:
        BPETokenizer(edited(**changes))
    assert len(str(raised.value)) < 300 and "\n" not in str(raised.value)
    assert capfd.readouterr().err == "", "the library prints its own message"


def test_definitions_of_public_models_are_read() -> None:
    """GPT-2's writes merges as strings and leaves keys out; later ones split by an expression of their own."""
    definition = json.loads(edited())
    merges = [" ".join(pair) for pair in definition["model"]["merges"]]
    model = {key: value for key, value in definition["model"].items() if key in ("dropout", "unk_token", "fuse_unk")}
    model |= {"continuing_subword_prefix": "", "end_of_word_suffix": "", "merges": merges}
    model["vocab"] = {**definition["model"]["vocab"], "<|endoftext|>": 300}
    added = {"id": 300, "special": True, "content": "<|endoftext|>", "single_word": False, "lstrip": False}
    added |= {"rstrip": False, "normalized": False}
    older = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    split = {**SPLIT, "pattern": {"Regex": r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|\s+(?!\S)|\s+"}}
    later = {"type": "Sequence", "pretokenizers": [split, {**BYTE_LEVEL, "use_regex": False}]}
    for pre_tokenizer in (older, later):
        keys = {"version": "1.0", "added_tokens": [added], "pre_tokenizer": pre_tokenizer, "model": model}
        post = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False}
        tokenizer = BPETokenizer(json.dumps({**keys, "post_processor": post, "decoder": older}))
        assert tokenizer.vocabulary == 301 and tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
        assert tokenizer.encode("<|endoftext|>") == [300]


def test_a_panic_of_the_library_is_an_error() -> None:
    """Its regular expressions end in a panic after ten million steps."""
    definition = edited(pre_tokenizer={"type": "Sequence", "pretokenizers": [SPLIT, BYTE_LEVEL]})
    tokenizer = BPETokenizer(definition)
    with pytest.raises(SplatlearnError, match="the tokenizer fails: .*retry-limit"):
        tokenizer.encode("a" * 3000 + "b")


def test_settings_that_cut_or_fill_texts_have_no_effect() -> None:
    cut = {"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    fill = {"strategy": {"Fixed": 10**12}, "direction": "Right", "pad_id": 0, "pad_type_id": 0, "pad_token": "!"}
    fill["pad_to_multiple_of"] = None
    tokenizer = BPETokenizer(edited(truncation=cut, padding=fill))
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT


def test_added_tokens_that_swallow_blanks_are_noticed() -> None:
    token = {"id": 300, "content": "<x>", "lstrip": True, "rstrip": True, "single_word": False}
    tokenizer = BPETokenizer(edited(added_tokens=[{**token, "normalized": False, "special": True}]))
    assert tokenizer.decode(tokenizer.encode("a<x>b")) == "a<x>b"
    with pytest.raises(SplatlearnError, match="does not give back this text"):
        tokenizer.encode("a  <x>  b")


def test_a_file_that_never_ends_is_refused(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 33)
    for path, message in (("pipe", "must be a regular file"), ("huge", "at most .* bytes")):
        with pytest.raises(SplatlearnError, match=message):
            BPETokenizer.read(tmp_path / path)
    with pytest.raises(SplatlearnError, match="must be a regular file"):
        BPETokenizer.read(Path("/dev/zero"))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (None, "kind byte, character, bpe with its content, got null"),
        ({"kind": "words"}, 'got {"kind": "words"}'),
        ({"kind": "character"}, "with its content"),
        ({"kind": "character", "characters": ""}, "at least one character"),
        ({"kind": "bpe", "definition": "{}"}, "not the definition of a BPE tokenizer"),
        ({"kind": "bpe", "definition": "words"}, "its model is 'WordLevel'"),
        ({"kind": "bpe", "definition": "lower"}, "does not give back every text"),
    ],
)
def test_a_state_of_something_else_is_refused(state: object, message: str) -> None:
    if isinstance(state, dict) and state.get("definition") in ("words", "lower"):
        state = {"kind": "bpe", "definition": definition(str(state["definition"]))}
    with pytest.raises(SplatlearnError, match=message):
        from_state(state)


def test_bad_settings_are_named() -> None:
    with pytest.raises(SplatlearnError, match="at most 300,000, got 10000000000"):
        make_tokenizer("bpe", "abc", 10**10)  # the library would end the process
    with pytest.raises(SplatlearnError, match="at least 256 and at most 300,000, got 255"):
        make_tokenizer("bpe", "abc", 255)
    with pytest.raises(SplatlearnError, match="'tokenizer' must be one of byte, character, bpe, got 'word'"):
        make_tokenizer("word", "abc", 300)
