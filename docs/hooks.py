"""mkdocs hook: generates the parts of the site that come from the program, such as the help of its commands."""

import os
import re
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MARK = re.compile(r"^<!-- (commands|settings|example) ?(\S*) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replaces each mark by text from the program: the help of all commands, the keys of a config, or an example."""
    makers = {"commands": lambda _: commands_text(), "settings": settings_text, "example": example_text}
    return MARK.sub(lambda match: makers[match[1]](match[2]), markdown)


def commands_text() -> str:
    """The help of every command, as Markdown."""
    from splatlearn.cli import COMMANDS

    parts = []
    for name, summary in COMMANDS.items():
        parts.append(f"### splatlearn {name}\n\n{summary}\n\n```text\n{help_of(name)}\n```\n")
    return "\n".join(parts)


class _Captured(Exception):
    """Carries a parser out of its command."""


def parser_of(command: str) -> Any:
    """The argparse parser of a command."""
    from splatlearn.commands import arguments

    def capture(self: Any, *_: Any, **__: Any) -> None:
        raise _Captured(self)

    module = import_module(f"splatlearn.commands.{command.replace('-', '_')}")
    original = arguments.Parser.parse_known_args  # parse_args calls it, too
    arguments.Parser.parse_known_args = capture  # type: ignore[method-assign, assignment]
    try:
        module.run([])
    except _Captured as captured:
        return captured.args[0]
    finally:
        arguments.Parser.parse_known_args = original  # type: ignore[method-assign]
    return None


def help_of(command: str) -> str:
    """The output of `splatlearn COMMAND --help`."""
    os.environ["COLUMNS"] = "100"  # argparse wraps its lines at this width
    return str(parser_of(command).format_help()).rstrip()


def settings_text(name: str) -> str:
    """The keys of configs/NAME.yaml with their values: those of the file, otherwise the defaults."""
    from splatlearn import config
    from splatlearn.run import task_class

    path = config.shipped(f"{name}.yaml")
    cls = task_class(path).Config
    return f"```text\n{config.help_text(cls, config.load(cls, path))}\n```"


def example_text(name: str) -> str:
    """A file of examples/ as a Python block."""
    return f"```python\n{(ROOT / 'examples' / name).read_text(encoding='utf-8').rstrip()}\n```"
