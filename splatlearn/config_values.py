"""Values of a config: conversion to the type of their key, and the limits that every value has."""

import os
import reprlib
import types
import typing
from typing import Any, Literal

from splatlearn.errors import SplatlearnError
from splatlearn.yaml12 import read_scalar

LARGEST = 3.4e38  # below the largest number of float32


def convert(kind: Any, value: Any) -> Any:
    """``value`` as the type ``kind``, the only change being int to float; raises TypeError."""
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        for option in options:
            try:
                return convert(option, value)
            except TypeError:
                continue
    elif origin is Literal:
        if any(type(option) is type(value) and option == value for option in options):
            return value
    elif origin is list:
        if isinstance(value, list):
            return [convert(options[0], item) for item in value]
    elif kind is float and type(value) is int and abs(value) < 2**1023:
        return float(value)
    elif type(value) is kind:  # not isinstance: a bool is no int
        return value
    raise TypeError


def convert_word(kind: Any, text: str) -> Any:
    """A command line word as ``kind``: as YAML would read it, else the text itself; raises TypeError."""
    try:
        return convert(kind, read_scalar(text))
    except TypeError:
        return convert(kind, text)


def type_name(kind: Any) -> str:
    """The name of a type in a message, as a user would write it."""
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return "|".join(type_name(option) for option in options)
    if origin is Literal:
        return "|".join(map(str, options))
    if origin is list:
        return f"list[{type_name(options[0])}]"
    if issubclass(kind, dict):
        return "groups"
    return "null" if kind is type(None) else str(kind.__name__)


def check_range(name: str, value: Any, default: Any) -> None:
    """Refuse a number that no tensor holds, and a text that no file or path holds."""
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, float) and not abs(item) <= LARGEST and item != default:
            raise SplatlearnError(f"'{name}' must be a finite number within ±3.4e38, got {item}")
        if isinstance(item, int) and not -(2**63) <= item < 2**63:
            raise SplatlearnError(f"'{name}' must be an integer of 64 bits, got {reprlib.repr(item)}")
        if isinstance(item, str) and ("\0" in item or _is_broken(item)):
            raise SplatlearnError(f"'{name}' must be valid text without NUL, got {reprlib.repr(item)}")


def _is_broken(text: str) -> bool:
    """Whether a text holds half of a character, other than the bytes that Python puts into a path."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return True
    return False
