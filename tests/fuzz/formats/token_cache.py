"""The cache of a corpus's tokens: an index in JSON and two arrays. Damage is mended; forged tokens are never used."""

import hashlib
import json
import os
import tempfile
from functools import cache
from pathlib import Path
from random import Random

from fuzz import mutations
from fuzz.harness import Case
from splatlearn.text.corpus import INDEX, Corpus
from splatlearn.text.tokenizers import BPETokenizer

TEXT = "the cat sat on the mat;\n\nnaïve café — 猫が座った\n" * 8
KINDS = ("character", "byte", "bpe")
WEIGHT = 0.7
DTYPES = ["uint8", "uint16", "uint32", "uint64", "float16", "O", "V8", "U4", "i4,i4", "", 7, None]


def _corpus(folder: Path, kind: str) -> Corpus:
    return Corpus(Corpus.Config(str(folder / "a.txt"), kind, vocabulary=300, cache=str(folder / "cache")))  # type: ignore


@cache
def seeds() -> list[Case]:
    found = []
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as root:
            (Path(root) / "a.txt").write_text(TEXT, encoding="utf-8")
            _corpus(Path(root), kind)
            files = [path for path in sorted(Path(root).rglob("*")) if path.is_file()]
            case = {os.path.relpath(path, root): path.read_bytes() for path in files}
        found.append({**case, f"tokenizer.{kind}": b""})
    return found


def mutate(case: Case, rng: Random) -> Case:
    place = next(name for name in case if name.endswith(INDEX))
    index = json.loads(case[place])
    sides = {side: place.replace(INDEX, f"{side}.bin") for side in ("train", "test")}
    side = rng.choice(sorted(sides))
    act = rng.randrange(8)
    if act == 0:
        index["dtype"] = rng.choice(DTYPES)
    elif act == 1:
        case[sides[side]] = rng.choice([b"", b"\xff\xff", b"\0\0", b"abc", mutations.noise(rng, 400)])
    elif act == 2:
        case[sides[side]] = mutations.damaged(case[sides[side]], rng)
    elif act == 3:
        definition = BPETokenizer.train(["aa"], 257).state()["definition"]
        state = {"kind": rng.choice(["character", "byte", "bpe", ""]), "characters": mutations.text(rng) * 2}
        index["tokenizer"] = {**state, "definition": rng.choice([definition, "{}", "", 3, "[" * 9000])}
    elif act == 4:
        index["files"][side][rng.choice(["text_bytes", "sha256"])] = mutations.value(rng)
    elif act == 5:
        del case[rng.choice([place, *sides.values()])]
    else:
        index = mutations.tree(index, rng)
    if place in case and isinstance(index, dict):
        if rng.randrange(5):
            _seal(index, {side: case.get(name, b"") for side, name in sides.items()}, rng)
        case[place] = json.dumps(index).encode("utf-8", "surrogatepass")
    elif place in case:
        case[place] = mutations.tree_bytes(index, rng)
    return case


def read(folder: Path) -> object:
    kind = next((kind for kind in KINDS if (folder / f"tokenizer.{kind}").exists()), "byte")
    corpus = _corpus(folder, kind)
    for side in (corpus.train, corpus.test):
        assert side.dtype in ("uint16", "uint32") and int(side.max()) < corpus.tokenizer.vocabulary
        corpus.tokenizer.decode(side.tolist())
    return corpus


def _seal(index: dict, contents: dict[str, bytes], rng: Random) -> None:
    """Forge the hashes of the arrays and the seal."""
    for side, content in contents.items():
        files = index.get("files")
        if isinstance(files, dict) and isinstance(files.get(side), dict) and rng.randrange(8):
            files[side]["sha256"] = hashlib.sha256(content).hexdigest()
    index.pop("seal", None)
    index["seal"] = hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()
