"""The container of a glTF from a stranger: its JSON within bounds, and accessors that read a few rows at a time.

Nothing is loaded before it is needed, and a buffer never as a whole: rows come straight from the `.glb` or the file
beside the `.gltf`. So neither many buffers of one file nor a huge one cost memory.
"""

import base64
import binascii
import json
import os
import struct
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote

import numpy as np

from splatlearn.errors import SplatlearnError, shown
from splatlearn.scene.formats.checks import file_size, open_binary
from splatlearn.scene.formats.gltf import (
    BINARY_CHUNK,
    BYTE,
    FLOAT,
    GLB,
    JSON_CHUNK,
    KINDS,
    SHORT,
    UNSIGNED_BYTE,
    UNSIGNED_SHORT,
)

TYPES = {FLOAT: "<f4", BYTE: "i1", UNSIGNED_BYTE: "u1", SHORT: "<i2", UNSIGNED_SHORT: "<u2"}
DATA = "data:"
MOST_CONTAINERS, MOST_VALUES = 100_000, 500_000  # of the JSON: scenes of Gaussians have some tens
LARGEST_JSON = 1 << 31  # bytes, with embedded data
LONGEST_NAME = 400  # characters of a file's name


@dataclass
class Source:
    """Bytes of a buffer: of an open file from `start` on, or in memory."""

    length: int
    file: BinaryIO | None = None
    start: int = 0
    data: bytes = b""

    def read(self, start: int, length: int) -> bytes:
        """Return `length` bytes from byte `start` on."""
        if self.file is None:
            return self.data[start : start + length]
        self.file.seek(self.start + start)
        return self.file.read(length)


@dataclass
class Accessor:
    """Values [count, width] of an attribute, checked against the size of their buffer."""

    source: Source
    path: Path  # of the document, for messages
    count: int
    width: int
    kind: str  # a numpy type
    start: int
    stride: int
    normalized: bool

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Return the values [stop - start, width] as float32."""
        item = np.dtype(self.kind).itemsize * self.width
        needed = (stop - start - 1) * self.stride + item
        raw = self.source.read(self.start + start * self.stride, needed)
        if len(raw) < needed:
            raise SplatlearnError(f"{self.path} became shorter while it was read.")
        strides = (self.stride, np.dtype(self.kind).itemsize)
        values = np.ndarray((stop - start, self.width), self.kind, raw, 0, strides)
        if not self.normalized:
            return values.astype(np.float32)
        return np.maximum(values / np.float32(np.iinfo(values.dtype).max), np.float32(-1)).astype(np.float32)


class GltfFile:
    """An open `.glb` or `.gltf`; a context manager.

    Attributes:
        path: the file.
        document: its JSON object.
        size: bytes of the buffers in use so far, each once.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._files = ExitStack()
        self._sources: dict[int, Source] = {}  # by the index of the buffer
        self._opened: dict[tuple[int, int], BinaryIO] = {}  # files beside, by device and inode
        self._binary: Source | None = None
        file = self._files.enter_context(open_binary(path))
        try:
            self.document = self._parsed(self._json(file))
        except BaseException:
            self._files.close()
            raise

    def __enter__(self) -> "GltfFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def _json(self, file: BinaryIO) -> str:
        """Return the JSON text, and remember where the binary chunk is."""
        size = file_size(file)
        head = file.read(20)
        if head[:4] != struct.pack("<I", GLB):
            if size > LARGEST_JSON:
                raise SplatlearnError(f"{self.path} is a .gltf of {size:,} bytes, more than {LARGEST_JSON:,}.")
            file.seek(0)
            return self._decoded(file.read())
        if len(head) < 20:
            raise SplatlearnError(f"{self.path} is not a whole .glb: {size} bytes are less than its header.")
        version, length, json_length, kind = struct.unpack_from("<IIII", head, 4)
        if version != 2 or length > size or kind != JSON_CHUNK or 20 + json_length > length:
            raise SplatlearnError(
                f"{self.path} has a damaged .glb header: version {version}, {length:,} bytes of which {json_length:,} "
                f"are JSON, in a file of {size:,}."
            )
        text = file.read(json_length)
        start = 20 + json_length
        if start + 8 <= length:
            binary_length, kind = struct.unpack("<II", file.read(8))
            if kind == BINARY_CHUNK:
                self._binary = Source(min(binary_length, length - start - 8), file, start + 8)
        return self._decoded(text)

    def _decoded(self, text: bytes) -> str:
        try:
            return text.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise SplatlearnError(f"{self.path} is not a glTF file: its text is not UTF-8.") from error

    def _parsed(self, text: str) -> dict[str, Any]:
        if text.count("{") + text.count("[") > MOST_CONTAINERS or text.count(",") > MOST_VALUES:
            raise SplatlearnError(
                f"{self.path} has more than {MOST_CONTAINERS:,} objects or {MOST_VALUES:,} values of JSON, which no "
                "scene of Gaussians needs."
            )
        try:
            document = json.loads(text)
            if not isinstance(document, dict):
                raise ValueError("no object")
        except (ValueError, RecursionError) as error:
            raise SplatlearnError(
                f"{self.path} is not a glTF file: it holds no JSON object ({shown(str(error), 60)[1:-1]})."
            ) from error
        return document

    def accessor(self, number: Any, width: int, name: str) -> Accessor:
        """Return an accessor after a check that its buffer contains its values.

        Args:
            number: its index, not checked yet.
            width: numbers of a value.
            name: its attribute, for messages.
        """
        path, accessor = self.path, self.document["accessors"][index(number)]
        count, offset = index(accessor["count"]), index(accessor.get("byteOffset", 0))
        kind, shape = accessor["componentType"], accessor["type"]
        if shape != KINDS[width] or type(kind) is not int or kind not in TYPES:
            raise SplatlearnError(
                f"{path} has {name} as {shown(shape, 12)} of type {shown(kind, 12)}, expected {KINDS[width]} of floats."
            )
        if "sparse" in accessor or "bufferView" not in accessor:
            raise SplatlearnError(f"{path} has {name} in a sparse accessor, which is not read.")
        view = self.document["bufferViews"][index(accessor["bufferView"])]
        if extensions := list(view.get("extensions", {})):
            raise SplatlearnError(f"{path} has {name} compressed by {shown(extensions[0], 60)}, which is not read.")
        source = self._source(index(view["buffer"]))
        begin, length = index(view.get("byteOffset", 0)), index(view["byteLength"])
        item = np.dtype(TYPES[kind]).itemsize * width
        stride = index(view.get("byteStride", item))
        needed = offset + (count - 1) * stride + item if count else 0
        if not item <= stride <= 1 << 16 or needed > length or begin + length > source.length:
            raise SplatlearnError(
                f"{path} promises {count:,} values of {name} in {needed:,} bytes, but has {source.length:,} bytes of "
                "data."
            )
        normalized = bool(accessor.get("normalized", False)) and kind != FLOAT
        return Accessor(source, path, count, width, TYPES[kind], begin + offset, stride, normalized)

    def _source(self, number: int) -> Source:
        if number not in self._sources:
            buffer = self.document["buffers"][number]
            uri, declared = buffer.get("uri"), index(buffer["byteLength"])
            if uri is None:
                source = self._binary if number == 0 else None
            elif uri.startswith(DATA):
                source = _of_data_uri(uri, self.path)
            else:
                source = self._beside(unquote(uri))
            if source is None or source.length < declared:
                raise SplatlearnError(
                    f"{self.path} promises {declared:,} bytes of data in buffer {number}, "
                    f"there are {0 if source is None else source.length:,}."
                )
            self._sources[number] = Source(declared, source.file, source.start, source.data)
            self.size += declared if source.file is None or uri is None else 0
        return self._sources[number]

    def _beside(self, name: str) -> Source:
        """Open a file in the glTF's folder or below it, once however many buffers name it."""
        parts, inside = Path(name[:LONGEST_NAME]).parts, False
        if len(name) <= LONGEST_NAME and parts and name.isprintable() and "://" not in name and ".." not in parts:
            place = self.path.parent / name
            inside = not Path(name).is_absolute() and place.resolve().is_relative_to(self.path.parent.resolve())
        if not inside:
            raise SplatlearnError(f"{self.path} refers to {shown(name, 80)}, which is not a file in its folder.")
        file = open_binary(place)
        facts = os.fstat(file.fileno())
        if (key := (facts.st_dev, facts.st_ino)) in self._opened:
            file.close()
        else:
            self._opened[key] = self._files.enter_context(file)
            self.size += facts.st_size
        return Source(facts.st_size, self._opened[key])


def _of_data_uri(uri: str, path: Path) -> Source:
    head, _, text = uri.partition(",")
    if not head.endswith(";base64"):
        raise SplatlearnError(f"{path} has data that is not in base64.")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise SplatlearnError(f"{path} has damaged base64 data.") from error
    return Source(len(data), data=data)


def index(value: Any) -> int:
    """Check an index or a number of bytes of glTF: as a Python index, -1 or true would select another element."""
    if type(value) is not int or not 0 <= value < 1 << 53:
        raise IndexError(value)
    return value
