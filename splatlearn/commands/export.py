"""splatlearn export: a run's Gaussians as a file for others, or as one HTML page that shows them in any browser."""

import math
from argparse import Namespace
from pathlib import Path
from typing import Any

from splatlearn import config
from splatlearn.commands.arguments import Parser
from splatlearn.errors import SplatlearnError
from splatlearn.scene.formats.checks import checked_arrays
from splatlearn.scene.formats.place import sentence
from splatlearn.scene.formats.registry import format_of, suffixes, write
from splatlearn.scene.frame import Frame
from splatlearn.scene.load import load_splats, scene_config

PAGES = (".html", ".htm")


def run(words: list[str]) -> None:
    parser = Parser("export", __doc__)
    parser.add_argument(
        "run", type=Path, metavar="RUN_OR_FILE", help=f"a run folder of a scene, or {', '.join(suffixes())}"
    )
    parser.add_argument(
        "--out", type=Path, help=f"the file to write, {', '.join(suffixes())} or .html (default: RUN/point_cloud.ply)"
    )
    add_options(parser)
    arguments = parser.parse_args(words)
    if arguments.out is None and arguments.run.is_file():
        raise SplatlearnError(f"--out is needed to export {arguments.run}")
    convert(arguments.run, arguments.out or arguments.run / "point_cloud.ply", arguments)


def add_options(parser: Parser) -> None:
    """The options that `export` and `convert` share."""
    parser.add_argument("--spz-version", type=int, choices=(3, 4), default=4, help="of an .spz file (default: 4)")
    parser.add_argument("--embed", action="store_true", help="put the data of a .gltf into it instead of beside it")
    parser.add_argument(
        "--sh-degree", type=int, choices=range(5), help="keep colours by direction up to this degree only"
    )
    parser.add_argument("--limit", type=int, help="of an .html page: keep the so many Gaussians that are seen most")
    parser.add_argument(
        "--drop-bad", action="store_true", help="leave out Gaussians with values that are not finite (default: refuse)"
    )


def convert(source: Path, out: Path, options: Namespace) -> None:
    """Reads a run or a file, writes another, and says what became of it."""
    suffix = out.suffix.lower()
    if suffix not in (*suffixes(), *PAGES):
        raise SplatlearnError(f"the file to write must end in {', '.join(suffixes())} or .html, got {out}")
    if options.limit is not None and (suffix not in PAGES or options.limit < 1):
        raise SplatlearnError(f"--limit must be at least 1 and is for .html pages, got {options.limit} for {out}")
    if not source.exists():
        raise SplatlearnError(f"{source} is neither a run folder nor a file: it does not exist")
    splats = load_splats(source, options.drop_bad)
    tensors, had = splats.tensors, math.isqrt(splats.tensors["shN"].shape[1] + 1) - 1
    degree = min(
        had, 3 if suffix in PAGES else format_of(out).sh_degree, 4 if options.sh_degree is None else options.sh_degree
    )
    tensors = {**tensors, "shN": tensors["shN"][:, : (degree + 1) ** 2 - 1]}
    count, place = len(tensors["means"]), Frame()
    if suffix in PAGES:
        count = _write_page(source, out, tensors, bool(splats.antialiased), options.limit)
    else:
        more = {"spz_version": options.spz_version, "embed": options.embed}
        place = write(out, tensors, antialiased=splats.antialiased, **more)
    lost = "" if degree == had else f", colours by direction up to degree {degree} of {had}"
    print(f"wrote {count:,} Gaussians to {out} ({out.stat().st_size / 1e6:,.1f} MB{lost})")
    if place.moves:
        print(sentence(place, out))


def _write_page(source: Path, out: Path, tensors: Any, antialiased: bool, limit: int | None) -> int:
    """Writes the page of a run or a file; returns how many Gaussians it shows."""
    from splatlearn.show.packed_scene import seen
    from splatlearn.show.scene_page import write_scene

    shown = seen(checked_arrays(tensors, out), limit)
    cameras: list[Any] = []
    background = [0.0, 0.0, 0.0]
    if source.is_dir():
        from splatlearn.registry import READERS
        from splatlearn.scene.training.task import SceneTask

        settings = config.load(SceneTask.Config, scene_config(source))
        background = settings.data.background
        try:
            scene = READERS.find(settings.reader, "reader")(settings.data)
            frame = getattr(scene, "frame", Frame())
            cameras = [frame.capture_camera(camera) for camera in scene.train + scene.test]
        except SplatlearnError as error:  # the page is worth having without the photographs' folder too
            print(f"the page opens with a view of everything, as the run's photographs are not found: {error}")
    title = source.resolve().name if source.is_dir() else source.stem
    write_scene(out, shown, cameras, title=title, background=background, antialiased=antialiased)
    return len(shown["means"])
