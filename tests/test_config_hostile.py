"""Configs and command lines of strangers: each wrong one is one short printable sentence, in time and memory."""

import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from splatlearn import cli, config
from splatlearn.errors import SplatlearnError
from splatlearn.line.task import LineTask
from splatlearn.scene.training.task import SceneTask
from splatlearn.text.task import TextTask
from splatlearn.yaml12 import read_scalar

LONG = "x" * 30_000
BOMB = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{{', '.join(f'k{j}: *a{i - 1}' for j in range(9))}}}\n" for i in range(1, 30)
)
CHAIN = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{x: *a{i - 1}}}\n" for i in range(1, 2000))

FILES = [
    ("rate: 1e300", "'rate' must be a finite number"),
    ("rate: -1e39", "'rate' must be a finite number"),
    ("rate: .inf", "'rate' must be a finite number"),
    ("rate: 1e999", "'rate' must be a finite number"),
    ("rate: !!float .nan", "'rate' must be a finite number"),
    (f"rate: {'9' * 300}", "'rate' must be a finite number"),
    (f"rate: {'9' * 5000}", "not a valid YAML config"),
    ("steps: 9223372036854775808", "'steps' must be an integer of 64 bits"),
    (f"steps: -{'9' * 4000}", "'steps' must be an integer of 64 bits"),
    ("steps: -1", "'steps' must be at least 0"),
    ("log_every: 0", "'log_every' must be at least 1"),
    ("checkpoint_every: -5", "'checkpoint_every' must be at least 1"),
    ('out: "a\\0b"', "'out' must be valid text without NUL"),
    ('out: "\\ud800"', "'out' must be valid text without NUL"),
    ('data: {csv: "\\uD83D.csv"}', "'data.csv' must be valid text without NUL"),
    ('"\\ud800": 1', "unknown key '\\ud800'"),
    ('"a\\0b\\nc": 1', "unknown key 'a\\x00b c'"),
    ("out: \x1b[31m", "not a valid YAML config"),
    (f"{LONG}: 1", "not a valid YAML config"),
    (f"? {LONG}\n: 1", "the nearest valid one"),
    (f"rate: {LONG}", "'rate' must be float, got str"),
    (f"optimizer: {LONG}", "'optimizer' must be"),
    (f"optimizer: {LONG}:X", "'optimizer' must be"),
    (f"task: [{LONG}]", "'task' must be str, got list"),
    (f"? {LONG}\n: 1\n? {LONG}\n: 2", "is there twice"),
    ("rate: 1\nrate: 2", "key 'rate' is there twice"),
    (BOMB, "more than 10,000 values"),
    (CHAIN, "nests more than 50 groups"),
    ("x: &x {y: *x}", "nests more than|more than 10,000"),
    ("x: &x [*x, *x]", "nests more than|more than 10,000"),
    ("rate: " + "[" * 10_000, "not a valid YAML config"),
    ("[" * 10_000 + "]" * 10_000, "not a valid YAML config"),
    ("{a: " * 10_000, "not a valid YAML config"),
    ("- a\n- b", "must be a mapping of keys, got list"),
    ("text", "must be a mapping of keys, got str 'text'"),
    ("7", "must be a mapping of keys, got int 7"),
    ("!!python/object/apply:os.system [ls]", "not a valid YAML config"),
    ("? {a: 1}\n: 2", "not a valid YAML config"),
    ("rate: !!int x", "not a valid YAML config"),
    ("a: 1\n---\nb: 2", "not a valid YAML config"),
]  # fmt: skip


def refused(words: list[str], path: Path | None = None, cls: type = LineTask.Config) -> str:
    """The message of the error, without the folder of the file."""
    began = time.perf_counter()
    with pytest.raises(SplatlearnError) as caught:
        config.load(cls, path, words)
    text = str(caught.value)
    assert time.perf_counter() - began < 2, "a config must be read or refused within 2 s"
    assert text.isprintable() and len(text) <= 300, text
    return text


@pytest.mark.parametrize(("text", "expected"), FILES, ids=range(len(FILES)))
def test_files(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    message = refused([], path)
    assert any(each in message for each in expected.split("|")), message


WORDS = [
    (["--rate", "1e300"], "'rate' must be a finite number"),
    (["--rate=.inf"], "'rate' must be a finite number"),
    (["--rate", "nan"], "'--rate' must be float, got 'nan'"),
    (["--rate", "1" * 100_000 + "x"], "'--rate' must be float"),
    (["--steps", "9" * 100_000], "'--steps' must be int"),
    (["--steps", str(2**64)], "'steps' must be an integer of 64 bits"),
    (["--steps=-1"], "'steps' must be at least 0"),
    (["--out", "a\0b"], "'out' must be valid text"),
    (["--out", "\ud800"], "'out' must be valid text"),
    (["--out=" + "[" * 10_000 + "\0"], "'out' must be valid text"),
    (["--" + "rate" * 25_000, "1"], "unknown key"),
    (["--\udcff\n", "1"], "unknown key '--\\udcff'"),
    (["\0" * 100_000], "expected --key value"),
    (["--task", "x" * 100_000], "'--task' must be line"),
    (["--rate", "[&a [1], *a, *a]"], "'--rate' must be float"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "expected"), WORDS, ids=range(len(WORDS)))
def test_command_lines(words: list[str], expected: str) -> None:
    message = refused(words)
    assert expected in message, message


@pytest.mark.parametrize("cls", [LineTask.Config, SceneTask.Config, TextTask.Config])
def test_no_float_of_a_task_is_infinite(cls: type) -> None:
    floats = [leaf for leaf in config._leaves(cls, {}) if leaf.kind is float]
    assert floats
    for leaf in floats:
        for word in (".inf", "-.inf", "1e300", "1e400"):
            message = refused([f"--{leaf.name}={word}"], cls=cls)
            assert f"'{leaf.name}' must be a finite number" in message, message


def test_no_rate_of_a_scene_is_negative() -> None:
    names = [leaf.name for leaf in config._leaves(SceneTask.Config, {}) if leaf.name.startswith("rates.")]
    assert len(names) > 5
    for name in names:
        assert f"'{name}' must be at least 0" in refused([f"--{name}=-1"], cls=SceneTask.Config)


def test_a_path_of_any_bytes_is_accepted() -> None:
    assert config.load(LineTask.Config, None, ["--out", "a\udcff"]).out == "a\udcff"


def test_a_small_alias_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("rate: &rate 0.5\nseed: 3\nlog_every: &n 7\ncheckpoint_every: *n\n")
    assert config.load(LineTask.Config, tmp_path / "a.yaml").checkpoint_every == 7


def test_a_long_number_is_no_riddle() -> None:
    began = time.perf_counter()
    assert read_scalar("1" * 100_000 + "x") == "1" * 100_000 + "x"
    assert time.perf_counter() - began < 2


def test_a_large_file_costs_neither_time_nor_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    with path.open("wb") as file:
        file.truncate(2 << 30)  # sparse
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "at most 65,536 bytes" in refused([], path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


def test_paths_of_configs(tmp_path: Path) -> None:
    for name in ("a" * 5000, "a\0b", "a\ud800b", "new\nline", "/dev/null/x", str(tmp_path)):
        assert refused([], Path(name))


def test_a_sentence_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(BOMB)
    assert cli.main(["train", str(path)]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert cli.main(["train", "\ud800\n" * 1000]) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and message[:-1].isprintable() and len(message) < 700


def sentence(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What the command line says last about words that it refuses."""
    began = time.perf_counter()
    assert cli.main(words) == 1
    message = capsys.readouterr().err.splitlines()[-1].rpartition("\r")[2]
    assert time.perf_counter() - began < 2 and message.isprintable() and len(message) <= 400, message
    return message


@pytest.mark.parametrize("name", ["eval", "convert", "export", "render", "compare", "view", "sample", "reconstruct"])
def test_a_long_path_is_one_sentence(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    two = {"convert": ["a.ply"], "export": ["a.ply"], "compare": ["b"], "reconstruct": ["out"]}
    for path in ("x" * 300, "x" * 100_000, "x/" * 50_000):
        assert sentence(capsys, name, path, *two.get(name, []))


def test_a_long_word_of_a_config_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    line, scene, text = (str(config.shipped(f"{name}.yaml")) for name in ("line", "scene", "text"))
    for words in ([line, "--data.csv"], [line, "--device"], [line, "--out"], [scene, "--data.path"],
                  [text, "--data.path"]):  # fmt: skip
        assert "…" in sentence(capsys, "train", *words, "x" * 100_000), words


def test_sizes_that_no_memory_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("forward, loss, backward, update, repeat. " * 100)
    line, text = (str(config.shipped(f"{name}.yaml")) for name in ("line", "text"))
    assert "at most 100,000,000" in sentence(capsys, "train", line, "--data.count", str(2**62))
    learn = ["train", text, "--data.path", f"{tmp_path}/a.txt", "--data.cache", f"{tmp_path}/cache", "--device", "cpu"]
    learn += ["--out", f"{tmp_path}/run", "--model.heads", "1", "--model.context", "8"]
    for words in (["--model.layers", str(2**62)], ["--model.encoder_layers", "1001"]):
        assert "at most 1000" in sentence(capsys, *learn, *words)
    for width in (2**40, 2**62):
        assert "not enough memory" in sentence(capsys, *learn, "--model.width", str(width))


def test_memory_of_a_bomb(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(BOMB)
    code = (
        "import resource, sys; from pathlib import Path; from splatlearn import yaml12\n"
        "limit = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: yaml12.read_mapping(Path(sys.argv[1]))\n"
        "except ValueError: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - limit)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.yaml")], capture_output=True, text=True)
    assert int(done.stdout) < 64 << 10, done.stderr
