"""A COLMAP folder: cameras, images and points as .bin or .txt, with two tiny photographs and a mask."""

import io
import struct
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from fuzz import mutations
from fuzz.harness import Case
from splatlearn.scene.readers.colmap import ColmapScene

WEIGHT = 0.5
WIDTH, HEIGHT = 16, 12
MODELS = {
    0: 3,
    1: 4,
    2: 4,
    3: 5,
    4: 8,
    5: 8,
    6: 12,
    7: 5,
    8: 4,
    9: 5,
    10: 12,
    11: 16,
    12: 4,
    13: 5,
    14: 3,
    15: 4,
    16: 6,
}
NAMES = ["../../x", "/etc/passwd", "a\\b.png", "C:\\a.png", "", ".", "a\nb.png", "ä.png", "x" * 5000, "a.PNG", "b.png"]


def seeds() -> list[Case]:
    file = io.BytesIO()
    Image.fromarray(np.arange(WIDTH * HEIGHT * 3, dtype=np.uint8).reshape(HEIGHT, WIDTH, 3)).save(file, "PNG")
    photos = {
        "c/images/a.png": file.getvalue(),
        "c/images/b.png": file.getvalue(),
        "c/masks/a.png.png": file.getvalue(),
    }
    camera = struct.pack("<QIiQQ4d", 1, 1, 1, WIDTH, HEIGHT, 14.0, 14.0, 8.0, 6.0)
    images, points = struct.pack("<Q", 2), struct.pack("<Q", 2)
    for number, name in enumerate((b"a.png", b"b.png"), 1):
        images += struct.pack("<I7dI", number, 1.0, 0, 0, 0, 0.1 * number, 0, 0, 1) + name + b"\0"
        images += struct.pack("<QddQ", 1, 3.0, 4.0, number)
    for number in (1, 2):
        points += struct.pack("<Q3d3BdQII", number, 0.1 * number, 0, 3.0, 1, 2, 3, 0.5, 1, number, 0)
    binary = {"cameras.bin": camera, "images.bin": images, "points3D.bin": points}
    text = {
        "cameras.txt": f"# Number of cameras: 1\n1 PINHOLE {WIDTH} {HEIGHT} 14 14 8 6\n".encode(),
        "images.txt": b"1 1 0 0 0 0.1 0 0 1 a.png\n3 4 1\n2 1 0 0 0 0.2 0 0 1 b.png\n3 4 2\n",
        "points3D.txt": b"1 0.1 0 3 1 2 3 0.5 1 0\n2 0.2 0 3 1 2 3 0.5 2 0\n",
        "rigs.txt": b"1 1 CAMERA 1\n",
        "frames.txt": b"1 1 1 0 0 0 0.1 0 0 1 CAMERA 1 1\n2 1 1 0 0 0 0.2 0 0 1 CAMERA 1 2\n",
    }
    return [
        {**photos, **{f"c/sparse/0/{name}": content for name, content in model.items()}} for model in (binary, text)
    ]


def mutate(case: Case, rng: Random) -> Case:
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        name = rng.choice(sorted(name for name in case if name.startswith("c/sparse/")) or [""])
        act = rng.randrange(16)
        if not name:
            return case
        if act == 0:
            del case[name]
        elif act == 1:  # a second model
            case[name.replace("sparse/0", rng.choice(["sparse", "sparse/1", "sparse/x"]))] = case[name]
        elif act == 2:
            case[name] = case[name][: rng.randrange(len(case[name]) + 1)]
        elif name.endswith(".txt"):
            case[name] = _text(case[name], rng)
        else:
            case[name] = _binary(name, bytearray(case[name]), rng)
    return case


def _text(content: bytes, rng: Random) -> bytes:
    lines = content.split(b"\n")
    at = rng.randrange(len(lines))
    words = lines[at].split(b" ")
    word = rng.randrange(len(words))
    given = rng.choice(
        [str(mutations.integer(rng)), repr(mutations.number(rng)), mutations.text(rng), rng.choice(NAMES)]
    )
    words[word] = given.encode(errors="surrogatepass")
    if rng.randrange(8) == 0:
        del words[word]
    lines[at] = b" ".join(words)
    if rng.randrange(8) == 0:
        lines.insert(at, lines[rng.randrange(len(lines))])
    return b"\n".join(lines)


def _binary(name: str, content: bytearray, rng: Random) -> bytes:
    """A forged field at a place where the records have one."""
    counts = {"cameras.bin": [0, 16, 24], "images.bin": [0, 78, 156], "points3D.bin": [0, 51]}
    doubles = {"cameras.bin": range(32, 64, 8), "images.bin": range(12, 68, 8), "points3D.bin": range(16, 40, 8)}
    stem = name.rsplit("/", 1)[-1]
    act = rng.randrange(6)
    if act <= 1:
        _put(content, rng.choice(counts[stem]), struct.pack("<Q", mutations.integer(rng, 64, signed=False)))
    elif act <= 3:
        _put(content, rng.choice(list(doubles[stem])), struct.pack("<d", mutations.number(rng)))
    elif stem == "cameras.bin":
        model = rng.choice([*MODELS, 17, -1, 99])
        values = [rng.choice([14.0, 8.0, 0.1, 0.0, mutations.number(rng)]) for _ in range(MODELS.get(model, 2))]
        size = [rng.choice([WIDTH, HEIGHT, 2**20, mutations.integer(rng, 64, signed=False)]) for _ in range(2)]
        size = size if rng.randrange(2) else [WIDTH, HEIGHT]
        values = [float(WIDTH), float(HEIGHT)] if model == 17 else values
        return struct.pack(f"<QIiQQ{len(values)}d", 1, 1, model, *size, *values)
    elif stem == "images.bin":
        return bytes(content).replace(b"a.png", rng.choice(NAMES).encode()[:200], 1)
    else:
        _put(content, 8, struct.pack("<Q", mutations.integer(rng, 64, signed=False)))
    return bytes(content)


def _put(content: bytearray, at: int, value: bytes) -> None:
    if at + len(value) <= len(content):
        content[at : at + len(value)] = value


def read(folder: Path) -> object:
    folder = folder / "c"
    masks = "masks" if (folder / "masks").is_dir() else None
    scene = ColmapScene(ColmapScene.Config(path=str(folder), holdout="none", masks=masks))
    return [(scene.photo(camera), scene.mask(camera)) for camera in scene.train[:8]]
