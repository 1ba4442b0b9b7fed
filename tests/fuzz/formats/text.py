"""Text to learn from: files in any encoding, with any bytes, in a folder or alone, with each tokenizer."""

from pathlib import Path
from random import Random

from fuzz import mutations
from fuzz.harness import Case
from splatlearn.text.corpus import Corpus

TEXT = "the cat sat on the mat;\n\nnaïve café — 猫が座った\r\n" * 8
ENCODINGS = ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig", "shift-jis", "utf-7", "cp1252"]
KINDS = ("character", "byte", "bpe")
WEIGHT = 0.7


def seeds() -> list[Case]:
    return [{f"tokenizer.{kind}": b"", "text/a.txt": TEXT.encode()} for kind in KINDS]


def mutate(case: Case, rng: Random) -> Case:
    text = TEXT
    for _ in range(rng.randrange(3)):
        place = rng.randrange(len(text) + 1)
        text = text[:place] + mutations.text(rng) + text[place + rng.choice([0, 0, 100]) :]
    act = rng.randrange(8)
    if act == 0:
        text = rng.choice("aあ \n\0🐈\r") * rng.choice([0, 1, 2, 9, 30_000])
    content = text.encode(rng.choice(ENCODINGS) if act == 1 else "utf-8", rng.choice(["ignore", "replace"]))
    if act == 2:
        content = mutations.noise(rng, rng.choice([1, 100, 9000]))
    if act == 3:
        content = mutations.damaged(content, rng)
    names = ["a.txt", "a.txt", "a.md", "a.png", ".a.txt", "deep/a.txt", "漢.txt", "config.yaml"]
    del case["text/a.txt"]
    case[f"text/{rng.choice(names)}"] = content
    for name in rng.sample(names, rng.choice([0, 0, 1, 2])):
        case[f"text/{name}"] = rng.choice([content, TEXT.encode(), b"", b"\0", mutations.noise(rng, 300)])
    return case


def read(folder: Path) -> object:
    kind = next((kind for kind in KINDS if (folder / f"tokenizer.{kind}").exists()), "byte")
    corpus = Corpus(Corpus.Config(str(folder / "text"), kind, vocabulary=300, cache=str(folder / "cache")))
    return [corpus.tokenizer.decode(side.tolist()) for side in (corpus.train, corpus.test)]
