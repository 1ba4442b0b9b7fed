"""The phases of structure from motion on pycolmap's database: find features, match, map.

Each runs in a thread under a progress bar that follows the database, and stops soon after Ctrl-C. pycolmap keeps
features and matches that are already in the database, so that both phases resume where they stopped.
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
from splatlearn.scene.reconstruct.gather import ImageInfo
from splatlearn.scene.reconstruct.settings import Settings
from splatlearn.scene.sfm_library import load_pycolmap

MANY = 200  # images beyond which not all pairs are matched: their number grows with the square
MANY_FRAMES = 60  # the same for a video, whose neighbouring frames have neighbouring names
SMALL = 60  # images up to which one mapping thread is as fast as several, and repeatable
NEIGHBOURS = 12  # sequential matching: the next images by name (and those 16, 32, ... after) that each is matched with
BLOCK = 10  # images per side of a block of pairs: Ctrl-C waits for one block
PEAK = 0.004  # SIFT's contrast threshold; COLMAP's 0.0067 finds no points on plain floors and walls
SMALLEST_MODEL = 3  # images; smaller models beside a larger one are dropped
POLL_SECONDS = 0.2
RESERVE = 64 << 20  # bytes to keep free: a full disk makes pycolmap abort the process


@contextlib.contextmanager
def quiet(pycolmap: Any) -> Iterator[None]:
    """Reduce pycolmap's log to errors within the context."""
    level = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = int(pycolmap.logging.ERROR)
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = level


def camera_groups(photos: list[ImageInfo], cameras: str) -> list[list[str]]:
    """Group the names of the images that share a camera.

    Args:
        photos: the images.
        cameras: "per-image", "shared" (all images must have one size), or "auto" (those of equal size, maker, model and
            focal length share a camera).

    Raises:
        SplatlearnError: "shared" with images of different sizes.
    """
    if cameras == "per-image":
        return [[photo.name] for photo in photos]
    sizes = {(photo.width, photo.height) for photo in photos}
    if cameras == "shared":
        if len(sizes) > 1:
            listed = ", ".join(f"{width}x{height}" for width, height in sorted(sizes)[:5])
            raise SplatlearnError(f"cameras 'shared': expected photographs of one size, got {len(sizes)} ({listed})")
        return [[photo.name for photo in photos]]
    groups: dict[tuple[int, int, str], list[str]] = {}
    for photo in photos:
        groups.setdefault((photo.width, photo.height, photo.exif_camera), []).append(photo.name)
    return list(groups.values())


def choose_matching(settings: Settings, count: int, video: bool) -> str:
    """Return "exhaustive" or "sequential"; with the setting "auto" the number of images decides."""
    if settings.matching != "auto":
        return settings.matching
    return "exhaustive" if count <= (MANY_FRAMES if video else MANY) else "sequential"


@dataclass(frozen=True)
class Pairs:
    """Features per image and inlier matches per verified pair of images, by name."""

    features: dict[str, int]
    inliers: dict[tuple[str, str], int]


class StructureFromMotion:
    """The phases on one database.

    Args:
        source: the images as the user names them, for messages.
        database: pycolmap's database file.
        images: the folder of the images.
        names: the images to use.
        settings: the user's choices.
        progress: show progress bars.

    Raises:
        SplatlearnError: the database cannot be opened.
    """

    def __init__(
        self, source: Path, database: Path, images: Path, names: list[str], settings: Settings, progress: bool
    ) -> None:

        pycolmap = load_pycolmap()

        self.pycolmap = pycolmap
        self.source, self.database, self.images, self.names = source, database, images, names
        self.settings, self.progress = settings, progress
        self.threads = settings.thread_count()
        self.gpu = bool(pycolmap.has_cuda) and torch.cuda.is_available()
        self.device = pycolmap.Device.auto if self.gpu else pycolmap.Device.cpu
        # Read through pycolmap's own SQLite, and kept open. A second SQLite library in the process (Python's sqlite3)
        # would drop its file locks and unmap its log on closing, which crashes the process or corrupts the matches.
        try:
            self.records = pycolmap.Database.open(database)
        except Exception as error:
            raise SplatlearnError(
                f"{database} cannot be used; remove {database.parent} to start afresh: {error}"
            ) from None

    def close(self) -> None:
        """Close the database."""
        self.records.close()

    def find_features(self, groups: list[list[str]], masks: Path | None) -> None:
        """Extract SIFT features; each group of names shares a camera. Raises SplatlearnError if none are found."""
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
            # Import images by name first: the extracting threads would number them in the order they finish.
            for group in groups:
                new = [name for name in group if not self.records.exists_image(name)]
                if new:
                    known = [image for image in self.records.read_all_images() if image.name in group]
                    if known:  # a stopped run has imported a part of the group
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
        """Match all pairs ("exhaustive"), or each image with the following ones by name ("sequential")."""
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

    def map(self, models: Path) -> list[Any]:
        """Register the images incrementally; return the pycolmap.Reconstructions, the largest first."""
        pycolmap = self.pycolmap
        shutil.rmtree(models, ignore_errors=True)
        models.mkdir()
        options = pycolmap.IncrementalPipelineOptions()
        options.num_threads = self.threads if len(self.names) > SMALL else 1
        options.min_model_size = SMALLEST_MODEL
        options.ba_use_gpu = self.gpu
        seed = self.settings.seed
        options.random_seed = options.mapper.random_seed = options.triangulation.random_seed = seed
        registered: list[int] = []

        def work(token: Any) -> dict[int, Any]:
            return pycolmap.incremental_mapping(
                self.database,
                self.images,
                models,
                options=options,
                next_image_callback=lambda: registered.append(1),
                cancellation_token=token,
            )

        first_pair = 2  # registered together, before the first callback

        def done() -> int:
            return len(registered) and len(registered) + first_pair

        found = self.run("place", "photo", len(self.names), done, work)
        return sorted(found.values(), key=lambda model: (-model.num_reg_images(), -model.num_points3D()))

    def _check_free_space(self) -> None:
        free = shutil.disk_usage(self.database.parent).free
        if free < RESERVE:
            raise SplatlearnError(
                f"{self.database.parent}: expected at least {RESERVE >> 20} MiB of free disk space, got {free >> 20} "
                "MiB; make room, and the same command goes on from here"
            )

    def photos_with_features(self) -> int:
        """Return the number of images that have features."""
        ids = [image.image_id for image in self.records.read_all_images()]
        return sum(self.records.num_keypoints_for_image(image) > 0 for image in ids)

    def pairs(self) -> Pairs:
        """Read the numbers of features and of inlier matches for the report."""
        names = {image.image_id: image.name for image in self.records.read_all_images()}
        features = {name: self.records.num_keypoints_for_image(number) for number, name in names.items()}
        inliers = {}
        for pair, count in zip(*self.records.read_two_view_geometry_num_inliers(), strict=True):
            one, other = self.pycolmap.pair_id_to_image_pair(pair) if isinstance(pair, int) else pair
            if count > 0:
                inliers[names[one], names[other]] = int(count)
        return Pairs(features, inliers)

    def run(self, title: str, unit: str, total: int, done: Callable[[], int], work: Callable[[Any], Any]) -> Any:
        """Run `work(cancellation token)` in a thread under a progress bar that follows `done()`; return its result."""
        token = self.pycolmap.CancellationToken()
        with (
            tqdm(total=total, desc=title, unit=unit, disable=not self.progress) as bar,
            ThreadPoolExecutor(1) as pool,  # its exit waits for the work to end
        ):
            pool.submit(int).result()  # start the thread now: Ctrl-C during its start would lose it
            try:
                self._check_free_space()
                future = pool.submit(work, token)
                while not wait([future], POLL_SECONDS).done:
                    self._check_free_space()
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
