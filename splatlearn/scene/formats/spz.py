"""SPZ, Niantic's compressed scene, a tenth of a PLY: version 3 (one gzip stream) and 4 (a zstd stream an attribute).

Both hold the same quantised attributes of N Gaussians, one after the other: positions 9N bytes | alphas N | colours 3N
| scales 3N | rotations 4N (3N in version 2) | harmonics 3(K-1)N; their coding is in `spz_attributes`.
Header of versions 2 and 3, inside the gzip stream: "NGSP" | version u32 | N u32 | SH degree u8 | fractional bits u8 |
flags u8 (1: trained antialiased, 2: extensions follow) | 0. Of version 4, plain: the same with the number of streams in
the last byte | offset of the table of contents u32 | 12 zeros; the table has compressed and plain size u64 of each
stream; between header and table lie extension records, which are passed over. Little-endian.
"""

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch

from splatlearn.errors import SplatlearnError
from splatlearn.files import replacing
from splatlearn.scene.formats.checks import Tensors, checked, finished, opened, size_of
from splatlearn.scene.formats.spz_attributes import decode, encode, sizes

MAGIC = 0x5053474E
VERSIONS = (3, 4)  # those written; version 2 is read too
LEGACY, NGSP = struct.Struct("<IIIBBBB"), struct.Struct("<IIIBBBBI12x")
ENTRY = struct.Struct("<QQ")
ANTIALIASED, EXTENSIONS = 1, 2
ZSTD_LEVEL = 12  # what Niantic's own writer uses
# A Gaussian costs at least a byte of compressed file (real scenes: 8 to 25), so a header that promises more is refused
# before anything is allocated. Small files may be flatter.
FREE_COUNT = 1 << 16


class _Header(NamedTuple):
    version: int
    points: int
    degree: int
    fraction: int  # bits of a position behind the point
    flags: int


def write_spz(
    path: Path | str,
    tensors: Tensors,
    *,
    version: int = 4,
    antialiased: bool = False,
    sh_bits: tuple[int, int] = (8, 8),
) -> None:
    """Writes Gaussians (tensors as for `write_ply`, SH degree 0 to 4) as SPZ version 3 or 4, atomically.

    `antialiased` sets the flag by which viewers draw as they were trained. `sh_bits` are the bits kept of harmonics of
    degree 1 and of the higher ones, 1 to 8: fewer compress better. Raises SplatlearnError for tensors that do not fit
    together, positions beyond ±8,388,607, another version, and a disk that refuses.
    """
    path = Path(path)
    if version not in VERSIONS:
        raise SplatlearnError(f"SPZ is written in version 3 or 4, not {version!r}.")
    if not all(1 <= bits <= 8 for bits in sh_bits):
        raise SplatlearnError(f"sh_bits must be two numbers from 1 to 8, got {sh_bits}.")
    arrays = checked(tensors, path)
    fraction, streams = encode(arrays, path, sh_bits)
    degree = int(np.sqrt(arrays["shN"].shape[1] + 1)) - 1
    header = _Header(version, len(arrays["means"]), degree, fraction, ANTIALIASED if antialiased else 0)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        (_write_legacy if version == 3 else _write_ngsp)(file, header, [stream for stream in streams if stream])


def read_spz(path: Path | str, drop: bool = False) -> tuple[dict[str, torch.Tensor], bool]:
    """Reads SPZ of version 2, 3 or 4: float32 tensors as `read_ply` gives them, and whether it was trained antialiased.

    Raises SplatlearnError for whatever is not such a file. Promises are held against the file's size before anything is
    allocated, and no stream is decompressed beyond what the header promises. `drop` is for the likeness of all readers:
    every byte of these attributes is a finite number.
    """
    path = Path(path)
    with opened(path) as file:
        start = file.read(4)
        file.seek(0)
        if start[:2] == b"\x1f\x8b":
            header, payload = _read_legacy(file, path)
        elif start == struct.pack("<I", MAGIC):
            header, payload = _read_ngsp(file, path)
        else:
            raise SplatlearnError(f"{path} is not an SPZ file: it begins neither with gzip's mark nor with 'NGSP'.")
    arrays = decode(payload, header.points, header.degree, header.fraction, header.version)
    return finished(arrays, path, drop), bool(header.flags & ANTIALIASED)


# ---- versions 2 and 3: one gzip stream ----


def _write_legacy(file: BinaryIO, header: _Header, streams: Sequence[bytes]) -> None:
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    for piece in (LEGACY.pack(MAGIC, *header, 0), *streams):
        file.write(packer.compress(piece))
    file.write(packer.flush())


def _read_legacy(file: BinaryIO, path: Path) -> tuple[_Header, bytes]:
    size, packed = size_of(file), file.read()
    opener = zlib.decompressobj(31)
    try:
        head = opener.decompress(packed, LEGACY.size)
        if len(head) < LEGACY.size:
            raise SplatlearnError(f"{path} is not a whole SPZ file: its gzip stream ends within the header.")
        magic, *fields, _ = LEGACY.unpack(head)
        if magic != MAGIC:
            raise SplatlearnError(f"{path} is a gzip file, but not of SPZ: it holds no 'NGSP'.")
        header = _checked_header(_Header(*fields), (2, 3), size, path)
        promised = sum(sizes(header.points, header.degree, header.version))
        payload = opener.decompress(opener.unconsumed_tail, promised) if promised else b""
        rest = opener.decompress(opener.unconsumed_tail, 1)  # nothing, but reads gzip's checksum
    except zlib.error as error:
        raise SplatlearnError(f"{path} has a damaged gzip stream ({error}).") from error
    if len(payload) < promised:
        raise SplatlearnError(
            f"{path} is too short: {header.points:,} Gaussians of SH degree {header.degree} take {promised:,} bytes, "
            f"its gzip stream holds {len(payload):,}."
        )
    if not header.flags & EXTENSIONS and (rest or not opener.eof):
        raise SplatlearnError(f"{path} was cut, or holds more than the {header.points:,} Gaussians that it promises.")
    return header, payload


# ---- version 4: a zstd stream an attribute ----


def _write_ngsp(file: BinaryIO, header: _Header, streams: Sequence[bytes]) -> None:
    import zstandard

    packer = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True)
    packed = [packer.compress(stream) for stream in streams]
    file.write(NGSP.pack(MAGIC, *header, len(streams), NGSP.size))
    file.write(b"".join(ENTRY.pack(len(p), len(s)) for p, s in zip(packed, streams, strict=True)))
    file.writelines(packed)


def _read_ngsp(file: BinaryIO, path: Path) -> tuple[_Header, bytes]:
    size = size_of(file)
    head = file.read(NGSP.size)
    if len(head) < NGSP.size:
        raise SplatlearnError(f"{path} is not a whole SPZ file: {size} bytes are less than its header.")
    _, *fields, streams, table = NGSP.unpack(head)
    header = _checked_header(_Header(*fields), (4,), size, path)
    expected = [length for length in sizes(header.points, header.degree, header.version) if length]
    if streams != len(expected) or table < NGSP.size or table + streams * ENTRY.size > size:
        raise SplatlearnError(
            f"{path} has a damaged SPZ header: {streams} streams by a table at byte {table}, expected {len(expected)} "
            f"within its {size:,} bytes."
        )
    file.seek(table)
    entries = list(ENTRY.iter_unpack(file.read(streams * ENTRY.size)))
    end = file.tell() + sum(packed for packed, _ in entries)
    if [plain for _, plain in entries] != expected or end != size:
        raise SplatlearnError(
            f"{path} has a table of contents that does not fit its {header.points:,} Gaussians of SH degree "
            f"{header.degree}, or was cut at {size:,} bytes."
        )
    return header, b"".join(_plain(file.read(packed), plain, path) for packed, plain in entries)


def _plain(packed: bytes, promised: int, path: Path) -> bytes:
    """The plain bytes of a zstd frame, of which not more than `promised` are ever made."""
    import zstandard

    window = min(1 << 27, max(1 << 23, 1 << promised.bit_length()))  # what the decoder may look back on
    opener = zstandard.ZstdDecompressor(max_window_size=window).decompressobj(write_size=1 << 20)
    pieces, length = [], 0
    try:
        for start in range(0, len(packed), 1 << 10):  # a kilobyte of zstd makes at most 32 MiB at once
            piece = opener.decompress(packed[start : start + (1 << 10)])
            pieces.append(piece)
            length += len(piece)
            if length > promised or (opener.eof and start + (1 << 10) < len(packed)):
                break
    except zstandard.ZstdError as error:
        raise SplatlearnError(f"{path} has a damaged zstd stream ({error}).") from error
    if length != promised or not opener.eof or opener.unused_data:
        raise SplatlearnError(f"{path} has a stream that holds not the {promised:,} bytes that its table promises.")
    return b"".join(pieces)


def _checked_header(header: _Header, versions: tuple[int, ...], size: int, path: Path) -> _Header:
    if header.version not in versions:
        shown = " or ".join(map(str, versions))
        raise SplatlearnError(f"{path} says that it is SPZ version {header.version}, where {shown} can be read.")
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
