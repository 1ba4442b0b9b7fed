"""The text header of a PLY: byte order, elements with their properties, and the comments that change the picture.

No standard defines these comments. Brush and SuperSplat write `SplatRenderMode: default | mip | 2dgs`, Postshot writes
`antialiased 0 | 1`, SHARP writes an element `color_space`. Case, colons and `=` do not matter, and the last comment of
several wins, as in PlayCanvas's converter.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from splatlearn.errors import SplatlearnError, shown
from splatlearn.notices import warn
from splatlearn.scene.frame import Frame

HEADER_LIMIT = 1 << 16  # bytes: one of degree 4 has 2 KiB; without a limit a missing end reads a whole disk
TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
BYTE_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": ""}

# values of the comments that tell whether the opacities were compensated for the low-pass filter in training
ANTIALIASED = {
    **dict.fromkeys(("mip", "mip-splatting", "mip_splatting", "antialiased", "1", "1.0", "true", "yes", "on"), True),
    **dict.fromkeys(("default", "classic", "none", "0", "0.0", "false", "no", "off"), False),
}
SURFELS = ("2dgs", "2d", "surfel", "surfels")
SRGB = ("srgb", "srgb_rec709_display", "srgb_rec709", "rec709", "bt.709")
MODE = re.compile(
    r"(?:splat[ _-]*)?(?:render(?:ing|er)?|raster(?:i[sz]e|i[sz]ation)?)[ _-]*mode\b\s*[:=]?\s*(?P<value>.*)", re.I
)
SWITCH = re.compile(
    r"(?:anti[ _-]?alias(?:ed|ing)?|mip(?:[ _-]*(?:splatting|filter))?)\b\s*(?P<mark>[:=]?)\s*(?P<value>.*)", re.I
)
COLORS = re.compile(r"colou?r[ _-]*space\b\s*[:=]?\s*(?P<value>.*)", re.I)
MENTIONS = re.compile(
    r"anti[ _-]?alias|\bmip\b|mip[ _-]?(?:splat|filter)|2dgs|surfel|kernel[ _-]*size|(?:render|raster\w*)[ _-]*mode|"
    r"filter[ _-]?3d|low[ _-]?pass|\bgamma\b|\blinear\b|\bhdr\b",
    re.I,
)  # words of what changes the picture
PLACES = re.compile(
    r"(?:vertical[ _-]*axis|up[ _-]*(?:axis|vector)|coordinate[ _-]*s(?:ystem|pace)|(?:global[ _-]*)?(?:offset|shift|"
    r"origin)[xyz]?|translation|transform|scale|epsg|crs)\b\s*[:= ]\s*(?P<value>\S.*)",
    re.I,
)  # hints about the frame


@dataclass
class Element:
    """An element of the header: its name, its number of records, and what is in one."""

    name: str
    count: int
    properties: list[tuple[str, str]] = field(default_factory=list)  # (name, numpy type)
    lists: bool = False  # a property is a list, so that records differ in length

    @property
    def stride(self) -> int:
        """Bytes of a binary record."""
        return sum(int(kind[1:]) for _, kind in self.properties)


@dataclass
class Header:
    """The content of a header."""

    order: str  # a numpy byte order, "" for ascii
    elements: list[Element]
    comments: list[str]
    start: int  # the first byte behind the header

    def __post_init__(self) -> None:
        names = [element.name for element in self.elements]
        self.before = self.elements[: names.index("vertex")]
        self.vertex = self.elements[len(self.before)]
        self.after = self.elements[len(self.before) + 1 :]


def read_header(file: BinaryIO, path: Path) -> Header:
    """Parse the header and leave `file` at the first byte behind it; raises SplatlearnError."""
    order: str | None = None
    elements: list[Element] = []
    comments: list[str] = []
    if file.readline(HEADER_LIMIT).strip() != b"ply":
        raise SplatlearnError(f"{path} is not a PLY file: it does not begin with 'ply'.")
    while True:
        if file.tell() > HEADER_LIMIT or not (line := file.readline(HEADER_LIMIT)).endswith(b"\n"):
            raise SplatlearnError(f"{path} has a PLY header without end_header in its first {HEADER_LIMIT} bytes.")
        words = line.decode("utf-8", "replace").split()
        match words:
            case ["end_header"]:
                break
            case []:
                continue
            case ["comment" | "obj_info", *text]:
                comments.append(" ".join(text))
            case ["format", name, _] if name in BYTE_ORDERS:
                order = BYTE_ORDERS[name]
            case ["element", name, digits] if _is_count(digits) and order is not None:
                elements.append(Element(name, int(digits)))
            case ["property", "list", *_] if elements:
                elements[-1].lists = True
            case ["property", kind, name] if kind in TYPES and elements:
                elements[-1].properties.append((name, TYPES[kind]))
            case _:
                raise SplatlearnError(
                    f"{path} has a PLY header line that cannot be understood: {shown(' '.join(words), 60)}."
                )
    if order is None or not any(element.name == "vertex" for element in elements):
        raise SplatlearnError(f"{path} has a PLY header without a {'format' if order is None else 'vertex element'}.")
    header = Header(order, elements, comments, file.tell())
    _check_elements(header, path)
    return header


def _check_elements(header: Header, path: Path) -> None:
    for element in [*header.before, header.vertex]:
        if element.lists:
            raise SplatlearnError(
                f"{path} has a list property in element {shown(element.name)}, which 3DGS files never have."
            )
    seen: set[str] = set()
    for name, _ in header.vertex.properties:
        if name in seen:
            raise SplatlearnError(f"{path} has the property {shown(name)} twice.")
        seen.add(name)
    if any(element.name == "vertex" for element in header.after):
        raise SplatlearnError(f"{path} has two vertex elements.")


def _is_count(digits: str) -> bool:
    return digits.isascii() and digits.isdigit() and len(digits) < 19


def antialiased(comments: list[str], path: Path) -> bool | None:
    """Find whether the comments say that the scene was trained antialiased; None where they say nothing.

    A hint about the frame gives a warning.

    Raises:
        SplatlearnError: a comment names a render mode or a colour space that is not rendered.
    """
    found: list[bool] = []
    for comment in (text.lstrip("#/ ") for text in comments):
        if match := MODE.fullmatch(comment):
            found.append(_known_mode(match["value"].strip("\"' .").lower(), comment, path))
        elif match := SWITCH.fullmatch(comment):
            value = match["value"].strip("\"' .").lower() or "true"
            if value not in ANTIALIASED and not match["mark"] and not value.isdigit():
                warn(f"{path} has the comment {shown(comment, 60)}, which is not understood and not applied.")
            else:
                found.append(_known_mode(value, comment, path))
        elif match := COLORS.fullmatch(comment):
            if match["value"].strip("\"' .").lower() not in SRGB:
                raise SplatlearnError(f"{path} has the comment {shown(comment, 60)}, but only sRGB colours are read.")
        elif (match := PLACES.fullmatch(comment)) and match["value"].strip().lower() not in ("y", "-y"):
            warn(f"{path} has the comment {shown(comment, 60)}, which is not applied: positions stay as they are.")
        elif MENTIONS.search(comment[:1000]):
            warn(f"{path} has the comment {shown(comment, 60)}, which is not understood and not applied.")
    if len(set(found)) > 1:
        warn(f"{path} has comments that disagree on antialiasing; the last one is taken: {found[-1]}.")
    return found[-1] if found else None


def splat_offset(comments: list[str], path: Path) -> Frame:
    """Find the frame of the comment `SplatOffset: X Y Z`, which `write_ply` adds; the identity where there is none.

    Raises:
        SplatlearnError: it is not three finite numbers.
    """
    words = [comment.split()[1:] for comment in comments if comment.lower().startswith("splatoffset:")]
    if not words:
        return Frame()
    try:
        x, y, z = map(float, words[-1])
        return Frame(offset=(x, y, z))
    except (ValueError, SplatlearnError):
        raise SplatlearnError(
            f"{path} has a SplatOffset that is not three finite numbers: {shown(' '.join(words[-1]), 60)}."
        ) from None


def _known_mode(value: str, comment: str, path: Path) -> bool:
    if value in SURFELS:
        raise SplatlearnError(f"{path} holds 2D Gaussians (comment {shown(comment, 60)}), which are not read.")
    if value not in ANTIALIASED:
        raise SplatlearnError(
            f"{path} has the comment {shown(comment, 60)}, a render mode that is unknown: expected default or mip."
        )
    return ANTIALIASED[value]
