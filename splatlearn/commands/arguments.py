"""The parser of the commands' own options: argparse, whose complaints become the one sentence that every error is."""

import argparse
from typing import NoReturn

from splatlearn.errors import SplatlearnError


class Parser(argparse.ArgumentParser):
    """An ArgumentParser for `splatlearn NAME` that raises SplatlearnError where argparse prints its usage and exits."""

    def __init__(self, name: str, description: str | None) -> None:
        super().__init__(prog=f"splatlearn {name}", description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise SplatlearnError(f"{message} (see `{self.prog} --help`)")
