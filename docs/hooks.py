"""What mkdocs asks while it builds the site: the pages that are written from the program itself are made here."""

import os
import re
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MARK = re.compile(r"^<!-- (commands|settings|example) ?(\S*) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Puts what the program says in the place of each mark: its commands, the keys of a config, an example's text."""
    makers = {"commands": lambda _: commands_text(), "settings": settings_text, "example": example_text}
    return MARK.sub(lambda match: makers[match[1]](match[2]), markdown)


def commands_text() -> str:
    """The help of every command."""
    from splatlearn.cli import COMMANDS

    parts = []
    for name, told in COMMANDS.items():
        parts.append(f"### splatlearn {name}\n\n{told}\n\n```text\n{help_of(name)}\n```\n")
    return "\n".join(parts)


class _Told(Exception):
    """Carries a parser out of its command."""


def parser_of(command: str) -> Any:
    """The argparse parser of a command; None for `train`, whose words are keys of a config."""
    from splatlearn.commands import arguments

    def caught(self: Any, *_: Any, **__: Any) -> None:
        raise _Told(self)

    module = import_module(f"splatlearn.commands.{command.replace('-', '_')}")
    kept = arguments.Parser.parse_args
    arguments.Parser.parse_args = caught  # type: ignore[method-assign, assignment]
    try:
        module.run([])
    except _Told as told:
        return told.args[0]
    finally:
        arguments.Parser.parse_args = kept  # type: ignore[method-assign]
    return None


def help_of(command: str) -> str:
    """What `splatlearn COMMAND --help` prints."""
    if command == "train":
        from splatlearn.commands.train import USAGE

        return str(USAGE)
    os.environ["COLUMNS"] = "100"  # argparse breaks its lines by it
    return str(parser_of(command).format_help()).rstrip()


def settings_text(name: str) -> str:
    """The keys of configs/NAME.yaml, with what they are there or else by default."""
    from splatlearn import config
    from splatlearn.commands.opened import task_class

    path = config.shipped(f"{name}.yaml")
    cls = task_class(path).Config
    return f"```text\n{config.help_text(cls, config.load(cls, path))}\n```"


def example_text(name: str) -> str:
    """A file of examples/ as a block of Python."""
    return f"```python\n{(ROOT / 'examples' / name).read_text(encoding='utf-8').rstrip()}\n```"
