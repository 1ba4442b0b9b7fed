"""A scene as a task of the loop: Gaussians learned from the photographs of a COLMAP folder."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from splatlearn.devices import choose_device
from splatlearn.errors import SplatlearnError
from splatlearn.loop import Task
from splatlearn.ops.capacity import Capacity
from splatlearn.ops.photometric import photometric_loss
from splatlearn.ops.recording import CudaRecorder
from splatlearn.ops.workspace import Workspace
from splatlearn.scene.cameras import Camera
from splatlearn.scene.gaussians import NAMES, Gaussians, Pose, Rendering, pose_of
from splatlearn.scene.metrics import HIGHEST_PSNR, psnr
from splatlearn.scene.photos.exposure import Exposures
from splatlearn.scene.photos.masks import masked
from splatlearn.scene.photos.staging import Staging
from splatlearn.scene.readers.colmap import ColmapScene
from splatlearn.scene.training.densify import AdaptiveDensity
from splatlearn.scene.training.memory import give_back, learned_bytes, mebibytes, memory, reset_peak
from splatlearn.scene.training.optimizer import GaussianAdam
from splatlearn.scene.training.recipe import Recipe
from splatlearn.scene.training.replay import RecordedStep, Replays
from splatlearn.scene.training.survey import shares_of_errors
from splatlearn.scene.view import View, reduced

PICTURES = ("render", "alphas", "transmittance", "stops", "v_image")  # what a step on the CPU takes by the pixel
AHEAD = 2  # photographs that threads decode ahead, where not all fit into memory


class SceneTask(Task[View, Rendering]):
    """Learns Gaussians from photographs, one photograph a step, in an order shuffled anew each time round."""

    Config = Recipe

    def __init__(self, config: Recipe) -> None:
        self.config = config
        self.device = choose_device(config.device)
        self.generator = torch.Generator().manual_seed(config.seed)
        if not config.data.path:
            raise SplatlearnError("'data.path' is not set: name a COLMAP folder with --data.path FOLDER")
        self.scene = ColmapScene(config.data)
        self.gaussians = self._begin().arranged().to(self.device)
        self.optimizer = GaussianAdam(self.gaussians)
        self.strategy = AdaptiveDensity(
            config.densify, self.gaussians, self.optimizer, self.scene.extent, config.steps, self._survey
        )
        names = [camera.name for camera in self.scene.train]
        self.exposures = Exposures(names, self.device) if config.exposure else None
        self.background = torch.tensor(config.data.background, device=self.device)
        self.queue: list[int] = []  # training cameras still to come in this round, last first
        self.staging = Staging(self.device)
        self.capacity = Capacity(self.device)
        self.space = Workspace()
        self.replays: Replays | None = None  # None: each step is queued kernel by kernel
        if config.cuda_graph and self.device.type == "cuda":
            self.replays = Replays(self, CudaRecorder(self.device))
        self._recorded: RecordedStep | None = None  # of the last step, where it was a replay
        self._before = memory(self.device)
        self._step = 0
        self._rendering: Rendering | None = None
        self._view: View | None = None  # of the last step
        self._shown: Tensor | None = None  # what its photograph was compared with
        self._updated = True  # whether its update has been made, or at least sent to the device
        self._retried: Tensor | None = None  # its loss, where it had to be made again

    def _begin(self) -> Gaussians:
        config = self.config
        if config.init in ("sfm", "random"):
            return Gaussians.from_points(
                self.scene.points,
                self.scene.point_colors,
                sh_degree=config.sh_degree,
                init="sfm" if config.init == "sfm" else "random",
                generator=self.generator,
            )
        if not Path(config.init).is_file():
            raise SplatlearnError(f"'init' must be sfm, random or a file of Gaussians, got {config.init!r}")
        return Gaussians.load(config.init).at_least(config.sh_degree)

    # ---- the five steps' parts ----

    def batch(self, step: int) -> View:
        self._step = step
        if not self.queue:
            self.queue = torch.randperm(len(self.scene.train), generator=self.generator).tolist()
        camera = self.scene.train[self.queue.pop()]
        photo, mask = self.staging.take(camera.name, lambda: self._photo_and_mask(camera))
        assert photo is not None
        self.scene.prefetch([self.scene.train[index] for index in self.queue[-AHEAD:]])
        self._view, self._updated = self._reduced(View(camera, photo, mask)), False
        return self._view

    def _photo_and_mask(self, camera: Camera) -> tuple[Tensor, Tensor | None]:
        return self.scene.photo(camera), self.scene.mask(camera)

    def _reduced(self, view: View) -> View:
        """At the size that this step learns from."""
        return reduced(view, 2 ** sum(self._step <= at * self.config.steps for at in self.config.coarse))

    def _degree(self) -> int:
        """Of the spherical harmonics in use at this step."""
        return min((self._step - 1) // self.config.sh_every, self.gaussians.sh_degree)

    def forward(self, batch: View) -> Rendering:
        degree = self._degree()
        self._recorded = None if self.replays is None else self.replays.recorded(batch, degree)
        if self._recorded is not None:
            count = self.optimizer.steps + (not self._updated)
            self._rendering = self._recorded.gradients(batch, self._rates(self._step), count)
        else:
            pose = pose_of(batch.camera, self.device)
            self._rendering = self.draw(batch, pose, degree)
        return self._rendering

    def draw(self, view: View, pose: Pose, degree: int) -> Rendering:
        """The picture that a step compares with the view's photograph; backward ends at its 2D Gaussians."""
        with self.capacity, self.space:
            return self.gaussians.draw(
                pose,
                view.camera.width,
                view.camera.height,
                background=self.background,
                sh_degree=degree,
                antialiased=self.config.antialiased,
                detached=True,
            )

    def loss(self, output: Rendering, batch: View) -> Tensor:
        if self._recorded is not None:
            self._shown = output.image
            return self._recorded.loss()
        return self.compared(output, batch)

    def compared(self, output: Rendering, batch: View) -> Tensor:
        """How far the picture is from the view's photograph."""
        image = output.image
        if self.exposures is not None:
            image = self.exposures(image, batch.camera.name)
        self._shown = image.detach()
        with self.space:
            loss = photometric_loss(*masked(image, batch.photo, batch.mask), self.config.lambda_dssim)
        return loss if self.exposures is None else loss + self.exposures.penalty()

    def update(self, step: int, again: bool = False) -> None:
        assert self._rendering is not None
        if self._recorded is not None:
            self._recorded.update(again)
        else:
            self.strategy.observe(self._rendering, self.capacity.overflow)
            self.optimizer.step(self._rates(step), self.capacity.overflow, again, self._rendering.detached)
        self._rendering = None
        if self.exposures is not None:
            self.exposures.step(self._exposure_rate(step), self.capacity.overflow, again)
        self._updated = True
        if self.queue:  # the next photograph is on its way while the device works on this step
            camera = self.scene.train[self.queue[-1]]
            self.staging.send(camera.name, lambda: self._photo_and_mask(camera))

    def after_update(self, step: int) -> None:
        if self.strategy.changes(step):
            self._retry()
            self._forget_recordings()
            self.strategy.after_update(step, self.generator)
            give_back()

    def _survey(self, count: int) -> Tensor:
        """The shares [N] of the Gaussians in the errors of `count` random photographs, at the size of this step."""
        chosen = torch.randperm(len(self.scene.train), generator=self.generator)[:count].tolist()
        cameras = [self.scene.train[index] for index in chosen]
        self.scene.prefetch(cameras)
        return shares_of_errors(self._drawn(camera) for camera in cameras)

    def _drawn(self, camera: Camera) -> tuple[Rendering, Tensor, Tensor | None]:
        photo, mask = (None if part is None else part.to(self.device) for part in self._photo_and_mask(camera))
        assert photo is not None
        view = self._reduced(View(camera, photo, mask))
        with torch.enable_grad():
            rendering = self.render(view.camera, sh_degree=self._degree())
            if self.exposures is not None:
                rendering = rendering._replace(image=self.exposures.corrected(rendering.image, camera.name))
        return rendering, view.photo, view.mask

    def resolve(self) -> Tensor | None:
        self._retry()
        retried, self._retried = self._retried, None
        return retried

    def _retry(self) -> None:
        """Makes the last step again as long as its lists lacked room on the device, which then changed nothing."""
        while not self.capacity.resolve():
            assert self._view is not None
            self._forget_recordings()
            for _, parameter in self.named_parameters():
                parameter.grad = None
            loss = self.loss(self.forward(self._view), self._view)
            loss.backward()  # type: ignore[no-untyped-call]
            self._retried = loss.detach()
            if self._updated:
                self.update(self._step, again=True)

    def _forget_recordings(self) -> None:
        """Recordings point at tensors that are about to be replaced, or have too little room for their lists."""
        if self.replays is not None:
            self._recorded = None
            self.replays.forget()

    def _rates(self, step: int) -> dict[str, float]:
        rates = self.config.rates
        done = min(step / max(self.config.steps, 1), 1.0)
        means = self.scene.extent * rates.means ** (1 - done) * rates.means_final**done
        return {name: means if name == "means" else getattr(rates, name) for name in NAMES}

    def _exposure_rate(self, step: int) -> float:
        done = min(step / max(self.config.steps, 1), 1.0)
        return float(self.config.rates.exposure ** (1 - done) * self.config.rates.exposure_final**done)

    # ---- what others read ----

    def render(self, camera: Camera, sh_degree: int | None = None) -> Rendering:
        """The scene from `camera`, as training draws it."""
        return self.gaussians(
            camera, background=self.background, sh_degree=sh_degree, antialiased=self.config.antialiased
        )

    def introduction(self, start: int, steps: int) -> str:
        """Nothing to say; from here on the peak of memory is the training's."""
        give_back()
        self._before = memory(self.device)
        reset_peak(self.device)
        return ""

    def conclusion(self, step: int) -> str:
        """The peak of memory beside what it is to stay within."""
        used, learned = memory(self.device), learned_bytes(tensor for _, tensor in self.named_parameters())
        peak = mebibytes(max(used.resident_peak, self._before.resident_peak))
        if self.device.type == "cuda":
            told = f"{mebibytes(used.cuda_peak)} on the card, {peak} beside it"
        else:
            own = mebibytes(max(used.resident_peak - self._before.resident, 0))
            told = f"{peak}, of which {mebibytes(self._before.resident)} before the first step and {own} for training"
        allowed, photos = mebibytes(3 * learned), mebibytes(self.scene.kept_bytes)
        drawn = mebibytes(self.space.taken(*PICTURES))
        return (
            f"peak memory {told}; 3 times parameters, gradients and moments are {allowed}, "
            f"a step's pictures {drawn}, photographs {photos}"
        )

    def describe(self, batch: View) -> str:
        return f"image {batch.camera.name!r}"

    def metrics(self) -> dict[str, Any]:
        """The count of Gaussians, and the PSNR in dB of the last step's picture against its photograph."""
        found: dict[str, Any] = {"num_gaussians": len(self.gaussians)}
        if self._shown is not None and self._view is not None:
            likeness = psnr(self._shown.clamp(0, 1), self._view.photo, self._view.mask)
            found["psnr"] = min(likeness, HIGHEST_PSNR)
        return found

    def named_parameters(self) -> list[tuple[str, Tensor]]:
        exposures = [] if self.exposures is None else [("exposure", self.exposures.affine)]
        return [*self.gaussians.named_parameters(), *exposures]

    def named_gradients(self) -> list[tuple[str, Tensor]]:
        """Of the 2D Gaussians, where backward ends, and of whatever else is learned."""
        found = [(name, tensor.grad) for name, tensor in self.named_parameters()]
        if self._rendering is not None and self._rendering.detached is not None:
            detached = self._rendering.detached._asdict()
            found += [(f"2D {name}", tensor.grad) for name, tensor in detached.items() if tensor is not None]
        return [(name, gradient) for name, gradient in found if gradient is not None]

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        self._retry()
        tensors = self.gaussians.tensors() | self.optimizer.state() | self.strategy.state()
        if self.exposures is not None:
            tensors |= self.exposures.state()
        return tensors | {"generator": self.generator.get_state()}, {"queue": self.queue}

    def load_state(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        self._forget_recordings()
        for name in NAMES:
            if name not in tensors:
                raise SplatlearnError(f"a scene's checkpoint must hold '{name}', got none")
            self.gaussians.replace(name, tensors[name].to(self.device))
        on_device = {name: tensor.to(self.device) for name, tensor in tensors.items()}
        self.optimizer.load_state(on_device)
        self.strategy.load_state(on_device)
        if self.exposures is not None:
            self.exposures.load_state(on_device)
        self.generator.set_state(tensors["generator"])
        self.queue = list(state["queue"])
