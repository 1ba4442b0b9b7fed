"""The protocol of a task: what is learned, how it is measured, and what a run of it leaves behind."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from torch import Tensor

Batch = TypeVar("Batch")
Output = TypeVar("Output")


class Film(NamedTuple):
    """Images and their rate, for `RunWriter.save` with a name that ends in .mp4 or .gif."""

    images: Iterable[Any]  # tensors or arrays [H, W, 3] or [H, W, 1], float in 0..1 or uint8
    fps: float


class RunWriter(Protocol):
    """Where a task saves files. A task need not know how an image or a film is encoded.

    folder: The run folder.
    """

    @property
    def folder(self) -> Path: ...

    def save(self, name: str, content: Any) -> None:
        """Write ``folder/name``, whole or not at all.

        Args:
            name: A path within the run folder. Its suffix says what ``content`` is: an image of ``Film`` for .png, a
                `Film` for .mp4 and .gif, a JSON-able value for .json, a dict with a key "step" for .jsonl (a line
                is added; lines of that step and later ones are removed).
            content: That, or a str for a text file of any suffix, or a function that is called with the full path and
                writes the file itself.
        """


class Task(ABC, Generic[Batch, Output]):
    """What is learned. A task owns its parameters, its optimizer and a private ``torch.Generator``.

    Steps are numbered from 1: ``step`` is the update being made. All randomness comes from the private generator, whose
    state is part of ``state()``. A resumed run then repeats an uninterrupted one bit for bit.

    `splatlearn.fit` needs the five steps' parts and the state. The commands also make a task from a config: they call
    ``Config``, ``prepare`` and the constructor with the config, which the task keeps as ``config``.

    Attributes:
        Config: A dataclass derived from `splatlearn.config.Common`.
        config: The instance of it that the task was made from.
        parts: Number of pieces that the data of a step come in, one after another; their losses and gradients add up.
        writes: Whether this process writes files; of several that learn together, one does.
    """

    Config: Any = None
    config: Any = None
    parts: int = 1
    writes: bool = True

    @classmethod
    def prepare(cls, config: Any) -> None:  # noqa: B027  (a hook that most tasks leave empty)
        """Change the config of a new run before the task is made, for example paths to absolute ones."""

    # ---- what a resumed run compares with its checkpoint ----

    @classmethod
    def restored(cls, config: Any) -> "AnyTask":
        """Make the task for `load_state`: what only the start of a run needs may be left out."""
        return cls(config)  # type: ignore[call-arg]

    @classmethod
    def fixed_keys(cls, config: Any) -> Mapping[str, Any]:
        """Return the keys of the config that cannot change within a run, by dotted name, as JSON-able values.

        These decide the shape or the meaning of the state, or matter only at the start. Called before the task is made.
        """
        return {} if config is None else {"seed": config.seed}

    def fingerprints(self) -> Mapping[str, Mapping[str, str]]:
        """Return hashes of the data: kind, such as "poses", to name, such as "a.jpg" or "", to a hash.

        A run is resumed only with the data that it was learning from, wherever they are. Paths and file times are no
        part of it.
        """
        return {}

    # ---- the five steps' parts ----

    @abstractmethod
    def batch(self, step: int) -> Batch:
        """Return the data of this step, or the next of its parts."""

    @abstractmethod
    def forward(self, batch: Batch) -> Output:
        """Return the model's output: a tensor, or a mapping or sequence that holds tensors."""

    @abstractmethod
    def loss(self, output: Output, batch: Batch) -> Tensor:
        """Return the loss of the output, or its share of the step's loss: a scalar tensor with a graph."""

    @abstractmethod
    def update(self, step: int) -> None:
        """Apply the gradients to the parameters, then clear them (``zero_grad``)."""

    def after_update(self, step: int) -> None:  # noqa: B027
        """Do what follows an update, such as densification."""

    def resolve(self) -> Tensor | None:
        """Complete the last step, if the task works ahead of its device; called before anything of it is read.

        Returns:
            The loss of the last step where it had to be retried, else None.
        """
        return None

    # ---- what the loop prints and logs ----

    def introduction(self, start: int, steps: int) -> str:
        """Return a sentence to print before the first step, or ""."""
        return ""

    def conclusion(self, step: int) -> str:
        """Return a sentence to print after the last step, or ""."""
        return ""

    def progress(self) -> str:
        """Return what the progress bar shows beside the loss, such as a speed."""
        return ""

    def describe(self, batch: Batch) -> str:
        """Return a name of the batch for error messages, such as ``image 'IMG_1.jpg'``."""
        return "its batch"

    def metrics(self) -> dict[str, Any]:
        """Return further JSON-able fields of a logged step; the same bits in every run of the same seed."""
        return {}

    # ---- parameters and state ----

    @abstractmethod
    def named_parameters(self) -> Iterable[tuple[str, Tensor]]:
        """Return what is learned, by name; a parameter's ``grad`` may be None."""

    def named_gradients(self) -> Iterable[tuple[str, Tensor]]:
        """Return what backward has left for the update, by name: by default the parameters' gradients."""
        return [(name, tensor.grad) for name, tensor in self.named_parameters() if tensor.grad is not None]

    @abstractmethod
    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return all that a resumed run needs: tensors (the generator's state too), and a JSON-able dict."""

    @abstractmethod
    def load_state(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Restore what ``state`` returned."""

    # ---- what a run evaluates and leaves behind ----

    def evaluate(self, step: int = 0, writer: RunWriter | None = None) -> dict[str, Any]:
        """Measure the task on what is held out; the parameters and the state stay as they are.

        Args:
            step: The last step that was made.
            writer: Where to save files of the evaluation, under eval/; None while training, when figures are enough.

        Returns:
            JSON-able figures by name, for eval/metrics.json and the report; by default the fields of ``metrics``.
        """
        return dict(self.metrics())

    def summarize(self, figures: Mapping[str, Any]) -> str:
        """Return the figures of an evaluation as a line to print."""
        numbers = {name: value for name, value in figures.items() if isinstance(value, (int, float))}
        return ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())

    def artifacts(self, writer: RunWriter) -> None:  # noqa: B027
        """Save what a run leaves beside its evaluation, such as a model for other programs; called after training."""

    def images(self, step: int) -> dict[str, Tensor]:
        """Return images [H, W, 3] by name for logs of the training, such as TensorBoard's; step 0 is the start."""
        return {}

    def callbacks(self, writer: RunWriter) -> "Sequence[Callback]":
        """Return what the config asks for while training, such as evaluations (`splatlearn.run.HeldOut`)."""
        return ()


AnyTask = Task[Any, Any]


class Callback:
    """An observer of the loop. Callbacks are called in the order given; none may change the task."""

    def on_start(self, start: int, task: AnyTask) -> None:
        """Called before step ``start + 1``."""

    def wants(self, step: int) -> bool:
        """Whether ``on_step`` is to be called after this step; on a CUDA device the loop waits for such a step."""
        return True

    def on_step(self, step: int, loss: float, task: AnyTask) -> None:
        """Called after step ``step`` is complete, if wanted."""

    def done(self) -> bool:
        """Whether training is to end now, before all its steps are made; asked after `on_step`."""
        return False

    def on_interrupt(self, step: int, task: AnyTask) -> str | None:
        """Called after the last complete step, when Ctrl-C was pressed; may return a sentence on how to resume."""
        return None

    def on_end(self, step: int, task: AnyTask) -> None:
        """Called after the last step."""
