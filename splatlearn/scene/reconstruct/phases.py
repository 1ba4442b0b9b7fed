"""The phases of structure from motion on pycolmap's database: find features, match, place.

Each runs in a thread under a progress bar that follows the database, and stops soon after Ctrl-C. Features and matches
that are in the database already are kept by pycolmap, so that both phases go on where they were stopped.
"""

import contextlib
import math
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from splatlearn.errors import SplatlearnError
from splatlearn.scene.reconstruct.gather import Photo
from splatlearn.scene.reconstruct.settings import Settings
from splatlearn.scene.sfm_library import load_pycolmap

SMALL = 60  # photographs up to which one thread places them as fast as several, and in a repeatable way
NEIGHBOURS = 12  # how many followers by name each photograph is then matched with (and those 16, 32, ... after it)
BLOCK = 10  # photographs a side of a block of pairs: the wait for Ctrl-C is one block
PEAK = 0.004  # SIFT's contrast threshold; COLMAP's 0.0067 leaves plain floors and walls without points
SMALLEST_MODEL = 3  # photographs; smaller ones beside a larger are not kept
POLL_SECONDS = 0.2
RESERVE = 64 << 20  # bytes to keep free: a full disk makes pycolmap abort the whole process


@contextlib.contextmanager
def quiet(pycolmap: Any) -> Iterator[None]:
    """Keep only errors of pycolmap's log on stderr while it works."""
    level = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = int(pycolmap.logging.ERROR)
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = level


def camera_groups(photos: list[Photo], cameras: str) -> list[list[str]]:
    """Names of the photographs that share a camera, group by group.

    cameras: "per-image", "shared" (all must have one size), or "auto": those of one size, maker, model, focal length.
    """
    if cameras == "per-image":
        return [[photo.name] for photo in photos]
    sizes = {(photo.width, photo.height) for photo in photos}
    if cameras == "shared":
        if len(sizes) > 1:
            told = ", ".join(f"{width}x{height}" for width, height in sorted(sizes)[:5])
            raise SplatlearnError(f"cameras 'shared': expected photographs of one size, got {len(sizes)} ({told})")
        return [[photo.name for photo in photos]]
    groups: dict[tuple[int, int, str], list[str]] = {}
    for photo in photos:
        groups.setdefault((photo.width, photo.height, photo.lens), []).append(photo.name)
    return list(groups.values())


def matching_of(settings: Settings, count: int, video: bool) -> str:
    """ "exhaustive" or "sequential", chosen by the number of photographs where the settings leave it open."""
    if settings.matching != "auto":
        return settings.matching
    return "exhaustive" if count <= (MANY_FRAMES if video else MANY) else "sequential"


MANY = 200  # photographs beyond which not every pair is matched any more: pairs grow with the square
MANY_FRAMES = 60  # the same for a video, whose frames have their neighbours by name


@dataclass(frozen=True)
class Pairs:
    """Verified pairs of photographs by name, each with the number of matches that fit one geometry."""

    features: dict[str, int]
    inliers: dict[tuple[str, str], int]


class Bench:
    """The phases on one database."""

    def __init__(
        self, source: Path, database: Path, images: Path, names: list[str], settings: Settings, progress: bool
    ) -> None:
        """`source`: what the user calls the photographs, for messages."""
        pycolmap = load_pycolmap()

        self.pycolmap = pycolmap
        self.source, self.database, self.images, self.names = source, database, images, names
        self.settings, self.progress = settings, progress
        self.threads = settings.thread_count()
        self.gpu = bool(pycolmap.has_cuda) and torch.cuda.is_available()
        self.device = pycolmap.Device.auto if self.gpu else pycolmap.Device.cpu
        # Read through pycolmap's own SQLite, and kept open: a second SQLite library in the process (Python's sqlite3)
        # drops this one's file locks and unmaps its log when it closes, which kills the process or spoils the matches.
        try:
            self.records = pycolmap.Database.open(database)
        except Exception as error:
            raise SplatlearnError(
                f"{database} cannot be used; remove {database.parent} to start afresh: {error}"
            ) from None

    def close(self) -> None:
        """Lets go of the database."""
        self.records.close()

    def find_features(self, groups: list[list[str]], masks: Path | None) -> None:
        pycolmap, settings = self.pycolmap, self.settings
        pycolmap.set_random_seed(settings.seed)
        reader = pycolmap.ImageReaderOptions()
        reader.camera_model = settings.camera_model
        if masks is not None:
            reader.mask_path = masks
        options = pycolmap.FeatureExtractionOptions()
        options.num_threads, options.use_gpu = self.threads, self.gpu
        options.max_image_size = settings.max_image_size
        options.sift.max_num_features = settings.max_features
        options.sift.peak_threshold = PEAK

        def work(token: Any) -> None:
            # Entered by name first: threads that find features would number photographs in the order they finish.
            for group in groups:
                new = [name for name in group if not self.records.exists_image(name)]
                if new:
                    known = [image for image in self.records.read_all_images() if image.name in group]
                    if known:  # a run that was stopped has entered a part of the group
                        reader.existing_camera_id = known[0].camera_id
                    pycolmap.import_images(
                        self.database, self.images, pycolmap.CameraMode.SINGLE, image_names=new, options=reader
                    )
                    reader.existing_camera_id = -1
            pycolmap.extract_features(
                self.database,
                self.images,
                image_names=self.names,
                camera_mode=pycolmap.CameraMode.AUTO,
                reader_options=reader,
                extraction_options=options,
                device=self.device,
                cancellation_token=token,
            )

        self.run("find features", "photo", len(self.names), self.photos_with_features, work)
        if self.records.num_keypoints() == 0:
            raise SplatlearnError(f"{self.source}: expected photographs with detail, got no features in any of them")

    def match(self, way: str) -> None:
        """Matches all pairs ("exhaustive"), or each photograph with those that follow it by name ("sequential")."""
        pycolmap, count = self.pycolmap, len(self.names)
        options = pycolmap.FeatureMatchingOptions()
        options.num_threads, options.use_gpu = self.threads, self.gpu
        verify = pycolmap.TwoViewGeometryOptions()
        verify.ransac.random_seed = self.settings.seed
        if way == "sequential":
            pairing, matcher = pycolmap.SequentialPairingOptions(), pycolmap.match_sequential
            pairing.overlap, pairing.quadratic_overlap = NEIGHBOURS, True
            steps = set(range(1, NEIGHBOURS + 1)) | {2**k for k in range(NEIGHBOURS)}
            pairs = sum(max(count - step, 0) for step in steps)
        else:
            pairing, matcher = pycolmap.ExhaustivePairingOptions(), pycolmap.match_exhaustive
            pairing.block_size = BLOCK
            pairs = math.comb(count, 2)

        def work(token: Any) -> None:
            matcher(
                self.database,
                matching_options=options,
                pairing_options=pairing,
                verification_options=verify,
                device=self.device,
                cancellation_token=token,
            )

        self.run("match", "pair", pairs, self.records.num_matched_image_pairs, work)

    def place(self, models: Path) -> list[Any]:
        """The pycolmap.Reconstructions, each of photographs that belong together, largest first."""
        pycolmap = self.pycolmap
        shutil.rmtree(models, ignore_errors=True)
        models.mkdir()
        options = pycolmap.IncrementalPipelineOptions()
        options.num_threads = self.threads if len(self.names) > SMALL else 1
        options.min_model_size = SMALLEST_MODEL
        options.ba_use_gpu = self.gpu
        seed = self.settings.seed
        options.random_seed = options.mapper.random_seed = options.triangulation.random_seed = seed
        placed: list[int] = []

        def work(token: Any) -> dict[int, Any]:
            return pycolmap.incremental_mapping(
                self.database,
                self.images,
                models,
                options=options,
                next_image_callback=lambda: placed.append(1),
                cancellation_token=token,
            )

        first_pair = 2  # placed together, before the first call back
        found = self.run("place", "photo", len(self.names), lambda: len(placed) and len(placed) + first_pair, work)
        return sorted(found.values(), key=lambda model: (-model.num_reg_images(), -model.num_points3D()))

    def _refuse_full_disk(self) -> None:
        free = shutil.disk_usage(self.database.parent).free
        if free < RESERVE:
            raise SplatlearnError(
                f"{self.database.parent}: expected at least {RESERVE >> 20} MiB of free disk space, got {free >> 20} "
                "MiB; make room, and the same command goes on from here"
            )

    def photos_with_features(self) -> int:
        ids = [image.image_id for image in self.records.read_all_images()]
        return sum(self.records.num_keypoints_for_image(image) > 0 for image in ids)

    def pairs(self) -> Pairs:
        """What the report needs of the database."""
        names = {image.image_id: image.name for image in self.records.read_all_images()}
        features = {name: self.records.num_keypoints_for_image(number) for number, name in names.items()}
        inliers = {}
        for pair, count in zip(*self.records.read_two_view_geometry_num_inliers(), strict=True):
            one, other = self.pycolmap.pair_id_to_image_pair(pair) if isinstance(pair, int) else pair
            if count > 0:
                inliers[names[one], names[other]] = int(count)
        return Pairs(features, inliers)

    def run(self, title: str, unit: str, total: int, done: Callable[[], int], work: Callable[[Any], Any]) -> Any:
        """Do `work(cancellation token)` in a thread under a bar that follows `done()`; returns what work returned."""
        token = self.pycolmap.CancellationToken()
        with (
            tqdm(total=total, desc=title, unit=unit, disable=not self.progress) as bar,
            ThreadPoolExecutor(1) as pool,  # leaving it waits for the work to end
        ):
            pool.submit(int).result()  # a Ctrl-C while the pool starts its thread would make it forget that thread
            try:
                self._refuse_full_disk()
                future = pool.submit(work, token)
                while not wait([future], POLL_SECONDS).done:
                    self._refuse_full_disk()
                    bar.update(min(done(), total) - bar.n)
            except BaseException:
                token.cancel()
                raise
            if future.exception() is None:
                bar.update(total - bar.n)
        try:
            return future.result()
        except Exception as error:
            raise SplatlearnError(f"{self.source}: {title}: pycolmap failed: {error}") from error
