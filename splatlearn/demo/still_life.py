"""Forty photographs of a still life, made from formulas: what the demo reconstructs, so that it needs no download.

A ray caster of ours looks through a lens with real distortion at a vase, a globe, books, a ball, a doughnut, a paper
cone and a toy block on a round terrazzo table in a papered room. Everything is diffuse and lit by fixed light, which
is what a reconstruction can explain; everything is seeded. The true lens and poses are given out too, for tests.

Frames: the world is in metres with z up and the table's top at z = 0; cameras are as in COLMAP (x right, y down,
z forward, pixel centres at +0.5).
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from splatlearn.demo.light import GAMMA, Skin, bake, paint
from splatlearn.demo.solids import Box, Lathe, Solid, Sphere, Torus, cast, rotate, turn_about
from splatlearn.demo.textures import (
    Lattice,
    Pattern,
    block,
    book,
    confetti,
    doughnut,
    glaze,
    globe,
    patchwork,
    terrazzo,
    wallpaper,
)
from splatlearn.errors import SplatlearnError

WIDTH, HEIGHT, COUNT = 480, 360, 40
FOCAL_35MM = 28  # what the EXIF tag says, in whole millimetres as phones write it
DISTORTION = (-0.115, 0.028, 0.0011, -0.0008)  # k1, k2, p1, p2 of the lens: barrel, slightly decentred
FOCAL_SHARE = 0.815, 0.811  # focal lengths over the picture's longer side; the tag, 28 / 35 = 0.8, is near
CENTER_SHARE = 0.5, 0.5  # COLMAP holds the principal point at the middle
SAMPLES = 2  # rays a pixel and axis
BAND = 48  # rows traced at once: the arrays stay in cache


@dataclass(frozen=True)
class Lens:
    """COLMAP's OPENCV camera: sizes and focal lengths in pixels, distortion k1, k2 radial, p1, p2 tangential."""

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    k1: float
    k2: float
    p1: float
    p2: float

    @property
    def params(self) -> tuple[float, ...]:
        """The eight numbers in COLMAP's order."""
        return self.fx, self.fy, self.cx, self.cy, self.k1, self.k2, self.p1, self.p2

    def distort(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Distorted coordinates of ideal ones (both on the plane z = 1), and the Jacobian [2, 2, ...]."""
        k1, k2, p1, p2 = self.k1, self.k2, self.p1, self.p2
        r2 = x * x + y * y
        radial, slope = 1 + r2 * (k1 + r2 * k2), 2 * (k1 + 2 * k2 * r2)  # slope: d radial / dx = slope x
        cross = slope * x * y + 2 * p1 * x + 2 * p2 * y
        jacobian = np.array(
            [
                [radial + slope * x * x + 2 * p1 * y + 6 * p2 * x, cross],
                [cross, radial + slope * y * y + 6 * p1 * y + 2 * p2 * x],
            ]
        )
        distorted_x = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
        distorted_y = y * radial + 2 * p2 * x * y + p1 * (r2 + 2 * y * y)
        return distorted_x, distorted_y, jacobian

    def rays(self, px: np.ndarray, py: np.ndarray) -> np.ndarray:
        """Unit directions [3, ...] float64 in the camera's frame of positions in pixels; exact to rounding (Newton)."""
        goal_x, goal_y = (px - self.cx) / self.fx, (py - self.cy) / self.fy
        x, y = goal_x.astype(np.float64), goal_y.astype(np.float64)
        for _ in range(8):
            at_x, at_y, ((a, b), (c, d)) = self.distort(x, y)
            miss_x, miss_y, determinant = at_x - goal_x, at_y - goal_y, a * d - b * c
            x, y = x - (d * miss_x - b * miss_y) / determinant, y - (a * miss_y - c * miss_x) / determinant
        return np.stack([x, y, np.ones_like(x)]) / np.sqrt(x * x + y * y + 1)


def lens(width: int = WIDTH, height: int = HEIGHT) -> Lens:
    """The true lens of photographs of that size in pixels."""
    long = max(width, height)
    focal_x, focal_y = FOCAL_SHARE[0] * long, FOCAL_SHARE[1] * long
    return Lens(width, height, focal_x, focal_y, CENTER_SHARE[0] * width, CENTER_SHARE[1] * height, *DISTORTION)


def camera_poses(count: int = COUNT, seed: int = 0) -> np.ndarray:
    """True world-to-camera matrices [count, 4, 4] float64: three in five on a low ring, the others on a higher one."""
    generator = np.random.default_rng([seed, 3])
    low = count - (2 * count) // 5
    poses = np.empty((count, 4, 4))
    for i in range(count):
        first = i < low
        place, of = (i, low) if first else (i - low, count - low)
        angle = 2 * np.pi * (place + generator.uniform(-0.12, 0.12)) / of + (0.0 if first else 0.35)
        rise = np.radians((19.0 + 5.0 * np.sin(3 * angle) if first else 41.0) + generator.uniform(-1.5, 1.5))
        reach = (2.35 if first else 2.30) * generator.uniform(0.96, 1.04)
        target = np.array([0.0, 0.0, 0.20 if first else 0.10]) + generator.uniform(-0.04, 0.04, 3)
        center = reach * np.array([np.cos(angle) * np.cos(rise), np.sin(angle) * np.cos(rise), np.sin(rise)])
        poses[i] = look_at(center, target, generator.uniform(-2.0, 2.0))
    return poses


def look_at(center: np.ndarray, target: np.ndarray, roll: float) -> np.ndarray:
    """World-to-camera matrix [4, 4] of a camera at `center` that looks at `target`, upright but for `roll` degrees."""
    forward = (target - center) / np.linalg.norm(target - center)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    upright = np.stack([right, np.cross(forward, right), forward])
    pose = np.eye(4)
    pose[:3, :3] = turn_about([0.0, 0.0, 1.0], roll) @ upright
    pose[:3, 3] = -pose[:3, :3] @ center
    return pose


@dataclass(frozen=True)
class Piece:
    """One thing of the composition: its solid, its pattern, and the rows and columns of its skin at full detail."""

    solid: Solid
    pattern: Pattern
    rows: int
    cols: int


def composition(seed: int) -> list[Piece]:
    """The room first, then the table and what stands on it. A skin's texels are about a pixel wide to the cameras."""
    lattices = [Lattice(1000 * seed + k) for k in range(10)]
    vertical = (0.0, 0.0, 1.0)
    room = Box((0.0, 0.0, 0.75), (3.4, 3.4, 1.5), inside=True)
    table = Lathe((0, 0, 0), [(0.5, -0.75), (0.1, -0.6), (0.1, -0.3), (1.2, -0.07), (1.25, -0.04), (1.25, 0), (0, 0)])
    outline = [(0.11, 0.0), (0.16, 0.04), (0.205, 0.13), (0.225, 0.23), (0.22, 0.31), (0.19, 0.40), (0.145, 0.48)]
    outline += [(0.11, 0.54), (0.10, 0.60), (0.115, 0.66), (0.15, 0.71), (0.135, 0.71), (0.08, 0.60), (0.0, 0.45)]
    vase = Lathe((-0.02, 0.10, 0.0), outline)
    world = Sphere((0.50, 0.33, 0.245), 0.245, turn_about((1.0, 0.4, 0.0), 25.0))
    halves = [(0.24, 0.17, 0.05), (0.21, 0.15, 0.04)]
    lower = Box((-0.52, 0.16, halves[0][2]), halves[0], turn_about(vertical, 28.0))
    upper = Box((-0.53, 0.17, 0.1 + halves[1][2]), halves[1], turn_about(vertical, -6.0))
    ball = Sphere((-0.54, 0.17, 0.18 + 0.125), 0.125, turn_about((0.3, 1.0, 0.2), 40.0))
    ring = Torus((0.10, -0.47, 0.085), 0.165, 0.085)
    cube = Box((-0.38, -0.40, 0.115), (0.115, 0.115, 0.115), turn_about(vertical, 35.0))
    cone = Lathe((0.52, -0.20, 0.0), [(0.165, 0.0), (0.0, 0.46)])
    return [
        Piece(room, wallpaper(lattices[0]), 256, 6 * 480),
        Piece(table, terrazzo(lattices[1]), 640, 1536),
        Piece(vase, glaze(lattices[2], 0.71), 288, 320),
        Piece(world, globe(lattices[3], 0.245), 192, 384),
        Piece(lower, book(lattices[4], "3a6b6f", "f0dfb4", halves[0], 0.085), 112, 6 * 112),
        Piece(upper, book(lattices[5], "b9573f", "f6e6c4", halves[1], 0.075), 96, 6 * 96),
        Piece(ball, patchwork(lattices[6], 13.0), 112, 224),
        Piece(ring, doughnut(lattices[7], 0.165), 144, 352),
        Piece(cube, block(lattices[8], 0.115), 80, 6 * 80),
        Piece(cone, confetti(lattices[9], "e6b450"), 128, 256),
    ]


class StillLife:
    """The lit scene: solids with baked skins. detail scales the skins' resolution; 1 suits photographs of 480x360."""

    def __init__(self, seed: int = 0, detail: float = 1.0) -> None:
        pieces = composition(seed)
        pictures = [paint(x.solid, x.pattern, round(x.rows * detail), 6 * round(x.cols * detail / 6)) for x in pieces]
        self.room, self.solids = pieces[0].solid, [piece.solid for piece in pieces[1:]]
        colors = np.stack([picture.reshape(-1, 3).mean(axis=0) for picture in pictures[1:]])

        def dressed(k: int) -> Skin:
            coarse = round((16 if k == 0 else 8) * detail) or 1
            return bake(pieces[k].solid, pictures[k], self.solids, colors, coarse, seed)

        with ThreadPoolExecutor(processors()) as pool:
            self.room_skin, *self.skins = pool.map(dressed, range(len(pieces)))

    def trace(self, o: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Follow world rays (origins [3, M] or [3, 1], unit directions [3, M], float32, metres).

        Returns linear colours [M, 3], distances [M] and the index of the solid met [M] (-1 is the room).
        """
        t, which = cast(self.solids, o, d)
        color = np.empty((d.shape[1], 3), dtype=np.float32)
        for k, (solid, skin) in enumerate(zip([self.room, *self.solids], [self.room_skin, *self.skins], strict=True)):
            index = np.flatnonzero(which == k - 1)
            if not len(index):
                continue
            start, along = (o if o.shape[1] == 1 else o[:, index]), d[:, index]
            if k == 0:
                t[index] = solid.distance(solid.local(start), rotate(solid.turn.T, along))
            color[index] = skin.read(*solid.unroll(solid.local(start + t[index] * along)))
        return color, t, which

    def photograph(self, rays: np.ndarray, world_to_camera: np.ndarray) -> np.ndarray:
        """The picture [H, W, 3] uint8 (sRGB) that a camera takes; rays [3, S, H, W] float32 are S a pixel, averaged."""
        turn = world_to_camera[:3, :3].T.astype(np.float32)
        center = (-world_to_camera[:3, :3].T @ world_to_camera[:3, 3]).astype(np.float32)[:, None]
        _, samples, height, width = rays.shape
        picture = np.empty((height, width, 3), dtype=np.uint8)
        for top in range(0, height, BAND):
            band = rays[:, :, top : top + BAND]
            color = self.trace(center, rotate(turn, band.reshape(3, -1)))[0]
            color = color.reshape(samples, -1, width, 3).mean(axis=0)
            picture[top : top + BAND] = np.rint(255 * np.clip(color, 0, 1) ** (1 / GAMMA))
        return picture


def pixel_rays(through: Lens, samples: int = SAMPLES) -> np.ndarray:
    """Camera-frame unit directions [3, samples**2, H, W] float32: a regular grid of samples within each pixel."""
    offsets = (np.arange(samples) + 0.5) / samples
    py = np.arange(through.height)[:, None] + np.repeat(offsets, samples)[:, None, None]
    px = np.arange(through.width)[None, :] + np.tile(offsets, samples)[:, None, None]
    px, py = np.broadcast_arrays(px, py)
    return through.rays(px, py).astype(np.float32)


def processors() -> int:
    """How many processors this process may use, at most eight: each thread holds some tens of megabytes."""
    return min(len(os.sched_getaffinity(0)), 8)


def make_photographs(
    folder: Path, count: int = COUNT, width: int = WIDTH, height: int = HEIGHT, seed: int = 0, progress: bool = True
) -> None:
    """Write photo_00.jpg and so on into `folder` (made if need be): JPEG quality 92 with a focal length in the EXIF.

    The same seed gives the same photographs. Raises SplatlearnError for a count below one or a size below 16 pixels.
    """
    if count < 1 or min(width, height) < 16:
        raise SplatlearnError(f"photographs: expected count >= 1 and sides >= 16 px, got {count} of {width}x{height}")
    folder.mkdir(parents=True, exist_ok=True)
    with tqdm(total=count + 4, desc="photographs", unit="photo", disable=not progress) as bar:
        scene = StillLife(seed, detail=float(np.clip(max(width, height) / WIDTH, 0.25, 2.0)))
        bar.update(4)
        rays = pixel_rays(lens(width, height))
        names = [f"photo_{i:02d}.jpg" for i in range(count)]
        with ThreadPoolExecutor(processors()) as pool:
            pictures = pool.map(lambda pose: scene.photograph(rays, pose), camera_poses(count, seed))
            for name, picture in zip(names, pictures, strict=True):
                save_jpeg(folder / name, picture)
                bar.update(1)


def save_jpeg(path: Path, picture: np.ndarray) -> None:
    """Write [H, W, 3] uint8 as a JPEG whose EXIF names the focal length, which structure from motion starts from."""
    from PIL import ExifTags, Image

    exif = Image.Exif()
    exif[ExifTags.Base.Make], exif[ExifTags.Base.Model] = "splatlearn", "still life"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = FOCAL_35MM
    Image.fromarray(picture).save(path, quality=92, subsampling=0, exif=exif)
