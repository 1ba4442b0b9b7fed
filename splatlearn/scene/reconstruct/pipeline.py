"""The way from photographs to a COLMAP folder, phase by phase, each of which a second run finds done."""

import os
import shutil
import time
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from splatlearn.errors import SplatlearnError
from splatlearn.files import sweep
from splatlearn.notices import warn
from splatlearn.scene.photos.panorama import warn_of_panoramas
from splatlearn.scene.photos.suffixes import LeftOut, sentence
from splatlearn.scene.readers.colmap_records import Intrinsics
from splatlearn.scene.readers.odd_cameras import warn_of_odd_cameras
from splatlearn.scene.reconstruct import copies, gather
from splatlearn.scene.reconstruct.checks import check_in_place, check_masks_in_place, check_out, masks_for
from splatlearn.scene.reconstruct.frames import check_video, extract_frames
from splatlearn.scene.reconstruct.gather import Photo
from splatlearn.scene.reconstruct.phases import RESERVE, SMALLEST_MODEL, Bench, camera_groups, matching_of, quiet
from splatlearn.scene.reconstruct.report import Report, cameras_of, diagnose, finite, why_none
from splatlearn.scene.reconstruct.settings import Settings
from splatlearn.scene.reconstruct.work import Work, hash_of
from splatlearn.scene.sfm_library import load_pycolmap

PANORAMA_REMEDY = "try --camera-model EQUIRECTANGULAR, or cut them into perspective views first"
BYTES_A_FEATURE = 128 + 6 * 4 + 16  # in the database: descriptor, keypoint, and its share of the matches


def reconstruct(source: Path, out: Path, settings: Settings | None = None, *, progress: bool = True) -> Report:
    """Reconstructs the cameras of photographs or of a video's frames: writes `out/images` and `out/sparse/0` (binary).

    Besides, `out/reconstruction.txt` and `.json` (the report), and `out/masks` where there are masks. `out` must be
    new, or hold nothing but `images` (which is then `source`, and used in place) or an unfinished run of ours. That is
    gone on with: what was complete is kept unless photographs or settings have changed.

    source: a folder, searched with its subfolders and through symbolic links, or a video. It is only read.

    Raises SplatlearnError (one sentence) for settings that make no sense, fewer than two photographs, unreadable ones,
    a video that is none, an `out` that holds something else, no features, or photographs that have nothing in common.
    After Ctrl-C, a crash or an error the same call goes on where this one was.
    """
    settings = settings or Settings()
    settings.check()
    began = time.monotonic()
    video = source.is_file()
    work = Work(out)
    check_out(source, work, settings.masks)
    if video:
        check_video(source)
        if settings.masks is not None:
            raise SplatlearnError(f"masks: expected none with a video, got {str(settings.masks)!r}")
        with work.locked():
            return _Run(source, work, settings, progress, began).of_video()
    inside = [out, *([settings.masks] if settings.masks else [])]
    in_place = source.resolve() == (out / "images").resolve()
    if in_place and settings.max_size is not None:
        raise SplatlearnError(f"max_size would change the photographs in {source}: name another folder for the result")
    found = gather.find_images(source, [] if in_place else inside)
    names = found.names
    if found.left_out:
        warn(f"{source}: {sentence(found.left_out)}.")
    photos = gather.look_at(source, names, work.known_photos(), settings.thread_count(), progress)
    check_in_place(photos, source, in_place)
    warn_of_panoramas({photo.file: photo.panorama for photo in photos}, settings.camera_model, PANORAMA_REMEDY)
    photos, twins = gather.without_copies(photos)
    if len(photos) < 2:
        raise SplatlearnError(f"{source}: expected at least 2 different photographs, got {len(names)} copies of one")
    camera_groups(photos, settings.cameras)  # refuses what does not go together before anything is written
    masks = masks_for(photos, source, settings.masks)
    with work.locked():
        work.remember(photos)
        return _Run(source, work, settings, progress, began).of_photos(photos, twins, masks, in_place, found.left_out)


class _Run:
    """One pass over the phases in a locked work folder."""

    def __init__(self, source: Path, work: Work, settings: Settings, progress: bool, began: float) -> None:
        self.source, self.work, self.settings, self.progress, self.began = source, work, settings, progress, began
        self.spent: dict[str, float] = {}
        self.left_out: tuple[LeftOut, ...] = ()

    def of_video(self) -> Report:
        """The frames, then as with photographs."""
        work, settings, video = self.work, self.settings, self.source
        facts = video.stat()
        key = hash_of(video.name, facts.st_size, facts.st_mtime_ns, settings.frames, settings.max_size)
        if not work.done("photos", key):
            self._afresh("photos", key)
            partial = work.folder / "frames"
            shutil.rmtree(partial, ignore_errors=True)
            try:
                names = extract_frames(
                    video, partial, frames=settings.frames, max_size=settings.max_size, progress=self.progress
                )
            except SplatlearnError:
                shutil.rmtree(work.folder)
                with suppress(OSError):  # it is not empty, as it was there before
                    work.out.rmdir()
                raise
            partial.rename(work.images)
            work.complete("photos", key, names=names)
        names = work.fact("photos", "names")
        photos = gather.look_at(self._images(), names, work.known_photos(), settings.thread_count(), self.progress)
        photos, twins = gather.without_copies(photos)
        if len(photos) < 2:
            raise SplatlearnError(f"{video}: expected a video in which something moves, got {len(names)} equal frames")
        work.remember(photos)
        return self._of_images(photos, twins, key, in_place=False, video=True)

    def of_photos(
        self,
        photos: list[Photo],
        twins: dict[str, str],
        masks: dict[str, Path],
        in_place: bool,
        left_out: tuple[LeftOut, ...],
    ) -> Report:
        """Copies, then the phases."""
        self.left_out = left_out
        work, settings = self.work, self.settings
        stamps = sorted((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in masks.values())
        key = hash_of([(photo.name, photo.digest) for photo in photos], settings.max_size, stamps, in_place)
        if not work.done("photos", key):
            if not work.begun("photos", key):
                self._afresh("photos", key)
            masks_in_place = settings.masks and settings.masks.resolve() == (work.out / "masks").resolve()
            check_masks_in_place(masks, photos, bool(masks_in_place))
            self._copy([] if in_place else photos, {} if masks_in_place else masks)
            work.complete("photos", key)
        if settings.max_size is not None:
            photos = [_resized(photo, settings.max_size) for photo in photos]
        return self._of_images(photos, twins, key, in_place, video=False)

    def _afresh(self, phase: str, key: str) -> None:
        """Forgets what was made of other photographs: only ever what this program has made."""
        work = self.work
        for folder in (work.images, work.masks, work.models):
            shutil.rmtree(folder, ignore_errors=True)
        for name in work.fact("photos", "moving", []):  # that run was stopped while it moved its results into place
            shutil.rmtree(work.out / name, ignore_errors=True)
        work.begin(phase, key)

    def _copy(self, photos: list[Photo], masks: dict[str, Path]) -> None:
        """Copies what is not there yet; a file that is there is whole, as each is renamed into place."""
        from tqdm import tqdm

        work, settings = self.work, self.settings
        self._check_room(photos)
        for photo in tqdm(photos, "copy photos", unit="photo", disable=not self.progress):
            if not (work.images / photo.name).exists():
                copies.copy_photo(
                    self.source / photo.file,
                    work.images / photo.name,
                    settings.max_size,
                    convert=photo.name != photo.file,
                )
        for name, path in masks.items():
            target = work.masks / f"{name}.png"
            if not target.exists():
                _copy_mask(path, target, settings.max_size)
        for folder in (work.images, work.masks):
            sweep(folder, deep=True)  # of a copy that was cut short

    def _check_room(self, photos: list[Photo]) -> None:
        features = len(photos) * self.settings.max_features * BYTES_A_FEATURE
        needed = sum(photo.size for photo in photos) + features + RESERVE
        free = shutil.disk_usage(self.work.folder).free
        if free < needed:
            raise SplatlearnError(
                f"{self.work.out}: expected about {needed / 1e9:.1f} GB of free disk space for {len(photos)} "
                f"photographs and their features, got {free / 1e9:.1f} GB"
            )

    def _images(self) -> Path:
        """Where the photographs are now: beside the database, or already in their place."""
        return self.work.images if self.work.images.is_dir() else self.work.out / "images"

    def _of_images(
        self, photos: list[Photo], twins: dict[str, str], photos_key: str, in_place: bool, video: bool
    ) -> Report:
        pycolmap = load_pycolmap()

        work, settings = self.work, self.settings
        way = matching_of(settings, len(photos), video)
        features = (settings.camera_model, settings.cameras, settings.max_features, settings.max_image_size)
        features_key = hash_of(photos_key, features, settings.seed)
        matches_key, models_key = hash_of(features_key, way), hash_of(features_key, way, "models")
        if not work.begun("features", features_key):
            for path in work.folder.glob("database.db*"):
                path.unlink()
            work.begin("features", features_key)
        names = [photo.name for photo in photos]
        with quiet(pycolmap):
            bench = Bench(self.source, work.database, self._images(), names, settings, self.progress)
            with closing(bench):
                self._timed("features", features_key, lambda: self._features(bench, photos))
                if not work.begun("matches", matches_key):  # those of other pairs
                    bench.records.clear_matches()
                    bench.records.clear_two_view_geometries()
                self._timed("matches", matches_key, lambda: bench.match(way))
                self._timed("models", models_key, lambda: self._place(bench))
                pairs = bench.pairs()
        report = self._report(photos, twins, pairs, way)
        self._finish(report, in_place)
        return report

    def _timed(self, phase: str, key: str, work: Any) -> None:
        """Does a phase unless it is done."""
        if self.work.done(phase, key):
            return
        if not self.work.begun(phase, key):
            self.work.begin(phase, key)
        start = time.monotonic()
        work()
        self.spent[phase] = round(time.monotonic() - start, 2)
        self.work.complete(phase, key)

    def _features(self, bench: Bench, photos: list[Photo]) -> None:
        masks = next((path for path in (self.work.masks, self.work.out / "masks") if path.is_dir()), None)
        bench.find_features(camera_groups(photos, self.settings.cameras), masks if self.settings.masks else None)

    def _place(self, bench: Bench) -> None:
        """Writes the models found, the largest as 0."""
        found = bench.place(self.work.models)
        if not found:
            raise SplatlearnError(
                f"{self.source}: expected overlapping photographs of one place from different positions, got "
                f"{len(bench.names)} of which {why_none(bench.pairs())}"
            )
        shutil.rmtree(self.work.models)
        for number, model in enumerate(found):
            folder = self.work.models / str(number)
            folder.mkdir(parents=True)
            model.write_binary(str(folder))

    def _report(self, photos: list[Photo], twins: dict[str, str], pairs: Any, way: str) -> Report:
        pycolmap = load_pycolmap()

        folders = sorted(self.work.models.iterdir(), key=lambda folder: int(folder.name))
        models = [pycolmap.Reconstruction(folder) for folder in folders]
        groups = [{image.name for image in model.images.values() if image.has_pose} for model in models]
        placed = groups[0]
        others = [group - placed for group in groups[1:] if len(group - placed) >= SMALLEST_MODEL]
        used = {image.camera_id for image in models[0].images.values() if image.has_pose}
        cameras = [
            Intrinsics(number, camera.model.name, camera.width, camera.height, tuple(map(float, camera.params)))
            for number, camera in models[0].cameras.items()
            if number in used
        ]
        warn_of_odd_cameras(cameras, self.work.out / "sparse" / "0")
        return Report(
            registered=len(placed),
            total=len(photos),
            points=len(models[0].points3D),
            mean_reprojection_error_px=finite(float(models[0].compute_mean_reprojection_error())),
            seconds=time.monotonic() - self.began,
            missing=diagnose(photos, placed, others, pairs),
            copies=twins,
            models=tuple(map(len, [placed, *others])),
            cameras=cameras_of(models[0]),
            matching=way,
            seconds_of_phases=self.spent,
            left_out=self.left_out,
        )

    def _finish(self, report: Report, in_place: bool) -> None:
        """Moves the results into place, the model last: where it stands, all is there."""
        work = self.work
        moving = ["sparse", "masks"] if in_place else ["sparse", "masks", "images"]
        work.complete("photos", work.fact("photos", "key"), names=work.fact("photos", "names"), moving=moving)
        for folder, target in ((work.images, work.out / "images"), (work.masks, work.out / "masks")):
            if folder.is_dir():
                os.replace(folder, target)
        report.write(work.out)
        (work.out / "sparse").mkdir(exist_ok=True)
        os.replace(work.models / "0", work.out / "sparse" / "0")
        shutil.rmtree(work.folder)


def _resized(photo: Photo, max_size: int) -> Photo:
    width, height = copies.smaller((photo.width, photo.height), max_size)
    return replace(photo, width=width, height=height)


def _copy_mask(source: Path, target: Path, max_size: int | None) -> None:
    from splatlearn.scene.photos.masks import copy_mask

    copy_mask(source, target, None if max_size is None else lambda size: copies.smaller(size, max_size))
