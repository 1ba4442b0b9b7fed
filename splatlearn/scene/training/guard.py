"""Watches the first steps of a scene, and its evaluations, for training that is silently wrong: it only warns.

Renders of some training images, reduced to `SIDE` pixels, are compared with the images at a few steps. That draws
nothing from the run's generators and changes no bit of it. docs/LOG.md has its price and where its thresholds are from.
"""

import math
from collections.abc import Sequence
from statistics import median
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from splatlearn.errors import listed
from splatlearn.notices import warn
from splatlearn.scene import metrics
from splatlearn.scene.cameras import Camera
from splatlearn.scene.gaussians import Rendering
from splatlearn.scene.view import View, reduced
from splatlearn.task import AnyTask, Callback

SIDE = 96  # pixels of the longer side at which images are compared
FIRST = 8  # images that are rendered before something is learned
LOOKS = (100, 300, 1000)  # steps after which the renders are compared
LEARNED = 200  # steps from which something must have been learned
SHARE = 100  # one image for so many steps of the run, but at least `LEAST` and at most `MOST`
LEAST, MOST = 32, 200
NOTHING = 1e-3  # mean alpha below which nothing is rendered
NO_BETTER = 1.0  # dB over the best constant colour
FAR_BELOW = 5.0  # dB below the median at which one image is far worse than all ...
DEVIATIONS = 5.0  # ... if it is that many deviations below, too, or ...
LITTLE = 0.25  # ... gained less than this share of the others' gain over a constant colour
SAME_COLOURS = 3.0  # dB to the median at which another exposure explains the image
DIMMED = 4.0  # dB that another exposure would gain, beyond what it gains for the median image
GAP = 8.0  # dB between training and held-out images
FEW = 4  # images below which none can be called worse than all others
SAMPLES = 32  # pixels a side of the samples that duplicates are found by
DUPLICATE, PLAIN = 2.0, 4.0  # levels of 255: mean difference of duplicates; deviation of a picture of one colour


class Watched(Protocol):
    """The part of a SceneTask that is watched."""

    scene: Any
    gaussians: Any
    device: torch.device
    exposures: Any

    def render(self, camera: Camera, sh_degree: int | None = None) -> Rendering: ...

    def maps(self, camera: Camera) -> dict[str, Tensor]: ...


class Look(NamedTuple):
    """A training image and its render at a reduced size: PSNR in dB."""

    name: str
    alpha: float  # mean
    psnr: float
    corrected: float  # in the colours of the image
    constant: float  # of the best constant colour


class Guard(Callback):
    """Warns at the start and after some of the first steps."""

    def __init__(self, task: Watched, steps: int) -> None:
        self.task = task
        self.count = min(max(steps // SHARE, LEAST), MOST)
        self.looks = {min(step, steps) for step in LOOKS}
        self._suspects: set[str] = set()  # images that were named
        self._said = False  # that nothing is rendered in some views

    def on_start(self, start: int, task: AnyTask) -> None:
        if start:
            return
        scene = self.task.scene
        _warn_of_duplicates(scene)
        looks = [look(self.task, camera) for camera in some(scene.train, FIRST)]
        self._warn_of_nothing(looks, "Before the first step")
        _warn_of_points_behind(self.task)

    def wants(self, step: int) -> bool:
        return step in self.looks

    def on_step(self, step: int, loss: float, task: AnyTask) -> None:
        count, phase = (FIRST, 0.0) if step < LEARNED else (self.count, 0.0 if step < LOOKS[-1] else 0.5)
        looks = [look(self.task, camera) for camera in some(self.task.scene.train, count, phase)]
        if self._warn_of_nothing(looks, f"After step {step}") or step < LEARNED:
            return
        gain = median(each.psnr - each.constant for each in looks)
        if gain < NO_BETTER and median(each.constant for each in looks) < metrics.HIGHEST_PSNR:
            warn(
                f"After step {step} the renders are no better than a picture of one colour "
                f"({median(each.psnr for each in looks):.1f} dB): are the poses or the images those of another scene?"
            )
            return
        for sentence, names in suspects(looks, step):
            if names - self._suspects:
                self._suspects |= names
                warn(sentence)

    def _warn_of_nothing(self, looks: Sequence[Look], when: str) -> bool:
        """Warn of empty views, once; returns whether all are."""
        empty = [each.name for each in looks if each.alpha < NOTHING]
        if empty and not self._said:
            self._said = True
            if len(empty) == len(looks):
                warn(f"{when} nothing is rendered in any of {len(looks)} training views: no Gaussian is in them.")
            else:
                warn(f"{when} nothing is rendered in the view of {listed(empty)}: its pose or focal length is wrong.")
        return len(empty) == len(looks)


def some(cameras: Sequence[Camera], count: int, phase: float = 0.0) -> list[Camera]:
    """At most `count` cameras, evenly chosen, the first of them `phase` of a gap after the first camera."""
    count = min(count, len(cameras))
    return [cameras[int((index + phase) * len(cameras) / count)] for index in range(count)]


@torch.no_grad()
def look(task: Watched, camera: Camera) -> Look:
    """Compare the render of a camera with its image."""
    view = View(camera, {name: values.to(task.device) for name, values in task.maps(camera).items()})
    view = reduced(view, math.ceil(max(camera.width, camera.height) / SIDE))
    rendering = task.render(view.camera)
    image = rendering.image if task.exposures is None else task.exposures.corrected(rendering.image, camera.name)
    image, target = image.clamp(0, 1), view.image.float() / (255 if view.image.dtype == torch.uint8 else 1)
    mask = view.mask
    if mask is not None and not bool((mask > 0).any()):
        return Look(camera.name, 1.0, metrics.HIGHEST_PSNR, metrics.HIGHEST_PSNR, metrics.HIGHEST_PSNR)
    counted = target if mask is None else target[mask > 0]
    constant = counted.reshape(-1, 3).mean(0).expand_as(target)
    corrected = metrics.colour_corrected(image, target, mask)
    figures = (min(metrics.psnr(each, target, mask), metrics.HIGHEST_PSNR) for each in (image, corrected, constant))
    return Look(camera.name, float(rendering.alpha.mean()), *figures)


def suspects(looks: Sequence[Look], step: int) -> list[tuple[str, set[str]]]:
    """Sentences about images that are far worse than all others, with their names."""
    if len(looks) < FEW:
        return []
    found = _far_below(looks)
    plain = [each for each in found if each.constant > 35]
    exposed = [each for each in found if each not in plain and _is_exposure(each, looks)]
    wrong = [each for each in found if each not in plain and each not in exposed]
    middle = median(each.psnr for each in looks)
    sentences = []
    for names, why in (
        (plain, "has one colour only, as of a lens cap; leave it out"),
        (exposed, "has another exposure; train with --exposure"),
        (wrong, "does not fit the others: a wrong pose, another place, or something that moved"),
    ):
        if names:
            sentence = (
                f"After step {step} {listed([each.name for each in names])} ({min(e.psnr for e in names):.1f} dB) "
                f"is far worse than the other images ({middle:.1f} dB): it {why}."
            )
            sentences.append((sentence, {each.name for each in names}))
    usual = median(each.corrected - each.psnr for each in looks)
    dimmed = [each for each in looks if each not in found and each.corrected - each.psnr > usual + DIMMED]
    if dimmed:
        sentence = (
            f"After step {step} {listed([each.name for each in dimmed])} would be {DIMMED:g} dB or more nearer in "
            "another exposure: train with --exposure true."
        )
        sentences.append((sentence, {each.name for each in dimmed}))
    return sentences


def _far_below(looks: Sequence[Look]) -> list[Look]:
    middle = median(each.psnr for each in looks)
    deviation = 1.4826 * median(abs(each.psnr - middle) for each in looks)
    gain = median(each.psnr - each.constant for each in looks)
    return [
        each
        for each in looks
        if each.psnr < middle - FAR_BELOW
        and (each.psnr < middle - DEVIATIONS * deviation or each.psnr - each.constant < LITTLE * gain)
    ]


def _is_exposure(each: Look, looks: Sequence[Look]) -> bool:
    usual = median(other.corrected for other in looks)
    return each.corrected >= usual - SAME_COLOURS and each.corrected - each.constant >= SAME_COLOURS


@torch.no_grad()
def _warn_of_points_behind(task: Watched) -> None:
    means = task.gaussians.means.detach()
    means = means[:: len(means) // 4096 + 1].double().cpu()
    front = torch.zeros(len(means), dtype=torch.bool)
    for camera in some(task.scene.train, 64):
        pose = torch.from_numpy(camera.world_to_camera)
        front |= means @ pose[2, :3] + pose[2, 3] > 0
    behind = 1 - float(front.double().mean())
    if behind > 0.5:
        warn(
            f"Before the first step {behind:.0%} of the Gaussians lie behind all cameras: the poses may be "
            "camera-to-world, or of another convention than COLMAP's."
        )


def _warn_of_duplicates(scene: Any) -> None:
    """Warn of held-out images that are training images again; only where all images are in memory anyway."""
    cameras = [*scene.train, *scene.test]
    if not scene.test or sum(3 * c.width * c.height for c in cameras) > getattr(scene, "kept_bytes", 0):
        return
    train = torch.stack([_samples(scene.photo(camera)) for camera in scene.train])
    found = []
    for camera in scene.test:
        samples = _samples(scene.photo(camera))
        differences = (train - samples).abs().mean(dim=1)
        if float(samples.std()) > PLAIN and float(differences.min()) < DUPLICATE:
            found.append(f"{camera.name} (as {scene.train[int(differences.argmin())].name})")
    if found:
        warn(f"Held out, but trained on as well: {listed(found)}; the held-out figures count what is known by heart.")


def _samples(image: Tensor) -> Tensor:
    rows, columns = (torch.linspace(0, size - 1, SAMPLES).long() for size in image.shape[:2])
    return image[rows][:, columns].float().flatten()


def warn_of_gap(task: Watched, step: int) -> None:
    """Warn where held-out images are far worse than those of training."""
    scene = task.scene
    if not scene.test or not scene.train or step < LEARNED:
        return
    train = [look(task, camera) for camera in some(scene.train, FIRST)]
    test = [look(task, camera) for camera in some(scene.test, FIRST)]
    known, asked = (median(each.psnr for each in looks) for looks in (train, test))
    if median(each.psnr - each.constant for each in test) < NO_BETTER:
        warn(
            f"After step {step} the renders of the held-out images ({asked:.1f} dB) are no better than a picture of "
            "one colour: too few images, or wrong poses."
        )
        return
    if known - asked > GAP:
        warn(
            f"After step {step} the training images reach {known:.1f} dB, but the held-out ones {asked:.1f} dB: "
            "too few images, or held-out ones of parts that no training image shows."
        )
        return
    far = [each.name for each in test if each.psnr < known - 2 * GAP]
    if far and len(test) > 1:
        warn(f"After step {step} {listed(far)}, held out, is far worse than the others: its pose may be wrong.")
