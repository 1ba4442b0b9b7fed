"""The light of the still life, computed once: diffuse surfaces look alike from everywhere, so it is baked into skins.

A skin is the picture that a solid wears: pattern times light over its (u, v). The light at a point is what comes from
a lamp of some size (so shadows have soft edges) plus what comes from the hemisphere above it: the room's glow where
nothing is in the way, else a share of the colour of the solid that is (so contacts darken and neighbours tint each
other). Both are Monte Carlo sums with a seeded generator, on a coarse grid: light varies slowly.

Shapes: M points; positions, normals and directions [3, M] float32 in the world's frame; light and colours linear RGB.
"""

from collections.abc import Sequence

import numpy as np

from splatlearn.demo.solids import NEAR, Solid, cast, rotate
from splatlearn.demo.textures import Pattern

GAMMA = 2.2
LAMP_CENTER, LAMP_HALF = (1.7, -1.9, 2.1), 0.55  # metres; a square lamp that faces the table
LAMP_COLOR, LAMP_POWER = (1.0, 0.92, 0.80), 10.5
GLOW_ABOVE, GLOW_BELOW = (0.56, 0.59, 0.62), (0.29, 0.25, 0.21)  # from the ceiling; from floor and low walls
BOUNCE = 0.30  # share of a neighbour's colour that it sends on
LAMP_GRID, SKY_GRID = 5, 8  # stratified samples a side: 25 rays to the lamp, 64 to the hemisphere
BATCH = 1 << 17  # rays traced at once: the arrays stay in cache


class Skin:
    """A picture [rows, cols, 3] over (u, v), read with bilinear interpolation; closed in u, and in v if asked."""

    def __init__(self, picture: np.ndarray, wraps_v: bool) -> None:
        self.rows, self.cols = picture.shape[:2]
        padded = np.pad(picture, ((0, 0), (1, 1), (0, 0)), mode="wrap")
        padded = np.pad(padded, ((1, 1), (0, 0), (0, 0)), mode="wrap" if wraps_v else "edge")
        self.texels = np.ascontiguousarray(padded.reshape(-1, 3), dtype=np.float32)

    def read(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Values [M, 3] at skin coordinates (u, v) [M] in 0..1; texel centres lie at (index + 0.5) / count."""
        x = np.clip(u, 0.0, 1.0) * np.float32(self.cols) + np.float32(0.5)
        y = np.clip(v, 0.0, 1.0) * np.float32(self.rows) + np.float32(0.5)
        column, row = x.astype(np.int32), y.astype(np.int32)
        fx, fy = (x - column)[:, None], (y - row)[:, None]
        corner = row * (self.cols + 2) + column
        low = self.texels[corner] * (1 - fx) + self.texels[corner + 1] * fx
        corner += self.cols + 2
        high = self.texels[corner] * (1 - fx) + self.texels[corner + 1] * fx
        return low * (1 - fy) + high * fy


def grid(rows: int, cols: int) -> tuple[np.ndarray, np.ndarray]:
    """Skin coordinates (u, v), each [rows * cols] float32, of the texel centres, row by row."""
    v, u = np.meshgrid((np.arange(rows) + 0.5) / rows, (np.arange(cols) + 0.5) / cols, indexing="ij")
    return u.ravel().astype(np.float32), v.ravel().astype(np.float32)


def paint(solid: Solid, pattern: Pattern, rows: int, cols: int) -> np.ndarray:
    """The solid's pattern [rows, cols, 3], linear RGB, unlit."""
    u, v = grid(rows, cols)
    color = np.clip(pattern(*solid.surface(u, v)), 0.0, 1.0) ** GAMMA
    return color.T.reshape(rows, cols, 3).astype(np.float32)


def frame(n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two unit vectors [3, M] that make a right-handed frame with the unit normals (Duff et al. 2017)."""
    sign = np.where(n[2] >= 0, 1.0, -1.0).astype(np.float32)
    a = -1.0 / (sign + n[2])
    b = n[0] * n[1] * a
    return np.stack([1 + sign * n[0] ** 2 * a, sign * b, -sign * n[0]]), np.stack([b, sign + n[1] ** 2 * a, -n[1]])


def lamp_light(solids: Sequence[Solid], p: np.ndarray, n: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Light [3, M] from the lamp at points p with normals n; shift [2, M] in 0..1 moves each point's sample grid."""
    center = np.array(LAMP_CENTER, dtype=np.float32)[:, None]
    facing = -center / np.linalg.norm(center)
    side, up = frame(facing)
    total = np.zeros(p.shape[1], dtype=np.float32)
    for i in range(LAMP_GRID):
        for j in range(LAMP_GRID):
            a = 2 * LAMP_HALF * ((i + shift[0]) / LAMP_GRID - 0.5)
            b = 2 * LAMP_HALF * ((j + shift[1]) / LAMP_GRID - 0.5)
            d = center + side * a + up * b - p
            reach = np.sqrt((d * d).sum(axis=0))
            d /= reach
            cosines = np.maximum((d * n).sum(axis=0), 0) * np.maximum(-(d * facing).sum(axis=0), 0)
            lit = np.flatnonzero(cosines > 0)
            free = cast(solids, p[:, lit], d[:, lit])[0] > reach[lit]
            total[lit] += free * cosines[lit] / reach[lit] ** 2
    return np.array(LAMP_COLOR, np.float32)[:, None] * (LAMP_POWER / LAMP_GRID**2 * total)


def sky_light(
    solids: Sequence[Solid], colors: np.ndarray, p: np.ndarray, n: np.ndarray, shift: np.ndarray
) -> np.ndarray:
    """Light [3, M] from the hemisphere, cosine-weighted (Malley); colors [S, 3] are the solids' mean colours."""
    side, up = frame(n)
    above, below = np.array(GLOW_ABOVE)[:, None], np.array(GLOW_BELOW)[:, None]
    total = np.zeros(p.shape, dtype=np.float32)
    for i in range(SKY_GRID):
        for j in range(SKY_GRID):
            square = (i + shift[0]) / SKY_GRID
            angle = 2 * np.pi * (j + shift[1]) / SKY_GRID
            r = np.sqrt(square)
            d = side * (r * np.cos(angle)) + up * (r * np.sin(angle)) + n * np.sqrt(1 - square)
            which = cast(solids, p, d)[1]
            glow = below + (above - below) * (0.5 + 0.5 * d[2])
            total += np.where(which < 0, glow, BOUNCE * colors[which].T)
    return total / SKY_GRID**2


def smooth(light: np.ndarray, wraps_v: bool) -> np.ndarray:
    """light [rows, cols, 3] blurred by 1-2-1 both ways, which removes the grain of the sampling."""
    wide = np.pad(light, ((0, 0), (1, 1), (0, 0)), mode="wrap")
    light = 0.25 * wide[:, :-2] + 0.5 * wide[:, 1:-1] + 0.25 * wide[:, 2:]
    tall = np.pad(light, ((1, 1), (0, 0), (0, 0)), mode="wrap" if wraps_v else "edge")
    return 0.25 * tall[:-2] + 0.5 * tall[1:-1] + 0.25 * tall[2:]


def bake(
    solid: Solid, picture: np.ndarray, casters: Sequence[Solid], colors: np.ndarray, coarse: int, seed: int
) -> Skin:
    """Light the solid's picture [rows, cols, 3] on a grid `coarse` times coarser; casters throw shadows on it."""
    rows, cols = picture.shape[:2]
    light_rows, light_cols = max(rows // coarse, 4), max(cols // coarse, 4)
    u, v = grid(light_rows, light_cols)
    p, n = solid.surface(u, v)
    p, n = solid.world(p), rotate(solid.turn, n)
    p = (p + 4 * NEAR * n).astype(np.float32)
    shift = np.random.default_rng([seed, 11]).random((2, len(u)), dtype=np.float32)
    light = np.empty((3, len(u)), dtype=np.float32)
    for start in range(0, len(u), BATCH):
        part = slice(start, start + BATCH)
        light[:, part] = lamp_light(casters, p[:, part], n[:, part], shift[:, part])
        light[:, part] += sky_light(casters, colors, p[:, part], n[:, part], shift[:, part])
    shade = Skin(smooth(light.T.reshape(light_rows, light_cols, 3), solid.wraps_v), solid.wraps_v)
    return Skin(picture * shade.read(*grid(rows, cols)).reshape(rows, cols, 3), solid.wraps_v)
