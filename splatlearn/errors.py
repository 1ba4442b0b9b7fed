"""The one error type for users: a sentence that names the file, tensor or field, what was expected and what came."""


class SplatlearnError(ValueError):
    """Error that a user can correct; its message is one complete sentence."""


def brief(message: object, limit: int = 120) -> str:
    """The message of a library, or a value from a file, as one printable line of at most ``limit`` characters."""
    text = str(message)[: 4 * limit]
    line = " ".join("".join(c if c.isprintable() or c.isspace() else ascii(c)[1:-1] for c in text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
