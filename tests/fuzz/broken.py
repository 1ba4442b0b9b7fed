"""A reader that does whatever a file says, to test that the harness notices; it is no format of ours."""

import os
import socket
import subprocess
import time
from pathlib import Path
from random import Random

from fuzz.harness import Case
from splatlearn.errors import SplatlearnError

FILE = "act"


def seeds() -> list[Case]:
    return [{FILE: b"read"}]


def mutate(case: Case, rng: Random) -> Case:
    return {FILE: rng.choice([b"read", b"refuse", b"raise", b"exit"])}


def read(folder: Path) -> object:
    act = (folder / FILE).read_text(errors="replace")
    if act == "refuse":
        raise SplatlearnError(f"{folder / FILE} must be something else")
    if act == "two lines":
        raise SplatlearnError("one\ntwo")
    if act == "long":
        raise SplatlearnError("x" * 301)
    if act == "repr":
        raise SplatlearnError(f"got {object()}")
    if act == "raise" or "bad" in act:
        raise KeyError("x")
    if act == "exit":
        raise SystemExit(0)
    if act == "sleep":
        time.sleep(2.2)
    if act == "memory":
        bytearray(b"x") * (300 << 20)
    if act == "write":
        (folder.parents[1] / "elsewhere").write_text("x")
    if act == "delete":
        os.remove(folder.parents[1] / "elsewhere")
    if act == "start":
        subprocess.run(["true"], check=False)
    if act == "connect":
        with socket.socket() as opened:
            opened.connect_ex(("127.0.0.1", 9))
    if act == "crash":
        os.abort()
    if act == "temporary":
        (folder / "beside").write_text("x")
    return None
