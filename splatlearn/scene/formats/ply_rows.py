"""The vertices of a PLY, binary or ascii, in pieces of some rows after checks against the file's size."""

from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np

from splatlearn.errors import SplatlearnError
from splatlearn.scene.formats.checks import file_size
from splatlearn.scene.formats.ply_header import Header

ROWS_AT_ONCE, TEXT_ROWS_AT_ONCE = 1 << 16, 1 << 13  # in pieces, so that reading needs no second copy of the scene
LONGEST_VALUE = 400  # characters of a number in an ascii file, with its separator


def check_size(file: BinaryIO, header: Header, path: Path) -> None:
    """Check that the file is long enough for the vertices that its header promises."""
    vertex, size = header.vertex, file_size(file)
    if header.order:
        start = header.start + sum(element.count * element.stride for element in header.before)
        needed = start + vertex.count * vertex.stride
    else:  # at least a digit and a separator a value; the last newline may be missing
        start = header.start + sum(element.count for element in header.before)
        needed = start + 2 * vertex.count * len(vertex.properties) - 1
    if needed > size and (vertex.count or start > size):
        raise SplatlearnError(
            f"{path} is too short: its header promises {vertex.count:,} vertices of {len(vertex.properties)} "
            f"properties, {needed:,} bytes in all, but the file has {size:,}."
        )


def check_color_space(file: BinaryIO, header: Header, path: Path) -> None:
    """Refuse linear colours, which SHARP declares by an element `color_space` behind the vertices."""
    start = header.start
    for element in [*header.before, header.vertex, *header.after]:
        if element.lists or not header.order:
            return
        if element.name == "color_space" and [kind for _, kind in element.properties] == ["u1"] and element.count:
            file.seek(start)
            if file.read(1) != b"\0":
                raise SplatlearnError(f"{path} holds linear colours (its element color_space), but only sRGB is read.")
            return
        start += element.count * element.stride


def pieces(file: BinaryIO, header: Header, path: Path) -> Iterator[np.ndarray]:
    """Yield the vertices in order, some rows at a time, as arrays with a field per property."""
    vertex = header.vertex
    if not vertex.count:
        return
    if header.order:
        file.seek(header.start + sum(element.count * element.stride for element in header.before))
        record = np.dtype([(name, header.order + kind) for name, kind in vertex.properties])
        for start in range(0, vertex.count, ROWS_AT_ONCE):
            wanted = min(ROWS_AT_ONCE, vertex.count - start)
            piece = np.fromfile(file, record, wanted)
            if len(piece) < wanted:
                raise SplatlearnError(f"{path} became shorter while it was read.")
            yield piece
        return
    width = len(vertex.properties)
    file.seek(header.start)
    lines = _lines(file, LONGEST_VALUE * max(width, 64), path)
    deque(islice(lines, sum(element.count for element in header.before)), maxlen=0)
    for start in range(0, vertex.count, TEXT_ROWS_AT_ONCE):
        wanted = min(TEXT_ROWS_AT_ONCE, vertex.count - start)
        text = list(islice(lines, wanted))
        try:
            rows = np.loadtxt(text, np.float64, comments=None, ndmin=2) if text else np.empty((0, width))
        except ValueError as error:
            raise SplatlearnError(f"{path} has text among its vertices that is not a table of numbers.") from error
        if rows.shape != (wanted, width):
            raise SplatlearnError(
                f"{path} has {start + len(text):,} rows of {rows.shape[1]} numbers, "
                f"its header promises {vertex.count:,} of {width}."
            )
        yield rows.view([(name, "f8") for name, _ in vertex.properties])[:, 0]


def _lines(file: BinaryIO, limit: int, path: Path) -> Iterator[str]:
    """Yield the lines of an ascii file that are not blank."""
    while line := file.readline(limit):
        if len(line) >= limit:
            raise SplatlearnError(f"{path} has a line of more than {limit:,} characters among its vertices.")
        if not line.isspace():
            yield line.decode("ascii", "replace")
