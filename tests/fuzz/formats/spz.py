"""SPZ: a header, one gzip stream (versions 1 to 3) or a zstd stream per attribute (version 4), extension records.

What is forged is compressed again and gets its checksums and table, so that it reaches the reader.
"""

import json
import struct
import zlib
from functools import cache
from pathlib import Path
from random import Random

import zstandard

from fuzz import mutations
from fuzz.formats.splat import PLACE
from fuzz.harness import Case
from splatlearn.scene.formats import registry

FILE, COUNT = "a.spz", 5
MAGIC = 0x5053474E
ORBIT, AXES = 0xADBE0002, 0xADBE0003
BOMB = 40 << 20


@cache
def seeds() -> list[Case]:
    found = [{FILE: _file({"version": version, "degree": degree})} for version in range(1, 5) for degree in (0, 1)]
    records = struct.pack("<II12x", ORBIT, 12) + struct.pack("<III", AXES, 4, 6)
    found += [{FILE: _file({"version": version, "flags": 3, "records": records})} for version in (3, 4)]
    return [*found, {**found[0], f"{FILE}.frame.json": json.dumps(PLACE).encode()}]


def mutate(case: Case, rng: Random) -> Case:
    act = rng.randrange(12)
    if act == 0:
        return {**case, f"{FILE}.frame.json": mutations.tree_bytes(PLACE, rng)}
    if act == 1:
        return {**case, FILE: mutations.damaged(case[FILE], rng)}
    parts: dict[str, object] = {"version": rng.randrange(1, 5), "degree": rng.choice([0, 0, 1, 3, 4])}
    for _ in range(rng.choice([1, 1, 2])):
        act = rng.randrange(10)
        if act == 0:
            parts["version"] = rng.choice([0, 5, 2**32 - 1, *range(1, 5)])
        elif act == 1:
            parts["count"] = rng.choice([0, COUNT - 1, COUNT + 1, 65_536, 70_000, 10**6, 2**31, 2**32 - 1])
        elif act == 2:
            parts["degree"], parts["real_degree"] = rng.randrange(256), rng.choice([0, 1, 4])
        elif act == 3:
            parts["fraction"] = rng.choice([0, 1, 23, 24, 25, 255])
        elif act == 4:
            parts["flags"], parts["records"] = rng.randrange(256), rng.choice([b"", _records(rng)])
        elif act == 5:
            parts["flags"], parts["records"] = 2, _records(rng)
        elif act == 6:
            parts["reserved"] = rng.randrange(256)
        elif act == 7:
            parts["tail"] = mutations.noise(rng, rng.choice([1, 9, 1000]))
        elif act == 8:
            parts["zeros"] = rng.choice([1, 100, 100, 1 << 20, BOMB])
        else:
            parts["table"] = rng.choice([(i, mutations.integer(rng, 64, signed=False)) for i in range(12)])
    return {FILE: _file(parts, rng)}


def _records(rng: Random) -> bytes:
    """Extension records: known and unknown ones, cut, of lying lengths, thousands of them."""
    content = b""
    for _ in range(rng.choice([1, 1, 2, 2000])):
        kind = rng.choice([ORBIT, AXES, AXES, 0, 0x12340001, 0xFFFFFFFF])
        payload = rng.choice([bytes(12), struct.pack("<I", rng.choice([0, 1, 6, 16, 17, 2**32 - 1])), b""])
        length = rng.choice([len(payload)] * 5 + [mutations.integer(rng, 32, signed=False)])
        content += struct.pack("<II", kind, length) + payload
    return content[: rng.choice([len(content)] * 4 + [rng.randrange(len(content) + 1)])]


def decoded_size(case: Case) -> int:
    """The streams of the largest scene that the header may promise: 95 bytes of degree 4, and as float32."""
    return len(case[FILE]) + 5 * 95 * (65_536 + len(case[FILE]))


def read(folder: Path) -> object:
    return registry.read(folder / FILE)


def _file(parts: dict, rng: Random | None = None) -> bytes:
    version, degree = parts["version"], parts.get("degree", 0)
    known, bases = min(max(version, 1), 4), (parts.get("real_degree", degree) + 1) ** 2
    sizes = [6 if known == 1 else 9, 1, 3, 3, 4 if known >= 3 else 3, 3 * (bases - 1)]
    streams = [Random(size).randbytes(size * COUNT) for size in sizes if size]
    if known == 1:
        streams[0] = struct.pack(f"<{3 * COUNT}e", *(0.25 * i for i in range(3 * COUNT)))
    if extra := parts.get("zeros"):
        streams[-1] += bytes(extra)
    head = [MAGIC, version, parts.get("count", COUNT), degree, parts.get("fraction", 12), parts.get("flags", 0)]
    records, reserved, tail = parts.get("records", b""), parts.get("reserved", 0), parts.get("tail", b"")
    if known < 4:
        packer = zlib.compressobj(6, zlib.DEFLATED, 31)
        raw = struct.pack("<IIIBBBB", *head, reserved) + b"".join(streams) + records
        return packer.compress(raw) + packer.flush() + tail
    packed = [_zstd(stream) for stream in streams]
    table = [number for p, s in zip(packed, streams, strict=True) for number in (len(p), len(s))]
    if "table" in parts and rng is not None:
        place, value = parts["table"]
        table[place % len(table)] = value
    start = struct.pack("<IIIBBBB", *head, len(streams)) + struct.pack("<I", 32 + len(records))
    entries = b"".join(struct.pack("<Q", number) for number in table)
    return start + bytes([reserved]) + bytes(11) + records + entries + b"".join(packed) + tail


@cache
def _zstd(stream: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=3, write_checksum=True).compress(stream)
