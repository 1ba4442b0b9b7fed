"""PLY: a header of lines, then records; ascii and both byte orders."""

import math
import struct
from functools import cache
from pathlib import Path
from random import Random

from fuzz import mutations
from fuzz.harness import Case
from splatlearn.scene.formats import registry

FILE, COUNT = "a.ply", 3
NAMES = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "scale_1", "scale_2"]
NAMES += [f"rot_{i}" for i in range(4)]
FORMATS = ["binary_little_endian", "binary_big_endian", "ascii"]
TYPES = ["float", "double", "uchar", "int", "short", "uint32", "int8", "float64"]
COMMENTS = [
    "SplatRenderMode: mip", "SplatRenderMode: 2dgs", "splatrendermode = x", "antialiased 1", "Antialiased: 7",
    "antialiased by hand", "Vertical axis: z", "offset 1 2 3", "colorspace: linear", "SplatOffset: 1e5 2e6 0",
    "SplatOffset: nan 1e999 x", "SplatOffset: 1 2", "SplatOffset:",
]  # fmt: skip
EXTRA = ["filter_3D", "FILTER_3d", "red", "packed_position", "f_rest_0", "f_rest_x", "time", "x", "é", "_" * 300]


@cache
def seeds() -> list[Case]:
    return [
        {FILE: _file(form, kind, names)}
        for form in FORMATS
        for kind, names in (("float", NAMES), ("double", [*NAMES, *(f"f_rest_{i}" for i in range(9))]))
        for names in (names, [*names, "filter_3D"])
    ]


def mutate(case: Case, rng: Random) -> Case:
    head, _, body = case[FILE].partition(b"end_header\n")
    lines = head.decode().splitlines()
    for _ in range(rng.choice([1, 1, 2, 3])):
        act = rng.randrange(9)
        if act == 0:
            lines = _counted(lines, rng)
        elif act == 1:
            lines.insert(rng.randrange(1, len(lines) + 1), f"{rng.choice(['comment', 'obj_info'])} {_comment(rng)}")
        elif act == 2:
            del lines[rng.randrange(len(lines))]
        elif act == 3:
            lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines))
        elif act == 4:
            lines[1] = f"format {rng.choice([*FORMATS, 'binary', ''])} {rng.choice(['1.0', '2.0', ''])}"
        elif act == 5:
            lines, body = _with_element(lines, body, rng)
        elif act == 6:
            lines = _with_property(lines, rng)
        elif act == 7:
            body = _with_value(body, b"ascii" in head, rng)
        else:
            body = rng.choice([body[: rng.randrange(len(body) + 1)], body * 2, body + b"\n" * 500, b""])
    for _ in range(rng.choice([0] * 30 + [5000])):
        lines.append("comment " + "x" * 30)
    end = rng.choice([b"end_header\n"] * 20 + [b"end_header\r\n", b"end_header", b"END_HEADER\n", b""])
    text = "\n".join(lines).encode("utf-8", "replace") + b"\n"
    return {FILE: rng.choice([text, text, text, text.replace(b"\n", b"\r\n")]) + end + body}


def _counted(lines: list[str], rng: Random) -> list[str]:
    """Another number of vertices, or other words in a line."""
    place = rng.choice([i for i, line in enumerate(lines) if "vertex" in line] or [0])
    number = rng.choice([str(mutations.integer(rng)), "9" * 5000, "1e6", "0x3", "٣", "-0", str(COUNT - 1)])
    words = rng.choice([["element", "vertex", number], ["element", number, "vertex"], lines[place].split() * 2])
    return [*lines[:place], " ".join(words), *lines[place + 1 :]]


def _comment(rng: Random) -> str:
    text = rng.choice([*COMMENTS, mutations.text(rng), rng.choice(COMMENTS) + mutations.text(rng)])
    return text.encode("utf-8", "replace").decode().replace("\n", " ")


def _with_element(lines: list[str], body: bytes, rng: Random) -> tuple[list[str], bytes]:
    """A further element before or behind the vertices, with its records."""
    count = rng.choice([0, 1, 5, 5, 10**12, 10**18])
    name = rng.choice(["face", "chunk", "color_space", "vertex", "camera"])
    kind = rng.choice(["uchar", "float", "list uchar int"])
    declared = [f"element {name} {count}", f"property {kind} {name}"]
    records = bytes([rng.randrange(3)]) * min(count, 5) * rng.choice([1, 1, 4])
    if rng.randrange(2):
        return [*lines, *declared], body + records
    place = next((i for i, line in enumerate(lines) if line.startswith("element")), len(lines))
    return [*lines[:place], *declared, *lines[place:]], records + body


def _with_property(lines: list[str], rng: Random) -> list[str]:
    """A property renamed, of another type, added, a list, or several thousand of them."""
    places = [i for i, line in enumerate(lines) if line.startswith("property")]
    if not places:
        return lines
    place, name = rng.choice(places), rng.choice([*EXTRA, *NAMES])
    if rng.randrange(20) == 0:
        return lines + [f"property uchar p{i}" for i in range(3500)]
    line = f"property {rng.choice([*TYPES, 'list uchar float', 'float128', ''])} {name}"
    return [*lines[:place], line, *lines[place + rng.randrange(2) :]]


def _with_value(body: bytes, text: bool, rng: Random) -> bytes:
    """One number at an extreme."""
    if text:
        words = body.split(b" ")
        value = rng.choice([b"nan", b"inf", b"1e400", b"1_0", b"0x1", b"x", b"", b"\n", b"1 " * 3000, b"9" * 5000])
        words[rng.randrange(len(words))] = value
        return b" ".join(words)
    place = 4 * rng.randrange(max(1, len(body) // 4))
    value = rng.choice([math.nan, math.inf, -math.inf, 3e38, -3e38, 1e-45])
    return body[:place] + struct.pack(rng.choice("<>") + "f", value) + body[place + 4 :]


def read(folder: Path) -> object:
    return registry.read(folder / FILE)


def _file(form: str, kind: str, names: list[str]) -> bytes:
    rng = Random(len(names))
    rows = [[rng.uniform(0.1, 1) for _ in names] for _ in range(COUNT)]
    head = ["ply", f"format {form} 1.0", "comment SplatRenderMode: mip", f"element vertex {COUNT}"]
    head += [*(f"property {kind} {name}" for name in names), "end_header\n"]
    if form == "ascii":
        body = "\n".join(" ".join(f"{value:.4g}" for value in row) for row in rows).encode() + b"\n"
    else:
        order = "<" if "little" in form else ">"
        body = b"".join(struct.pack(f"{order}{len(row)}{'f' if kind == 'float' else 'd'}", *row) for row in rows)
    return "\n".join(head).encode() + body
