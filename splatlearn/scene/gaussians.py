"""The model of a scene: N Gaussians with the parameters of a schema, their initial values, and their rendering.

Shapes: N Gaussians, K = (degree + 1)^2 spherical-harmonics bases, H x W pixels.
"""

import math
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from splatlearn.errors import SplatlearnError
from splatlearn.ops.project import DetachedGaussians
from splatlearn.ops.rasterization import RenderChain, render_chain
from splatlearn.ops.rasterize import rasterize
from splatlearn.scene.cameras import Camera
from splatlearn.scene.formats.ply import read_ply, write_ply
from splatlearn.scene.formats.registry import read
from splatlearn.scene.formats.splat import SH0
from splatlearn.scene.order import morton_order
from splatlearn.scene.photos.staging import upload
from splatlearn.scene.schema import GAUSSIAN, Schema

RENDER_MODES = ("RGB", "RGB+D", "RGB+ED")  # of `rasterization`: those with colours


class Rendering(NamedTuple):
    """One rendered image, and what training reads of how it was made."""

    image: Tensor  # [H, W, 3] float, 0..1 and a little beyond
    alpha: Tensor  # [H, W, 1]
    means2d: Tensor  # [1, N, 2] px, in the graph
    radii: Tensor  # [1, N, 2] int32 px; 0: culled
    colors: Tensor  # [1, N, 3] from the spherical harmonics, in the graph
    depth: Tensor | None = None  # [H, W] world units, where the render mode has it
    detached: DetachedGaussians | None = None  # where backward ends, if not at the parameters
    chain: RenderChain | None = None  # every result of the three stages

    def composite(self, values: Tensor) -> Tensor:
        """Composite values [N, D] of the Gaussians in place of their colours, over black.

        It takes the 2D Gaussians and the lists of this rendering, so that only the blend runs again.

        Returns:
            [H, W, D], with gradients to `values` and to the 2D Gaussians.
        """
        assert self.chain is not None
        rows, (height, width) = self.chain.rows, self.image.shape[:2]
        image, _ = rasterize(
            rows.means2d, rows.conics, rows.opacities, values[None], None, self.chain.tiles, width, height
        )
        return image.squeeze(0)


class CameraTensors(NamedTuple):
    """A camera as the rasterizer takes it, on its device."""

    viewmat: Tensor  # [1, 4, 4] world to camera
    K: Tensor  # [1, 3, 3] px
    center: Tensor  # [1, 3] world
    width: int  # px
    height: int

    @classmethod
    def of(cls, numbers: Tensor, width: int, height: int) -> "CameraTensors":
        """Views of what `camera_numbers` returned."""
        viewmat, K, center = numbers[:16].view(1, 4, 4), numbers[16:25].view(1, 3, 3), numbers[25:28].view(1, 3)
        return cls(viewmat, K, center, width, height)


def camera_numbers(camera: Camera, dtype: torch.dtype = torch.float32) -> Tensor:
    """A camera's matrices and centre in one CPU tensor [28], which goes to a device in one copy."""
    parts = [camera.world_to_camera.ravel(), camera.K.ravel(), camera.center]
    return torch.from_numpy(np.concatenate(parts)).to(dtype)


@lru_cache(maxsize=4096)
def camera_tensors(camera: Camera, device: torch.device, dtype: torch.dtype = torch.float32) -> CameraTensors:
    """A camera on a device, kept there for the next call."""
    return CameraTensors.of(upload(camera_numbers(camera, dtype), device), camera.width, camera.height)


class Gaussians(nn.Module):
    """N Gaussians as trainable parameters, before activation, named and shaped as their schema says.

    Those that the rasterizer reads: means [N, 3] world; scales [N, 3] logarithms of standard deviations; quats [N, 4]
    wxyz of any norm; opacities [N] logits; sh0 [N, 1, 3] and shN [N, K-1, 3] spherical-harmonics coefficients.
    """

    means: nn.Parameter
    scales: nn.Parameter
    quats: nn.Parameter
    opacities: nn.Parameter
    sh0: nn.Parameter
    shN: nn.Parameter

    def __init__(self, tensors: Mapping[str, Tensor], schema: Schema = GAUSSIAN) -> None:
        """Copy `tensors` to contiguous float32.

        Args:
            tensors: the parameters by name. One that is missing starts from its initial value, if its schema has one.

        Raises:
            SplatlearnError: a tensor is missing or its shape does not fit.
        """
        super().__init__()
        self.schema = schema
        given = dict(tensors)
        for parameter in schema:
            if parameter.name not in given and parameter.initial is not None:
                shape = (given["means"].shape[0], *parameter.shape)
                given[parameter.name] = torch.full(shape, parameter.initial)  # type: ignore[arg-type]
        if problem := schema.problem({name: tuple(tensor.shape) for name, tensor in given.items()}):
            raise SplatlearnError(f"Gaussians cannot be made: {problem}")
        for name in schema.names:
            self.replace(name, given[name].detach().float().contiguous().clone())

    @classmethod
    def from_points(
        cls,
        points: np.ndarray,
        colors: np.ndarray,
        *,
        sh_degree: int = 3,
        init: Literal["sfm", "random"] = "sfm",
        generator: torch.Generator | None = None,
        schema: Schema = GAUSSIAN,
    ) -> "Gaussians":
        """Make one Gaussian at each point of structure from motion.

        Args:
            points: [N, 3] float world; colors: [N, 3] uint8.
            init: "sfm": the point's colour, an isotropic scale from the 3 nearest neighbours, opacity 0.1 (Kerbl et al.
                2023); "random": the scale varies about that by axis; rotation, colour and opacity are random.
            generator: for "random".
            schema: further parameters start from their initial values.

        Raises:
            SplatlearnError: `points` is empty.
        """
        if len(points) == 0:
            raise SplatlearnError("Gaussians cannot begin from 0 points: at least one is needed")
        means = torch.from_numpy(np.ascontiguousarray(points, dtype=np.float32))
        n = len(means)
        spacing = torch.from_numpy(np.log(neighbour_distances(points))).float()
        scales, quats = spacing[:, None].repeat(1, 3), torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(n, 1)
        opacities, rgb = torch.full((n,), 0.1), torch.from_numpy(colors.astype(np.float32) / 255)
        if init == "random":
            scales = scales + 0.5 * torch.randn(n, 3, generator=generator)
            quats = torch.randn(n, 4, generator=generator)
            opacities = 0.05 + 0.9 * torch.rand(n, generator=generator)
            rgb = torch.rand(n, 3, generator=generator)
        tensors = {
            "means": means,
            "scales": scales,
            "quats": quats,
            "opacities": torch.logit(opacities),
            "sh0": ((rgb - 0.5) / SH0)[:, None],
            "shN": torch.zeros(n, (sh_degree + 1) ** 2 - 1, 3),
        }
        return cls(tensors, schema)

    @classmethod
    def from_ply(cls, path: Path | str, schema: Schema = GAUSSIAN) -> "Gaussians":
        """Read Gaussians from a PLY file of the original 3DGS; errors as `splatlearn.scene.formats.ply.read_ply`."""
        return cls(read_ply(path, schema=schema), schema)

    @classmethod
    def load(cls, path: Path | str, schema: Schema = GAUSSIAN) -> "Gaussians":
        """Read Gaussians from a PLY, .splat, SPZ or glTF file, by its suffix; errors as `formats.registry.read`.

        Only PLY holds further parameters; from other files these start from their initial values. Whether the scene
        was trained antialiased is not part of the Gaussians: `formats.registry.read` returns it.
        """
        return cls(read(path, schema=schema).tensors, schema)

    def at_least(self, sh_degree: int) -> "Gaussians":
        """Extend the spherical harmonics with zeros up to `sh_degree`, in place; returns self."""
        missing = (sh_degree + 1) ** 2 - 1 - self.shN.shape[1]
        if missing > 0:
            self.replace("shN", torch.cat([self.shN.detach(), self.shN.new_zeros(len(self), missing, 3)], dim=1))
        return self

    def save_ply(self, path: Path | str, render_mode: str | None = None) -> None:
        """Write a PLY file of the original 3DGS, in the frame of the means, with further parameters as columns.

        `render_mode` is that of `splatlearn.scene.formats.ply.write_ply`.
        """
        write_ply(path, self.tensors(), render_mode, self.schema)

    def replace(self, name: str, value: Tensor) -> None:
        """Make `value` the parameter `name`, of whatever N; `check` once all are replaced."""
        self.register_parameter(name, nn.Parameter(value))

    def check(self) -> None:
        """Raise SplatlearnError where a parameter is not in the schema or its shape does not follow N."""
        shapes = {name: tuple(parameter.shape) for name, parameter in self._parameters.items() if parameter is not None}
        if problem := self.schema.problem(shapes):
            raise SplatlearnError(f"Gaussians do not fit together: {problem}")
        if unknown := [name for name, _ in self.named_parameters() if name not in self.schema.names]:
            raise SplatlearnError(
                f"parameter '{unknown[0]}' of the Gaussians must be an entry of their schema, which has "
                f"{', '.join(self.schema.names)}"
            )

    def arranged(self) -> "Gaussians":
        """Sort the Gaussians in Morton order (`splatlearn.scene.order`), which renders faster; returns self."""
        order = morton_order(self.means.detach())
        for name, value in self.tensors().items():
            self.replace(name, value[order])
        return self

    def tensors(self) -> dict[str, Tensor]:
        """The parameters by name, detached."""
        return {name: getattr(self, name).detach() for name in self.schema.names}

    def activated(self, name: str) -> Tensor:
        """A parameter after its activation, in the graph: standard deviations, opacities in 0..1, unit quaternions."""
        return self.schema[name].activated(getattr(self, name))

    def __len__(self) -> int:
        return self.means.shape[0]

    @property
    def sh_degree(self) -> int:
        """Degree of the spherical harmonics held."""
        return math.isqrt(self.shN.shape[1] + 1) - 1

    def forward(
        self,
        camera: Camera | CameraTensors,
        *,
        background: Tensor | None = None,
        sh_degree: int | None = None,
        render_mode: str = "RGB",
        detached: bool = False,
        **options: Any,
    ) -> Rendering:
        """Render the scene from a camera.

        Args:
            camera: a camera, or its tensors, which are on the device of the Gaussians already.
            background: [3] colour behind everything; None: black.
            sh_degree: use the bases up to this degree only; None: all.
            render_mode: "RGB"; "RGB+D" and "RGB+ED" add accumulated or expected depth.
            detached: backward ends at the 2D Gaussians, from which `GaussianAdam` goes on.
            options: any other option of `splatlearn.rasterization`, such as rasterize_mode, near_plane or absgrad.

        Raises:
            SplatlearnError: an option has a wrong value.
        """
        if render_mode not in RENDER_MODES:
            raise SplatlearnError(f"render_mode must be one of {', '.join(RENDER_MODES)}, but is {render_mode!r}")
        if isinstance(camera, Camera):
            camera = camera_tensors(camera, self.means.device, self.means.dtype)
        chain = render_chain(
            self.means, self.quats, self.scales, self.opacities, (self.sh0, self.shN),
            camera.viewmat, camera.K, camera.width, camera.height,
            sh_degree=self.sh_degree if sh_degree is None else min(sh_degree, self.sh_degree),
            backgrounds=None if background is None else background[None],
            render_mode=render_mode, raw=True, camera_centers=camera.center, detached=detached, **options,
        )  # fmt: skip
        image, depth = chain.image.squeeze(0), None  # squeeze, as the gradient of image[0] would be copied into zeros
        if render_mode != "RGB":
            image, depth = image[..., :3], image[..., 3]
        rows, projection = chain.rows, chain.projection
        assert rows.colors is not None
        return Rendering(
            image, chain.alphas.squeeze(0), rows.means2d, rows.radii, rows.colors, depth,
            projection if isinstance(projection, DetachedGaussians) else None, chain,
        )  # fmt: skip


def neighbour_distances(points: np.ndarray, neighbours: int = 3) -> np.ndarray:
    """Root mean square distance [N] of each point to its nearest neighbours.

    It is at least 1e-6 of the cloud's size, and at most that size, or a tenth of the point's own distance where that is
    more: else a single point far away would begin as a fog over everything. The size is twice the distance from the
    median within which nine of ten points lie, as that bears strays.
    """
    from scipy.spatial import cKDTree

    away = np.abs(points - np.median(points, axis=0)).max(axis=1)
    size = 2 * float(np.percentile(away, 90))
    count = min(neighbours, len(points) - 1)
    if count == 0:
        return np.full(len(points), max(size, 0.01))
    distances = np.asarray(cKDTree(points).query(points, k=count + 1)[0])[:, 1:]
    spacing = np.sqrt((distances**2).mean(axis=1))
    ceiling = np.maximum(size, 0.1 * away) if size > 0 else np.inf
    return np.clip(spacing, max(size * 1e-6, 1e-9), ceiling)
