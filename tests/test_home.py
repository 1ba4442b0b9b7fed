"""`~` is the user's home in every path: arguments of all commands, and keys of configs."""

import dataclasses
import importlib
import os
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from splatlearn import config
from splatlearn.cli import COMMANDS
from splatlearn.commands.arguments import Parser
from splatlearn.line.task import LineTask
from splatlearn.scene.training.task import SceneTask
from splatlearn.text.task import TextTask

PATHS = {
    LineTask: {"out", "data.csv"},
    SceneTask: {"out", "data.path", "data.images", "data.masks", "data.cache", "init"},
    TextTask: {"out", "data.path", "data.tokenizer_file", "data.cache"},
}


class Stop(Exception):
    pass


@pytest.mark.parametrize("command", COMMANDS)
def test_arguments_of_all_commands(command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    parsers: list[Parser] = []

    def stop(parser: Parser, *_: Any) -> None:
        parsers.append(parser)
        raise Stop

    monkeypatch.setattr(Parser, "parse_args", stop)
    module = importlib.import_module(f"splatlearn.commands.{command.replace('-', '_')}")
    with pytest.raises(Stop):
        module.run(["--resume", "x"] if command == "train" else ["x"])
    for action in parsers[0]._actions:
        about = f"{action.help} {action.metavar}".lower()
        speaks_of_paths = any(word in about for word in ("file", "folder", "config")) and action.nargs != 0
        if action.type is Path or (speaks_of_paths and action.type is None and action.choices is None):
            assert parsers[0]._get_value(action, "~/x") == tmp_path / "x", f"{command} {action.dest} keeps its ~"
        elif action.type is os.path.expanduser:
            assert parsers[0]._get_value(action, "~/x") == str(tmp_path / "x")


def keys(cls: type, prefix: str = "") -> Iterator[tuple[str, "dataclasses.Field[Any]"]]:
    kinds = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(kinds[field.name]):
            yield from keys(kinds[field.name], f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, field


@pytest.mark.parametrize("task", PATHS)
def test_keys_of_configs(task: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    found = dict(keys(task.Config))
    if task is SceneTask:  # the keys of the reader
        found |= dict(keys(importlib.import_module("splatlearn.scene.readers.colmap").ColmapScene.Config, "data."))
    marked = {name for name, field in found.items() if field.metadata.get("path")}
    assert marked == PATHS[task]
    for name in sorted(marked):
        more = {"data.tokenizer_file": "--data.tokenizer=bpe"}.get(name, "--steps=1")
        (tmp_path / "a.yaml").write_text(f"{name}: ~/x\n")
        for loaded in (
            config.load(task.Config, tmp_path / "a.yaml", [more]),
            config.load(task.Config, None, [f"--{name}", "~/x", more]),
            config.load(task.Config, None, [f"--{name}=~/x", more]),
        ):
            value = loaded
            for part in name.split("."):
                value = getattr(value, part)
            assert value == str(tmp_path / "x"), f"{name} keeps its ~"
