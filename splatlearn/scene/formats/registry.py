"""Read and write a scene in the format that the file's suffix names."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from splatlearn.errors import SplatlearnError
from splatlearn.scene.formats.checks import Tensors
from splatlearn.scene.formats.gltf import write_gltf
from splatlearn.scene.formats.gltf_reader import read_gltf
from splatlearn.scene.formats.ply import read_ply, read_render_mode, write_ply
from splatlearn.scene.formats.splat import read_splat, write_splat
from splatlearn.scene.formats.spz import read_spz, write_spz
from splatlearn.scene.schema import GAUSSIAN, Schema


class Splats(NamedTuple):
    """The content of a scene file."""

    tensors: dict[str, torch.Tensor]  # as `read_ply` gives them
    antialiased: bool | None  # trained with opacities compensated for the low-pass filter; None: not in the file


def _ply(path: Path, drop: bool, schema: Schema = GAUSSIAN) -> Splats:
    mode = read_render_mode(path)
    return Splats(read_ply(path, drop, schema), None if mode is None else mode == "mip")


READERS: dict[str, Callable[[Path, bool], Splats]] = {
    ".ply": _ply,
    ".splat": lambda path, drop: Splats(read_splat(path, drop), None),
    ".spz": lambda path, drop: Splats(*read_spz(path, drop)),
    ".gltf": lambda path, drop: Splats(read_gltf(path, drop), None),
    ".glb": lambda path, drop: Splats(read_gltf(path, drop), None),
}
WRITERS = (".ply", ".splat", ".spz", ".gltf", ".glb")
# the highest SH degree that a format stores
DEGREES = {".ply": 4, ".splat": 0, ".spz": 4, ".gltf": 3, ".glb": 3}


def read(path: Path | str, drop: bool = False, schema: Schema = GAUSSIAN) -> Splats:
    """Read a scene file in the format that its suffix names.

    Args:
        path: the file.
        drop: leave out Gaussians with values that are not finite instead of raising.
        schema: its further parameters are read from PLY, which alone can hold them.

    Raises:
        SplatlearnError: the suffix is unknown, the file cannot be read or is damaged, or, without `drop`, a value is
            not finite.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in READERS:
        raise SplatlearnError(f"{path} is of no format that can be read: its name must end in {', '.join(READERS)}.")
    return _ply(path, drop, schema) if suffix == ".ply" else READERS[suffix](path, drop)


def write(
    path: Path | str,
    tensors: Tensors,
    *,
    antialiased: bool | None = None,
    spz_version: int = 4,
    embed: bool = False,
) -> None:
    """Write a scene atomically in the format that the suffix names.

    Args:
        path: the file.
        tensors: as `read_ply` returns them.
        antialiased: whether training compensated opacities for the low-pass filter; PLY and SPZ store it.
        spz_version: 3 or 4.
        embed: store the data of a `.gltf` within it, as base64.

    Raises:
        SplatlearnError: the suffix is unknown, the tensors do not fit together, or the file cannot be written.
    """
    path = Path(path)
    match path.suffix.lower():
        case ".ply":
            write_ply(path, tensors, None if antialiased is None else "mip" if antialiased else "default")
        case ".splat":
            write_splat(path, tensors)
        case ".spz":
            write_spz(path, tensors, version=spz_version, antialiased=bool(antialiased))
        case ".gltf" | ".glb":
            write_gltf(path, tensors, embed=embed)
        case _:
            raise SplatlearnError(f"{path} is of no format that is written: its name must end in {', '.join(WRITERS)}.")
