"""Reads a COLMAP model and checks all of it, so that nothing damaged or hostile reaches what comes after.

COLMAP's own reader hangs on a cut points3D.bin, silently returns wrong numbers for a cut cameras.bin and
accepts NaN poses, focal lengths below zero and names such as "../../x". So the files are read here
(colmap_binary, colmap_text), and pycolmap is asked for lens equations only.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from splatlearn.errors import SplatlearnError
from splatlearn.scene.readers import colmap_binary, colmap_text
from splatlearn.scene.readers.colmap_records import Frame, Lens, Photograph, Points, Pose, RawModel, Rig

LARGEST_SIDE = 1 << 20  # pixels; no photograph is larger, and no loop over a lens's border takes long
QUATERNION_TOLERANCE = 1e-3  # text models written with few digits stay within it
POSE_TOLERANCE = 1e-3  # between images.bin and frames.bin: rotation entries, and translation over its own length
LARGEST_LENGTH = 1e18  # its square still fits into float32, and no scene is that large
LONGEST_NAME = 1024
CAMERA_SENSOR = 0


@dataclass(frozen=True)
class ModelImage:
    """A registered image: its name (relative, forward slashes), lens and pose ([4, 4] float64)."""

    name: str
    lens: Lens
    world_to_camera: np.ndarray


@dataclass(frozen=True)
class Model:
    """A checked COLMAP model: images sorted by name, points [P, 3] float32 and their colours [P, 3] uint8."""

    images: list[ModelImage]
    points: np.ndarray
    point_colors: np.ndarray


def read_model(folder: Path) -> Model:
    """Reads and checks the model in `folder`: cameras, images, points3D as .bin or, without them, as .txt.

    Raises SplatlearnError, one sentence that names the file and what is wrong with it, for missing, cut or
    damaged files, numbers that are not finite, focal lengths and sizes that are not positive, quaternions not
    of unit length, ids that are doubled or lead nowhere, and names that could leave the image folder.
    """
    raw, suffix = _read(folder)
    lenses_file, images_file = folder / f"cameras{suffix}", folder / f"images{suffix}"
    points_file = folder / f"points3D{suffix}"
    lenses = {lens.id: _checked_lens(lens, lenses_file) for lens in raw.lenses}
    _check_unique((lens.id for lens in raw.lenses), "camera", lenses_file)
    _check_unique((photo.id for photo in raw.photographs), "image", images_file)
    _check_unique((str(PurePosixPath(photo.name)) for photo in raw.photographs), "image name", images_file)
    images = [_checked_image(photo, lenses, images_file) for photo in raw.photographs]
    if not images:
        raise SplatlearnError(f"{images_file} holds no registered image, so there is nothing to learn from.")
    _check_rigs(raw, folder, suffix)
    points = _checked_points(raw, points_file, images_file)
    return Model(sorted(images, key=lambda image: image.name), points, np.ascontiguousarray(raw.points.colors))


def _read(folder: Path) -> tuple[RawModel, str]:
    for suffix, reader in ((".bin", colmap_binary), (".txt", colmap_text)):
        paths = [folder / f"{stem}{suffix}" for stem in ("cameras", "images", "points3D", "rigs", "frames")]
        if not all(path.is_file() for path in paths[:3]):
            continue
        lenses, images, points, rigs, frames = paths
        try:
            return RawModel(
                reader.read_lenses(lenses),
                reader.read_photographs(images),
                reader.read_points(points),
                reader.read_rigs(rigs) if rigs.is_file() else None,
                reader.read_frames(frames) if frames.is_file() else None,
            ), suffix
        except OSError as error:
            raise SplatlearnError(f"{error.filename or folder} cannot be read: {error.strerror or error}.") from None
    raise SplatlearnError(
        f"{folder} holds no COLMAP model: expected cameras.bin, images.bin and points3D.bin there, or the same as .txt."
    )


def _check_unique(ids: Iterable[object], what: str, file: Path) -> None:
    doubled = [key for key, count in Counter(ids).items() if count > 1]
    if doubled:
        raise SplatlearnError(f"{file} is damaged: {what} {_short(doubled[0])} appears more than once.")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _checked_lens(lens: Lens, file: Path) -> Lens:
    named = lens.named()
    wrong = None
    if not (1 <= lens.width <= LARGEST_SIDE and 1 <= lens.height <= LARGEST_SIDE):
        wrong = f"its size must be 1 to {LARGEST_SIDE} pixels a side, but is {lens.width}x{lens.height}"
    elif not all(map(math.isfinite, lens.params)):
        numbers = ", ".join(f"{key}={value}" for key, value in named.items())
        wrong = f"its parameters must be finite numbers, but are {numbers}"
    elif lens.model == "EQUIRECTANGULAR" and lens.params != (lens.width, lens.height):
        wrong = f"its parameters must be its size {lens.width}x{lens.height}, but are {lens.params}"
    else:
        for key, value in named.items():
            if key.startswith("f") and not value > 0:
                wrong = f"its focal length {key} must be above zero, but is {value}"
    if wrong:
        raise SplatlearnError(f"{file}: camera {lens.id} ({lens.model}) is not usable: {wrong}.")
    return lens


def _check_pose(pose: Pose, what: str, file: Path) -> None:
    if not all(map(math.isfinite, (*pose.quaternion, *pose.translation))):
        numbers = f"{_numbers(pose.quaternion)} {_numbers(pose.translation)}"
        raise SplatlearnError(f"{file}: the pose of {what} must be finite, but is {numbers}.")
    length = math.hypot(*pose.quaternion)
    if not abs(length - 1) <= QUATERNION_TOLERANCE:
        raise SplatlearnError(
            f"{file}: the quaternion of {what} must have length 1, but {_numbers(pose.quaternion)} has {length:.6g}."
        )
    if max(map(abs, pose.translation)) > LARGEST_LENGTH:
        raise SplatlearnError(f"{file}: the translation of {what} is out of range: {_numbers(pose.translation)}.")


def _numbers(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in values) + ")"


def _checked_image(photo: Photograph, lenses: dict[int, Lens], file: Path) -> ModelImage:
    name = photo.name
    parts = name.split("/")
    wrong = None
    if not name or not PurePosixPath(name).name:
        wrong = "is empty"
    elif len(name) > LONGEST_NAME:
        wrong = f"is longer than {LONGEST_NAME} characters"
    elif name.startswith("/"):
        wrong = "is an absolute path"
    elif ".." in parts:
        wrong = "leaves the image folder by '..'"
    elif "\\" in name:
        wrong = "holds a backslash where COLMAP writes forward slashes"
    elif not name.isprintable():
        wrong = "holds characters that cannot be printed"
    if wrong:
        raise SplatlearnError(f"{file}: the name {_short(name)} of image {photo.id} {wrong}.")
    if photo.lens_id not in lenses:
        raise SplatlearnError(
            f"{file}: image {photo.id} ({_short(name)}) uses camera {photo.lens_id}, which is not there."
        )
    _check_pose(photo.pose, f"image {photo.id} ({_short(name)})", file)
    return ModelImage(str(PurePosixPath(name)), lenses[photo.lens_id], photo.pose.matrix())


def _checked_points(raw: RawModel, file: Path, images_file: Path) -> np.ndarray:
    points: Points = raw.points
    if not len(points.ids):
        raise SplatlearnError(f"{file} holds no points, but Gaussians start at the points of the reconstruction.")
    with np.errstate(all="ignore"):
        xyz = points.xyz.astype(np.float32)
    finite = np.isfinite(xyz).all(axis=1)
    if not finite.all():
        first = int(np.argmin(finite))
        raise SplatlearnError(
            f"{file}: the position of point {points.ids[first]} must be finite, but is "
            f"{_numbers(tuple(points.xyz[first]))}."
        )
    known = np.unique(points.ids)
    if len(known) < len(points.ids):
        in_order = np.sort(points.ids)
        doubled = in_order[:-1][in_order[:-1] == in_order[1:]]
        raise SplatlearnError(f"{file} is damaged: point {doubled[0]} appears more than once.")
    for photo in raw.photographs:
        strangers = _strangers(photo.point_ids, known)
        if len(strangers):
            raise SplatlearnError(
                f"{images_file} and {file.name} do not belong together: image {photo.id} sees point "
                f"{strangers[0]}, which is not there."
            )
    image_ids = np.sort(np.array([photo.id for photo in raw.photographs], dtype=np.uint32))
    strangers = _strangers(points.track_image_ids, image_ids)
    if len(strangers):
        raise SplatlearnError(
            f"{file} and {images_file.name} do not belong together: a point is seen by image {strangers[0]}, "
            "which is not there."
        )
    return xyz


def _strangers(ids: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Those of `ids` that are not in `known`, which is sorted and not empty."""
    nearest = known[np.minimum(np.searchsorted(known, ids), len(known) - 1)]
    return ids[nearest != ids]


def _check_rigs(raw: RawModel, folder: Path, suffix: str) -> None:
    """COLMAP since 3.12 says each pose twice, in images and by frames and rigs: they must agree."""
    rigs_file, frames_file = folder / f"rigs{suffix}", folder / f"frames{suffix}"
    for rig in raw.rigs or []:
        for (kind, sensor_id), sensor_from_rig in rig.sensors.items():
            if sensor_from_rig is not None:
                _check_pose(sensor_from_rig, f"sensor {sensor_id} of type {kind} in rig {rig.id}", rigs_file)
    for frame in raw.frames or []:
        _check_pose(frame.pose, f"frame {frame.id}", frames_file)
    if raw.rigs is None or raw.frames is None:
        return
    rigs = {rig.id: rig for rig in raw.rigs}
    poses = _poses_by_frames(raw.frames, rigs, frames_file)
    for photo in raw.photographs:
        if photo.id not in poses:
            raise SplatlearnError(f"{frames_file}: no frame holds image {photo.id} ({_short(photo.name)}).")
        pose = poses[photo.id]
        if pose is None:
            continue
        expected = photo.pose.matrix()
        tolerance = np.full((4, 4), POSE_TOLERANCE)
        tolerance[:3, 3] *= 1 + np.linalg.norm(expected[:3, 3])
        if (np.abs(pose - expected) > tolerance).any():
            raise SplatlearnError(
                f"{frames_file} and images{suffix} do not belong together: they give image {photo.id} "
                f"({_short(photo.name)}) different poses."
            )


def _poses_by_frames(frames: list[Frame], rigs: dict[int, Rig], file: Path) -> dict[int, np.ndarray | None]:
    """Camera from world of each image, by its id; None where a rig does not know its sensor's pose."""
    poses: dict[int, np.ndarray | None] = {}
    for frame in frames:
        if frame.rig_id not in rigs:
            raise SplatlearnError(f"{file}: frame {frame.id} belongs to rig {frame.rig_id}, which is not there.")
        sensors = rigs[frame.rig_id].sensors
        rig_from_world = frame.pose.matrix()
        for kind, sensor_id, data_id in frame.data:
            if (kind, sensor_id) not in sensors:
                raise SplatlearnError(
                    f"{file}: frame {frame.id} names sensor {sensor_id} of type {kind}, which rig {frame.rig_id} lacks."
                )
            sensor_from_rig = sensors[kind, sensor_id]
            if kind == CAMERA_SENSOR:
                poses[data_id] = None if sensor_from_rig is None else sensor_from_rig.matrix() @ rig_from_world
    return poses
