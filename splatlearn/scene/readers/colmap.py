"""Load a COLMAP folder as a scene: checked cameras, points, undistorted images and the held-out split."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from splatlearn.config import key
from splatlearn.errors import SplatlearnError, listed
from splatlearn.notices import warn
from splatlearn.scene.cameras import Camera, radius_of, scene_extent
from splatlearn.scene.conventions import other_convention
from splatlearn.scene.frame import Frame, frame_of_cameras
from splatlearn.scene.geometry import DISTANT, outlying_cameras, outlying_points
from splatlearn.scene.photos.decode import image_size
from splatlearn.scene.photos.masks import mask_path, warn_of_unused
from splatlearn.scene.photos.opening import open_image
from splatlearn.scene.photos.panorama import panorama, warn_of_panoramas
from splatlearn.scene.photos.store import ImageSource, ImageStore
from splatlearn.scene.photos.undistort import Undistortion, undistortions
from splatlearn.scene.readers.colmap_files import Model, RegisteredImage, read_model
from splatlearn.scene.readers.colmap_fingerprints import fingerprints
from splatlearn.scene.readers.folders import LAYOUT, find_folders, warn_of_unposed
from splatlearn.scene.readers.holdout import check_holdout, held_out_images
from splatlearn.scene.readers.missing import why_unusable
from splatlearn.scene.readers.odd_cameras import warn_of_odd_cameras

ROUNDED = 1e-5  # of a scene's size: a step of its coordinates that shows in the images


class ColmapScene:
    """Images with known cameras, read from a folder that contains `images/` and `sparse/0/` (or `sparse/`).

    Loading never writes into that folder. The constructor checks every file and decodes every image once.
    A panorama (COLMAP's EQUIRECTANGULAR) becomes six cameras, the faces of a cube: "photo.jpg#front" and so on.

    `config.holdout` selects the held-out images by name. "every:N" takes the first of each N, "fraction:F" an evenly
    spread share, "file" the names in sparse/0/test.txt (one per line), "none" nothing. "auto" takes that file if it
    exists, else "every:8".

    Args:
        config: the folder and how to read it.

    Attributes:
        frame: the way back from the normalised frame, in which all of the following are, to that of the capture.
        train, test: the cameras (ideal pinholes), sorted by name.
        points: [P, 3] float64, the reconstructed points.
        point_colors: [P, 3] uint8 RGB.
        extent: the radius of the training cameras (see `scene_extent`).

    Raises:
        SplatlearnError: a file is missing or damaged, or a key of the config has no valid value. One error lists all
            images that are missing or cannot be decoded.
    """

    @dataclass
    class Config:
        """How to read the folder."""

        path: str = key(
            "", "a COLMAP folder; or a folder of photographs or a video, to be reconstructed first", path=True
        )
        reconstruct: Literal["ask", "yes", "no"] = key("ask", "whether to reconstruct photographs that have no model")
        images: str | None = key(None, "folder of the photographs in it, such as images_2; null: images", path=True)
        model: int | str | None = key(None, "the model in sparse/ to learn from, such as 1; null: the largest")
        masks: str | None = key(
            None, "folder of masks in it, photo.jpg.png for photo.jpg, black: ignored; null: none", path=True
        )
        downscale: int = key(1, "whole factor by which loading reduces the photographs, by averaging")
        holdout: str = key("auto", "held out: auto (test.txt, else every:8), every:N, fraction:F, file, none")
        skip_missing: bool = key(False, "continue without photographs that are missing or cannot be decoded")
        memory_gib: float = key(4.0, "memory for decoded photographs; those beyond it are decoded again when needed")
        cache: str | None = key(None, "folder that keeps undistorted photographs between runs; null: none", path=True)
        require_points: bool = key(True, "false: continue where the points of the model are missing or unusable")
        check_poses: bool = key(True, "refuse poses that fit the points or photographs in another convention alone")
        background: list[float] = key([0.0, 0.0, 0.0], "RGB, 0 to 1, behind photographs with an alpha channel")

    def __init__(self, config: Config) -> None:
        _check_config(config)
        self.config = config
        self.path = Path(config.path).expanduser()
        self.model_folder, self.image_folder = find_folders(self.path, config.images, config.model)
        model = _read(self.model_folder, self.path, config.require_points)
        sizes, failed = _stored_sizes(model.images, self.image_folder)
        warn_of_odd_cameras((image.intrinsics for image in model.images), self.model_folder)
        _warn_of_panoramas(model.images, sizes, self.image_folder)
        by_image = _undistortions(model.images, sizes, self.image_folder, config.downscale)
        masks = _masks(model.images, self.path, config.masks)
        mask_folder = self.path / config.masks if config.masks else None
        warn_of_unposed(self.image_folder, (image.name for image in model.images), mask_folder)
        sources, self._names = {}, {}
        cameras: dict[str, list[Camera]] = {}
        for image in model.images:
            for undistortion in by_image.get(image.name, []):
                camera = _camera(image, undistortion)
                cameras.setdefault(image.name, []).append(camera)
                sources[camera.name] = ImageSource(
                    self.image_folder / image.name, sizes[image.name], undistortion, masks.get(image.name)
                )
                self._names[camera.name] = image.name
        r, g, b = config.background
        self._store = ImageStore(
            sources,
            downscale=config.downscale,
            background=(r, g, b),
            memory_bytes=int(config.memory_gib * 2**30),
            cache=Path(config.cache).expanduser() if config.cache else None,
        )
        for name, error in self._store.check().items():
            failed[self._names[name]] = error
        self._report_failed(failed, len(model.images))
        names = [image.name for image in model.images if image.name not in failed]
        places = [self.model_folder, self.path / "sparse" / "0", self.path / "sparse"]
        registered = {image.name for image in model.images}
        held_out = held_out_images(config.holdout, names, registered, places, self.image_folder)
        self.train = [camera for name in names if name not in held_out for camera in cameras[name]]
        self.test = [camera for name in names if name in held_out for camera in cameras[name]]
        if not self.train:
            raise SplatlearnError(
                f"holdout {config.holdout!r} keeps all of {len(names)} photographs for evaluation, so that "
                "none is left to learn from ('none' keeps none)."
            )
        self._registered = {image.name: image for image in model.images if image.name not in failed}
        self._masks, self._held_out_names = masks, held_out
        self.points, self.point_colors = model.points, model.point_colors
        if config.check_poses:
            self._check_poses(model)
        self._leave_out_lost_points()
        self._capture = self.train, self.test, self.points
        both = self.train + self.test
        outlying = outlying_cameras(both, self.points)
        self._outlying = {camera.name for camera, far in zip(both, outlying, strict=True) if far}
        self._warn_of_outlying(len(both))
        self.place(frame_of_cameras([c for c in both if c.name not in self._outlying], self.points))
        self._warn_of_rounding()

    def place(self, frame: Frame) -> None:
        """Take another frame, such as that of the run that goes on: all cameras and points are mapped to it."""
        train, test, points = self._capture
        self.frame = frame
        self.train, self.test = ([frame.normalised_camera(camera) for camera in group] for group in (train, test))
        self.points = frame.normalised_points(points)
        self.extent = scene_extent([camera for camera in self.train if camera.name not in self._outlying] or self.train)

    def _check_poses(self, model: Model) -> None:
        """Refuse poses that fit points or photographs in another convention alone; warn where it only fits better."""
        observed = {name: model.points[rows] for name, rows in model.observed.items()}
        cameras = self.train + self.test
        found = other_convention(
            cameras, model.points, model.point_colors, observed, lambda camera: self.photo(camera).numpy()
        )
        if found is not None:
            sentence = (
                f"The poses in {self.model_folder} look like {found.name}: read so they explain {found.other:.0%} "
                f"{found.evidence}, as given {found.given:.0%}. Those of COLMAP are world to camera, x right, y down, "
                "z forward, quaternions wxyz: convert them"
            )
            if found.certain:
                raise SplatlearnError(f"{sentence} (--data.check_poses false takes them as they are).")
            warn(f"{sentence}, if that is so.")

    def _leave_out_lost_points(self) -> None:
        """Warn of points that are far off, and leave out those from which nothing can be learned."""
        centers = np.stack([camera.center for camera in self.train + self.test])
        far, lost = outlying_points(self.points, radius_of(centers))
        if lost.any():
            self.points, self.point_colors = self.points[~lost], self.point_colors[~lost]
        if far.any():
            left = f", {lost.sum():,} of them so far that they are left out" if lost.any() else ""
            warn(
                f"{int(far.sum()):,} of {len(far):,} points of {self.model_folder} lie more than {DISTANT:,.0f} times "
                f"as far off as most{left}; they do not count for the scene's size."
            )

    def _warn_of_rounding(self) -> None:
        """Warn where the capture stands so far from the origin that even float64 rounds it."""
        step = float(np.spacing(np.abs(self.frame.offset).max()))
        if step > ROUNDED * self.frame.scale:
            warn(
                f"The coordinates in {self.model_folder} are rounded to {step:.1g} where the scene is about "
                f"{self.frame.scale:.1g} in size: move it nearer to the origin before it is written."
            )

    def _warn_of_outlying(self, count: int) -> None:
        if self._outlying:
            warn(
                f"{len(self._outlying)} of {count} photographs stand far off and see nothing of the scene, as where a "
                f"pose is wrong: {listed(sorted(self._outlying))}; they do not count for its size."
            )

    def photo(self, camera: Camera) -> torch.Tensor:
        """Return the undistorted image of a camera, decoded if it is not in memory.

        Args:
            camera: one of `train` or `test`.

        Returns:
            [camera.height, camera.width, 3] uint8 RGB, the same bits at every call. The tensor is shared: do not write
            into it.

        Raises:
            SplatlearnError: the camera belongs to another scene or has another size, or its file became unreadable.
        """
        if camera.name not in self._store.sources:
            raise SplatlearnError(f"Camera {camera.name!r} took no photograph of the scene {self.path}.")
        image = self._store.load(camera.name)
        if image.shape[:2] != (camera.height, camera.width):
            raise SplatlearnError(
                f"The photograph of camera {camera.name!r} is {image.shape[1]}x{image.shape[0]} pixels, "
                f"but the camera is {camera.width}x{camera.height}."
            )
        return image

    def mask(self, camera: Camera) -> torch.Tensor | None:
        """Return the mask of a camera's image: [camera.height, camera.width] uint8, 255 or 0 where it is ignored.

        None if the image has no mask.
        """
        return self._store.load_mask(camera.name)

    def fingerprints(self) -> dict[str, dict[str, str]]:
        """Hash what a resumed run compares: the files, poses, intrinsics and split, as they are on the disk.

        See `splatlearn.Task.fingerprints`. It reads all files.
        """
        return fingerprints(self._registered, self.image_folder, self._masks, self._held_out_names)

    @property
    def kept_bytes(self) -> int:
        """Memory in bytes of the decoded images that are kept."""
        return self._store.kept_bytes

    def prefetch(self, cameras: Sequence[Camera]) -> None:
        """Start decoding the images of these cameras in threads and return at once; `photo` waits for the result.

        This helps if the images do not fit into `memory_gib`; otherwise they are in memory already.
        """
        self._store.prefetch(camera.name for camera in cameras)

    def _report_failed(self, failed: dict[str, SplatlearnError], count: int) -> None:
        if not failed:
            return
        sentence = why_unusable(failed, count, self.image_folder, self.path)
        if not self.config.skip_missing:
            raise SplatlearnError(f"{sentence} (skip_missing goes on without them).")
        if len(failed) == count:
            raise SplatlearnError(f"{sentence}, so that none is left.")
        warn(f"{sentence}; going on without them.")


def _read(folder: Path, root: Path, require_points: bool) -> Model:
    """Read the model; where it is damaged and not the only one, say how to take another."""
    try:
        return read_model(folder, require_points)
    except SplatlearnError as error:
        others = [entry.name for entry in sorted(folder.parent.iterdir()) if entry != folder and entry.is_dir()]
        if folder.parent == root / "sparse" and others:
            sentence = str(error).rstrip(".")
            raise SplatlearnError(f"{sentence} (--data.model {others[0]} takes another model).") from None
        raise


def _check_config(config: ColmapScene.Config) -> None:
    if not config.path:
        raise SplatlearnError(f"path is not set: {LAYOUT}.")
    check_holdout(config.holdout)
    if config.downscale < 1:
        raise SplatlearnError(f"downscale must be a whole number of at least 1, but is {config.downscale}.")
    if not (config.memory_gib >= 0 and math.isfinite(config.memory_gib)):
        raise SplatlearnError(f"memory_gib must be a number of at least 0, but is {config.memory_gib}.")
    if len(config.background) != 3 or not all(0 <= value <= 1 for value in config.background):
        raise SplatlearnError(f"background must be three numbers from 0 to 1, but is {config.background}.")


def _stored_sizes(
    images: Iterable[RegisteredImage], folder: Path
) -> tuple[dict[str, tuple[int, int]], dict[str, SplatlearnError]]:
    """Read each image's size, by name; the second result maps the names that failed to their errors."""
    sizes, failed, wrong = {}, {}, []
    for image in images:
        try:
            size = image_size(folder / image.name)
        except SplatlearnError as error:
            failed[image.name] = error
            continue
        sizes[image.name] = size
        width, height = image.intrinsics.width, image.intrinsics.height
        if not _same_shape(size, (width, height)):
            wrong.append(f"{folder / image.name} is {size[0]}x{size[1]} and not {width}x{height}")
    if wrong:
        more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise SplatlearnError(
            "A photograph must have its camera's size in the model, or both sides scaled alike (EXIF "
            f"rotation is not applied): {'; '.join(wrong[:5])}{more}."
        )
    return sizes, failed


def _warn_of_panoramas(images: Iterable[RegisteredImage], sizes: dict[str, tuple[int, int]], folder: Path) -> None:
    """Warn where an image of a camera, the first, says that it is a 360° panorama and the camera model is another."""
    firsts: dict[int, RegisteredImage] = {}
    for image in images:
        if image.name in sizes and image.intrinsics.model != "EQUIRECTANGULAR":
            firsts.setdefault(image.intrinsics.id, image)
    for image in firsts.values():
        with open_image(folder / image.name) as opened:
            kind = panorama(opened, folder / image.name)
        if kind == "tagged":
            warn_of_panoramas({image.name: kind}, image.intrinsics.model, "expected EQUIRECTANGULAR")


def _masks(images: Iterable[RegisteredImage], root: Path, folder: str | None) -> dict[str, Path]:
    """Find the mask file of each image, by name; raise if the folder contains none of them."""
    if not folder:
        return {}
    found = {image.name: mask_path(root / folder, image.name) for image in images}
    found = {name: path for name, path in found.items() if path.is_file()}
    if not found:
        example = mask_path(root / folder, next(iter(images)).name)
        raise SplatlearnError(f"{root / folder} holds no mask: expected files such as {example.name} in it.")
    warn_of_unused(root / folder, found.values())
    return found


def _same_shape(size: tuple[int, int], model_size: tuple[int, int]) -> bool:
    """Return whether one scale maps `model_size` to `size`, however each side is rounded."""
    least = max((side - 1) / model_side for side, model_side in zip(size, model_size, strict=True))
    most = min((side + 1) / model_side for side, model_side in zip(size, model_size, strict=True))
    return least < most


def _undistortions(
    images: Iterable[RegisteredImage], sizes: dict[str, tuple[int, int]], folder: Path, downscale: int
) -> dict[str, list[Undistortion]]:
    """Choose each image's pinholes; images of the same camera and size share them, and so share sampling grids."""
    shared: dict[tuple[int, tuple[int, int]], list[Undistortion]] = {}
    by_image = {}
    for image in images:
        if image.name not in sizes:
            continue
        width, height = sizes[image.name]
        if min(width, height) < downscale:
            raise SplatlearnError(f"{folder / image.name} is {width}x{height}, too small for downscale {downscale}.")
        key = (image.intrinsics.id, (width, height))
        if key not in shared:
            scale = (width / image.intrinsics.width / downscale, height / image.intrinsics.height / downscale)
            shared[key] = undistortions(image.intrinsics, (width // downscale, height // downscale), scale)
        by_image[image.name] = shared[key]
    return by_image


def _camera(image: RegisteredImage, undistortion: Undistortion) -> Camera:
    pinhole_from_source = np.eye(4)
    pinhole_from_source[:3, :3] = undistortion.source_from_pinhole.T
    return Camera(
        image.name + undistortion.suffix,
        undistortion.width,
        undistortion.height,
        undistortion.K,
        pinhole_from_source @ image.world_to_camera,
    )
