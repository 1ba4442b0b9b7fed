"""Typed configs: a YAML file over nested dataclasses, each key of which the command line can override.

jsonargparse was tried first: it takes prefixes for keys, lets a duplicate key win, names no nearest key, and
tells a wrong type in several lines. Configs need few types: bool, int, float, str, None, list, Literal,
unions, and nested dataclasses.
"""

import dataclasses
import difflib
import re
import reprlib
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import yaml

from splatlearn.errors import SplatlearnError
from splatlearn.files import replacing

T = TypeVar("T")


# ---- declaring a config ----


def key(default: Any, help: str) -> Any:
    """A dataclass field with its help text; a list is copied, a dataclass type makes a nested group."""
    if is_dataclass(default) and isinstance(default, type):
        return dataclasses.field(default_factory=default, metadata={"help": help})
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata={"help": help})
    return dataclasses.field(default=default, metadata={"help": help})


@dataclass
class Common:
    """The keys that every task's config has."""

    task: Literal["line", "scene", "text"] = key("line", "what is learned")
    out: str = key("runs/run", "the run folder to write; it must be new or empty")
    steps: int = key(1000, "updates to make")
    seed: int = key(0, "seed of all that is random")
    device: str = key("auto", "auto, cpu, cuda or cuda:N")
    log_every: int = key(10, "steps between lines of metrics.jsonl")
    checkpoint_every: int = key(1000, "steps between checkpoints")
    tensorboard: bool = key(False, "also write the metrics for TensorBoard, into RUN/tensorboard")

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise SplatlearnError(f"'steps' must be at least 0, got {self.steps}")
        if not 0 <= self.seed < 2**63:
            raise SplatlearnError(f"'seed' must be at least 0 and below 2**63, got {self.seed}")
        for name in ("log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise SplatlearnError(f"'{name}' must be at least 1, got {getattr(self, name)}")


# ---- what a program calls ----


def load(cls: type[T], path: Path | None, overrides: Sequence[str] = ()) -> T:
    """An instance of the dataclass ``cls``: its defaults, then a YAML file, then ``--key.sub value`` words.

    Raises SplatlearnError, in one sentence, for an unreadable file, an unknown key (naming the nearest valid
    one), a wrong type (naming what was expected and what came), or a missing key.
    """
    values: dict[str, Any] = {}
    if path is not None:
        _read_tree(cls, _parse_file(path), f"{path}", values)
    _read_overrides(cls, overrides, values)
    return typing.cast(T, _build(cls, values, None, ""))


def shipped(name: str) -> Path:
    """Where the config that came with splatlearn under this name is, such as `scene.yaml`, or would be."""
    package = Path(__file__).parent
    installed = package / "configs" / name
    return installed if installed.is_file() else package.parent / "configs" / name  # the latter in a checkout


def peek(path: Path, name: str) -> Any:
    """The raw value of a top-level key in a YAML file, or None: enough to learn which task it is for."""
    return _parse_file(path).get(name)


def dump(config: Any, path: Path) -> None:
    """Write the dataclass instance ``config`` as YAML; ``load`` gives back an equal one."""
    text = yaml.dump(dataclasses.asdict(config), Dumper=_Dumper, sort_keys=False, default_flow_style=None)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def help_text(cls: type, given: Any = None) -> str:
    """All keys of ``cls`` with their types, help and defaults, or what the instance ``given`` has, a line each."""
    lines = []
    for name, kind, help, default in _leaves(cls, base=given):
        told = "required" if default is MISSING else f"default: {_one_line(default)}"
        lines.append(f"  {f'--{name} {_type_name(kind)}':<38} {f'{help} ({told})' if help else told}")
    return "\n".join(lines)


# ---- the dataclass as a tree of keys ----


class _Leaf(NamedTuple):
    name: str  # dotted
    kind: Any
    help: str
    default: Any


def _default(field: "dataclasses.Field[Any]", base: Any) -> Any:
    """A field's default: that of the instance ``base`` which the group around it starts from, if any."""
    if base is not None:
        return getattr(base, field.name)
    return field.default_factory() if field.default_factory is not MISSING else field.default


def _leaves(cls: type, prefix: str = "", base: Any = None) -> Iterator[_Leaf]:
    kinds = typing.get_type_hints(cls)
    for field in fields(cls):
        name, kind, default = prefix + field.name, kinds[field.name], _default(field, base)
        if is_dataclass(kind):
            yield from _leaves(typing.cast(type, kind), f"{name}.", None if default is MISSING else default)
        else:
            yield _Leaf(name, kind, field.metadata.get("help", ""), default)


def _build(cls: type, values: dict[str, Any], base: Any, prefix: str) -> Any:
    """``cls`` from the dotted ``values``, all else from ``base`` or the defaults."""
    kinds = typing.get_type_hints(cls)
    arguments = {}
    for field in fields(cls):
        name, kind, default = prefix + field.name, kinds[field.name], _default(field, base)
        if is_dataclass(kind):
            group = typing.cast(type, kind)
            arguments[field.name] = _build(group, values, None if default is MISSING else default, f"{name}.")
        elif name in values or default is not MISSING:
            arguments[field.name] = values.get(name, default)
        else:
            raise SplatlearnError(f"the config needs a value for '{name}' ({_type_name(kind)}), got none")
    return cls(**arguments)


# ---- reading values ----


def _read_tree(cls: type, tree: dict[Any, Any], source: str, values: dict[str, Any], prefix: str = "") -> None:
    """Check a YAML mapping against ``cls`` and put its values, converted, into the dotted ``values``."""
    leaves = {leaf.name: leaf for leaf in _leaves(cls)}
    for part, value in tree.items():
        name = f"{prefix}{part}"
        if name in values:  # as data: {path: ...} and as data.path: ...
            raise SplatlearnError(f"{source}: key '{name}' is there twice")
        if name in leaves:
            kind = leaves[name].kind
            try:
                values[name] = _convert(kind, value)
            except TypeError:
                message = f"{source}: '{name}' must be {_type_name(kind)}, got {_told(value)}"
                raise SplatlearnError(message) from None
        elif not any(leaf.startswith(f"{name}.") for leaf in leaves):
            nearest = _nearest(name, leaves)
            raise SplatlearnError(f"{source}: unknown key '{name}'; the nearest valid one is '{nearest}'")
        elif isinstance(value, dict):
            _read_tree(cls, value, source, values, f"{name}.")
        elif value is not None:  # an empty group keeps its defaults
            raise SplatlearnError(f"{source}: '{name}' must be a group of keys, got {_told(value)}")


def _read_overrides(cls: type, overrides: Sequence[str], values: dict[str, Any]) -> None:
    """Read ``--key value``, ``--key=value`` and, for a bool, ``--key`` alone."""
    leaves = {leaf.name: leaf for leaf in _leaves(cls)}
    words = list(overrides)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            raise SplatlearnError(f"command line: expected --key value, got {word!r}")
        flag, equals, text = word.partition("=")
        name = flag[2:].replace("-", "_")
        if name not in leaves:
            nearest = _nearest(name, leaves)
            raise SplatlearnError(f"command line: unknown key '{flag}'; the nearest valid one is '--{nearest}'")
        leaf = leaves[name]
        if not equals and words and not words[0].startswith("--"):
            text = words.pop(0)
        elif not equals and leaf.kind is bool:
            text = "true"
        elif not equals:
            raise SplatlearnError(f"command line: '{flag}' must be {_type_name(leaf.kind)}, got no value")
        try:
            values[name] = _convert_word(leaf.kind, text)
        except TypeError:
            message = f"command line: '{flag}' must be {_type_name(leaf.kind)}, got {reprlib.repr(text)}"
            raise SplatlearnError(message) from None


def _nearest(name: str, leaves: dict[str, _Leaf]) -> str:
    """The most similar key; one whose group was forgotten is nearly as similar as a slip of the pen."""

    def similarity(candidate: str) -> float:
        ends = difflib.SequenceMatcher(None, name.split(".")[-1], candidate.split(".")[-1]).ratio()
        return max(difflib.SequenceMatcher(None, name, candidate).ratio(), 0.9 * ends)

    return max(leaves, key=similarity)


def _convert(kind: Any, value: Any) -> Any:
    """``value`` as the type ``kind``, the only change being int to float; raises TypeError."""
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        for option in options:
            try:
                return _convert(option, value)
            except TypeError:
                continue
    elif origin is Literal:
        if any(type(option) is type(value) and option == value for option in options):
            return value
    elif origin is list:
        if isinstance(value, list):
            return [_convert(options[0], item) for item in value]
    elif kind is float and type(value) is int and abs(value) < 2**1023:
        return float(value)
    elif type(value) is kind:  # not isinstance: a bool is no int
        return value
    raise TypeError


def _type_name(kind: Any) -> str:
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return "|".join(_type_name(option) for option in options)
    if origin is Literal:
        return "|".join(map(str, options))
    if origin is list:
        return f"list[{_type_name(options[0])}]"
    return "null" if kind is type(None) else str(kind.__name__)


def _told(value: Any) -> str:
    return "null" if value is None else f"{type(value).__name__} {reprlib.repr(value)}"


# ---- YAML: the core schema of version 1.2, in which 1e-3 is a number and "no" and 12:30 are not ----


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for name, _ in node.value:
            if isinstance(name, yaml.ScalarNode):
                if name.value in seen:
                    raise yaml.MarkedYAMLError(None, None, f"key '{name.value}' is there twice", name.start_mark)
                seen.add(name.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes a string that YAML 1.1 or the loader above would take for something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _tag, _pattern, _first in [
    ("null", r"(~|null|)\Z", ["~", "n", ""]),
    ("bool", r"(true|false)\Z", ["t", "f"]),
    ("int", r"[-+]?(0|[1-9][0-9_]*)\Z", list("-+0123456789")),
    ("float", r"[-+]?(\.inf|([0-9][0-9_]*\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?)\Z", list("-+.0123456789")),
]:
    for _dialect in (_Loader, _Dumper):
        _dialect.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)


# what PyYAML raises for bad text: its own errors, and Python's for a tag such as !!int that holds no number
_BAD_YAML = (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError)


def _parse_file(path: Path) -> dict[Any, Any]:
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise SplatlearnError(f"cannot read the config {path}: {error.strerror}") from error
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise SplatlearnError(f"{path}{line}: not a valid YAML config: {error.problem}") from error
    except _BAD_YAML as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise SplatlearnError(f"{path}: not a valid YAML config: {reason}") from error
    if tree is not None and not isinstance(tree, dict):
        raise SplatlearnError(f"{path}: a config must be a mapping of keys, got {_told(tree)}")
    return tree or {}


def _convert_word(kind: Any, text: str) -> Any:
    """A command line word as ``kind``: as YAML would read it, else the text itself; raises TypeError."""
    loader = _Loader("")
    try:
        if text.startswith("["):
            return _convert(kind, yaml.load(text, Loader=_Loader))
        tag = loader.resolve(yaml.ScalarNode, text, (True, False))  # one scalar: ": " and " #" mean nothing
        return _convert(kind, loader.construct_object(yaml.ScalarNode(tag, text)))
    except (TypeError, *_BAD_YAML):
        return _convert(kind, text)


def _one_line(value: Any) -> str:
    return str(yaml.dump(value, Dumper=_Dumper, default_flow_style=True, width=10**6)).splitlines()[0]
