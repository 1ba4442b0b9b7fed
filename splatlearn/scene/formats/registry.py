"""Read and write a scene in the format that the file's suffix names."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import torch

from splatlearn.errors import SplatlearnError
from splatlearn.notices import warn
from splatlearn.registry import WRITERS
from splatlearn.scene.formats.checks import Tensors
from splatlearn.scene.formats.gltf import write_gltf
from splatlearn.scene.formats.gltf_reader import read_gltf
from splatlearn.scene.formats.ply import read_ply_with_mode, write_ply
from splatlearn.scene.formats.splat import read_splat, write_splat
from splatlearn.scene.formats.spz import read_spz, write_spz
from splatlearn.scene.frame import Frame
from splatlearn.scene.schema import GAUSSIAN, Schema


class Splats(NamedTuple):
    """The content of a scene file."""

    tensors: dict[str, torch.Tensor]  # as `read_ply` gives them
    antialiased: bool | None  # trained with opacities compensated for the low-pass filter; None: not in the file


class Format(Protocol):
    """How one kind of scene file is read and written. `splatlearn.registry.WRITERS` finds it by the file's suffix.

    sh_degree: the highest degree of spherical harmonics that a file holds.
    antialiased: whether a file says that the scene was trained antialiased.
    """

    sh_degree: int
    antialiased: bool

    @staticmethod
    def read(path: Path, drop: bool, schema: Schema) -> Splats:
        """Read a file; see `read`."""

    @staticmethod
    def write(path: Path, tensors: Tensors, options: "WriteOptions") -> Frame:
        """Write a file; see `write`."""


@dataclass(frozen=True)
class WriteOptions:
    """Options of `write`; a format takes those that it knows."""

    antialiased: bool | None = None
    spz_version: int = 4
    embed: bool = False


class Ply:
    """PLY of the original 3DGS, with columns for further parameters."""

    sh_degree = 4
    antialiased = True

    @staticmethod
    def read(path: Path, drop: bool, schema: Schema) -> Splats:
        return Splats(*read_ply_with_mode(path, drop, schema))

    @staticmethod
    def write(path: Path, tensors: Tensors, options: WriteOptions) -> Frame:
        mode = None if options.antialiased is None else "mip" if options.antialiased else "default"
        return write_ply(path, tensors, mode)


class Splat:
    """Records of 32 bytes without colours by direction."""

    sh_degree = 0
    antialiased = False

    @staticmethod
    def read(path: Path, drop: bool, schema: Schema) -> Splats:
        return Splats(read_splat(path, drop), None)

    @staticmethod
    def write(path: Path, tensors: Tensors, options: WriteOptions) -> Frame:
        return write_splat(path, tensors)


class Spz:
    """SPZ, versions 1 to 4 read, 3 and 4 written."""

    sh_degree = 4
    antialiased = True

    @staticmethod
    def read(path: Path, drop: bool, schema: Schema) -> Splats:
        return Splats(*read_spz(path, drop))

    @staticmethod
    def write(path: Path, tensors: Tensors, options: WriteOptions) -> Frame:
        return write_spz(path, tensors, version=options.spz_version, antialiased=bool(options.antialiased))


class Gltf:
    """glTF 2.0 with KHR_gaussian_splatting, as .gltf and .glb."""

    sh_degree = 3
    antialiased = False

    @staticmethod
    def read(path: Path, drop: bool, schema: Schema) -> Splats:
        return Splats(*read_gltf(path, drop))

    @staticmethod
    def write(path: Path, tensors: Tensors, options: WriteOptions) -> Frame:
        return write_gltf(path, tensors, embed=options.embed, antialiased=options.antialiased)


def suffixes() -> list[str]:
    """The suffixes of the known formats, with their dots."""
    return [f".{word}" for word in WRITERS.words()]


def format_of(path: Path, action: str = "read") -> type[Format]:
    """The format that a file's suffix names.

    Raises:
        SplatlearnError: the suffix is unknown.
    """
    word = path.suffix.lower().removeprefix(".")
    if word not in WRITERS.words():
        end = "can be read" if action == "read" else "is written"
        raise SplatlearnError(f"{path} is of no format that {end}: its name must end in {', '.join(suffixes())}.")
    found: type[Format] = WRITERS.find(word)
    return found


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
    try:
        return format_of(path).read(path, drop, schema)
    except MemoryError as error:
        raise SplatlearnError(f"{path} does not fit into memory.") from error


def write(
    path: Path | str,
    tensors: Tensors,
    *,
    antialiased: bool | None = None,
    spz_version: int = 4,
    embed: bool = False,
) -> Frame:
    """Write a scene atomically in the format that the suffix names; a warning names what the format cannot hold.

    Args:
        path: the file.
        tensors: as `read_ply` returns them, means also in float64.
        antialiased: whether training compensated opacities for the low-pass filter; PLY and SPZ store it.
        spz_version: 3 or 4.
        embed: store the data of a `.gltf` within it, as base64.

    Returns:
        The frame of the positions in the file: the identity, or what leads back from an origin near the scene, where
        the file's numbers cannot hold the positions. `read` undoes it.

    Raises:
        SplatlearnError: the suffix is unknown, the tensors do not fit together, or the file cannot be written.
    """
    path = Path(path)
    chosen = format_of(path, "write")
    place = chosen.write(path, tensors, WriteOptions(antialiased, spz_version, embed))
    if antialiased and not getattr(chosen, "antialiased", False):
        warn(
            f"{path} cannot hold that the scene was trained antialiased (mip): other viewers will render small "
            "Gaussians too opaque."
        )
    degree = math.isqrt(tensors["shN"].shape[1] + 1) - 1
    if degree > chosen.sh_degree:
        warn(f"{path} keeps colours by direction up to degree {chosen.sh_degree} of {degree}.")
    return place
