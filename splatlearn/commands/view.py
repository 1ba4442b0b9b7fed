"""splatlearn view: a run or a splat file in the browser, drawn by our own rasterizer."""

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splatlearn import config
from splatlearn.commands.arguments import Parser
from splatlearn.devices import choose_device
from splatlearn.errors import SplatlearnError
from splatlearn.scene.load import load_placed, scene_config

if TYPE_CHECKING:
    from splatlearn.scene.frame import Frame
    from splatlearn.viewer.surroundings import Surroundings
    from splatlearn.viewer.viewer import Viewer


def run(words: list[str]) -> None:
    from splatlearn.viewer.server import HOST, PORT, warn_if_open

    parser = Parser("view", __doc__)
    parser.add_argument("source", type=Path, metavar="RUN_OR_FILE", help="a run folder of a scene, or a splat file")
    parser.add_argument("--host", default=HOST, help=f"the address to listen on (default: {HOST}, this machine alone)")
    parser.add_argument("--port", type=int, default=PORT, help=f"the port (default: {PORT}; 0: any free one)")
    parser.add_argument("--out", type=Path, help="where paths and videos go (default: RUN/renders, or ./renders)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    a = parser.parse_args(words)
    warn_if_open(a.host)
    viewer = open_viewer(a.source, a.host, a.port, a.out, a.device)
    try:
        told = f"{a.source}: {len(viewer.snapshot):,} Gaussians, to be seen at {viewer.url} (Ctrl-C ends this)"
        print(told, flush=True)
        threading.Event().wait()
    except KeyboardInterrupt:
        print()
    finally:
        viewer.close()


def open_viewer(source: Path, host: str, port: int, out: Path | None = None, device: str = "auto") -> "Viewer":
    """A viewer of a run folder or splat file; raises SplatlearnError where there is nothing to see, or no port."""
    from splatlearn.viewer.drawing import Snapshot
    from splatlearn.viewer.server import check
    from splatlearn.viewer.surroundings import Surroundings
    from splatlearn.viewer.viewer import Viewer

    check(host, port)  # first, as a large scene takes a while to read
    place = choose_device(device)
    if not source.exists():
        raise SplatlearnError(f"{source} does not exist: expected a run folder or a splat file")
    scene = load_placed(source)
    gaussians = scene.gaussians.arranged().to(place)
    if not len(gaussians):
        raise SplatlearnError(f"{source} holds no Gaussians: there is nothing to see")
    around = _of_run(source, out, scene.frame) if source.is_dir() else Surroundings(folder=out or Path("renders"))
    return Viewer(
        Snapshot(gaussians, antialiased=bool(scene.antialiased), frame=scene.frame), around, host=host, port=port,
        label=source.name,
    )  # fmt: skip


def _of_run(folder: Path, out: Path | None, frame: "Frame") -> "Surroundings":
    """The photographs of a run, if they are still where they were."""
    from splatlearn.scene.training.task import SceneTask

    settings = config.load(SceneTask.Config, scene_config(folder))
    from splatlearn.viewer.live import surroundings

    return surroundings(settings, _photographs(settings, frame), out or folder / "renders")


def _photographs(settings: Any, frame: "Frame") -> Any:
    from splatlearn.registry import READERS

    try:
        scene = READERS.find(settings.reader, "reader")(settings.data)
        if hasattr(scene, "place"):
            scene.place(frame)
        return scene
    except SplatlearnError as error:
        print(f"without photographs: {error}")
        return None
