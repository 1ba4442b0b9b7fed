"""The one error type for users: a sentence that names the file, tensor or field, what was expected and what came."""

from collections.abc import Sequence
from typing import Any


class SplatlearnError(ValueError):
    """Error that a user can correct; its message is one complete sentence."""


def brief(message: object, limit: int = 120) -> str:
    """The message of a library, or a value from a file, as one printable line of at most ``limit`` characters."""
    text = str(message)[: 4 * limit]
    line = " ".join("".join(c if c.isprintable() or c.isspace() else ascii(c)[1:-1] for c in text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def shown(value: Any, limit: int = 40) -> str:
    """Quote a value of a file for a message: on one line, at most about `limit` characters long."""
    if isinstance(value, int) and abs(value) >= 1 << 64:
        return "an integer beyond 64 bits"
    text = repr(value[: limit + 1] if isinstance(value, str) else value)
    return text if len(text) <= limit + 2 else text[: limit - 1] + "…" + text[0] * (text[0] in "'\"")


def listed(names: Sequence[str], limit: int = 5) -> str:
    """Join names for a message: the first few, and how many more there are."""
    first = ", ".join(shown(name, 32)[1:-1] for name in names[:limit])
    return first + (f" and {len(names) - limit:,} more" if len(names) > limit else "")
