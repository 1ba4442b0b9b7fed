"""The one way to read a command line: argparse for own options, and ``--key value`` for the keys of a config."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from splatlearn.errors import SplatlearnError


def user_path(word: str) -> Path:
    """A path of the command line, in which `~` is the user's home, also where the shell left it as it was."""
    return Path(os.path.expanduser(word))


class Parser(argparse.ArgumentParser):
    """An ArgumentParser for `splatlearn NAME` that raises SplatlearnError where argparse prints its usage and exits."""

    def __init__(self, name: str, description: str | None, **options: Any) -> None:
        prog = f"splatlearn {name}".rstrip()
        super().__init__(prog=prog, description=description, allow_abbrev=False, **options)
        self.register("type", Path, user_path)  # each argument of type Path

    def error(self, message: str) -> NoReturn:
        raise SplatlearnError(f"{message} (see `{self.prog} --help`)")

    def parse_with_keys(self, words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
        """Parse the command's own arguments; return them, and the ``--key value`` words for `splatlearn.config.load`.

        A word after an unknown ``--key`` is its value, unless it begins with ``--``.
        """
        own: list[str] = []
        keys: list[str] = []
        left = list(words)
        while left:
            word = left.pop(0)
            name, equals, _ = word.partition("=")
            action = self._option_string_actions.get(name)
            target = own if action is not None or not word.startswith("--") else keys
            target.append(word)
            takes_value = action.nargs != 0 if action is not None else word.startswith("--")
            if takes_value and not equals and left and not left[0].startswith("--"):
                target.append(left.pop(0))
        return self.parse_args(own), keys
