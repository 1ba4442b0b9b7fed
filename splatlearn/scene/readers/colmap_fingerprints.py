"""Fingerprints of a COLMAP folder, by which a resumed run recognises its data wherever they are."""

import hashlib
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from splatlearn.errors import SplatlearnError
from splatlearn.provenance import fingerprint
from splatlearn.scene.readers.colmap_files import RegisteredImage

_CHUNK = 1 << 20  # bytes read at once


def fingerprints(
    images: Mapping[str, RegisteredImage], folder: Path, masks: Mapping[str, Path], held_out: Collection[str]
) -> dict[str, dict[str, str]]:
    """Hash images, masks, poses, intrinsics and split, by image name.

    Args:
        images: those in use, in the frame of the model's files.
        folder: of the image files.
        masks: their files, for images that have one.
        held_out: names of the held-out images.

    Returns:
        See `splatlearn.Task.fingerprints`.

    Raises:
        SplatlearnError: a file cannot be read.
    """
    files = {name: folder / name for name in images}
    masked = {name: path for name, path in masks.items() if name in images}
    with ThreadPoolExecutor(thread_name_prefix="fingerprints") as pool:  # hashlib hashes outside of the GIL
        photos = dict(zip(files, pool.map(_of_file, files.values()), strict=True))
        mask_files = dict(zip(masked, pool.map(_of_file, masked.values()), strict=True))
    return {
        "photographs": photos,
        "masks": mask_files,
        "poses": {name: _of_numbers(image.world_to_camera) for name, image in images.items()},
        "intrinsics": {name: fingerprint(_intrinsics(image)) for name, image in images.items()},
        "split": {name: "test" if name in held_out else "train" for name in images},
    }


def _of_file(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise SplatlearnError(f"{path} cannot be read: {error.strerror or error}.") from None
    return digest.hexdigest()[:16]


def _of_numbers(values: np.ndarray) -> str:
    return fingerprint((np.asarray(values, "<f8") + 0.0).tobytes())  # + 0.0: -0 is 0


def _intrinsics(image: RegisteredImage) -> bytes:
    camera = image.intrinsics
    return repr((camera.model, camera.width, camera.height, [float(value) for value in camera.params])).encode()
