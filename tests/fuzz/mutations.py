"""Hostile numbers, texts, JSON and bytes for the mutators of all formats; every choice comes from ``rng``."""

import copy
import json
import math
from random import Random
from typing import Any

INTEGERS = [0, 1, 2, 3, 7, 127, 128, 255, 256, 32767, 65535, 65536, 10**6, 2**31 - 1, 2**31, 2**32 - 1, 2**32]
INTEGERS += [10**11, 2**53, 2**63 - 1, 2**63, 2**64 - 1]
FLOATS = [0.0, -0.0, 1.0, -1.0, 0.5, 1e-45, 1e-30, 1e6, 1e30, 3.5e38, 1e300, 1.8e308, math.inf, -math.inf, math.nan]
TEXTS = [
    "",
    " ",
    "\n",
    "\0",
    "a\0b",
    "a\nb",
    "\ud800",
    "\ufeff",
    "é",
    "e\u0301",
    "漢",
    "🐈",
    "\u202e",
    "../../x",
    "/",
    ".",
]
TEXTS += ["/dev/zero", "/etc/passwd", "~", "$HOME", "%s%n", "{0}", "\x1b[31m", "x" * 5000, "nan", "1e999", "-1", "0x10"]


def integer(rng: Random, bits: int = 64, signed: bool = True) -> int:
    """A hostile integer that fits ``bits``."""
    value = rng.choice(INTEGERS) if rng.randrange(3) else rng.getrandbits(bits)
    if signed and rng.randrange(3) == 0:
        value = -value
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    return min(max(value, low), high)


def number(rng: Random) -> float:
    """A hostile float64."""
    value = rng.choice(FLOATS)
    return value if rng.randrange(4) else value * rng.choice([1e-3, 1.5, -7.0, 1e3])


def text(rng: Random) -> str:
    """A hostile text."""
    return rng.choice(TEXTS)


def noise(rng: Random, size: int) -> bytes:
    """``size`` random bytes, at the cost of one choice."""
    return Random(rng.getrandbits(32)).randbytes(size)


def value(rng: Random) -> Any:
    """A JSON value of any kind; NaN and infinity among them."""
    kind = rng.randrange(8)
    if kind == 0:
        return rng.choice([None, True, False])
    if kind in (1, 2):
        return integer(rng)
    if kind == 3:
        return number(rng)
    if kind == 4:
        return text(rng)
    if kind == 5:
        return [value(rng) for _ in range(rng.randrange(3))]
    if kind == 6:
        return {text(rng): value(rng) for _ in range(rng.randrange(3))}
    return rng.choice([[], {}, [[[[]]]], "x" * 70000, list(range(2000))])


def tree(root: Any, rng: Random, edits: int | None = None) -> Any:
    """A copy of a JSON tree with one to three edits: a value replaced, a key dropped, renamed or doubled."""
    holder = [copy.deepcopy(root)]
    for _ in range(edits or rng.choice([1, 1, 1, 2, 3])):
        places = list(_places(holder))
        parent, key = rng.choice(places)
        act = rng.randrange(6)
        if act == 0 and parent is not holder:
            del parent[key]
        elif act == 1 and isinstance(parent, dict):
            parent[text(rng)] = parent.pop(key)
        elif act == 1 and parent is not holder:
            parent.extend(parent[key] for _ in range(rng.choice([1, 3, 300]) if len(places) < 1000 else 1))
        elif act == 2 and places:
            other, name = rng.choice(places)
            parent[key] = copy.deepcopy(other[name]) if len(places) < 1000 else None
        elif act == 3 and isinstance(parent[key], int | float) and not isinstance(parent[key], bool):
            parent[key] = rng.choice([parent[key] + 1, -parent[key], parent[key] * 1000, integer(rng), number(rng)])
        else:
            parent[key] = value(rng)
    return holder[0]


def tree_bytes(root: Any, rng: Random) -> bytes:
    """A JSON tree after `tree`, as bytes; sometimes no longer JSON, with a doubled key or deeply nested."""
    act = rng.randrange(30)
    if act == 0:
        return b"[" * rng.choice([10, 2000, 100_000])
    if act == 1:
        return b'{"a":' * rng.choice([10, 2000, 100_000])
    content = json.dumps(tree(root, rng)).encode("utf-8", "surrogatepass")
    if act == 2:
        return content.replace(b"{", b'{"version": 7, ', 1)
    if act == 3:
        return rng.choice([b"\xef\xbb\xbf", b"\xff\xfe", b"\0", b"  "]) + content
    if act == 4:
        return content.decode("utf-8", "replace").encode(rng.choice(["utf-16", "utf-32", "latin-1"]), "replace")
    return content


def _places(parent: Any) -> Any:
    """Pairs of a container and a key or index of it, everywhere in a JSON tree; at most 200 in one list."""
    keys = list(parent) if isinstance(parent, dict) else range(min(len(parent), 200))
    for key in keys:
        yield parent, key
        if isinstance(parent[key], dict | list):
            yield from _places(parent[key])


def damaged(content: bytes, rng: Random) -> bytes:
    """Bytes after one to four edits: flipped, overwritten, cut, repeated, moved."""
    data = bytearray(content)
    for _ in range(rng.randrange(1, 5)):
        place = rng.randrange(len(data) + 1)
        length = rng.choice([1, 2, 4, 8, 64, 1000])
        act = rng.randrange(8)
        if act == 0:
            del data[place:]
        elif act == 1:
            del data[place : place + length]
        elif act == 2:
            data[place:place] = noise(rng, length)
        elif act == 3:
            data[place : place + length] = bytes([rng.choice([0, 255, 32, 128])]) * length
        elif act == 4:
            size = rng.choice([1, 2, 4, 8])
            data[place : place + size] = integer(rng, 8 * size, signed=False).to_bytes(
                size, rng.choice(["little", "big"])
            )
        elif act == 5:
            data[place:place] = data[place : place + length] * rng.choice([1, 10])
        elif act == 6:
            data += data[:length]
        elif place < len(data):
            data[place] ^= 1 << rng.randrange(8)
    return bytes(data)
