"""Read and write SPZ, Niantic's compressed format, a tenth of a PLY's size: versions 3 (gzip) and 4 (zstd).

Both versions store the same quantised attributes of N Gaussians in this order: positions 9N bytes | alphas N |
colours 3N | scales 3N | rotations 4N (3N in version 2) | harmonics 3(K-1)N; `spz_attributes` describes their coding.
Versions 1 to 3 are one gzip stream with this header inside: "NGSP" | version u32 | N u32 | SH degree u8 | fractional
bits u8 | flags u8 (1: trained antialiased, 2: extensions follow) | 0. Version 4 has one zstd stream per attribute and
an uncompressed header: the same with the number of streams in the last byte | offset of the table of contents u32 |
12 zeros. The table gives compressed and uncompressed size u64 of each stream. Extension records (`spz_extensions`)
stand behind the attributes, in version 4 between header and table. Little-endian.
"""

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from splatlearn.errors import SplatlearnError
from splatlearn.files import replacing
from splatlearn.scene.formats.checks import Tensors, checked_arrays, file_size, open_binary, to_tensors
from splatlearn.scene.formats.place import at_origin, back, read_beside, write_beside
from splatlearn.scene.formats.spz_attributes import Header, decode, encode, sizes
from splatlearn.scene.formats.spz_extensions import ANTIALIASED, EXTENSIONS, MOST_BYTES, check_flags, frame
from splatlearn.scene.formats.spz_place import pulled_in, spz_place
from splatlearn.scene.frame import Frame

MAGIC = 0x5053474E
VERSIONS = (3, 4)  # versions that are written; 1 and 2 are only read
LEGACY, NGSP = struct.Struct("<IIIBBBB"), struct.Struct("<IIIBBBBI12s")
ENTRY = struct.Struct("<QQ")
ZSTD_LEVEL = 12  # as in Niantic's own writer
# A Gaussian takes at least one byte of compressed file (real scenes: 8 to 25), so a header that announces more is
# rejected before anything is allocated. Small files may compress further.
FREE_COUNT = 1 << 16


def write_spz(
    path: Path | str,
    tensors: Tensors,
    *,
    version: int = 4,
    antialiased: bool = False,
    sh_bits: tuple[int, int] = (8, 8),
) -> Frame:
    """Write a scene as SPZ, atomically.

    Args:
        path: the file.
        tensors: as for `write_ply`, SH degree 0 to 4.
        version: 3 or 4.
        antialiased: set the flag with which viewers render as in antialiased training.
        sh_bits: bits kept of the harmonics of degree 1 and of the higher degrees, 1 to 8; fewer bits compress better.

    Returns:
        The frame of the file, which a NAME.frame.json beside it holds unless it is the identity.

    Raises:
        SplatlearnError: the tensors do not fit together, a position is beyond ±8,388,607, `version` or `sh_bits` is
            invalid, or the file cannot be written.
    """
    path = Path(path)
    if version not in VERSIONS:
        raise SplatlearnError(f"SPZ is written in version 3 or 4, not {version!r}.")
    if not all(1 <= bits <= 8 for bits in sh_bits):
        raise SplatlearnError(f"sh_bits must be two numbers from 1 to 8, got {sh_bits}.")
    arrays = checked_arrays(tensors, path)
    place = spz_place(arrays)
    arrays = pulled_in(at_origin(arrays, place), path)
    fraction, streams = encode(arrays, path, sh_bits)
    degree = int(np.sqrt(arrays["shN"].shape[1] + 1)) - 1
    header = Header(version, len(arrays["means"]), degree, fraction, ANTIALIASED if antialiased else 0)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        (_write_legacy if version == 3 else _write_ngsp)(file, header, [stream for stream in streams if stream])
    write_beside(path, place)
    return place


def read_spz(path: Path | str, drop: bool = False) -> tuple[dict[str, torch.Tensor], bool]:
    """Read SPZ of version 1, 2, 3 or 4.

    The header's counts are checked against the file's size before anything is allocated, and no stream is decompressed
    beyond the size that the header declares.

    Args:
        path: the file.
        drop: leave out Gaussians with values that are not finite, which only version 1 can hold.

    Returns:
        float32 tensors as `read_ply` returns them, and whether the scene was trained antialiased.

    Raises:
        SplatlearnError: the file is not such an SPZ, is damaged, or has a flag or an extension that is unknown.
    """
    path = Path(path)
    with open_binary(path) as file:
        start = file.read(4)
        file.seek(0)
        if start[:2] == b"\x1f\x8b":
            header, streams, records = _read_legacy(file, path)
        elif start == struct.pack("<I", MAGIC):
            header, streams, records = _read_ngsp(file, path)
        else:
            raise SplatlearnError(f"{path} is not an SPZ file: it begins neither with gzip's mark nor with 'NGSP'.")
    arrays = decode(streams, header, frame(records, path))
    return to_tensors(back(arrays, read_beside(path)), path, drop), bool(header.flags & ANTIALIASED)


# ---- versions 2 and 3: one gzip stream ----


def _write_legacy(file: BinaryIO, header: Header, streams: Sequence[bytes]) -> None:
    compressor = zlib.compressobj(6, zlib.DEFLATED, 31)
    for piece in (LEGACY.pack(MAGIC, *header, 0), *streams):
        file.write(compressor.compress(piece))
    file.write(compressor.flush())


def _read_legacy(file: BinaryIO, path: Path) -> tuple[Header, list[bytes], bytes]:
    """Read the header, the six attributes, and the extension records."""
    size = file_size(file)
    inflated = _Inflated(file)
    try:
        head = inflated.read(LEGACY.size)
        if len(head) < LEGACY.size:
            raise SplatlearnError(f"{path} is not a whole SPZ file: its gzip stream ends within the header.")
        magic, *fields, reserved = LEGACY.unpack(head)
        if magic != MAGIC:
            raise SplatlearnError(f"{path} is a gzip file, but not of SPZ: it holds no 'NGSP'.")
        header = _checked_header(Header(*fields), (1, 2, 3), size, bytes([reserved]), path)
        expected = sizes(header.points, header.degree, header.version)
        streams = [inflated.read(length) for length in expected]
        records = inflated.read(MOST_BYTES) if header.flags & EXTENSIONS else b""
        rest = inflated.read(1)  # expected to be empty; this reads gzip's checksum
    except zlib.error as error:
        raise SplatlearnError(f"{path} has a damaged gzip stream ({error}).") from error
    if (found := sum(map(len, streams))) < sum(expected):
        raise SplatlearnError(
            f"{path} is too short: {header.points:,} Gaussians of SH degree {header.degree} take {sum(expected):,} "
            f"bytes, its gzip stream holds {found:,}."
        )
    if rest or not inflated.ended:
        raise SplatlearnError(f"{path} was cut, or holds more than the {header.points:,} Gaussians that it promises.")
    return header, streams, records


class _Inflated:
    """A gzip stream that is decompressed as far as it is read, from a file that is read as far as that needs."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.decompressor, self.packed = file, zlib.decompressobj(31), b""

    def read(self, length: int) -> bytes:
        """Return the next `length` bytes, fewer at the end; raises zlib.error."""
        pieces = []
        while length and not self.decompressor.eof:
            self.packed = self.packed or self.file.read(1 << 20)
            piece = self.decompressor.decompress(self.packed, min(length, 1 << 24))
            if not piece and not self.packed:
                break
            self.packed = self.decompressor.unconsumed_tail
            pieces.append(piece)
            length -= len(piece)
        return b"".join(pieces)

    @property
    def ended(self) -> bool:
        """Whether the stream is complete and nothing follows it."""
        return self.decompressor.eof and not self.decompressor.unused_data and not self.file.read(1)


# ---- version 4: one zstd stream per attribute ----


def _write_ngsp(file: BinaryIO, header: Header, streams: Sequence[bytes]) -> None:
    import zstandard

    compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True)
    packed = [compressor.compress(stream) for stream in streams]
    file.write(NGSP.pack(MAGIC, *header, len(streams), NGSP.size, b""))
    file.write(b"".join(ENTRY.pack(len(p), len(s)) for p, s in zip(packed, streams, strict=True)))
    file.writelines(packed)


def _read_ngsp(file: BinaryIO, path: Path) -> tuple[Header, list[bytes], bytes]:
    """Read the header, the six attributes, and the extension records."""
    size = file_size(file)
    head = file.read(NGSP.size)
    if len(head) < NGSP.size:
        raise SplatlearnError(f"{path} is not a whole SPZ file: {size} bytes are less than its header.")
    _, *fields, count, table, reserved = NGSP.unpack(head)
    header = _checked_header(Header(*fields), (4,), size, reserved, path)
    expected = sizes(header.points, header.degree, header.version)
    used = [length for length in expected if length]
    if count != len(used) or table < NGSP.size or table + count * ENTRY.size > size:
        raise SplatlearnError(
            f"{path} has a damaged SPZ header: {count} streams by a table at byte {table}, expected {len(used)} "
            f"within its {size:,} bytes."
        )
    if table > (NGSP.size + MOST_BYTES if header.flags & EXTENSIONS else NGSP.size):
        raise SplatlearnError(f"{path} has {table - NGSP.size:,} bytes behind its header that are no SPZ extensions.")
    records = file.read(table - NGSP.size)
    entries = list(ENTRY.iter_unpack(file.read(count * ENTRY.size)))
    end = file.tell() + sum(packed for packed, _ in entries)
    if [plain for _, plain in entries] != used or end != size:
        raise SplatlearnError(
            f"{path} has a table of contents that does not fit its {header.points:,} Gaussians of SH degree "
            f"{header.degree}, or was cut at {size:,} bytes."
        )
    plain = iter([_plain(file, packed, length, path) for packed, length in entries])
    return header, [next(plain) if length else b"" for length in expected], records


def _plain(file: BinaryIO, packed: int, promised: int, path: Path) -> bytes:
    """Decompress a zstd frame of `packed` bytes, never to much more than the `promised` size."""
    import zstandard

    window = min(1 << 27, max(1 << 23, 1 << promised.bit_length()))  # the decoder's history buffer
    decompressor = zstandard.ZstdDecompressor(max_window_size=window).decompressobj(write_size=1 << 20)
    pieces, length, left = [], 0, packed
    try:
        while left and length <= promised and not decompressor.eof:
            block = file.read(min(left, 1 << 10))  # one kilobyte of zstd decompresses to at most 32 MiB
            left -= len(block)
            piece = decompressor.decompress(block)
            pieces.append(piece)
            length += len(piece)
            if not block:
                break
    except zstandard.ZstdError as error:
        raise SplatlearnError(f"{path} has a damaged zstd stream ({error}).") from error
    if length != promised or left or not decompressor.eof or decompressor.unused_data:
        raise SplatlearnError(f"{path} has a stream that holds not the {promised:,} bytes that its table promises.")
    return b"".join(pieces)


def _checked_header(header: Header, versions: tuple[int, ...], size: int, reserved: bytes, path: Path) -> Header:
    if header.version not in versions:
        known = " or ".join(map(str, versions))
        raise SplatlearnError(f"{path} says that it is SPZ version {header.version}, where {known} can be read.")
    check_flags(header.flags, path)
    if any(reserved):
        raise SplatlearnError(f"{path} has data in the reserved bytes of its SPZ header, which are not known.")
    if header.degree > 4 or not 0 <= header.fraction <= 24:
        raise SplatlearnError(
            f"{path} has a damaged SPZ header: SH degree {header.degree} (0 to 4 are known), "
            f"{header.fraction} fractional bits (0 to 24 are possible)."
        )
    if header.points > FREE_COUNT + size:
        raise SplatlearnError(
            f"{path} promises {header.points:,} Gaussians, more than its {size:,} compressed bytes can hold."
        )
    return header
