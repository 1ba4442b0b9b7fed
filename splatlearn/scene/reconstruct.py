"""From a folder of photographs to a COLMAP folder: structure from motion by pycolmap, with progress and clear errors.

Three phases: find features (SIFT) in each photograph, match them between pairs, and place the photographs one after
another (incremental mapping with bundle adjustment). The user's photographs are only read; copies lie beside the model.

With threads=1 the same photographs and seed give the same bits. With more they mostly do, but pycolmap's threads now
and then find other matches for a pair or two, and the bundle adjustment of a large set sums as its threads finish.
"""

import contextlib
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from splatlearn.errors import SplatlearnError

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")
MANY = 200  # photographs beyond which only neighbours by name are matched: pairs grow with the square
SMALL = 60  # photographs up to which one thread places them as fast as several, and in a repeatable way
NEIGHBOURS = 12  # how many followers by name each photograph is then matched with (and those 16, 32, ... after it)
BLOCK = 10  # photographs a side of a block of pairs: the wait for Ctrl-C is one block
PEAK = 0.004  # SIFT's contrast threshold; COLMAP's 0.0067 leaves plain floors and walls without points
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Summary:
    """What structure from motion found; the error is the mean distance of the projected points to their features."""

    registered: int
    total: int
    points: int
    mean_reprojection_error_px: float
    seconds: float
    missing: tuple[str, ...] = ()

    @property
    def warning(self) -> str:
        """A sentence for the user when photographs could not be placed, else an empty string."""
        if not self.missing:
            return ""
        return (
            f"{len(self.missing)} of {self.total} photographs could not be placed and are left out "
            f"({some(self.missing)}); more overlap between neighbouring photographs helps"
        )


def some(names: tuple[str, ...] | list[str], most: int = 5) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def structure_from_motion(
    photos: Path,
    out: Path,
    *,
    progress: bool = True,
    seed: int = 0,
    camera_model: str = "OPENCV",
    threads: int | None = None,
    max_features: int = 4096,
    max_image_size: int = 1600,
) -> Summary:
    """Reconstruct the cameras of all photographs under `photos` and write `out/images` and `out/sparse/0` (binary).

    photos: searched with its subfolders; it may be `out/images` itself, which is then used in place.
    camera_model: a COLMAP model, shared by all photographs if they have one size, else by those taken alike.
    threads: default all processors that this process may use. max_features: SIFT features a photograph.
    max_image_size: longer sides (pixels) are reduced before features are sought.

    Raises SplatlearnError (one sentence) for fewer than two photographs, unreadable ones, an `out` that already holds a
    model, no features, or when no two photographs could be related. Ctrl-C stops it and leaves no model behind.
    """
    import pycolmap

    start = time.monotonic()
    if camera_model not in pycolmap.CameraModelId.__members__:
        known = ", ".join(sorted(name for name in pycolmap.CameraModelId.__members__ if name != "INVALID"))
        raise SplatlearnError(f"camera_model: expected one of {known}, got {camera_model!r}")
    names = find_photos(photos)
    single = len(check_photos(photos, names)) == 1
    images, model = out / "images", out / "sparse" / "0"
    copy_photos(photos, images, names, model)
    threads = threads or len(os.sched_getaffinity(0))
    with quiet(pycolmap), tempfile.TemporaryDirectory(dir=out, prefix=".structure-") as scratch:
        database = Path(scratch) / "database.db"
        bench = _Bench(pycolmap, database, images, names, threads, seed, progress)
        with contextlib.closing(bench.records):
            bench.find_features(camera_model, single, max_features, max_image_size)
            bench.match()
            best = bench.place(Path(scratch) / "models")
        model.mkdir(parents=True, exist_ok=True)
        best.write_binary(str(model))
    placed = {image.name for image in best.images.values() if image.has_pose}
    return Summary(
        registered=len(placed),
        total=len(names),
        points=len(best.points3D),
        mean_reprojection_error_px=float(best.compute_mean_reprojection_error()),
        seconds=time.monotonic() - start,
        missing=tuple(name for name in names if name not in placed),
    )


def find_photos(photos: Path) -> list[str]:
    """Names (posix, relative, sorted) of the photographs under the folder; an error if they are fewer than two."""
    if not photos.is_dir():
        found = "a file" if photos.exists() else "nothing"
        raise SplatlearnError(f"{photos}: expected a folder of photographs, got {found}")
    files = (path for path in photos.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    names = sorted(path.relative_to(photos).as_posix() for path in files)
    names = [name for name in names if not any(part.startswith(".") for part in name.split("/"))]
    if len(names) < 2:
        raise SplatlearnError(f"{photos}: expected at least 2 photographs ({', '.join(SUFFIXES)}), got {len(names)}")
    return names


def check_photos(photos: Path, names: list[str]) -> set[tuple[int, int]]:
    """Decode every photograph once; returns the sizes (width, height) met, or raises one error naming all bad files."""
    from PIL import Image

    sizes, bad = set(), []
    for name in names:
        try:
            with Image.open(photos / name) as picture:
                sizes.add(picture.size)
                picture.draft("L", (1, 1))  # JPEGs: read all data but transform little of it
                picture.load()
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            bad.append(name)
    if bad:
        raise SplatlearnError(f"{photos}: expected only readable photographs, got {len(bad)} damaged: {some(bad)}")
    return sizes


def copy_photos(photos: Path, images: Path, names: list[str], model: Path) -> None:
    """Copy the photographs to `images`, unless that is where they are; refuses to mix with what an earlier run left."""
    if model.exists() and any(model.iterdir()):
        raise SplatlearnError(f"{model}: expected no model there yet, got one; choose another folder or remove it")
    images.mkdir(parents=True, exist_ok=True)
    if photos.resolve() == images.resolve():
        return
    there = {path.relative_to(images).as_posix() for path in images.rglob("*") if path.is_file()}
    strangers = sorted(there - set(names))
    if strangers:
        raise SplatlearnError(f"{images}: expected no other pictures than those of {photos}, got {some(strangers)}")
    for name in names:  # copies, not links: what is written to one must not change the other
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(photos / name, images / name)


@contextlib.contextmanager
def quiet(pycolmap: Any) -> Iterator[None]:
    """Keep only errors of pycolmap's log on stderr while it works."""
    level = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = int(pycolmap.logging.ERROR)
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = level


class _Bench:
    """The three phases on one database; each runs in a thread, so that this one can show progress and hear Ctrl-C."""

    def __init__(
        self, pycolmap: Any, database: Path, images: Path, names: list[str], threads: int, seed: int, progress: bool
    ) -> None:
        self.pycolmap = pycolmap
        self.database, self.images, self.names = database, images, names
        self.threads, self.seed, self.progress = threads, seed, progress
        # Read through pycolmap's own SQLite, and kept open: a second SQLite library in the process (Python's sqlite3)
        # drops this one's file locks and unmaps its log when it closes, which kills the process or spoils the matches.
        self.records = pycolmap.Database.open(database)

    def find_features(self, camera_model: str, single: bool, max_features: int, max_image_size: int) -> None:
        pycolmap = self.pycolmap
        pycolmap.set_random_seed(self.seed)
        reader = pycolmap.ImageReaderOptions()
        reader.camera_model = camera_model
        options = pycolmap.FeatureExtractionOptions()
        options.num_threads, options.use_gpu = self.threads, False
        options.max_image_size = max_image_size
        options.sift.max_num_features = max_features
        options.sift.peak_threshold = PEAK
        mode = pycolmap.CameraMode.SINGLE if single else pycolmap.CameraMode.AUTO

        def work(token: Any) -> None:
            # Entered by name first: threads that find features would number photographs in the order they finish.
            pycolmap.import_images(self.database, self.images, mode, image_names=self.names, options=reader)
            pycolmap.extract_features(
                self.database,
                self.images,
                image_names=self.names,
                camera_mode=mode,
                reader_options=reader,
                extraction_options=options,
                device=pycolmap.Device.cpu,
                cancellation_token=token,
            )

        self.run("find features", "photo", len(self.names), self.photos_with_features, work)
        if self.records.num_keypoints() == 0:
            raise SplatlearnError(f"{self.images}: expected photographs with detail, got no features in any of them")

    def match(self) -> None:
        pycolmap = self.pycolmap
        count, many = len(self.names), len(self.names) > MANY
        options = pycolmap.FeatureMatchingOptions()
        options.num_threads, options.use_gpu = self.threads, False
        verify = pycolmap.TwoViewGeometryOptions()
        verify.ransac.random_seed = self.seed
        if many:
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
                device=pycolmap.Device.cpu,
                cancellation_token=token,
            )

        self.run("match", "pair", pairs, self.records.num_matched_image_pairs, work)

    def place(self, models: Path) -> Any:
        """Returns the pycolmap.Reconstruction with the most photographs."""
        pycolmap = self.pycolmap
        models.mkdir()
        options = pycolmap.IncrementalPipelineOptions()
        options.num_threads = self.threads if len(self.names) > SMALL else 1
        options.random_seed = options.mapper.random_seed = options.triangulation.random_seed = self.seed
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
        if not found:
            raise SplatlearnError(
                f"{self.images}: expected overlapping photographs of one place from different positions, got none of "
                f"{len(self.names)} that could be related"
            )
        return max(found.values(), key=lambda model: (model.num_reg_images(), model.num_points3D()))

    def photos_with_features(self) -> int:
        ids = [image.image_id for image in self.records.read_all_images()]
        return sum(self.records.num_keypoints_for_image(image) > 0 for image in ids)

    def run(self, title: str, unit: str, total: int, done: Callable[[], int], work: Callable[[Any], Any]) -> Any:
        """Do `work(cancellation token)` in a thread under a bar that follows `done()`; returns what work returned."""
        token = self.pycolmap.CancellationToken()
        with (
            tqdm(total=total, desc=title, unit=unit, disable=not self.progress) as bar,
            ThreadPoolExecutor(1) as pool,  # leaving it waits for the work to end
        ):
            pool.submit(int).result()  # a Ctrl-C while the pool starts its thread would make it forget that thread
            try:
                future = pool.submit(work, token)
                while not wait([future], POLL_SECONDS).done:
                    bar.update(min(done(), total) - bar.n)
            except BaseException:
                token.cancel()
                raise
            if future.exception() is None:
                bar.update(total - bar.n)
        try:
            return future.result()
        except Exception as error:
            raise SplatlearnError(f"{self.images}: {title}: pycolmap failed: {error}") from error
