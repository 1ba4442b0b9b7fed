"""What a file of a capture is by its suffix: the one list that reconstruction, training and messages share.

A photograph that is left out is never left out silently: `LeftOut` counts and names the files, with the reason and the
remedy of each kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

# Read by Pillow itself. COLMAP reads only those of COLMAP_FORMATS; reconstruction converts its copies of the others.
IMAGES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".tif", ".tiff", ".bmp", ".webp", ".avif", ".jp2", ".j2k", ".gif",
    ".ppm", ".pgm",
)  # fmt: skip
HEIF = (".heic", ".heif", ".hif")  # read with pillow-heif, an extra
HEIF_REMEDY = "install pillow-heif (pip install 'splatlearn[heif]')"
COLMAP_FORMATS = ("JPEG", "MPO", "PNG", "TIFF", "BMP", "PPM")  # Pillow's names of what pycolmap decodes, too

VIDEOS = (
    ".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".mts", ".m2ts", ".3gp", ".insv", ".360", ".lrv",
)  # fmt: skip
RAW = (
    ".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".raf", ".orf", ".rw2", ".rwl", ".pef",
    ".srw", ".x3f", ".3fr", ".fff", ".iiq", ".mos", ".mrw", ".kdc", ".dcr", ".erf", ".mef", ".gpr", ".raw",
)  # fmt: skip
OTHER_IMAGES = (
    ".jxl", ".jxr", ".exr", ".hdr", ".psd", ".psb", ".xcf", ".tga", ".dds", ".svg", ".eps", ".ps", ".pdf", ".ai",
    ".ico", ".insp", ".pcx", ".pnm", ".pbm", ".sgi", ".qoi",
)  # fmt: skip

# Where a file without a known suffix begins like this, it is a photograph that has lost its suffix.
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"II*\0", b"MM\0*", b"RIFF", b"GIF8", b"\0\0\0\x0cjP")


def some(names: Sequence[str], most: int = 5) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def counted(count: int, noun: str) -> str:
    """`1 file` or `3 files`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def heif_is_readable() -> bool:
    """Whether pillow-heif is installed."""
    from importlib.util import find_spec

    return find_spec("pillow_heif") is not None


def is_image(name: str | Path) -> bool:
    """Whether the suffix is that of a photograph which can be read here."""
    suffix = PurePosixPath(name).suffix.lower()
    return suffix in IMAGES or (suffix in HEIF and heif_is_readable())


def readable() -> str:
    """The suffixes of photographs that can be read here, for messages."""
    return ", ".join((*IMAGES, *(HEIF if heif_is_readable() else ())))


@dataclass(frozen=True)
class LeftOut:
    """Files of one kind that are not taken: the reason with its remedy, and the names."""

    reason: str
    names: tuple[str, ...]

    def text(self) -> str:
        """The kind as a part of a sentence: the count, five names, and the reason."""
        return f"{len(self.names):,} {self.reason}: {some(self.names)}"


def why_left_out(path: Path, name: str) -> str | None:
    """The reason for which `path`, no photograph that can be read, is left out; None for what is no photograph.

    Args:
        path: the file.
        name: its path within the folder, with forward slashes.
    """
    suffix = path.suffix.lower()
    if path.name.startswith("._"):
        return (
            "AppleDouble (macOS writes them beside a photograph; they hold no picture)" if _pictures(suffix) else None
        )
    hidden = any(part.startswith(".") for part in PurePosixPath(name).parts)
    if hidden:
        return "hidden (rename what is a photograph)" if _pictures(suffix) else None
    if suffix in HEIF:
        return f"{suffix} (to read them, {HEIF_REMEDY})"
    if suffix in RAW:
        return f"{suffix} (raw; develop them to .jpg or 16-bit .tif first)"
    if suffix in VIDEOS:
        return f"{suffix} (a video; reconstruct it by itself)"
    if suffix in OTHER_IMAGES:
        return f"{suffix} (not read here; convert them to .jpg or .png first)"
    return (
        "without a suffix that is known, yet a picture by content (rename them)"
        if _looks_like_a_picture(path)
        else None
    )


def left_out(files: Iterable[tuple[Path, str]]) -> tuple[LeftOut, ...]:
    """Group the files that `why_left_out` names by their reasons, the largest group first."""
    groups: dict[str, list[str]] = {}
    for path, name in files:
        reason = why_left_out(path, name)
        if reason is not None:
            groups.setdefault(reason, []).append(name)
    found = [LeftOut(reason, tuple(sorted(names))) for reason, names in groups.items()]
    return tuple(sorted(found, key=lambda group: (-len(group.names), group.reason)))


def sentence(groups: Sequence[LeftOut]) -> str:
    """`24 files are left out: 16 .cr2 (...): a.cr2, b.cr2 and 14 more; 8 ...`, without a full stop."""
    count = sum(len(group.names) for group in groups)
    are = "file is" if count == 1 else "files are"
    return f"{count:,} {are} left out: {'; '.join(group.text() for group in groups)}"


def _pictures(suffix: str) -> bool:
    return suffix in (*IMAGES, *HEIF, *RAW, *VIDEOS, *OTHER_IMAGES)


def _looks_like_a_picture(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError:
        return False
    return start.startswith(_SIGNATURES) or start[4:8] == b"ftyp"
