"""Corpora: nothing held out is learned from, cached tokens are those of the text, bad text is told in a sentence."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splatlearn.errors import SplatlearnError
from splatlearn.text import corpus as corpora
from splatlearn.text import documents
from splatlearn.text.corpus import Corpus, cache_folder
from splatlearn.text.documents import Document, gather, paragraphs, split, text_of
from splatlearn.text.tokenizers import KINDS, BPETokenizer


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


def lines(count: int, word: str = "line") -> str:
    return "".join(f"{word} {i} é\n" for i in range(count))


def read(path: Path | str = "", **keys: object) -> Corpus:
    return Corpus(Corpus.Config(path=str(path), **keys))  # type: ignore[arg-type]


# ---- what is learned from and what is held out ----


@pytest.mark.parametrize("kind", KINDS)
def test_a_files_tail_is_held_out(kind: str, tmp_path: Path) -> None:
    text = lines(500)
    path = tmp_path / "a.txt"
    path.write_text(text)
    found = read(path, tokenizer=kind, vocabulary=300)
    cut = int(len(text) * 0.9)
    assert found.tokenizer.decode(found.train.tolist()) == text[:cut], "it is not the first nine tenths that is learned"
    assert found.tokenizer.decode(found.test.tolist()) == text[cut:], "it is not the last tenth that is held out"
    assert found.test_bytes == len(text[cut:].encode()), "bits per byte would be of other bytes"
    assert isinstance(found.train, np.memmap) and found.train.dtype == np.uint16 and found.train.ndim == 1


def test_a_large_vocabulary_takes_wider_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("".join(map(chr, range(0x10000, 0x10000 + 70_000))))
    found = read(path)
    assert found.train.dtype == np.uint32 and int(found.test.max()) == 69_999, "tokens above 65,535 are cut off"


def test_whole_documents_of_a_folder_are_held_out(tmp_path: Path) -> None:
    for name in "abcdefghij":
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.md").write_text(lines(100, name))
    found = read(tmp_path, holdout=0.2)
    text = found.tokenizer.decode(found.test.tolist())
    words = {line.split()[0] for line in text.splitlines() if line}
    learned = found.tokenizer.decode(found.train.tolist())
    assert len(words) == 2 and not any(f"{word} 1 " in learned for word in words), "a held-out document is learned from"
    assert sum(word in learned for word in (f"{name} 99 é\n" for name in "abcdefghij")) == 8, "a document is lost"
    other = read(tmp_path, holdout=0.2, seed=1)
    assert other.tokenizer.decode(other.test.tolist()) != text, "the seed has no effect"


@pytest.mark.parametrize("copies", [2, 5])
def test_copies_are_never_on_both_sides(copies: int, tmp_path: Path) -> None:
    for i in range(copies):
        (tmp_path / f"{i}.txt").write_text(lines(200))
    found = read(tmp_path, holdout=0.1)
    train, test = (found.tokenizer.decode(side.tolist()) for side in (found.train, found.test))
    assert len(test) > 100 and test.strip() not in train, "what is held out is learned from its copy"


def test_pythons_topics_are_parted_without_overlap() -> None:
    topics, _ = gather("")
    for seed in range(5):
        train, test = split(topics, 0.1, seed)
        learned, held = (set().union(*(paragraphs(part.document.text) for part in side)) for side in (train, test))
        assert len(held) > 50 and not learned & held, "a paragraph is both learned and held out"
        names = sorted(part.document.name for part in [*train, *test])
        assert names == sorted(topic.name for topic in topics), "a topic is lost or cut"
        sizes = [sum(part.document.characters for part in side) for side in (train, test)]
        assert 0.05 < sizes[1] / sum(sizes) <= 0.1, "another share is held out"
    assert len({topic.group for topic in topics}) < len(topics), "no topics repeat each other: the test shows nothing"


def test_the_embedded_corpus_tells_its_hash() -> None:
    found = read()
    assert 300_000 < len(found.train) < 600_000 and found.sha256[:16] in found.summary, "the corpus' hash is not told"
    assert f"{len(found.train):,} tokens" in found.summary and "Python 3." in found.summary


def test_pieces_make_up_the_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "BLOCK", 7)  # so that blocks end within characters
    text = "ééé漢字\r\nb" * 9 + "\n" + "🐈" * 20
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    document = Document("a", "a", path)
    assert document.characters == len(text), "the byte order mark is counted, or a character is lost"
    for begin, end in ((0, None), (5, 30), (0, 0), (17, 18), (60, None), (0, 1000)):
        assert "".join(document.pieces(begin, end)) == text[begin:end], "a part is not the one asked for"
    assert max(map(len, document.pieces())) < 30, "a file is read at once"


def test_documents_are_kept_apart() -> None:
    parts, _ = split([Document(str(i), str(i), text=f"{i}{i}\n") for i in range(9)], 0.2, 0)
    text = "".join(text_of(parts))
    assert text.count("\n\n\n") == len(parts) - 1, "one document runs into the next"


def test_a_given_tokenizer_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text(lines(200))
    tokenizers = [BPETokenizer.train([text], 270) for text in ("abcabc" * 9, lines(99))]
    found = []
    monkeypatch.chdir(tmp_path)
    for tokenizer in tokenizers:
        (tmp_path / "tokenizer.json").write_text(tokenizer.state()["definition"])
        config = Corpus.Config(path="a.txt", tokenizer="bpe", tokenizer_file="tokenizer.json")
        found.append(Corpus(config))
        assert config.tokenizer_file == str(tmp_path / "tokenizer.json"), "a run could not be resumed from elsewhere"
        assert found[-1].tokenizer.state() == tokenizer.state(), "another tokenizer is learned"
    assert found[0].folder != found[1].folder, "tokens of another tokenizer are taken from the cache"
    assert found[1].tokenizer.decode(found[1].test.tolist()).endswith("line 199 é\n")


# ---- the cache ----


def test_tokens_are_encoded_once(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_text(lines(50))
    first = read(path, tokenizer="bpe", vocabulary=300)
    assert first.folder.is_relative_to(own_cache) and os.listdir(tmp_path) == ["a.txt"], "the cache is elsewhere"
    monkeypatch.setattr(corpora, "make_tokenizer", None)  # whatever is encoded again fails
    again = read(path, tokenizer="bpe", vocabulary=300)
    assert np.array_equal(first.train, again.train) and again.tokenizer.state() == first.tokenizer.state()
    assert again.summary == first.summary and again.test_bytes == first.test_bytes


def test_another_text_or_setting_has_tokens_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(lines(50))
    settings: list[dict[str, object]] = [{}, {"tokenizer": "byte"}, {"holdout": 0.3}, {"seed": 1}]
    settings += [{"tokenizer": "bpe", "vocabulary": size} for size in (300, 301)]
    folders = [read(path, **keys).folder for keys in settings]
    path.write_text(lines(51))
    folders.append(read(path).folder)
    assert len(set(folders)) == len(folders), "tokens of one text or setting are taken for those of another"
    assert read(path).tokenizer.decode(read(path).test.tolist()).endswith("line 50 é\n"), "old tokens of a changed text"


@pytest.mark.parametrize("name", ["train.bin", "test.bin", "tokens.json"])
@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_a_damaged_cache_is_made_again(name: str, how: str, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(lines(50))
    before = read(path)
    train, file = before.train.copy(), before.folder / name
    content = bytearray(file.read_bytes())
    if how == "gone":
        file.unlink()
    else:
        content[len(content) // 2] ^= 1
        file.unlink()  # the file is mapped: another one takes its place
        file.write_bytes(content if how == "flipped" else content[: len(content) // 2])
    again = read(path)
    assert np.array_equal(again.train, train), "damaged tokens are believed"
    assert again.tokenizer.state() == before.tokenizer.state(), "a damaged tokenizer is believed"


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(lines(50))
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(SplatlearnError, match="could not be written .*'data.cache' names another folder"):
        read(tmp_path / "a.txt", cache=str(tmp_path / "file"))


def test_the_cache_is_never_among_the_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text(lines(50))
    with pytest.raises(SplatlearnError, match="'data.cache' must be outside of the text's folder .*, got .*tokens"):
        read(tmp_path, cache=str(tmp_path / "tokens"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(SplatlearnError, match="must be outside"):
        read(tmp_path)
    assert os.listdir(tmp_path) == ["a.txt"], "something was written beside the text"


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_folder() == Path("/home/somebody/.cache/splatlearn/text"), "not the user's cache folder"
    assert cache_folder("~/mine") == Path("/home/somebody/mine"), "the folder that was asked for is not taken"


# ---- bad text ----


def test_bad_text_is_told_in_a_sentence(tmp_path: Path) -> None:
    def written(name: str, content: bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        return path

    (tmp_path / "empty").mkdir()
    cases = [
        (tmp_path / "nowhere.txt", "nowhere.txt is no file or folder of text"),
        (written("a.txt", b""), "a.txt is empty"),
        (written("bom.txt", b"\xef\xbb\xbf"), "a text of 0 characters is too short"),
        (written("one.txt", b"x"), "a text of 1 characters is too short to hold out 0.1"),
        (written("latin.txt", b"caf\xe9 au lait"), "latin.txt is not UTF-8 text: byte 3 does not"),
        (written("cut.txt", "né".encode()[:-1]), "cut.txt is not UTF-8 text: byte 1 does not"),
        (written("far.txt", b"a" * (1 << 20) + b"\xff"), "far.txt is not UTF-8 text: byte 1,048,576 does"),
        (written("wide.txt", "wide".encode("utf-16")), "wide.txt is not UTF-8 text: it begins as UTF-16"),
        (written("nul.txt", b"a text\n" * 9 + b"\0\0"), "nul.txt is not UTF-8 text: byte 63 is NUL"),
        (Path("a\0b"), r"'data.path' must be a path, got 'a.x00b': it has a NUL character"),
        (Path("\udce9\ud800"), "'data.path' must be a path"),
        (Path("~nobody-of-this-name/a"), "'data.path' must be a path, got '~nobody"),
        (Path("/dev/zero"), "/dev/zero is no file or folder"),
        (tmp_path / "empty", "empty holds no text"),
        (written("pictures/a.jpg", b"\xff\xd8\xff\xe0").parent, "pictures holds no text"),
        (written("hidden/.a.txt", b"hidden").parent, "hidden holds no text"),
        (written("mixed/a.md", b"good").parent / "a.md" / "deeper", "is no file or folder"),
    ]
    for path, message in cases:
        with pytest.raises(SplatlearnError, match=message):
            read(path)
    written("bad/a.py", b"print()\n" * 10)
    written("bad/b.md", b"\xff")
    with pytest.raises(SplatlearnError, match="b.md is not UTF-8 text: byte 0"):
        read(tmp_path / "bad")


def test_what_lies_beside_the_text_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text(lines(30))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("[core] secret\n")
    (tmp_path / "runs" / "text" / "checkpoints" / "step_1").mkdir(parents=True)
    for name in ("config.yaml", "metrics.jsonl", "checkpoints/step_1/state.json"):
        (tmp_path / "runs" / "text" / name).write_text("what a run of this text has written\n")
    found = read(tmp_path)
    text = found.tokenizer.decode([*found.train.tolist(), *found.test.tolist()])
    assert text == lines(30), "something else than the text is learned"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"holdout": 0.0}, "'data.holdout' must be above 0 and below 1, got 0.0"),
        ({"holdout": 1.0}, "'data.holdout' must be above 0 and below 1, got 1.0"),
        ({"vocabulary": 100}, "'data.vocabulary' must be at least 256 and at most 300,000, got 100"),
        ({"vocabulary": 10**9}, "at most 300,000, got 1000000000"),
        ({"tokenizer_file": "a.json"}, "'data.tokenizer_file' is for the tokenizer bpe, got character"),
    ],
)
def test_bad_settings_are_named(keys: dict[str, float], message: str) -> None:
    with pytest.raises(SplatlearnError, match=message):
        Corpus.Config(**keys)  # type: ignore[arg-type]


def test_nothing_half_written_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"a" * 3_000_000 + b"\xff")  # bad only at the end, when tokens have been written
    monkeypatch.setattr(Document, "characters", 3_000_001)
    with pytest.raises(SplatlearnError, match="byte 3,000,000"):
        read(path, tokenizer="byte", cache=str(tmp_path / "cache"))
    assert not list((tmp_path / "cache").rglob("*.*")), "tokens of half a text are left in the cache"


# ---- files from strangers ----


def test_a_hole_ends_the_reading_at_once(tmp_path: Path) -> None:
    """A sparse file of 1 TiB takes no disk, but would take hours."""
    (tmp_path / "a.txt").write_text(lines(10))
    with (tmp_path / "a.txt").open("rb+") as file:
        file.truncate(1 << 40)
    with pytest.raises(SplatlearnError, match="a.txt is not UTF-8 text: byte [0-9]+ is NUL"):
        read(tmp_path / "a.txt")


def test_pipes_and_circles_of_links_in_a_folder_are_passed(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.txt").write_text(lines(200))
    (tmp_path / "deep" / "up").symlink_to(tmp_path)
    (tmp_path / "circle.txt").symlink_to(tmp_path / "circle.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    assert "1 document," in read(tmp_path).summary
    with pytest.raises(SplatlearnError, match="pipe.txt is no file or folder of text"):
        read(tmp_path / "pipe.txt")


def test_too_many_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MOST_FILES", 3)
    for name in "abcd":
        (tmp_path / f"{name}.txt").write_text(lines(9))
    with pytest.raises(SplatlearnError, match="must hold at most 3 files of text"):
        read(tmp_path)


def reseal(folder: Path, index: dict[str, Any]) -> None:
    """Write an index with the right hashes and the right seal, as a forger does."""
    for side in ("train", "test"):
        index["files"][side]["sha256"] = documents.sha256_of(folder / f"{side}.bin")
    index.pop("seal", None)
    (folder / "tokens.json").write_text(json.dumps({**index, "seal": corpora._hash_of(index)}))


@pytest.mark.parametrize(
    ("forgery", "message"),
    [
        ({"dtype": "O"}, "its index is damaged"),
        ({"dtype": "float64"}, "its index is damaged"),
        ({"tokenizer": {"kind": "byte"}}, "its index is damaged"),
        ({"tokenizer": {"kind": "character", "characters": "ab"}}, "not in the vocabulary of 2"),
        ({"tokenizer": []}, "the state of a tokenizer must be"),
        ({"format": 2}, "its index is damaged"),
        ({"train.bin": b"\xff\xff"}, "not in the vocabulary"),
        ({"train.bin": b"abc"}, "train.bin is damaged"),
        ({"test.bin": b""}, "test.bin is damaged"),
    ],
)
def test_a_forged_cache_is_made_again(
    forgery: dict[str, Any], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text(lines(300))
    good = read(tmp_path / "a.txt")
    index = json.loads((good.folder / "tokens.json").read_text())
    for key, value in forgery.items():
        if isinstance(value, bytes):
            (good.folder / key).write_bytes(value)
        else:
            index[key] = value
    reseal(good.folder, index)
    again = read(tmp_path / "a.txt")
    assert again.tokenizer.state() == good.tokenizer.state() and again.train.dtype == np.uint16
    assert again.tokenizer.decode([*again.train, *again.test]) == lines(300), "forged tokens are learned from"
    assert message in capfd.readouterr().err, "the cache is made again without a word"


def test_a_pipe_in_the_cache_does_not_wait(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(lines(300))
    folder = read(tmp_path / "a.txt").folder
    (folder / "tokens.json").unlink()
    os.mkfifo(folder / "tokens.json")
    with pytest.raises(SplatlearnError, match="tokens.json could not be written"):
        read(tmp_path / "a.txt")
