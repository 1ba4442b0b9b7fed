"""Where the native libraries are: beside this file, or for a checkout in the installed package of the same sources.

A checkout has no libraries after `pip install .`, but Python started in it finds its package first. It then loads those
of the installation, if they were built from the very sources in csrc.
"""

import hashlib
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
CSRC = PACKAGE.parent / "csrc"  # in a checkout alone


def find_library(name: str) -> Path:
    """The library beside this file; in a checkout without it that of an installed package, if there is one."""
    own = PACKAGE / "ops" / name
    if not own.exists() and CSRC.is_dir():
        for entry in sys.path:
            other = Path(entry).resolve() / "splatlearn" / "ops" / name
            if other.exists():
                return other
    return own


def is_borrowed(library: Path) -> bool:
    """Whether it is a library of another package that stands in for this checkout's."""
    return library.parent != PACKAGE / "ops"


def digest_of_sources(folder: Path) -> str:
    """A digest of the names and contents of csrc, apart from the emulator's files, which no library contains."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.suffix in (".h", ".cpp", ".cu")):
        name = path.relative_to(folder).as_posix()
        if not name.startswith("emulator/"):
            content = path.read_bytes()
            digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()
