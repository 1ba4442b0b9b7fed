"""GPT-2's weights: a safetensors file and a ``config.json`` beside it."""

import json
import math
import struct
from pathlib import Path
from random import Random
from typing import Any

from fuzz import mutations
from fuzz.harness import Case
from splatlearn.text.transformer import Transformer

WIDTH, VOCABULARY, CONTEXT, FILE = 8, 11, 6, "model.safetensors"


def seeds() -> list[Case]:
    shapes = {"wte.weight": [VOCABULARY, WIDTH], "wpe.weight": [CONTEXT, WIDTH]}
    shapes |= {"ln_f.weight": [WIDTH], "ln_f.bias": [WIDTH]}
    for part, shape in {
        "ln_1": [WIDTH], "ln_2": [WIDTH], "attn.c_attn": [WIDTH, 3 * WIDTH], "attn.c_proj": [WIDTH, WIDTH],
        "mlp.c_fc": [WIDTH, 16], "mlp.c_proj": [16, WIDTH],
    }.items():  # fmt: skip
        shapes |= {f"h.0.{part}.weight": shape, f"h.0.{part}.bias": shape[-1:]}
    tensors = {name: ("F32", shape, bytes(4 * math.prod(shape))) for name, shape in shapes.items()}
    prefixed = {f"transformer.{name}": value for name, value in tensors.items()}
    config = json.dumps({"n_head": 2, "n_layer": 1, "model_type": "gpt2"}).encode()
    return [{FILE: _file(tensors), "config.json": config}, {FILE: _file(prefixed), "config.json": config}]


def mutate(case: Case, rng: Random) -> Case:
    header, data = _parts(case[FILE])
    for _ in range(rng.choice([1, 1, 2, 4])):
        data = _forged(header, data, rng)
    act = rng.randrange(12)
    if act == 0:
        case["config.json"] = mutations.tree_bytes({"n_head": 2, "n_layer": 1}, rng)
    elif act == 1:
        del case["config.json"]
    elif act == 2:
        header = mutations.tree(header, rng)
    text = json.dumps(header).encode()
    if rng.randrange(10) == 0:
        text += b" " * rng.choice([1, 7, 200_000])
    length = mutations.integer(rng, 64, signed=False) if rng.randrange(10) == 0 else len(text)
    return {**case, FILE: struct.pack("<Q", length) + text + data}


def _forged(header: dict[str, Any], data: bytes, rng: Random) -> bytes:
    """Change one entry of the header, which stays a dict of dicts; returns the data."""
    name = rng.choice(sorted(header))
    entry: dict[str, Any] = header[name]
    shape = entry.get("shape", [])
    act = rng.randrange(8)
    if act == 0 and len(header) > 1:
        del header[name]
    elif act == 1:
        layers = ["99999999", "99999999999", "-1", "1", "0x", "", "1e9", "９", "9" * 5000, str(mutations.integer(rng))]
        header[f"h.{rng.choice(layers)}.ln_1.weight"] = dict(entry)
    elif act == 2:
        header[mutations.text(rng)] = header.pop(name)
    elif act == 3:
        entry["dtype"] = rng.choice(["F64", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "C64", "F4", "", 3])
    elif act == 4:
        begin = mutations.integer(rng)
        entry["data_offsets"] = [begin, rng.choice([begin, begin + 4, mutations.integer(rng)])]
    elif act == 5:
        shapes = [[0, *shape], [0, 10**9], [n * rng.choice([2, 1000, 10**6]) for n in shape], shape[::-1]]
        entry["shape"] = rng.choice([*shapes, [mutations.integer(rng) for _ in range(rng.randrange(4))]])
    elif act == 6:
        place = 4 * rng.randrange(len(data) // 4)
        return data[:place] + struct.pack("<f", rng.choice([math.nan, math.inf, 3e38])) + data[place + 4 :]
    else:
        header[rng.choice(["__metadata__", name])] = rng.choice([{}, {"a": "b"}, {"a": 1}, {"dtype": "F32"}])
    return data


def read(folder: Path) -> object:
    return Transformer.from_gpt2(folder)


def _file(tensors: dict[str, tuple[str, list[int], bytes]]) -> bytes:
    header, data = {}, b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def _parts(content: bytes) -> tuple[dict[str, Any], bytes]:
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]
