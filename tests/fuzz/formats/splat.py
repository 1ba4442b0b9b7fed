"""`.splat`: records of 32 bytes without a header, with or without a file of the frame beside it."""

import json
import math
import struct
from pathlib import Path
from random import Random

from fuzz import mutations
from fuzz.harness import Case
from splatlearn.scene.formats import registry

FILE, FRAME = "a.splat", "a.splat.frame.json"
RECORD = struct.Struct("<6f8B")
PLACE = {"format": "splatlearn frame", "version": 1, "scale": 1.0, "offset": [500000.0, 4000000.0, 12.0]}
WEIGHT = 0.5


def seeds() -> list[Case]:
    rng = Random(1)
    rows = [[*(rng.uniform(0.1, 1) for _ in range(6)), *(rng.randrange(256) for _ in range(8))] for _ in range(4)]
    content = b"".join(RECORD.pack(*row) for row in rows)
    return [{FILE: content}, {FILE: content, FRAME: json.dumps(PLACE).encode()}]


def mutate(case: Case, rng: Random) -> Case:
    content, act = bytearray(case[FILE]), rng.randrange(5)
    if act == 0:
        place = 32 * rng.randrange(len(content) // 32) + 4 * rng.randrange(6)
        value = rng.choice([math.nan, math.inf, -math.inf, -1.0, 0.0, 3e38, 1e-45])
        content[place : place + 4] = struct.pack("<f", value)
    elif act == 1:
        place = rng.randrange(len(content))
        content[place : place + 8] = bytes([rng.choice([0, 128, 255])]) * 8
    elif act == 2:
        del content[rng.randrange(len(content)) :]
    elif act == 3:
        content += mutations.noise(rng, rng.choice([1, 31, 32, 64]))
    if FRAME in case and (act == 4 or rng.randrange(2)):
        case[FRAME] = mutations.tree_bytes(PLACE, rng)
    return {**case, FILE: bytes(content)}


def read(folder: Path) -> object:
    return registry.read(folder / FILE)
