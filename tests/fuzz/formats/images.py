"""Photographs and masks: PNG, JPEG, TIFF, BMP, WebP, GIF, PPM, AVIF and JPEG 2000, under any suffix."""

import io
import re
import struct
import zlib
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from fuzz import mutations
from fuzz.harness import Case
from splatlearn.scene.photos.decode import image_size, read_image
from splatlearn.scene.photos.masks import read_mask
from splatlearn.scene.reconstruct.gather import look_at

WEIGHT = 0.5
FILE = "photo.jpg"
DOCUMENTS = [
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) print quit\n%%EOF\n",
    b"%PDF-1.4\n%%EOF\n",
    b"8BPS" + bytes(40),
    b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    b"\0\0\0\x18ftypheic" + bytes(200),
    b"",
]


def seeds() -> list[Case]:
    values = np.random.default_rng(0).integers(0, 256, (12, 16, 4), dtype=np.uint8)
    rgb, grey = Image.fromarray(values[..., :3].copy()), Image.fromarray(values[..., 0].copy())
    wide = Image.fromarray(values[..., 0].astype(np.uint16) * 257)
    palette, bits, cmyk = rgb.convert("P"), grey.convert("1"), rgb.convert("CMYK")
    pngs = [rgb, grey, wide, palette, bits, Image.fromarray(values)]
    made = [
        *((image, "PNG", {}) for image in pngs),
        *((image, "JPEG", options) for image in (rgb, grey, cmyk) for options in ({}, {"progressive": True})),
        *((image, "TIFF", options) for image in (rgb, wide) for options in ({}, {"compression": "tiff_lzw"})),
        *((rgb, kind, {}) for kind in ("BMP", "WEBP", "PPM", "JPEG2000", "AVIF")),
        (palette, "GIF", {}),
    ]
    cases = []
    for image, kind, options in made:
        file = io.BytesIO()
        image.save(file, kind, **options)
        cases.append({FILE: file.getvalue()})
    return cases


def mutate(case: Case, rng: Random) -> Case:
    content = case[FILE]
    for _ in range(rng.choice([1, 1, 2, 3])):
        if rng.randrange(40) == 0:
            content = rng.choice(DOCUMENTS)
        elif content.startswith(b"\x89PNG"):
            content = _png(content, rng)
        elif content.startswith(b"\xff\xd8"):
            content = _jpeg(content, rng)
        elif content[:2] in (b"II", b"MM"):
            content = _tiff(content, rng)
        else:
            content = _header(content, rng)
    return {FILE: content}


def _side(rng: Random) -> int:
    return rng.choice([0, 1, 12, 16, 17, 1000, 5000, 16384, 40000, mutations.integer(rng, 31, signed=False)])


def _png(content: bytes, rng: Random) -> bytes:
    chunks = _chunks(content)
    act = rng.randrange(8)
    if act <= 2 and chunks and chunks[0][0] == b"IHDR" and len(chunks[0][1]) == 13:
        fields = list(struct.unpack(">IIBBBBB", chunks[0][1]))
        at = rng.randrange(7)
        fields[at] = _side(rng) if at < 2 else rng.choice([0, 1, 2, 3, 4, 6, 8, 16, 255])
        chunks[0] = (b"IHDR", struct.pack(">IIBBBBB", *fields))
    elif act == 3:
        bomb = zlib.compress(bytes(rng.choice([1000, 4 << 20])), 9)
        kind, head = rng.choice([(b"zTXt", b"a\0\0"), (b"iCCP", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0"), (b"IDAT", b"")])
        chunks[1:1] = [(kind, head + bomb)] * rng.choice([1, 30])
    elif act == 4:
        kind = rng.choice([b"tRNS", b"PLTE", b"acTL", b"fcTL", b"eXIf", b"gAMA", b"pHYs", b"sRGB"])
        chunks.insert(rng.randrange(len(chunks) + 1), (kind, mutations.noise(rng, rng.randrange(64))))
    elif act == 5 and chunks:
        del chunks[rng.randrange(len(chunks))]
    elif act == 6 and chunks:
        chunks.insert(rng.randrange(len(chunks)), rng.choice(chunks))
    else:
        return mutations.damaged(content, rng)
    return content[:8] + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def _chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 8
    while at + 8 <= len(content):
        (length,) = struct.unpack_from(">I", content, at)
        found.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def _jpeg(content: bytes, rng: Random) -> bytes:
    edited = bytearray(content)
    frame = re.search(rb"\xff[\xc0\xc1\xc2]", content)
    scan = content.find(b"\xff\xda")
    act = rng.randrange(6)
    if act <= 1 and frame and frame.start() + 9 <= len(edited):
        struct.pack_into(">HH", edited, frame.start() + 5, min(_side(rng), 65535), min(_side(rng), 65535))
    elif act == 2 and scan > 0:
        return content[:scan] + content[scan:-2] * rng.choice([2, 50, 300]) + content[-2:]
    elif act == 3:
        marker = rng.choice([0xE1, 0xE2, 0xED, 0xFE, 0xDB, 0xC4, 0xDD])
        head = rng.choice([b"Exif\0\0II*\0\x08\0\0\0", b"ICC_PROFILE\0\1\1", b"MPF\0II*\0\x08\0\0\0", b""])
        data = head + mutations.noise(rng, rng.choice([0, 20, 60000]))
        return content[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data + content[2:]
    elif act == 4 and frame and frame.start() + 10 <= len(edited):
        edited[frame.start() + rng.choice([1, 4, 9])] = rng.choice([0, 1, 2, 3, 4, 8, 12, 0xC0, 0xC2, 0xC9])
    else:
        return mutations.damaged(content, rng)
    return bytes(edited)


def _tiff(content: bytes, rng: Random) -> bytes:
    """A forged entry of the first directory."""
    order = "<" if content[:2] == b"II" else ">"
    if len(content) < 10 or rng.randrange(6) == 0:
        return mutations.damaged(content, rng)
    (at,) = struct.unpack_from(f"{order}I", content, 4)
    if at + 14 > len(content):
        return mutations.damaged(content, rng)
    (count,) = struct.unpack_from(f"{order}H", content, at)
    edited, entry = bytearray(content), at + 2 + 12 * rng.randrange(max(1, count))
    if entry + 12 > len(edited):
        return mutations.damaged(content, rng)
    field = rng.randrange(4)
    if field == 0:
        struct.pack_into(
            f"{order}H", edited, entry, rng.choice([256, 257, 258, 259, 262, 273, 277, 279, 322, 339, 34665])
        )
    elif field == 1:
        struct.pack_into(f"{order}H", edited, entry + 2, rng.randrange(20))
    elif field == 2:
        struct.pack_into(f"{order}I", edited, entry + 4, mutations.integer(rng, 32, signed=False))
    else:
        struct.pack_into(
            f"{order}I", edited, entry + 8, rng.choice([_side(rng), mutations.integer(rng, 32, signed=False)])
        )
    return bytes(edited)


def _header(content: bytes, rng: Random) -> bytes:
    """A forged integer near the beginning, where the other formats have their sizes."""
    edited = bytearray(content)
    if len(edited) < 12 or rng.randrange(4) == 0:
        return mutations.damaged(content, rng)
    layout = rng.choice(["<H", ">H", "<I", ">I"])
    size = struct.calcsize(layout)
    at = rng.randrange(2, min(len(edited) - size, 250)) if len(edited) > size + 2 else 0
    struct.pack_into(layout, edited, at, min(_side(rng), 2 ** (8 * size) - 1))
    return bytes(edited)


def decoded_size(case: Case) -> int:
    """Four bytes a pixel in Pillow and three in the result, of what the header says."""
    try:
        with Image.open(io.BytesIO(case[FILE])) as image:
            return 7 * image.width * image.height
    except Exception:  # no image: nothing to decode
        return 0


def read(folder: Path) -> object:
    path = folder / FILE
    width, height = image_size(path)
    image = read_image(path)
    mask = read_mask(path, (width, height)) if image.amax() >= 128 else None
    return look_at(folder, [FILE], {}, 1), image, mask
