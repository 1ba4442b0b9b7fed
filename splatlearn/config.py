"""Typed configs: a YAML file over nested dataclasses, each key of which the command line can override.

Types of keys are bool, int, float, str, None, list, Literal, unions, and nested dataclasses. A group whose keys
depend on a word is `chosen`; a mapping from names to such groups is `entries`. `docs/LOG.md` compares this reader
with jsonargparse and tyro.
"""

import dataclasses
import difflib
import os
import reprlib
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from splatlearn.config_values import check_range, convert, convert_word, type_name
from splatlearn.errors import SplatlearnError, brief
from splatlearn.registry import Registry
from splatlearn.yaml12 import one_line, read_mapping, shown, write_mapping

T = TypeVar("T")


# ---- declaring a config ----


def key(default: Any, help: str, *, path: bool = False) -> Any:
    """A dataclass field with its help text; a list is copied, a dataclass type makes a nested group.

    Args:
        path: the value is the path of a file or a folder, in which `~` is the user's home.
    """
    if path:
        return dataclasses.field(default=default, metadata={"help": help, "path": True})
    if is_dataclass(default) and isinstance(default, type):
        return dataclasses.field(default_factory=default, metadata={"help": help})
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata={"help": help})
    return dataclasses.field(default=default, metadata={"help": help})


def chosen(registry: Registry, by: str, help: str) -> Any:
    """A group of keys: the `Config` of the class that the sibling key ``by`` names in ``registry``.

    An instance that is made in Python without this field gets the defaults, if its class calls `complete`.
    """
    return dataclasses.field(default=None, metadata={"help": help, "registry": registry, "by": by})


def entries(registry: Registry, default: Mapping[str, Mapping[str, Any]], help: str) -> Any:
    """A mapping from names to groups of keys, each the `Config` of the class that the name stands for in ``registry``.

    Within a group the key ``term`` gives the word of the class, where it is not the name itself. The value is an
    `Entries`. A config adds to the entries of ``default``, or changes their keys.
    """

    def make() -> "Entries":
        found = Entries()
        for name, given in default.items():
            found.words[name] = given.get("term", name)
            values = {key: value for key, value in given.items() if key != "term"}
            found[name] = _config_of(registry, found.words[name])(**values)
        return found

    return dataclasses.field(default_factory=make, metadata={"help": help, "registry": registry})


class Entries(dict[str, Any]):
    """The value of an `entries` field: a config by name. ``words`` has the word in the registry by name."""

    def __init__(self, configs: Mapping[str, Any] | Iterable[tuple[str, Any]] = ()) -> None:
        super().__init__(configs)
        self.words: dict[str, str] = {name: name for name in self}

    def word(self, name: str) -> str:
        """The word in the registry that the entry ``name`` is made by."""
        return self.words.get(name, name)


def complete(config: Any) -> None:
    """Give every `chosen` field of a dataclass instance that is None its defaults; for ``__post_init__``.

    Raises:
        SplatlearnError: A field has the Config of another class than its word names.
    """
    for field in fields(config):
        if "by" in field.metadata:
            word, value = getattr(config, field.metadata["by"]), getattr(config, field.name)
            expected = _config_of(field.metadata["registry"], word, field.metadata["by"])
            if value is None:
                setattr(config, field.name, expected())
            elif not isinstance(value, expected):
                raise SplatlearnError(
                    f"'{field.name}' must be the {expected.__qualname__} of {field.metadata['by']} {word!r}, "
                    f"got a {type(value).__qualname__}"
                )


@dataclass
class Common:
    """The keys that every task's config has."""

    task: str = key("line", "what is learned: line, scene, text, or the package.module:Class of a task")
    out: str = key("runs/run", "the run folder to write; it must be new or empty", path=True)
    steps: int = key(1000, "updates to make")
    seed: int = key(0, "seed of all that is random")
    device: str = key("auto", "auto, cpu, cuda or cuda:N")
    log_every: int = key(10, "steps between lines of metrics.jsonl")
    checkpoint_every: int = key(1000, "steps between checkpoints")
    reproducible: bool = key(
        False, "the same bits on more machines, slower: a scene's on x86-64-v2, a text's on any number of threads"
    )
    tensorboard: bool = key(False, "also write the metrics for TensorBoard, into RUN/tensorboard")

    def __post_init__(self) -> None:
        complete(self)
        if self.steps < 0:
            raise SplatlearnError(f"'steps' must be at least 0, got {self.steps}")
        if not 0 <= self.seed < 2**63:
            raise SplatlearnError(f"'seed' must be at least 0 and below 2**63, got {self.seed}")
        for name in ("log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise SplatlearnError(f"'{name}' must be at least 1, got {getattr(self, name)}")


# ---- what a program calls ----


def load(cls: type[T], path: Path | None, overrides: Sequence[str] = ()) -> T:
    """Make an instance of the dataclass ``cls``: its defaults, then a YAML file, then ``--key.sub value`` words.

    A float is finite, also as float32, unless the default of its key is infinite. An int fits 64 bits. A text holds
    no NUL and is valid Unicode, apart from the bytes of a path.

    Raises:
        SplatlearnError: In one sentence of at most 300 characters, for an unreadable file, an unknown key (with the
            nearest valid one), a wrong type or a number out of range (with what was expected and what came), an
            unknown word of a registry, or a missing key.
    """
    try:
        return _loaded(cls, path, overrides)
    except SplatlearnError as error:
        raise SplatlearnError(brief(error, 300)) from error


def _loaded(cls: type[T], path: Path | None, overrides: Sequence[str]) -> T:
    tree = {} if path is None else read_mapping(path)
    words = _split(overrides)
    given = dict(_flat(tree)) | {word.name: word.text for word in words if word.text is not None}
    leaves = {leaf.name: leaf for leaf in _leaves(cls, given)}
    values: dict[str, Any] = {}
    _read_tree(leaves, tree, brief(path, 150), values)
    _read_words(leaves, words, values)
    for name, value in values.items():
        check_range(name, value, leaves[name].default)
    return typing.cast(T, _build(cls, values, given))


def shipped(name: str) -> Path:
    """Where the config that came with splatlearn under this name is, such as `scene.yaml`, or would be."""
    package = Path(__file__).parent
    installed = package / "configs" / name
    return installed if installed.is_file() else package.parent / "configs" / name  # the latter in a checkout


def peek(path: Path, name: str) -> Any:
    """The raw value of a top-level key in a YAML file, or None: enough to learn which task it is for."""
    return read_mapping(path).get(name)


def dump(config: Any, path: Path) -> None:
    """Write the dataclass instance ``config`` as YAML; ``load`` gives back an equal one."""
    write_mapping(_plain(config), path)


def help_text(cls: type, given: Any = None) -> str:
    """All keys of ``cls`` with their types, help and defaults, or what the instance ``given`` has, a line each."""
    lines = []
    for name, kind, help, default in _leaves(cls, {}, base=given):
        note = "required" if default is MISSING else f"default: {one_line(default)}"
        lines.append(f"  {f'--{name} {type_name(kind)}':<38} {f'{help} ({note})' if help else note}")
    return "\n".join(lines)


# ---- the dataclass as a tree of keys ----


class _Leaf(NamedTuple):
    name: str  # dotted
    kind: Any
    help: str
    default: Any


class _Entry(NamedTuple):
    """One entry of an `entries` field."""

    name: str
    word: str
    cls: type
    default: Any  # an instance of cls, or None


def _config_of(registry: Registry, word: str, name: str | None = None) -> Any:
    """The dataclass `Config` of the class that ``word``, the value of the key ``name``, names."""
    cls = registry.find(word, name)
    config = getattr(cls, "Config", None)
    if not (isinstance(config, type) and is_dataclass(config)):
        raise SplatlearnError(f"{registry.kind} {word!r} must have a dataclass named Config, got {config!r}")
    return config


def _default(field: "dataclasses.Field[Any]", base: Any) -> Any:
    """A field's default: that of the instance ``base`` which the group around it starts from, if any."""
    if base is not None:
        return getattr(base, field.name)
    return field.default_factory() if field.default_factory is not MISSING else field.default


def _members(
    cls: type, given: Mapping[str, Any], base: Any, prefix: str
) -> Iterator[tuple["dataclasses.Field[Any]", Any, Any]]:
    """The fields of a dataclass with kind and default; the kind of an `entries` field is a list of `_Entry`.

    Args:
        given: Raw values by dotted name, from the file and the command line, which decide what is chosen.
        base: An instance that has the defaults, or None.
    """
    kinds, siblings = typing.get_type_hints(cls), {field.name: field for field in fields(cls)}
    for field in fields(cls):
        name, kind, default = prefix + field.name, kinds[field.name], _default(field, base)
        registry, by = field.metadata.get("registry"), field.metadata.get("by")
        if registry is None:
            yield field, kind, None if is_dataclass(kind) and default is MISSING else default
        elif by is not None:
            word, usual = given.get(prefix + by), _default(siblings[by], base)
            kind = _config_of(registry, word if isinstance(word, str) else usual, prefix + by)
            yield field, kind, default if isinstance(default, kind) else None
        else:
            yield field, list(_entries_of(registry, given, default, f"{name}.")), default


def _entries_of(registry: Registry, given: Mapping[str, Any], default: Any, prefix: str) -> Iterator[_Entry]:
    named = [name[len(prefix) :].partition(".")[0] for name in given if name.startswith(prefix)]
    for name in dict.fromkeys([*default, *named]):
        usual = default.word(name) if isinstance(default, Entries) else name
        word = given.get(f"{prefix}{name}.term")
        word = word if isinstance(word, str) else usual
        cls = _config_of(registry, word, f"{prefix}{name}" + (".term" if word != name else ""))
        yield _Entry(name, word, cls, default[name] if isinstance(default.get(name), cls) else None)


def _leaves(cls: type, given: Mapping[str, Any], prefix: str = "", base: Any = None) -> Iterator[_Leaf]:
    for field, kind, default in _members(cls, given, base, prefix):
        name = prefix + field.name
        if isinstance(kind, list):
            registry = field.metadata["registry"]
            yield _Leaf(name, Entries, f"{field.metadata['help']}: groups named by {registry.expected()}", [*default])
            for entry in kind:
                yield _Leaf(f"{name}.{entry.name}.term", str, f"the {registry.kind} that this entry is", entry.word)
                yield from _leaves(entry.cls, given, f"{name}.{entry.name}.", entry.default)
        elif is_dataclass(kind):
            yield from _leaves(typing.cast(type, kind), given, f"{name}.", default)
        else:
            yield _Leaf(name, kind, field.metadata.get("help", ""), default)


def _build(cls: type, values: dict[str, Any], given: Mapping[str, Any], base: Any = None, prefix: str = "") -> Any:
    """``cls`` from the dotted ``values``, all else from ``base`` or the defaults."""
    arguments: dict[str, Any] = {}
    for field, kind, default in _members(cls, given, base, prefix):
        name = prefix + field.name
        if isinstance(kind, list):
            made = {e.name: _build(e.cls, values, given, e.default, f"{name}.{e.name}.") for e in kind}
            arguments[field.name] = Entries(made)
            arguments[field.name].words |= {entry.name: entry.word for entry in kind}
        elif is_dataclass(kind):
            arguments[field.name] = _build(typing.cast(type, kind), values, given, default, f"{name}.")
        elif name in values or default is not MISSING:
            arguments[field.name] = values.get(name, default)
            text = arguments[field.name]
            if field.metadata.get("path") and isinstance(text, str) and text != "~":  # that is null in YAML
                arguments[field.name] = os.path.expanduser(text)
        else:
            raise SplatlearnError(f"the config needs a value for '{name}' ({type_name(kind)}), got none")
    return cls(**arguments)


def _plain(value: Any) -> Any:
    """A dataclass instance as mappings, lists and scalars."""
    if isinstance(value, Entries):
        terms = {name: {"term": value.word(name)} if value.word(name) != name else {} for name in value}
        return {name: terms[name] | _plain(config) for name, config in value.items()}
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value


# ---- reading values ----


class _Word(NamedTuple):
    """One ``--key value`` of the command line."""

    flag: str  # as typed
    name: str  # dotted
    text: str | None  # None for --key alone


def _split(words: Sequence[str]) -> list[_Word]:
    """Split ``--key value``, ``--key=value`` and ``--key`` alone."""
    found, left = [], list(words)
    while left:
        word = left.pop(0)
        if not word.startswith("--"):
            raise SplatlearnError(f"command line: expected --key value, got {reprlib.repr(word)}")
        flag, equals, value = word.partition("=")
        text: str | None = value if equals else None
        if not equals and left and not left[0].startswith("--"):
            text = left.pop(0)
        found.append(_Word(flag, flag[2:].replace("-", "_"), text))
    return found


def _flat(tree: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for part, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{part}.")
        else:
            yield f"{prefix}{part}", value


def _read_tree(
    leaves: Mapping[str, _Leaf], tree: dict[Any, Any], source: str, values: dict[str, Any], prefix: str = ""
) -> None:
    """Check a YAML mapping against ``leaves`` and put its values, converted, into the dotted ``values``."""
    for part, value in tree.items():
        name = f"{prefix}{part}"
        if name in values:  # as data: {path: ...} and as data.path: ...
            raise SplatlearnError(f"{source}: key '{brief(name, 80)}' is there twice")
        kind = leaves[name].kind if name in leaves else None
        if kind not in (None, Entries):
            try:
                values[name] = convert(kind, value)
            except TypeError:
                message = f"{source}: '{name}' must be {type_name(kind)}, got {shown(value)}"
                raise SplatlearnError(message) from None
        elif kind is None and not any(leaf.startswith(f"{name}.") for leaf in leaves):
            nearest = _nearest(name, leaves)
            raise SplatlearnError(f"{source}: unknown key '{brief(name, 80)}'; the nearest valid one is '{nearest}'")
        elif isinstance(value, dict):
            _read_tree(leaves, value, source, values, f"{name}.")
        elif value is not None:  # an empty group keeps its defaults
            raise SplatlearnError(f"{source}: '{name}' must be a group of keys, got {shown(value)}")


def _read_words(leaves: Mapping[str, _Leaf], words: Sequence[_Word], values: dict[str, Any]) -> None:
    """Check the words of the command line against ``leaves``; a bool needs no value."""
    for flag, name, text in words:
        if name not in leaves or leaves[name].kind is Entries:
            nearest = _nearest(name, (leaf for leaf in leaves if leaves[leaf].kind is not Entries))
            raise SplatlearnError(
                f"command line: unknown key '{brief(flag, 80)}'; the nearest valid one is '--{nearest}'"
            )
        kind = leaves[name].kind
        if name == "task" and text != (
            task := values.get(name, leaves[name].default)
        ):  # the other keys are of its class
            raise SplatlearnError(
                f"command line: '{flag}' must be {task}, as the config file says, got {reprlib.repr(text)}"
            )
        if text is None and kind is not bool:
            raise SplatlearnError(f"command line: '{flag}' must be {type_name(kind)}, got no value")
        try:
            values[name] = True if text is None else convert_word(kind, text)
        except TypeError:
            message = f"command line: '{flag}' must be {type_name(kind)}, got {reprlib.repr(text)}"
            raise SplatlearnError(message) from None


def _nearest(name: str, leaves: Iterable[str]) -> str:
    """The most similar key; one whose group was forgotten is nearly as similar as a slip of the pen."""
    name = name[:100]  # the comparison takes the square of the length

    def similarity(candidate: str) -> float:
        ends = difflib.SequenceMatcher(None, name.split(".")[-1], candidate.split(".")[-1]).ratio()
        return max(difflib.SequenceMatcher(None, name, candidate).ratio(), 0.9 * ends)

    return max(leaves, key=similarity)
