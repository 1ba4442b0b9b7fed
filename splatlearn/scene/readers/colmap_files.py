"""Read a COLMAP model and check all of it, so that no damaged or hostile value reaches the rest of the program.

COLMAP's own reader hangs on a truncated points3D.bin and returns wrong numbers for a truncated cameras.bin. It also
accepts NaN poses, negative focal lengths and names such as "../../x". Therefore `colmap_binary` and `colmap_text`
read the files here; pycolmap only evaluates camera models.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import ModuleType

import numpy as np

from splatlearn.errors import SplatlearnError
from splatlearn.notices import warn
from splatlearn.scene.readers import colmap_binary, colmap_text
from splatlearn.scene.readers.colmap_records import (
    Frame,
    ImageRecord,
    Intrinsics,
    ModelRecords,
    PointRecords,
    Rig,
    Rigid3d,
)
from splatlearn.scene.readers.odd_cameras import unusable_parameter

LARGEST_SIDE = 1 << 20  # pixels; bounds the time of pycolmap's loops over an image's border
QUATERNION_TOLERANCE = 1e-3  # loose enough for text models written with few digits
TEXT_TOLERANCE = 1e-5  # between .bin and .txt, which may be written with few digits
POSE_TOLERANCE = 1e-3  # between images.bin and frames.bin: rotation entries; translation relative to its length
LARGEST_LENGTH = 1e18  # its square still fits into float32
LONGEST_NAME = 1024
OBSERVERS, OBSERVED = 32, 1000  # images whose observed points are kept, and points of each
CAMERA_SENSOR = 0
_REMEDY = "Gaussians start at the points of the reconstruction, but --init FILE starts from a file of Gaussians instead"
_NO_POINTS = PointRecords(
    np.zeros(0, np.uint64), np.zeros((0, 3), np.float64), np.zeros((0, 3), np.uint8), np.zeros(0, np.uint32)
)


@dataclass(frozen=True)
class RegisteredImage:
    """A checked image: name (a relative path with forward slashes), intrinsics and pose ([4, 4] float64)."""

    name: str
    intrinsics: Intrinsics
    world_to_camera: np.ndarray


@dataclass(frozen=True)
class Model:
    """A checked COLMAP model: images sorted by name, points [P, 3] float64 and their colours [P, 3] uint8.

    observed: rows of points that an image observed, by its name, for some images and at most OBSERVED rows each.
    """

    images: list[RegisteredImage]
    points: np.ndarray
    point_colors: np.ndarray
    observed: dict[str, np.ndarray]


def read_model(folder: Path, require_points: bool = True) -> Model:
    """Read and check a COLMAP model.

    Args:
        folder: contains cameras, images and points3D, and optionally rigs and frames, all as .bin or all as .txt;
            .bin wins where both exist.
        require_points: False: points that are missing or unusable are left out, the latter with a warning.

    Raises:
        SplatlearnError: a file is missing, truncated or damaged; a number is not finite; a focal length or a size is
            not positive; a quaternion does not have unit length; an id is duplicate or undefined; or a name could
            leave the image folder. The message names the file and the fault.
    """
    raw, suffix = _read(folder, require_points)
    cameras_file, images_file = folder / f"cameras{suffix}", folder / f"images{suffix}"
    points_file = folder / f"points3D{suffix}"
    cameras = {intrinsics.id: _checked_intrinsics(intrinsics, cameras_file) for intrinsics in raw.cameras}
    _check_unique((intrinsics.id for intrinsics in raw.cameras), "camera", cameras_file)
    _check_unique((record.id for record in raw.images), "image", images_file)
    _check_unique((str(PurePosixPath(record.name)) for record in raw.images), "image name", images_file)
    images = [_checked_image(record, cameras, images_file) for record in raw.images]
    if not images:
        raise SplatlearnError(f"{images_file} holds no registered image, so there is nothing to learn from.")
    _check_rigs(raw, folder, suffix)
    images.sort(key=lambda image: image.name)
    colors, observed = np.ascontiguousarray(raw.points.colors), _observed(raw)
    try:
        xyz = _checked_points(raw, points_file, images_file, require_points)
    except SplatlearnError as error:
        if require_points:
            raise
        warn(f"{str(error).rstrip('.')}; going on without points.")
        xyz, colors, observed = _NO_POINTS.xyz, _NO_POINTS.colors, {}
    return Model(images, xyz, colors, observed)


def _observed(raw: ModelRecords) -> dict[str, np.ndarray]:
    """The rows of points that some images observed, evenly chosen; points that are not there are left out."""
    order = np.argsort(raw.points.ids)
    known, found = raw.points.ids[order], {}
    for record in raw.images[:: max(1, len(raw.images) // OBSERVERS)] if len(known) else ():
        ids = record.point_ids[:: max(1, len(record.point_ids) // OBSERVED)]
        place = np.minimum(np.searchsorted(known, ids), len(known) - 1)
        found[str(PurePosixPath(record.name))] = order[place[known[place] == ids]]
    return found


def _read(folder: Path, require_points: bool) -> tuple[ModelRecords, str]:
    readers = ((".bin", colmap_binary), (".txt", colmap_text))
    stems = ("cameras", "images", "points3D", "rigs", "frames")
    for needed in (3,) if require_points else (3, 2):  # a complete model comes before one without points
        for suffix, reader in readers:
            paths = [folder / f"{stem}{suffix}" for stem in stems]
            if all(path.is_file() for path in paths[:needed]):
                return _read_files(reader, paths, require_points), suffix
    if any(all((folder / f"{stem}{suffix}").is_file() for stem in stems[:2]) for suffix, _ in readers):
        raise SplatlearnError(f"{folder} holds no points (points3D.bin or points3D.txt); {_REMEDY}.")
    raise SplatlearnError(
        f"{folder} holds no COLMAP model: expected cameras.bin, images.bin and points3D.bin there, or the same as .txt."
    )


def _compare_with_text(records: ModelRecords, folder: Path) -> None:
    """Warn where cameras or images of .txt files beside the .bin files are others."""
    cameras, images = folder / "cameras.txt", folder / "images.txt"
    if not (cameras.is_file() and images.is_file()):
        return
    try:
        others, other_images = colmap_text.read_cameras(cameras), colmap_text.read_images(images)
        what = _difference(records, others, other_images)
    except SplatlearnError as error:
        what = str(error).rstrip(".")
    if what:
        warn(
            f"{folder} holds a model as .bin and another as .txt, which differ ({what}); the .bin files are read: "
            "remove those of one kind."
        )


def _difference(records: ModelRecords, cameras: list[Intrinsics], images: list[ImageRecord]) -> str:
    if len(records.images) != len(images):
        return f"{len(records.images):,} images and {len(images):,}"
    if len(records.cameras) != len(cameras):
        return f"{len(records.cameras):,} cameras and {len(cameras):,}"
    by_name = {image.name: image for image in images}
    for image in records.images:
        other = by_name.get(image.name)
        if other is None:
            return f"image {_short(image.name)} is only in images.bin"
        ours, theirs = (each.pose.quaternion + each.pose.translation for each in (image, other))
        if not np.allclose(ours, theirs, rtol=TEXT_TOLERANCE, atol=TEXT_TOLERANCE, equal_nan=True):
            return f"the pose of image {_short(image.name)}"
    by_id = {camera.id: camera for camera in cameras}
    for camera in records.cameras:
        twin = by_id.get(camera.id)
        if twin is None or (camera.model, camera.width, camera.height) != (twin.model, twin.width, twin.height):
            return f"camera {camera.id}"
        if not np.allclose(camera.params, twin.params, rtol=TEXT_TOLERANCE, equal_nan=True):
            return f"the parameters of camera {camera.id}"
    return ""


def _read_files(reader: ModuleType, paths: list[Path], require_points: bool) -> ModelRecords:
    cameras, images, points, rigs, frames = paths
    try:
        records = ModelRecords(
            reader.read_cameras(cameras),
            reader.read_images(images),
            _read_points(reader, points, require_points),
            reader.read_rigs(rigs) if rigs.is_file() else None,
            reader.read_frames(frames) if frames.is_file() else None,
        )
        if reader is colmap_binary:
            _compare_with_text(records, cameras.parent)
        return records
    except OSError as error:
        raise _unreadable(error) from None


def _read_points(reader: ModuleType, file: Path, required: bool) -> PointRecords:
    if not required and not file.is_file():
        return _NO_POINTS
    try:
        return reader.read_points(file)  # type: ignore[no-any-return]
    except (SplatlearnError, OSError) as error:
        if required:
            raise
        sentence = str(_unreadable(error) if isinstance(error, OSError) else error)
        warn(f"{sentence.rstrip('.')}; going on without points.")
        return _NO_POINTS


def _unreadable(error: OSError) -> SplatlearnError:
    return SplatlearnError(f"{error.filename} cannot be read: {error.strerror or error}.")


def _check_unique(ids: Iterable[object], what: str, file: Path) -> None:
    duplicates = [key for key, count in Counter(ids).items() if count > 1]
    if duplicates:
        raise SplatlearnError(f"{file} is damaged: {what} {_short(duplicates[0])} appears more than once.")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _checked_intrinsics(intrinsics: Intrinsics, file: Path) -> Intrinsics:
    named = intrinsics.named()
    wrong = None
    if not (1 <= intrinsics.width <= LARGEST_SIDE and 1 <= intrinsics.height <= LARGEST_SIDE):
        wrong = f"its size must be 1 to {LARGEST_SIDE} pixels a side, but is {intrinsics.width}x{intrinsics.height}"
    elif not all(map(math.isfinite, intrinsics.params)):
        numbers = ", ".join(f"{key}={value}" for key, value in named.items() if not math.isfinite(value))
        wrong = f"its parameters must be finite numbers, but are {numbers}"
    elif intrinsics.model == "EQUIRECTANGULAR" and intrinsics.params != (intrinsics.width, intrinsics.height):
        wrong = f"its parameters must be its size {intrinsics.width}x{intrinsics.height}, but are {intrinsics.params}"
    else:
        wrong = unusable_parameter(intrinsics)
    if wrong:
        raise SplatlearnError(f"{file}: camera {intrinsics.id} ({intrinsics.model}) is not usable: {wrong}.")
    return intrinsics


def _check_pose(pose: Rigid3d, what: str, file: Path) -> None:
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


def _checked_image(record: ImageRecord, cameras: dict[int, Intrinsics], file: Path) -> RegisteredImage:
    name = record.name
    parts = name.split("/")
    wrong = None
    if not name or not PurePosixPath(name).name:
        wrong = "is empty"
    elif len(name) > LONGEST_NAME:
        wrong = f"is longer than {LONGEST_NAME} characters"
    elif name.startswith("/"):
        wrong = "is an absolute path; expected one relative to the folder of the photographs"
    elif ".." in parts:
        wrong = "leaves the image folder by '..'"
    elif "\\" in name:
        wrong = (
            "holds a backslash where COLMAP writes forward slashes, as a path of Windows does; expected it relative to "
            f"the folder of the photographs, such as {_short(PureWindowsPath(name).name)}"
        )
    elif not name.isprintable():
        wrong = "holds characters that cannot be printed"
    if wrong:
        raise SplatlearnError(f"{file}: the name {_short(name)} of image {record.id} {wrong}.")
    if record.camera_id not in cameras:
        raise SplatlearnError(
            f"{file}: image {record.id} ({_short(name)}) uses camera {record.camera_id}, which is not there."
        )
    _check_pose(record.pose, f"image {record.id} ({_short(name)})", file)
    return RegisteredImage(str(PurePosixPath(name)), cameras[record.camera_id], record.pose.matrix())


def _checked_points(raw: ModelRecords, file: Path, images_file: Path, required: bool) -> np.ndarray:
    points: PointRecords = raw.points
    if not len(points.ids):
        if required:
            raise SplatlearnError(f"{file} holds no points; {_REMEDY}.")
        return _NO_POINTS.xyz
    with np.errstate(all="ignore"):
        finite = np.isfinite(points.xyz.astype(np.float32)).all(axis=1)
    if not finite.all():
        first = int(np.argmin(finite))
        raise SplatlearnError(
            f"{file}: the position of point {points.ids[first]} must be finite, but is "
            f"{_numbers(tuple(points.xyz[first]))}."
        )
    known = np.unique(points.ids)
    if len(known) < len(points.ids):
        in_order = np.sort(points.ids)
        duplicates = in_order[:-1][in_order[:-1] == in_order[1:]]
        raise SplatlearnError(f"{file} is damaged: point {duplicates[0]} appears more than once.")
    for record in raw.images:
        unknown = _unknown_ids(record.point_ids, known)
        if len(unknown):
            raise SplatlearnError(
                f"{images_file} and {file.name} do not belong together: image {record.id} sees point "
                f"{unknown[0]}, which is not there."
            )
    image_ids = np.sort(np.array([record.id for record in raw.images], dtype=np.uint32))
    unknown = _unknown_ids(points.track_image_ids, image_ids)
    if len(unknown):
        raise SplatlearnError(
            f"{file} and {images_file.name} do not belong together: a point is seen by image {unknown[0]}, "
            "which is not there."
        )
    return points.xyz


def _unknown_ids(ids: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return the `ids` that are not in `known`, which must be sorted and not empty."""
    nearest = known[np.minimum(np.searchsorted(known, ids), len(known) - 1)]
    return ids[nearest != ids]


def _check_rigs(raw: ModelRecords, folder: Path, suffix: str) -> None:
    """Check that the poses of images and those of frames and rigs agree: COLMAP stores both since 3.12."""
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
    for record in raw.images:
        if record.id not in poses:
            raise SplatlearnError(f"{frames_file}: no frame holds image {record.id} ({_short(record.name)}).")
        pose = poses[record.id]
        if pose is None:
            continue
        expected = record.pose.matrix()
        tolerance = np.full((4, 4), POSE_TOLERANCE)
        tolerance[:3, 3] *= 1 + np.linalg.norm(expected[:3, 3])
        if (np.abs(pose - expected) > tolerance).any():
            raise SplatlearnError(
                f"{frames_file} and images{suffix} do not belong together: they give image {record.id} "
                f"({_short(record.name)}) different poses."
            )


def _poses_by_frames(frames: list[Frame], rigs: dict[int, Rig], file: Path) -> dict[int, np.ndarray | None]:
    """Compute camera from world of each image, by image id; None where the rig has no pose for the sensor."""
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
