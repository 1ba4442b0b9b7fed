"""The core schema of YAML 1.2 over PyYAML's safe loader: ``1e-3`` is a number, ``no`` and ``12:30`` are not."""

import re
import reprlib
from pathlib import Path
from typing import Any

import yaml

from splatlearn.errors import SplatlearnError, brief
from splatlearn.files import replacing


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for name, _ in node.value:
            if isinstance(name, yaml.ScalarNode):
                if name.value in seen:
                    raise yaml.MarkedYAMLError(
                        None, None, f"key '{brief(name.value, 80)}' is there twice", name.start_mark
                    )
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
    ("float", r"[-+]?(\.inf|([0-9][0-9_]*(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?)\Z", list("-+.0123456789")),
]:
    for _dialect in (_Loader, _Dumper):
        _dialect.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)


# What PyYAML raises for bad text: its own errors, and Python's for a tag such as !!int that holds no number.
_BAD_YAML = (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError)


LONGEST = 1 << 16  # bytes of a config
MOST, DEEPEST = 10_000, 50  # values in a config, and groups within groups


def read_mapping(path: Path) -> dict[Any, Any]:
    """Read the mapping that a YAML file holds; an empty file is an empty mapping.

    Raises:
        SplatlearnError: The file cannot be read, is not valid YAML, repeats a key, is too large, or holds something
            else.
    """
    name = brief(path, 200)
    try:
        with path.open("rb") as file:
            content = file.read(LONGEST + 1)
        if len(content) > LONGEST:
            raise SplatlearnError(f"{name}: a config must have at most {LONGEST:,} bytes, got more")
        tree = yaml.load(content.decode(), Loader=_Loader)
        tree = _bounded(tree) if isinstance(tree, dict) else tree
    except SplatlearnError:
        raise
    except OSError as error:
        raise SplatlearnError(f"cannot read the config {name}: {error.strerror}") from error
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise SplatlearnError(f"{name}{line}: not a valid YAML config: {brief(error.problem)}") from error
    except _BAD_YAML as error:
        reason = brief(str(error).partition("\n")[0] or type(error).__name__)
        raise SplatlearnError(f"{name}: not a valid YAML config: {reason}") from error
    if tree is not None and not isinstance(tree, dict):
        raise SplatlearnError(f"{name}: a config must be a mapping of keys, got {shown(tree)}")
    return tree or {}


def _bounded(tree: Any) -> Any:
    """The tree itself; aliases may repeat a group in it, or nest one in itself, within bounds."""
    left, count = [(tree, 0)], 0
    while left:
        value, depth = left.pop()
        items = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ()
        count += 1 + len(items)
        if count > 2 * MOST or depth > DEEPEST:
            raise ValueError(f"it has more than {MOST:,} values or nests more than {DEEPEST} groups")
        left += [(item, depth + 1) for item in items if isinstance(item, dict | list)]
    return tree


def read_scalar(text: str) -> Any:
    """Read a word of the command line: one scalar, or a list in brackets; text that is neither stays itself."""
    loader = _Loader("")
    try:
        if text.startswith("[") and len(text) <= LONGEST:
            return _bounded(yaml.load(text, Loader=_Loader))
        tag = loader.resolve(yaml.ScalarNode, text, (True, False))  # one scalar: ": " and " #" mean nothing
        return loader.construct_object(yaml.ScalarNode(tag, text))  # type: ignore[no-untyped-call]
    except _BAD_YAML:
        return text


def write_mapping(tree: dict[str, Any], path: Path) -> None:
    """Write a mapping as YAML, atomically."""
    text = yaml.dump(tree, Dumper=_Dumper, sort_keys=False, default_flow_style=None)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def one_line(value: Any) -> str:
    """A value as YAML on one line."""
    return str(yaml.dump(value, Dumper=_Dumper, default_flow_style=True, width=10**6)).splitlines()[0]


def shown(value: Any) -> str:
    """Type and value, for an error message."""
    return "null" if value is None else f"{type(value).__name__} {brief(reprlib.repr(value), 100)}"
