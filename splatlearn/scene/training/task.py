"""A scene as a task of the loop: Gaussians learned from the images of a COLMAP folder."""

import reprlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from splatlearn.checkpoint import set_generator
from splatlearn.devices import choose_device
from splatlearn.errors import SplatlearnError
from splatlearn.notices import warn
from splatlearn.ops import native
from splatlearn.ops.recording import CudaRecorder
from splatlearn.registry import LOSSES, READERS, STRATEGIES
from splatlearn.scene import evaluate as evaluation
from splatlearn.scene.cameras import Camera
from splatlearn.scene.formats import registry as formats
from splatlearn.scene.formats.ply import write_ply
from splatlearn.scene.frame import Frame, frame_of_cameras
from splatlearn.scene.gaussians import Gaussians, Rendering
from splatlearn.scene.metrics import HIGHEST_PSNR, psnr
from splatlearn.scene.photos.exposure import Exposures
from splatlearn.scene.photos.staging import Staging
from splatlearn.scene.reconstruct.ready import ready
from splatlearn.scene.schema import GAUSSIAN, Schema
from splatlearn.scene.timelapse import Timelapse, reduced_camera
from splatlearn.scene.training.guard import Guard, warn_of_gap
from splatlearn.scene.training.losses import ExposurePenalty, Learned, Losses, Photometric
from splatlearn.scene.training.memory import give_back, learned_bytes, mebibytes, memory, reset_peak
from splatlearn.scene.training.optimizer import GaussianAdam, Numbers
from splatlearn.scene.training.recipe import Recipe, recipe_of
from splatlearn.scene.training.step import TrainingStep
from splatlearn.scene.training.strategy import Strategy
from splatlearn.scene.training.survey import shares_of_errors
from splatlearn.scene.view import View, reduced
from splatlearn.task import Callback, RunWriter, Task

FROM_POINTS = ("sfm", "random")  # values of `init` that need the points of the model
IMAGE_BUFFERS = ("render", "alphas", "transmittance", "stops")  # of a step on the CPU, beside the loss's gradient
AHEAD = 2  # images that threads decode ahead, where not all fit into memory


class SceneTask(Task[View, Rendering]):
    """Learns Gaussians from images, one image a step, in an order that is shuffled anew in each round.

    A subclass may set another `schema`, whose learning rates then are keys of its `Config`, give views further `maps`,
    or add to `losses`, the terms of the loss by name.
    """

    Config: type[Recipe] = Recipe
    schema: Schema = GAUSSIAN
    _from_state = False  # whether `load_state` is about to replace the Gaussians

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "schema" in cls.__dict__ and "Config" not in cls.__dict__:
            cls.Config = recipe_of(cls.schema, cls.Config)

    @classmethod
    def prepare(cls, config: Recipe) -> None:
        """Make the path of the photographs absolute, and reconstruct their cameras where the config asks for it."""
        path = ready(config.data.path, config.data.reconstruct)
        config.data.path = str(Path(path).expanduser().resolve()) if path else ""
        config.init = _absolute_init(config.init)

    @classmethod
    def restored(cls, config: Recipe) -> "SceneTask":
        """Make the task without its start: the points, or the file that `init` names, are not needed any more."""
        task = cls.__new__(cls)
        task._from_state = True
        task.__init__(config)  # type: ignore[misc]
        return task

    @classmethod
    def fixed_keys(cls, config: Recipe) -> dict[str, Any]:
        """The keys that decide the tensors or what they mean, and those of the start."""
        names = ("seed", "reader", "sh_degree", "antialiased", "exposure", "strategy")
        return {"init": _absolute_init(config.init), **{name: getattr(config, name) for name in names}}

    def fingerprints(self) -> dict[str, dict[str, str]]:
        """Those of the reader, if it has any."""
        found = getattr(self.scene, "fingerprints", None)
        return found() if found is not None else {}

    def __init__(self, config: Recipe) -> None:
        self.config = config
        self.device = choose_device(config.device)
        if config.reproducible:
            if self.device.type != "cpu":
                raise SplatlearnError(f"'reproducible' needs the device cpu to learn a scene, got {self.device}")
            native.set_reproducible(True)
        self.generator = torch.Generator().manual_seed(config.seed)
        if not config.data.path:
            raise SplatlearnError("'data.path' is not set: name a COLMAP folder with --data.path FOLDER")
        self.scene = READERS.find(config.reader, "reader")(self._reading())
        self.gaussians = self._initial().arranged().to(self.device)
        self.optimizer = GaussianAdam(self.gaussians)
        strategy = STRATEGIES.find(config.strategy, "strategy")(
            config.densify, self.gaussians, self.optimizer, self.scene.extent, config.steps, self._survey
        )
        names = [camera.name for camera in self.scene.train]
        self.exposures = Exposures(names, self.device) if config.exposure else None
        self.learned = Learned(self.gaussians, self.exposures)
        self.losses = self._losses()
        self.background = torch.tensor(config.data.background, device=self.device)
        mode = "antialiased" if config.antialiased else "classic"
        self.options = {"rasterize_mode": mode, "near_plane": self.frame.near}
        self.training_step = TrainingStep(
            self.gaussians,
            self.losses,
            optimizer=self.optimizer,
            strategy=strategy,
            background=self.background,
            exposures=self.exposures,
            options=self.options,
            seed=config.seed,
            recorder=CudaRecorder(self.device) if config.cuda_graph and self.device.type == "cuda" else None,
        )
        self.queue: list[int] = []  # training cameras still to come in this round, last first
        self.staging = Staging(self.device)
        self._before = memory(self.device)
        self._step = 0

    @property
    def strategy(self) -> Strategy:
        """How the set of Gaussians changes; it may be replaced before training."""
        return self.training_step.strategy

    @strategy.setter
    def strategy(self, strategy: Strategy) -> None:
        self.training_step.strategy = strategy

    @property
    def frame(self) -> Frame:
        """The frame in which the Gaussians are learned; that of a reader that has none is the capture's."""
        frame: Frame = getattr(self.scene, "frame", Frame())
        return frame

    def _place(self, frame: Frame) -> None:
        """Go on in the frame of a checkpoint, whatever frame the reader chose."""
        if frame != self.frame:
            if not hasattr(self.scene, "place"):
                reader = self.config.reader
                raise SplatlearnError(f"the checkpoint is of a reader with frames (`place`), but {reader!r} has none")
            self.scene.place(frame)
        self.options["near_plane"] = self.training_step.options["near_plane"] = self.frame.near
        self.strategy.extent = self.scene.extent

    def _reading(self) -> Any:
        """The keys of the reader; where nothing starts at the points, they are optional."""
        data = self.config.data
        optional = self._from_state or self.config.init not in FROM_POINTS
        return replace(data, require_points=False) if optional and hasattr(data, "require_points") else data

    def _initial(self) -> Gaussians:
        config = self.config
        if self._from_state:
            return Gaussians.from_points(
                np.zeros((1, 3), np.float32), np.zeros((1, 3), np.uint8), sh_degree=config.sh_degree, schema=self.schema
            )
        if config.init in FROM_POINTS:
            return Gaussians.from_points(
                self.scene.points,
                self.scene.point_colors,
                sh_degree=config.sh_degree,
                init="sfm" if config.init == "sfm" else "random",
                generator=self.generator,
                schema=self.schema,
            )
        path = Path(config.init).expanduser()
        if not path.is_file():
            raise SplatlearnError(f"'init' must be sfm, random or a file of Gaussians, got {config.init!r}")
        tensors, antialiased = formats.read(path, schema=self.schema)
        if antialiased not in (None, config.antialiased):
            how = "antialiased" if antialiased else "without antialiasing"
            warn(f"{config.init} was trained {how}, unlike this run: its opacities start wrong ('antialiased').")
        if not len(self.scene.points) and hasattr(self.scene, "place"):  # then these say how deep the scene is
            cameras = [self.frame.capture_camera(camera) for camera in self.scene.train + self.scene.test]
            self.scene.place(frame_of_cameras(cameras, tensors["means"].double().numpy()))
        return Gaussians(self.frame.normalised_tensors(tensors), self.schema).at_least(config.sh_degree)

    def _losses(self) -> Losses:
        """The terms of the config, and with learned exposures their penalty."""
        configs, found = self.config.losses, Losses()
        for name, config in configs.items():
            found[name] = LOSSES.find(configs.word(name), f"losses.{name}")(config, self.learned)
        if self.exposures is not None and "exposure" not in found:
            found["exposure"] = ExposurePenalty(ExposurePenalty.Config(), self.learned)
        return found

    # ---- the five steps' parts ----

    def batch(self, step: int) -> View:
        self._step = step
        if not self.queue:
            self.queue = torch.randperm(len(self.scene.train), generator=self.generator).tolist()
        camera = self.scene.train[self.queue.pop()]
        maps = self.staging.take(camera.name, lambda: self._maps(camera))
        self.scene.prefetch([self.scene.train[index] for index in self.queue[-AHEAD:]])
        return self._reduced(View(camera, maps))

    def maps(self, camera: Camera) -> dict[str, Tensor]:
        """The maps of a training view, on the CPU, see `View`: its image, and its mask if it has one.

        A subclass adds others. Lengths in a map `depth` are those of the capture.
        """
        image, mask = self.scene.photo(camera), self.scene.mask(camera)
        return {"image": image} if mask is None else {"image": image, "mask": mask}

    def _maps(self, camera: Camera) -> dict[str, Tensor]:
        """The maps with lengths of the normalised frame, as the renderings have them."""
        maps = self.maps(camera)
        return {**maps, "depth": maps["depth"] / self.frame.scale} if "depth" in maps else maps

    def _reduced(self, view: View) -> View:
        """The view at the size that this step learns from."""
        return reduced(view, 2 ** sum(self._step <= at * self.config.steps for at in self.config.coarse))

    def _degree(self) -> int:
        """Degree of the spherical harmonics in use at this step."""
        return min((self._step - 1) // self.config.sh_every, self.gaussians.sh_degree)

    def forward(self, batch: View) -> Rendering:
        return self.training_step.render(batch, self._numbers(self._step))

    def loss(self, output: Rendering, batch: View) -> Tensor:
        return self.training_step.loss()

    def update(self, step: int) -> None:
        self.training_step.update()
        if self.queue:  # the next image is in transfer while the device works on this step
            camera = self.scene.train[self.queue[-1]]
            self.staging.send(camera.name, lambda: self._maps(camera))

    def after_update(self, step: int) -> None:
        if self.training_step.resize(self.generator):
            give_back()

    def resolve(self) -> Tensor | None:
        return self.training_step.resolve()

    def _numbers(self, step: int) -> Numbers:
        rates, done = self.config.rates, min(step / max(self.config.steps, 1), 1.0)
        return Numbers(
            step,
            self._degree(),
            {parameter.name: parameter.rate_at(rates, done, self.scene.extent) for parameter in self.schema},
            float(rates.exposure ** (1 - done) * rates.exposure_final**done),
        )

    def _survey(self, count: int) -> Tensor:
        """The shares [N] of the Gaussians in the errors of `count` random images, at the size of this step."""
        chosen = torch.randperm(len(self.scene.train), generator=self.generator)[:count].tolist()
        cameras = [self.scene.train[index] for index in chosen]
        self.scene.prefetch(cameras)
        return shares_of_errors(self._rendered(camera) for camera in cameras)

    def _rendered(self, camera: Camera) -> tuple[Rendering, View]:
        maps = {name: values.to(self.device) for name, values in self._maps(camera).items()}
        view = self._reduced(View(camera, maps))
        with torch.enable_grad():
            rendering = self.render(view.camera, sh_degree=self._degree())
            if self.exposures is not None:
                rendering = rendering._replace(image=self.exposures.corrected(rendering.image, camera.name))
        return rendering, view

    # ---- what others read ----

    def render(self, camera: Camera, sh_degree: int | None = None) -> Rendering:
        """Render the scene from `camera` as training does, with a graph to the parameters."""
        return self.gaussians(camera, background=self.background, sh_degree=sh_degree, **self.options)

    def introduction(self, start: int, steps: int) -> str:
        """Nothing to print; from here on the peak of memory is the training's."""
        give_back()
        self._before = memory(self.device)
        reset_peak(self.device)
        return ""

    def conclusion(self, step: int) -> str:
        """The peak of memory, and the sizes to compare it with."""
        used, learned = memory(self.device), learned_bytes(tensor for _, tensor in self.named_parameters())
        peak = mebibytes(max(used.resident_peak, self._before.resident_peak))
        if self.device.type == "cuda":
            text = f"{mebibytes(used.cuda_peak)} on the GPU, {peak} beside it"
        else:
            own = mebibytes(max(used.resident_peak - self._before.resident, 0))
            text = f"{peak}, of which {mebibytes(self._before.resident)} before the first step and {own} for training"
        allowed, photos = mebibytes(3 * learned), mebibytes(self.scene.kept_bytes)
        terms = (term for term in self.losses.values() if isinstance(term, Photometric))
        buffers = self.training_step.space.taken(*IMAGE_BUFFERS) + sum(term.space.taken("v_image") for term in terms)
        return (
            f"peak memory {text}; 3 times parameters, gradients and moments are {allowed}, "
            f"image buffers of a step {mebibytes(buffers)}, images {photos}"
        )

    def describe(self, batch: View) -> str:
        return f"image {batch.camera.name!r}"

    def metrics(self) -> dict[str, Any]:
        """The count of Gaussians, and the PSNR in dB of the last step's rendering against its image."""
        found: dict[str, Any] = {"num_gaussians": len(self.gaussians)}
        image, view = self.training_step.image, self.training_step.view
        if image is not None and view is not None:
            found["psnr"] = min(psnr(image.clamp(0, 1), view.image, view.mask), HIGHEST_PSNR)
        return found

    def named_parameters(self) -> list[tuple[str, Tensor]]:
        return self.training_step.named_parameters()

    def named_gradients(self) -> list[tuple[str, Tensor]]:
        return self.training_step.named_gradients()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        self.training_step.retry()
        tensors = self.gaussians.tensors() | self.optimizer.state() | self.strategy.state()
        if self.exposures is not None:
            tensors |= self.exposures.state()
        return tensors | {"generator": self.generator.get_state()}, {"queue": self.queue, "frame": self.frame.record()}

    def load_state(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        self.training_step.invalidate()
        self._place(Frame.of_record(state.get("frame"), "a scene's checkpoint"))
        label = "a scene's checkpoint"
        for name in self.schema.names:
            if name not in tensors or tensors[name].dtype != torch.float32 or not tensors[name].dim():
                got = "none" if name not in tensors else f"{tensors[name].dtype} {list(tensors[name].shape)}"
                raise SplatlearnError(f"{label} must hold '{name}' as torch.float32 of each Gaussian, got {got}")
        if not len(tensors["means"]):
            raise SplatlearnError(f"{label} must hold Gaussians, got none")
        if problem := self.schema.problem({name: tuple(tensors[name].shape) for name in self.schema.names}):
            raise SplatlearnError(f"{label} must hold Gaussians that fit together: {problem}")
        queue = state.get("queue")
        cameras = len(self.scene.train)
        if not isinstance(queue, list) or not all(type(row) is int and 0 <= row < cameras for row in queue):
            told = reprlib.repr(queue)
            raise SplatlearnError(f"{label} must hold as 'queue' numbers of the {cameras} training images, got {told}")
        set_generator(label, self.generator, tensors)
        for name in self.schema.names:
            self.gaussians.replace(name, tensors[name].to(self.device))
        self.gaussians.check()
        on_device = {name: tensor.to(self.device) for name, tensor in tensors.items()}
        self.optimizer.load_state(on_device)
        self.strategy.load_state(on_device)
        if self.exposures is not None:
            self.exposures.load_state(on_device)
        self.queue = list(queue)

    # ---- what a run evaluates and leaves behind ----

    def evaluate(self, step: int = 0, writer: RunWriter | None = None) -> dict[str, Any]:
        """Measure the held-out photographs: see `scene.evaluate.evaluate`."""
        warn_of_gap(self, step)
        return evaluation.evaluate(self, writer, lpips=self.config.lpips and writer is not None)

    def summarize(self, figures: Mapping[str, Any]) -> str:
        return evaluation.summarize(figures)

    def artifacts(self, writer: RunWriter) -> None:
        tensors = self.frame.capture_tensors(self.gaussians.tensors())
        mode = "mip" if self.config.antialiased else "default"
        writer.save("point_cloud.ply", lambda path: write_ply(path, tensors, mode, self.schema))

    def images(self, step: int) -> dict[str, Tensor]:
        """The render of the first held-out view; at the start, its photograph, too."""
        camera = (self.scene.test or self.scene.train)[0]
        with torch.no_grad():
            found = {f"render/{camera.name}": self.render(reduced_camera(camera)).image}
        return found if step else found | {f"photo/{camera.name}": self.scene.photo(camera)}

    def callbacks(self, writer: RunWriter) -> list[Callback]:
        config, found = self.config, list[Callback]([Guard(self, self.config.steps)])
        if config.timelapse:
            found.append(Timelapse(writer, config.timelapse, config.steps))
        if config.evaluate_every:
            found.append(evaluation.Patience(writer, config.evaluate_every, config.patience))
        return found


def _absolute_init(init: str) -> str:
    """The value of `init`, a file by its absolute path: the run may be resumed in another working directory."""
    return init if init in FROM_POINTS else str(Path(init).expanduser().resolve())
