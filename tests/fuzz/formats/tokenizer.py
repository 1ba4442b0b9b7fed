"""``tokenizer.json``: a byte-level BPE tokenizer of the `tokenizers` library."""

import json
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from fuzz import mutations
from fuzz.harness import Case
from splatlearn.text.tokenizers import BPETokenizer

FILE = "tokenizer.json"
TEXT = "the cat sat on the mat, naïve — 猫 <x>  a\n\n" * 3
PATTERNS = [
    "",
    "(",
    "(a+)+$",
    "a*a*a*a*b",
    "(?i:'s|'t)|\\p{L}+",
    "(?=(a+))+",
    "[",
    "\\",
    "(?<!a)b",
    "a{99999}",
    "漢|.",
    " ",
]
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
TOKEN = {"id": 0, "content": "<x>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}


@cache
def seeds() -> list[Case]:
    definition = json.loads(BPETokenizer.train([TEXT], 262).state()["definition"])
    special = {**definition, "added_tokens": [{**TOKEN, "id": 262, "special": True}]}
    split = {"type": "Split", "pattern": {"Regex": "\\p{N}"}, "behavior": "Isolated", "invert": False}
    nested = {"type": "Sequence", "pretokenizers": [split, {**BYTE_LEVEL, "use_regex": False}]}
    return [{FILE: json.dumps(each).encode()} for each in (definition, special, {**special, "pre_tokenizer": nested})]


def mutate(case: Case, rng: Random) -> Case:
    definition = json.loads(case[FILE])
    for _ in range(rng.choice([1, 1, 2, 3])):
        act = rng.randrange(6)
        if act == 0:
            _model(definition["model"], rng)
        elif act == 1:
            token = {
                **TOKEN,
                "id": rng.choice([0, 262, 263, 10**9, -1]),
                "content": mutations.text(rng),
                "special": True,
            }
            token |= {key: True for key in ("lstrip", "rstrip", "single_word", "normalized") if rng.randrange(2)}
            definition["added_tokens"] = [token] * rng.choice([1, 2, 300])
        elif act == 2:
            definition["pre_tokenizer"] = _pre_tokenizer(rng)
        elif act == 3:
            definition["normalizer"] = rng.choice([{"type": "NFC"}, {"type": "Lowercase"}, _grow(rng), [], {"type": 1}])
        elif act == 4:
            limit = mutations.integer(rng, signed=False)
            definition["truncation"] = {
                "max_length": limit,
                "strategy": "LongestFirst",
                "stride": 0,
                "direction": "Right",
            }
            definition["padding"] = {
                "strategy": {"Fixed": limit}, "direction": "Left", "pad_id": 0, "pad_type_id": 0, "pad_token": "x",
                "pad_to_multiple_of": rng.choice([None, limit]),
            }  # fmt: skip
        else:
            return {FILE: mutations.tree_bytes(definition, rng)}
    return {FILE: json.dumps(definition).encode("utf-8", "surrogatepass")}


def read(folder: Path) -> object:
    return BPETokenizer.read(folder / FILE).encode(TEXT)


def _model(model: dict[str, Any], rng: Random) -> None:
    vocabulary, merges = model["vocab"], model["merges"]
    name = rng.choice(sorted(vocabulary))
    act = rng.randrange(7)
    if act == 0:
        vocabulary[name] = rng.choice([0, 1, len(vocabulary), 2**32 - 1, 2**32, -1, 1.5, "1"])
    elif act == 1 and len(vocabulary) > 1:
        del vocabulary[name]
    elif act == 2:
        vocabulary[mutations.text(rng)] = len(vocabulary)
    elif act == 3:
        pair = rng.choice([[name, name], [name, "absent"], ["", ""], [name], "a b c", name, ["漢", "字"]])
        merges.insert(rng.randrange(len(merges) + 1), pair)
    elif act == 4:
        model[rng.choice(["dropout", "unk_token", "fuse_unk", "byte_fallback", "ignore_merges"])] = rng.choice(
            [True, 0.5, 1.0, -1, "a", "absent", None]
        )
    elif act == 5:
        model[rng.choice(["continuing_subword_prefix", "end_of_word_suffix"])] = rng.choice(["", "a", "##", "x" * 1000])
    else:
        model["type"] = rng.choice(["BPE", "Unigram", "WordPiece", "WordLevel", "", None])


def _pre_tokenizer(rng: Random) -> Any:
    kinds = ["Split", "Digits", "Punctuation", "Whitespace", "Metaspace", "BertPreTokenizer", "CharDelimiterSplit"]
    steps = []
    for _ in range(rng.randrange(1, 4)):
        step: dict[str, Any] = {"type": rng.choice(kinds), "delimiter": "a", "individual_digits": True}
        step |= {"pattern": {rng.choice(["Regex", "String"]): rng.choice(PATTERNS)}, "invert": bool(rng.randrange(2))}
        step["behavior"] = rng.choice(["Isolated", "Removed", "MergedWithPrevious", "Contiguous", ""])
        steps.append(step)
    steps += [BYTE_LEVEL] * rng.choice([1, 1, 1, 2, 40])
    return {"type": "Sequence", "pretokenizers": steps * rng.choice([1, 1, 100])}


def _grow(rng: Random) -> dict[str, Any]:
    """A normalizer whose every step makes the text longer."""
    step = {"type": "Replace", "pattern": {"String": rng.choice(["", "a"])}, "content": "a" * rng.choice([2, 10, 1000])}
    return {"type": "Sequence", "normalizers": [step] * rng.choice([1, 20])}
