"""How fast the viewer draws, and what an open page costs a training: python scripts/bench_viewer.py [--train SCENE]"""

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from splatlearn import loop
from splatlearn.scene.gaussians import Gaussians
from splatlearn.scene.keyframes import look_rotation, pinhole_camera
from splatlearn.scene.training.task import SceneTask
from splatlearn.viewer.drawer import TARGET, next_factor
from splatlearn.viewer.drawing import MODES, Look, Snapshot, draw
from splatlearn.viewer.live import live_view
from splatlearn.viewer.training import LiveView
from splatlearn.viewer.view import MOVING_QUALITY, SHARP_QUALITY
from splatlearn.viewer.viewer import Viewer

WIDTH, HEIGHT = 960, 540


def cloud(count: int) -> Gaussians:
    """A ball of Gaussians of all sizes, with harmonics of degree 3."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(count, 3, generator=generator)
    colors = torch.randint(0, 256, (count, 3), generator=generator, dtype=torch.uint8)
    made = Gaussians.from_points(points.numpy(), colors.numpy(), init="random", generator=generator)
    with torch.no_grad():
        made.shN.normal_(0, 0.1, generator=generator)
    return made


def encode(image: np.ndarray, quality: int) -> bytes:
    """JPEG by imageio, as viser encodes a background where OpenCV is not installed."""
    import imageio.v3 as iio

    return iio.imwrite("<bytes>", image, extension=".jpeg", quality=quality)


def drawing(count: int, frames: int, clock: Callable[[], float]) -> None:
    """Frames a second of the path of a picture while the camera moves: draw, to the CPU, JPEG, as the viewer does."""
    snapshot = Snapshot(cloud(count))
    print(f"{count:,} Gaussians, {WIDTH} x {HEIGHT}, {torch.get_num_threads()} threads, aiming at {1 / TARGET:.0f}/s")
    for mode in MODES:
        factor, seconds, factors = 4.0, list[float](), list[float]()
        for frame in range(frames + 20):
            angle = 0.02 * frame
            place = 4 * np.array([np.sin(angle), 0.1, -np.cos(angle)])
            camera = pinhole_camera("", WIDTH, HEIGHT, 50.0, place, look_rotation(-place, np.array([0.0, -1.0, 0.0])))
            began = clock()
            image = draw(snapshot, camera.scaled(round(WIDTH / factor), round(HEIGHT / factor)), Look(mode=mode)).image
            encode(image, MOVING_QUALITY)
            taken = clock() - began
            if frame >= 20:  # by then the factor has found its place
                seconds.append(taken)
                factors.append(factor)
            factor = next_factor(factor, taken)
        began = clock()
        encode(draw(snapshot, camera, Look(mode=mode)).image, SHARP_QUALITY)
        sharp = clock() - began
        rate, across = 1 / statistics.mean(seconds), WIDTH / statistics.mean(factors)
        print(f"{mode:<17} moving {rate:5.1f} frames/s at {across:4.0f} px across, sharp in {sharp * 1e3:4.0f} ms")


class IdlePage:
    """A browser that is open at 1280 x 720 and left alone: it takes what it is sent, in a thread of this process."""

    def __init__(self, viewer: Viewer) -> None:
        import msgspec
        import viser
        from websockets.sync.client import connect
        from websockets.typing import Subprotocol

        url, start = viewer.url.replace("http", "ws"), viewer.start
        self.socket = connect(url, subprotocols=[Subprotocol(f"viser-v{viser.__version__}")], max_size=None)
        threading.Thread(target=self._take, daemon=True).start()
        vectors = {"position": start.position, "look_at": start.look_at, "up_direction": start.up}
        camera = {name: tuple(map(float, vector)) for name, vector in vectors.items()}
        camera |= {"type": "ViewerCameraMessage", "fov": 1.0, "near": 0.01, "far": 1e3}
        camera |= {"image_width": 1280, "image_height": 720}
        camera["wxyz"] = tuple(map(float, look_rotation(start.look_at - start.position, start.up)))
        self.socket.send(msgspec.msgpack.encode(camera))

    def _take(self) -> None:
        for _ in self.socket:
            pass


class Turns(loop.Callback):
    """Opens and leaves a page by turns, and notes what the steps cost in each state: seconds, and seconds of CPU."""

    def __init__(self, live: LiveView, every: int) -> None:
        self.live, self.every = live, every
        self.costs: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
        self.page: IdlePage | None = None
        self._began = (0.0, 0.0)

    def on_step(self, step: int, loss: float, task: loop.AnyTask) -> None:
        if step % self.every:
            return
        if step > self.every:  # the first turn warms up
            wall, cpu = ((now - then) / self.every for now, then in zip(_times(), self._began, strict=True))
            self.costs[self.page is not None].append((wall, cpu))
        viewer = self.live.viewer
        assert viewer is not None
        if self.page is None:
            self.page = IdlePage(viewer)
        else:
            self.page.socket.close()
            self.page = None
        while bool(viewer.views()) != (self.page is not None) or viewer.drawer.waiting:
            time.sleep(0.01)  # to open a page is not yet to leave it alone
        self._began = _times()


def _times() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def training(scene: Path, turns: int, every: int, downscale: int) -> None:
    """Seconds a step of one training, with and without a page that is open and left alone, by turns."""
    config = SceneTask.Config(steps=10**6, device="cpu")
    config.data.path, config.data.downscale = str(scene), downscale
    config.densify.start = 10**6  # so that all steps cost the same
    task = SceneTask(config)
    with tempfile.TemporaryDirectory() as folder:
        live = live_view(task, Path(folder), ("127.0.0.1", 0))
        clock = Turns(live, every)
        loop.fit(task, every * (2 * turns + 1), callbacks=[live, clock], progress=False)
        live.close()
    without, with_page = (
        [statistics.median(values) for values in zip(*clock.costs[page], strict=True)] for page in (False, True)
    )
    print(f"{scene}: {len(task.gaussians):,} Gaussians, median of {turns} turns of {every} steps")
    for name, i in (("wall", 0), ("CPU", 1)):
        more = 100 * (with_page[i] / without[i] - 1)
        print(
            f"{name:<4} {without[i] * 1e3:7.1f} ms a step alone, {with_page[i] * 1e3:7.1f} with a page: {more:+.1f} %"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000, help="Gaussians to draw (default: 100000)")
    parser.add_argument("--frames", type=int, default=60, help="pictures to time a mode (default: 60)")
    parser.add_argument("--cpu", action="store_true", help="time by CPU, where the machine is busy with other things")
    parser.add_argument("--train", type=Path, metavar="SCENE", help="measure a training on this COLMAP folder instead")
    parser.add_argument("--turns", type=int, default=4, help="turns with a page, and as many without (default: 4)")
    parser.add_argument("--every", type=int, default=250, help="steps a turn (default: 250)")
    parser.add_argument("--downscale", type=int, default=2, help="factor on the photographs (default: 2)")
    a = parser.parse_args()
    if a.train is None:
        drawing(a.count, a.frames, time.process_time if a.cpu else time.perf_counter)
    else:
        training(a.train, a.turns, a.every, a.downscale)


if __name__ == "__main__":
    main()
