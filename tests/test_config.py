"""Configs: values come through with their types, and every slip of the pen is one sentence with the key."""

import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pytest
import tiny_scene
import yaml

from splatlearn import config
from splatlearn.cli import main
from splatlearn.config import key
from splatlearn.errors import SplatlearnError
from splatlearn.scene.training.task import SceneTask


@dataclass
class Data:
    path: str | None = key(None, "the folder of photographs")
    background: list[float] = key([0.0, 0.0, 0.0], "colour behind everything")
    skip_missing: bool = key(False, "go on without missing photographs")


@dataclass
class Deep:
    data: Data = field(default_factory=lambda: Data(path="preset"))
    names: list[str] = key([], "names")


@dataclass
class Example(config.Common):
    rate: float = key(0.1, "learning rate")
    limit: int | float | None = key(None, "no more than this")
    init: Literal["points", "random"] = key("points", "where to start")
    data: Data = key(Data, "the photographs")
    deep: Deep = key(Deep, "deeper")


@dataclass
class Demanding:
    path: str
    count: int = 3


def read(tmp_path: Path, text: str, *overrides: str) -> Example:
    path = tmp_path / "example.yaml"
    path.write_text(text)
    return config.load(Example, path, overrides)


def refused(tmp_path: Path, text: str, *overrides: str) -> str:
    """The message of the error, which is one line."""
    with pytest.raises(SplatlearnError) as caught:
        read(tmp_path, text, *overrides)
    assert "\n" not in str(caught.value), "the error is not one sentence"
    return str(caught.value)


def value_of(instance: Any, name: str) -> Any:
    for part in name.split("."):
        instance = getattr(instance, part)
    return instance


GOOD = [
    ("rate", "1e-3", 1e-3),  # a string in YAML 1.1
    ("rate", "2", 2.0),
    ("rate", ".5", 0.5),
    ("rate", "-1.5E+3", -1500.0),
    ("rate", "3.4e38", 3.4e38),
    ("steps", "7_000", 7000),
    ("limit", "null", None),
    ("limit", "3", 3),
    ("limit", "3.5", 3.5),
    ("init", "random", "random"),
    ("data.path", "no", "no"),  # false in YAML 1.1
    ("data.path", "2024-01-31", "2024-01-31"),  # a date in YAML 1.1
    ("data.path", "12:30", "12:30"),  # 750 in YAML 1.1
    ("data.path", "null", None),
    ("data.background", "[1, 0.5, 1e-1]", [1.0, 0.5, 0.1]),
    ("data.skip_missing", "true", True),
    ("deep.data.path", "x/y", "x/y"),
    ("deep.names", "[a, b]", ["a", "b"]),
]


@pytest.mark.parametrize(("name", "text", "expected"), GOOD)
def test_a_value_is_the_same_from_file_and_command_line(tmp_path: Path, name: str, text: str, expected: Any) -> None:
    *groups, leaf = name.split(".")
    nested = f"{leaf}: {text}"
    for group in reversed(groups):
        nested = f"{group}: {{{nested}}}"
    instances = {
        "file": read(tmp_path, nested),
        "dotted file": read(tmp_path, f"{name}: {text}"),
        "--key value": read(tmp_path, "", f"--{name}", text),
        "--key=value": read(tmp_path, "", f"--{name}={text}"),
    }
    for source, instance in instances.items():
        got = value_of(instance, name)
        assert got == expected and type(got) is type(expected), f"{source} reads {text!r} as {got!r}"


@pytest.mark.parametrize("text", ["2024", "1e-3", "true", "a: b", "a #b", "[x", "~user", "-", " ", "!!int 3"])
def test_a_command_line_word_for_a_string_is_kept_as_it_is(text: str) -> None:
    instance = config.load(Example, None, ["--out", text])
    assert instance.out == text, "YAML's rules changed a path"


def test_later_words_and_the_command_line_win(tmp_path: Path) -> None:
    instance = read(tmp_path, "steps: 5\nrate: 0.5", "--steps", "6", "--steps", "7")
    assert (instance.steps, instance.rate) == (7, 0.5), "the order is defaults, file, command line"


def test_a_bool_alone_is_true_and_dashes_are_underscores() -> None:
    instance = config.load(Example, None, ["--data.skip-missing", "--rate", "2"])
    assert instance.data.skip_missing and instance.rate == 2.0, "a bare flag swallowed the next key"


def test_negative_numbers_are_values() -> None:
    assert config.load(Example, None, ["--rate", "-1e-3"]).rate == -1e-3, "a minus is taken for a key"


def test_a_group_keeps_the_defaults_its_parent_gave_it(tmp_path: Path) -> None:
    instance = read(tmp_path, "deep: {data: {skip_missing: true}}")
    assert instance.deep.data == Data("preset", [0.0, 0.0, 0.0], True), "the parent's default was lost"
    assert read(tmp_path, "deep:\ndata:\n") == Example(), "an empty group must keep its defaults"


def test_instances_share_no_lists() -> None:
    config.load(Example, None).data.background.append(9.0)
    assert config.load(Example, None).data.background == [0.0] * 3, "a default list is shared"


BAD_FILES = [
    ("stps: 3", "unknown key 'stps'; the nearest valid one is 'steps'"),
    ("data: {pth: x}", "unknown key 'data.pth'; the nearest valid one is 'data.path'"),
    ("path: x", "unknown key 'path'; the nearest valid one is 'data.path'"),
    ("bath: x", "unknown key 'bath'; the nearest valid one is 'data.path'"),  # not 'rate'
    ("zzz: 1", "unknown key 'zzz'; the nearest valid one is '"),
    ("1: 2", "unknown key '1'; the nearest"),
    ("steps: 3.0", "'steps' must be int, got float 3.0"),
    ("steps: true", "'steps' must be int, got bool True"),
    ("steps: abc", "'steps' must be int, got str 'abc'"),
    ("steps: null", "'steps' must be int, got null"),
    ("rate: .nan", "'rate' must be float, got str '.nan'"),
    ("rate: .inf", "'rate' must be a finite number within ±3.4e38, got inf"),
    ("rate: [1]", "'rate' must be float, got list [1]"),
    ("limit: x", "'limit' must be int|float|null, got str 'x'"),
    ("init: sfm", "'init' must be points|random, got str 'sfm'"),
    ("data: {path: 3}", "'data.path' must be str|null, got int 3"),
    ("data: {background: [0, x, 1]}", "'data.background' must be list[float], got list"),
    ("data: {skip_missing: yes}", "'data.skip_missing' must be bool, got str 'yes'"),
    ("data: 3", "'data' must be a group of keys, got int 3"),
    ("steps: 3\nrate: 1\nsteps: 4", ", line 3: not a valid YAML config: key 'steps' is there twice"),
    ("data: {path: a}\ndata.path: b", "key 'data.path' is there twice"),
    ("- 1\n- 2", "a config must be a mapping of keys, got list [1, 2]"),
    ("a: [", ", line 1: not a valid YAML config"),
    ("!!python/object/apply:os.getcwd []", "not a valid YAML config"),
    ("steps: !!int ''", "not a valid YAML config"),
    ("steps: !!timestamp x", "not a valid YAML config"),
    ("? [a]\n: 1", "not a valid YAML config"),
    ("[" * 5000, "not a valid YAML config"),
    ("steps: " + "9" * 5000, "not a valid YAML config"),
    ("rate: " + "9" * 400, "'rate' must be float, got int"),
    ("&a [*a]", "a config must be a mapping"),
    ("\0", "not a valid YAML config"),
    ("steps: -1", "'steps' must be at least 0, got -1"),
    ("seed: -1", "'seed' must be at least 0"),
    ("log_every: 0", "'log_every' must be at least 1, got 0"),
]


@pytest.mark.parametrize(("text", "message"), BAD_FILES, ids=[text[:24] for text, _ in BAD_FILES])
def test_a_bad_file_is_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    assert message in refused(tmp_path, text), "the error does not tell key, expected and got"


BAD_WORDS = [
    (["--stps", "3"], "unknown key '--stps'; the nearest valid one is '--steps'"),
    (["--step", "3"], "unknown key '--step'; the nearest valid one is '--steps'"),  # no prefixes
    (["--data", "3"], "unknown key '--data'; the nearest valid one is '--data."),
    (["--steps", "3.0"], "'--steps' must be int, got '3.0'"),
    (["--steps=x"], "'--steps' must be int, got 'x'"),
    (["--steps="], "'--steps' must be int, got ''"),
    (["--steps"], "'--steps' must be int, got no value"),
    (["--steps", "--rate", "1"], "'--steps' must be int, got no value"),
    (["--data.background", "[0, x]"], "'--data.background' must be list[float], got '[0, x]'"),
    (["--data.skip_missing", "maybe"], "'--data.skip_missing' must be bool, got 'maybe'"),
    (["5"], "expected --key value, got '5'"),
    (["-s", "5"], "expected --key value, got '-s'"),
]


@pytest.mark.parametrize(("words", "message"), BAD_WORDS)
def test_a_bad_word_is_one_sentence(tmp_path: Path, words: list[str], message: str) -> None:
    assert message in refused(tmp_path, "", *words), "the error does not tell key, expected and got"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SplatlearnError, match="cannot read the config .*absent.yaml: No such file"):
        config.load(Example, tmp_path / "absent.yaml")
    with pytest.raises(SplatlearnError, match="cannot read the config"):
        config.load(Example, tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(SplatlearnError, match="binary.yaml: not a valid YAML config"):
        config.load(Example, tmp_path / "binary.yaml")


def test_a_key_without_default_is_demanded() -> None:
    with pytest.raises(SplatlearnError, match=r"needs a value for 'path' \(str\)"):
        config.load(Demanding, None)
    assert config.load(Demanding, None, ["--path", "x"]) == Demanding("x", 3), "a given key is still demanded"
    assert "required" in config.help_text(Demanding).splitlines()[0], "--help hides that a key is required"


STRINGS = [
    "",
    "no",
    "null",
    "~",
    "1e-3",
    "7_000",
    "007",
    "12:30",
    ".inf",
    "a: b",
    "ä\n",
    "#",
    "true",
    "=",
    "x" * 300,
]


@pytest.mark.parametrize("text", STRINGS)
def test_dump_loads_back_equal(tmp_path: Path, text: str) -> None:
    original = Example(
        out=text,
        rate=1e-7 / 3,
        limit=1e300 / 1e270,
        data=Data(text, [0.1 + 0.2, -0.0]),
        deep=Deep(names=[text]),
    )
    config.dump(original, tmp_path / "config.yaml")
    assert config.load(Example, tmp_path / "config.yaml") == original, "a dumped value reads back as another"
    plain = yaml.safe_load((tmp_path / "config.yaml").read_text(encoding="utf-8"))
    assert plain["out"] == text, "a YAML 1.1 reader sees another string"


def test_help_lists_every_key() -> None:
    lines = config.help_text(Example).splitlines()
    own = 9 + 3 + 3 + 4  # of all tasks, of the example, of its data, of the data below
    assert len(lines) == own, "a key is missing from --help"
    line = next(line for line in lines if "--data.path" in line)
    for part in ("str|null", "the folder of photographs", "default: null"):
        assert part in line, f"--help does not tell {part!r}"
    assert "default: preset" in next(line for line in lines if "--deep.data.path" in line), "wrong default"


def test_help_tells_what_a_config_sets(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "scene.yaml", "--help"]) == 0
    told = capsys.readouterr().out.splitlines()
    for name, value in (
        ("--densify.score", "error"),
        ("--rates.means", "0.00064"),
        ("--losses.photometric.lambda_dssim", "0.2"),
    ):
        line = next(line for line in told if line.split()[:1] == [name])
        assert f"(default: {value})" in line, f"{name} is not what a run with this config has"


def test_peek_reads_one_key(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("task: line\nunknown: 1\n")
    assert config.peek(tmp_path / "a.yaml", "task") == "line", "the task is not seen before the keys are checked"
    assert config.peek(tmp_path / "a.yaml", "absent") is None, "an absent key is not None"


ROOT = Path(__file__).resolve().parents[1]


def test_configs_travel_with_the_package(tmp_path: Path) -> None:
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    for path in (ROOT / "configs").iterdir():
        built = tmp_path / "splatlearn" / "configs" / path.name
        assert built.read_bytes() == path.read_bytes(), f"{path.name} is not part of the package, or is another"


def test_a_config_that_came_along_needs_no_file_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("line.yaml", "configs/line.yaml"):
        out = f"run of {Path(name).parent.name}"
        assert main(["train", name, "--steps", "2", "--out", out]) == 0, f"{name} is not found"
        assert (tmp_path / out / "config.yaml").is_file(), "no run was made"
    (tmp_path / "line.yaml").write_text("task: line\nsteps: 3\nout: mine\n")
    assert main(["train", "line.yaml"]) == 0
    assert config.peek(tmp_path / "mine" / "config.yaml", "steps") == 3, "a file of one's own must come first"


@pytest.mark.parametrize("name", ["nothing.yaml", "configs/nothing.yaml", "elsewhere/line.yaml", "-line.yaml"])
def test_a_config_that_nobody_has(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", name]) == 1
    assert capsys.readouterr().err.count("\n") == 1, "more than one sentence"


def test_a_folder_of_pictures_is_learned_by_the_shipped_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_scene.write(tmp_path / "scene")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "scene.yaml").write_text("task: line\n")  # of somebody else's, and not asked for
    assert main(["train", str(folder), "--steps", "1", "--densify.start", "7", "--device", "cpu", "--out", "run"]) == 0
    recipe = config.load(SceneTask.Config, ROOT / "configs" / "scene.yaml")
    used = config.load(SceneTask.Config, tmp_path / "run" / "config.yaml")
    assert used.rates == recipe.rates and recipe.rates != SceneTask.Config().rates, "not the recipe's rates"
    assert used.densify == replace(recipe.densify, start=7), "not the recipe, with what the command line says"
    assert used.steps == 1, "the command line must win"
