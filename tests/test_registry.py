"""Registries: words, classes of a user's file and of installed packages; and the config fields that depend on them."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from splatlearn import config, registry
from splatlearn.config import chosen, complete, entries, key
from splatlearn.errors import SplatlearnError
from splatlearn.registry import TASKS, Registry


class Calm:
    @dataclass
    class Config:
        every: int = key(100, "steps between changes")


class Noisy:
    @dataclass
    class Config:
        noise: float = key(0.5, "standard deviation")
        seeds: list[int] = key([1], "seeds")


class Photometric:
    @dataclass
    class Config:
        weight: float = key(1.0, "weight")
        dssim: float = key(0.2, "share of 1 - SSIM")


class Depth:
    @dataclass
    class Config:
        weight: float = key(0.0, "weight")


class Bare:
    """A class without a Config."""


HERE = __name__
STRATEGIES = Registry("strategy", "test.strategies", {"calm": f"{HERE}:Calm", "noisy": f"{HERE}:Noisy"})
LOSSES = Registry("loss term", "test.losses", {"photometric": f"{HERE}:Photometric", "depth": f"{HERE}:Depth"})


@dataclass
class Recipe:
    steps: int = key(10, "steps")
    strategy: str = key("calm", "how the number of Gaussians changes")
    growth: Any = chosen(STRATEGIES, by="strategy", help="keys of the strategy")
    losses: dict[str, Any] = entries(LOSSES, {"photometric": {"weight": 2.0}}, help="what is minimised")

    def __post_init__(self) -> None:
        complete(self)


@dataclass
class Outer:
    recipe: Recipe = key(Recipe, "a nested group")


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current folder; what is imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    path, modules = list(sys.path), set(sys.modules)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def install(folder: Path, name: str, declared: str) -> None:
    """What pip leaves of a distribution that declares entry points."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(declared)


def refused(call: Any, *arguments: Any) -> str:
    with pytest.raises(SplatlearnError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value), "the error is not one sentence"
    return str(caught.value)


# ---- words ----


def test_a_word_names_a_class() -> None:
    assert STRATEGIES.find("calm") is Calm, "a built-in name"
    assert STRATEGIES.find(f"{HERE}:Noisy") is Noisy, "module:Class"
    assert STRATEGIES.find(f"{HERE}:Noisy.Config") is Noisy.Config, "a nested class"


def test_every_built_in_class_is_there() -> None:
    for known in vars(registry).values():
        if isinstance(known, Registry):
            for word in known.built_in:
                assert isinstance(known.find(word).__doc__, str), f"{known.kind} {word}"
    assert TASKS.words()[:3] == ["line", "scene", "text"]


def test_importing_a_class_waits_until_it_is_asked_for() -> None:
    lazy = Registry("thing", "test.things", {"absent": "no_such_module:Thing"})
    assert lazy.words() == ["absent"], "listing the words imported one"
    assert "no module 'no_such_module'" in refused(lazy.find, "absent")


def test_a_file_in_the_current_folder_is_found(outside: Path) -> None:
    (outside / "own_file.py").write_text("class Mine:\n    here = 1\n")
    assert STRATEGIES.find("own_file:Mine").here == 1


def test_a_file_in_a_named_folder_is_found(outside: Path) -> None:
    (outside / "beside").mkdir()
    (outside / "beside" / "beside_yaml.py").write_text("class Mine:\n    here = 2\n")
    assert "no module 'beside_yaml'" in refused(STRATEGIES.find, "beside_yaml:Mine")
    registry.import_from(outside / "beside")
    assert STRATEGIES.find("beside_yaml:Mine").here == 2


def test_a_file_of_the_user_hides_no_library(outside: Path) -> None:
    (outside / "json.py").write_text("raise RuntimeError('a library was hidden')\n")
    registry.import_from(outside)
    assert STRATEGIES.find("json:JSONDecoder").__module__ == "json.decoder"


def test_an_installed_package_declares_words(outside: Path) -> None:
    (outside / "lib").mkdir()
    (outside / "lib" / "their_package.py").write_text("class Theirs:\n    here = 3\n")
    install(outside / "lib", "their-package", "[test.strategies]\ntheirs = their_package:Theirs\n")
    sys.path.insert(0, str(outside / "lib"))
    assert STRATEGIES.words() == ["calm", "noisy", "theirs"]
    assert STRATEGIES.find("theirs").here == 3
    assert "theirs" not in LOSSES.words(), "an entry point of another group"
    install(outside / "lib", "other-package", "[test.strategies]\ntheirs = other_package:Theirs\n")
    message = refused(STRATEGIES.find, "theirs")
    assert "declared by one package" in message and "other_package:Theirs" in message, message


BAD_WORDS = [
    ("clam", "strategy must be one of calm, noisy or a package.module:Class, got 'clam'; the nearest one is 'calm'"),
    ("", "strategy must be one of calm, noisy or a package.module:Class, got ''"),
    (
        "no_such_module:Thing",
        "must be in an installed package or in the current folder, got no module 'no_such_module'",
    ),
    ("sys:Nothing", "must be defined in sys, got no 'Nothing' there"),
    ("json.nothing:Thing", "got no module 'json.nothing'"),
    ("json:", "must be one of calm"),
    ("../secret:Thing", "must be one of calm"),
    ("broken_syntax:Thing", "SyntaxError in"),
    ("broken_import:Thing", "broken_import needs the module 'no_such_library'"),
    ("broken_value:Thing", "ValueError in"),
]


@pytest.mark.parametrize(("word", "message"), BAD_WORDS)
def test_a_bad_word_is_one_sentence(outside: Path, word: str, message: str) -> None:
    (outside / "broken_syntax.py").write_text("class Thing\n")
    (outside / "broken_import.py").write_text("import no_such_library\n")
    (outside / "broken_value.py").write_text("x = 1\nint('many\\nlines')\n")
    told = refused(STRATEGIES.find, word)
    assert message in told, told
    if "broken_value" in word:
        assert "broken_value.py, line 2" in told, "the place is not named"


# ---- the config fields ----


def read(tmp_path: Path, text: str, *words: str, cls: Any = Recipe) -> Any:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return config.load(cls, path, words)


def test_a_word_chooses_the_keys_of_a_group(tmp_path: Path) -> None:
    assert read(tmp_path, "").growth == Calm.Config(100)
    assert read(tmp_path, "growth: {every: 7}").growth == Calm.Config(7)
    assert read(tmp_path, "strategy: noisy\ngrowth: {noise: 1e-3}").growth == Noisy.Config(1e-3)
    assert read(tmp_path, "growth.every: 7", "--growth.every=8").growth == Calm.Config(8)
    assert read(tmp_path, "", "--growth.noise", "2", "--strategy", "noisy").growth == Noisy.Config(2.0)
    assert read(tmp_path, f"strategy: {HERE}:Noisy").growth == Noisy.Config()
    nested = read(tmp_path, "recipe: {strategy: noisy}", "--recipe.growth.noise", "3", cls=Outer)
    assert nested.recipe.growth == Noisy.Config(3.0), "nested deeper"


def test_entries_add_to_the_default_ones(tmp_path: Path) -> None:
    assert dict(read(tmp_path, "").losses) == {"photometric": Photometric.Config(2.0)}
    for text in ("losses:", "losses: {}", "losses: {photometric: }"):
        assert dict(read(tmp_path, text).losses) == {"photometric": Photometric.Config(2.0)}, text
    losses = read(tmp_path, "losses: {depth: {weight: 0.1}}", "--losses.photometric.dssim", "0.5").losses
    assert dict(losses) == {"photometric": Photometric.Config(2.0, 0.5), "depth": Depth.Config(0.1)}
    assert dict(read(tmp_path, "losses: {depth: }").losses)["depth"] == Depth.Config(), "an entry with its defaults"
    assert read(tmp_path, "", "--losses.depth.weight", "1").losses["depth"] == Depth.Config(1.0), "command line alone"


def test_an_entry_may_have_a_name_of_its_own(tmp_path: Path) -> None:
    losses = read(tmp_path, "losses: {far: {term: depth, weight: 3}, depth: }").losses
    assert losses["far"] == Depth.Config(3.0) and losses.word("far") == "depth" and losses.word("depth") == "depth"
    losses = read(tmp_path, "", "--losses.own.term", f"{HERE}:Depth", "--losses.own.weight", "4").losses
    assert losses["own"] == Depth.Config(4.0) and losses.word("own") == f"{HERE}:Depth"
    assert read(tmp_path, "losses: {photometric: {term: depth}}").losses["photometric"] == Depth.Config()
    assert read(tmp_path, "losses: {depth: {term: depth}}").losses["depth"] == Depth.Config()


@pytest.mark.parametrize("text", ["", "strategy: noisy\ngrowth: {seeds: [3]}\nlosses: {far: {term: depth}, depth: }"])
def test_dump_loads_back_equal(tmp_path: Path, text: str) -> None:
    original = read(tmp_path, text)
    config.dump(original, tmp_path / "dumped.yaml")
    again = config.load(Recipe, tmp_path / "dumped.yaml")
    assert again == original and again.losses.words == original.losses.words


def test_python_gives_the_same_defaults() -> None:
    assert Recipe() == config.load(Recipe, None), "made in Python and by the reader"
    assert Recipe(strategy="noisy").growth == Noisy.Config()
    assert "must be the Noisy.Config of strategy 'noisy', got a Calm.Config" in refused(
        lambda: Recipe(strategy="noisy", growth=Calm.Config())
    )
    Recipe().losses["photometric"].weight = 9.0
    assert Recipe().losses["photometric"].weight == 2.0, "a default is shared"


BAD = [
    ("strategy: clam", [], "'strategy' must be one of calm, noisy or a package.module:Class, got 'clam'"),
    ("strategy: 3", [], "'strategy' must be str, got int 3"),
    ("", ["--strategy"], "'--strategy' must be str, got no value"),
    ("growth: {noise: 1}", [], "unknown key 'growth.noise'; the nearest valid one is 'growth.every'"),
    ("strategy: noisy\ngrowth: {every: 1}", [], "unknown key 'growth.every'"),
    ("growth: 3", [], "'growth' must be a group of keys, got int 3"),
    ("", ["--growth.noise", "1"], "unknown key '--growth.noise'; the nearest valid one is '--growth.every'"),
    (f"strategy: {HERE}:Bare", [], f"strategy '{HERE}:Bare' must have a dataclass named Config, got None"),
    ("losses: {deep: {weight: 1}}", [], "'losses.deep' must be one of photometric, depth"),
    ("losses: {far: {term: deep}}", [], "'losses.far.term' must be one of photometric, depth"),
    (
        "losses: {depth: {wait: 1}}",
        [],
        "unknown key 'losses.depth.wait'; the nearest valid one is 'losses.depth.weight'",
    ),
    ("losses: {depth: {weight: x}}", [], "'losses.depth.weight' must be float, got str 'x'"),
    ("losses: {depth: 3}", [], "'losses.depth' must be a group of keys, got int 3"),
    ("losses: 3", [], "'losses' must be a group of keys, got int 3"),
    ("losses: {depth: {term: 3}}", [], "'losses.depth.term' must be str, got int 3"),
    ("losses: {depth: {weight: 1}}\nlosses.depth.weight: 2", [], "key 'losses.depth.weight' is there twice"),
    ("", ["--losses", "depth"], "unknown key '--losses'; the nearest valid one is '--losses.photometric"),
]


@pytest.mark.parametrize(("text", "words", "message"), BAD)
def test_a_bad_config_is_one_sentence(tmp_path: Path, text: str, words: list[str], message: str) -> None:
    told = refused(lambda: read(tmp_path, text, *words))
    assert message in told, told


def test_help_lists_the_nested_keys(tmp_path: Path) -> None:
    told = config.help_text(Recipe)
    for flag, default in (("--growth.every", "100"), ("--losses.photometric.weight", "2.0")):
        line = next(line for line in told.splitlines() if line.split()[0] == flag)
        assert f"(default: {default})" in line, line
    line = next(line for line in told.splitlines() if line.split()[0] == "--losses")
    assert "what is minimised: groups named by one of photometric, depth or a package.module:Class" in line, line
    told = config.help_text(Recipe, read(tmp_path, "strategy: noisy\nlosses: {far: {term: depth, weight: 4}}"))
    assert "--growth.noise" in told and "--growth.every" not in told, "the strategy in use"
    line = next(line for line in told.splitlines() if "--losses.far.weight" in line)
    assert "(default: 4.0)" in line, "an entry of the config"
