"""Configs in YAML and the ``--key value`` words of a command line, for the three tasks."""

import json
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import yaml

from fuzz import mutations
from fuzz.harness import Case
from splatlearn import config
from splatlearn.line.task import LineTask
from splatlearn.scene.training.task import SceneTask
from splatlearn.text.task import TextTask

TASKS: dict[str, Any] = {"line": LineTask, "scene": SceneTask, "text": TextTask}
FILE, WORDS = "config.yaml", "words.json"
WEIGHT = 0.5
SCALARS = [".inf", "-.inf", ".nan", "1e300", "1e999", "-1", "0", "null", "~", "true", "no", "12:30", "0x10", "1_000"]
SCALARS += ['"\\0"', '"\\ud800"', "!!int x", "!!float .nan", "!!binary x", "!!timestamp x", "*a", "&a [*a]", "|", "<<"]
SCALARS += ["9" * 400, "9" * 5000, "x" * 20_000, "[" * 3000, "{a: " * 3000, "[1, 2", "@", "`", "%YAML 9.9", "\t", "- -"]


@cache
def seeds() -> list[Case]:
    found = []
    for name in TASKS:
        content = config.shipped(f"{name}.yaml").read_bytes()
        found.append({FILE: content, WORDS: json.dumps(["--steps", "7", "--seed=3"]).encode(), f"task.{name}": b""})
    return found


@cache
def _keys(name: str) -> list[str]:
    return [leaf.name for leaf in config._leaves(TASKS[name].Config, {})]


def mutate(case: Case, rng: Random) -> Case:
    name = next(name for name in TASKS if f"task.{name}" in case)
    act = rng.randrange(8)
    if act == 0:
        lines = case[FILE].decode().splitlines()
        lines.insert(rng.randrange(len(lines) + 1), f"{_key(name, rng)}: {_scalar(rng)}")
        case[FILE] = _bytes("\n".join(lines))
    elif act == 1:
        lines = case[FILE].decode().splitlines()
        place = rng.randrange(len(lines))
        lines[place] = f"{lines[place].partition(':')[0]}: {_scalar(rng)}"
        case[FILE] = _bytes("\n".join(lines))
    elif act == 2:
        case[FILE] = _bytes("".join(f"{_key(name, rng)}: {_scalar(rng)}\n" for _ in range(rng.choice([1, 2, 5]))))
    elif act == 3:
        case[FILE] = _bomb(rng)
    elif act == 4:
        case[FILE] = mutations.tree_bytes(yaml.safe_load(case[FILE]), rng)
    elif act == 5:
        case[FILE] = mutations.damaged(case[FILE], rng)
    else:
        words = []
        for _ in range(rng.choice([1, 1, 2, 6])):
            value = rng.choice(
                [_scalar(rng), mutations.text(rng), str(mutations.value(rng)), str(mutations.number(rng))]
            )
            words += rng.choice([[f"--{_key(name, rng)}", value], [f"--{_key(name, rng)}={value}"], [value]])
        case[WORDS] = json.dumps(words).encode()
    return case


def read(folder: Path) -> object:
    task = next((name for name in TASKS if (folder / f"task.{name}").exists()), "line")
    try:
        words = json.loads((folder / WORDS).read_bytes())
    except (OSError, ValueError):
        words = []
    words = [word for word in words if isinstance(word, str)] if isinstance(words, list) else []
    loaded = config.load(TASKS[task].Config, folder / FILE, words)
    config.dump(loaded, folder / "again.yaml")
    again = config.load(TASKS[task].Config, folder / "again.yaml")
    assert again == loaded, "a dumped config reads back as another"
    return loaded


def _key(name: str, rng: Random) -> str:
    key = rng.choice(_keys(name))
    act = rng.randrange(12)
    if act == 0:
        return key.rpartition(".")[0] or key
    if act == 1:
        return key + rng.choice(["x", ".x", ".", "\ud800"])
    return rng.choice([mutations.text(rng), "x" * 20_000, "rate" * 5000, "losses.x.y.z"]) if act == 2 else key


def _scalar(rng: Random) -> str:
    act = rng.randrange(4)
    if act == 0:
        return json.dumps(mutations.value(rng))
    return str(mutations.number(rng)) if act == 1 else rng.choice(SCALARS)


def _bomb(rng: Random) -> bytes:
    """Aliases that repeat a group in groups, or a list in lists."""
    wide, deep = rng.choice([1, 2, 9]), rng.choice([3, 30, 1000])
    left, right = rng.choice(["[]", "{}"])
    lines = ["a0: &a0 {x: 1}"]
    for row in range(1, deep):
        items = ", ".join((f"k{index}: " if left == "{" else "") + f"*a{row - 1}" for index in range(wide))
        lines.append(f"a{row}: &a{row} {left}{items}{right}")
    return "\n".join(lines).encode()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
