"""The patterns of the still life, as formulas: what makes its photographs worth matching, without a bundled picture.

Structure from motion needs corners that look like nothing else nearby; Gaussians need patterns no finer than a few
pixels. So every pattern here is irregular, has several scales, and stops at a wavelength that photographs resolve.

Shapes: M points; `p` [3, M] float32 positions on the surface in metres, in the solid's own frame; `n` [3, M] their unit
normals. A pattern maps (p, n) to colours [3, M], sRGB in 0..1.
"""

import itertools
from collections.abc import Callable

import numpy as np

Pattern = Callable[[np.ndarray, np.ndarray], np.ndarray]

TABLE_SIZE = 1 << 16  # entries of the random tables that lattice points hash into


def rgb(code: str) -> np.ndarray:
    """The colour "rrggbb" as a column [3, 1] float32 in 0..1."""
    return np.array([[int(code[i : i + 2], 16) / 255.0] for i in (0, 2, 4)], dtype=np.float32)


def palette(*codes: str) -> np.ndarray:
    """Several colours "rrggbb" as columns [3, K] float32."""
    return np.concatenate([rgb(code) for code in codes], axis=1)


CREAM, INK = rgb("f4ead7"), rgb("2b3a4f")
TERRAZZO = palette("c96f4f", "e3b04b", "3f868c", "8fae8b", "35506e", "e9b9a4", "7f9fb5", "b5533f")
PATCHES = palette("d9764a", "e6b450", "efe0c2", "4c8f92", "b84f45", "8fae8b", "31506e")
WALLS = palette("a9bdb9", "b9cac3", "c9d5cb", "d9dfd1", "e8e6d6", "eddccb")
LANDS = palette("2c5f83", "3f7fa0", "69a6b8", "e8d9a8", "9fb878", "6d9a63", "c8a06a", "f0ead8")
PLANKS = palette("a97f5c", "b38863", "a0775a", "ba906b", "987055")


class Lattice:
    """Random numbers on the integer lattice, from one seed: the source of all noise here."""

    def __init__(self, seed: int) -> None:
        generator = np.random.default_rng([seed, 7])
        self.values = generator.random((4, TABLE_SIZE), dtype=np.float32)
        self.mix = generator.permutation(TABLE_SIZE).astype(np.int32)

    def slot(self, cell: np.ndarray) -> np.ndarray:
        """Index into the tables for integer lattice points [k, M], k = 2 or 3."""
        index = cell[0] & (TABLE_SIZE - 1)
        for row in cell[1:]:
            index = (self.mix[index] + row) & (TABLE_SIZE - 1)
        return self.mix[index]

    def noise(self, q: np.ndarray) -> np.ndarray:
        """Smooth value noise in 0..1 at q [k, M]: about one bump a unit."""
        base = np.floor(q)
        f = q - base
        f = f * f * (3.0 - 2.0 * f)
        cell = base.astype(np.int32)
        total = np.zeros(q.shape[1], dtype=np.float32)
        for corner in itertools.product((0, 1), repeat=len(q)):
            weight = np.ones_like(total)
            for axis, bit in enumerate(corner):
                weight = weight * (f[axis] if bit else 1.0 - f[axis])
            total += weight * self.values[0][self.slot(cell + np.array(corner, dtype=np.int32)[:, None])]
        return total

    def fractal(self, q: np.ndarray, octaves: int) -> np.ndarray:
        """Sum of `octaves` noises, each twice as fine and half as strong; spread over about 0..1."""
        total = np.zeros(q.shape[1], dtype=np.float32)
        for octave in range(octaves):
            total += 0.5**octave * (self.noise(q * 2.0**octave + 19.7 * octave) - 0.5)
        return np.clip(0.5 + total, 0.0, 1.0)

    def cells(self, q: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Irregular tiles (Voronoi cells of one jittered point a lattice cell; Worley 1996) at q [k, M].

        Returns the nearest tile's random numbers [4, M], the distance past the nearest point to the second nearest
        (0 on the seams) [M], and the offset from the nearest point [k, M].
        """
        base = np.floor(q).astype(np.int32)
        first = np.full(q.shape[1], np.inf, dtype=np.float32)
        second = first.copy()
        slot = np.zeros(q.shape[1], dtype=np.int32)
        offset = np.zeros_like(q)
        for step in itertools.product((-1, 0, 1), repeat=len(q)):
            cell = base + np.array(step, dtype=np.int32)[:, None]
            here = self.slot(cell)
            delta = q - cell - (0.1 + 0.8 * self.values[: len(q), here])
            distance = np.sqrt((delta * delta).sum(axis=0))
            nearer = distance < first
            second = np.where(nearer, first, np.minimum(second, distance))
            first = np.where(nearer, distance, first)
            slot = np.where(nearer, here, slot)
            offset = np.where(nearer, delta, offset)
        return self.values[:, self.mix[slot]], second - first, offset


def ramp(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below low, 1 above high, smooth between: a soft edge that does not alias."""
    t = np.clip((x - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def over(ground: np.ndarray, paint: np.ndarray, coverage: np.ndarray) -> np.ndarray:
    """Lay `paint` [3, M or 1] over `ground` with `coverage` [M] in 0..1."""
    return ground + (paint - ground) * coverage


def pick(colors: np.ndarray, number: np.ndarray) -> np.ndarray:
    """One of the colours [3, K] for each random number in 0..1 [M]."""
    return colors[:, np.minimum((number * colors.shape[1]).astype(np.int32), colors.shape[1] - 1)]


def bands(colors: np.ndarray, height: np.ndarray, softness: float) -> np.ndarray:
    """The map colours [3, K] of a height in 0..1 [M]: level steps with soft edges, like a relief map."""
    level = np.clip(height * colors.shape[1] - 0.5, 0.0, colors.shape[1] - 1.001)
    low = level.astype(np.int32)
    return over(colors[:, low], colors[:, low + 1], ramp(level - low, 0.5 - softness, 0.5 + softness))


def flat(p: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Coordinates [2, M] in metres within a flat face, apart for each of a box's six faces."""
    axis = np.abs(n).argmax(axis=0)
    column = np.arange(p.shape[1])
    side = 5.0 * axis + 2.5 * (n[axis, column] > 0)
    return np.stack([p[np.where(axis == 0, 1, 0), column] + side, p[np.where(axis == 2, 1, 2), column] + 3.0 * side])


def around(p: np.ndarray, radius: float) -> np.ndarray:
    """Coordinates [2, M] in metres on a cylinder of that radius about the z axis, unrolled."""
    return np.stack([radius * np.arctan2(p[1], p[0]), p[2]])


def glyphs(lattice: Lattice, q: np.ndarray) -> np.ndarray:
    """Coverage [M] of letter-like signs, one a unit square of q [2, M]: 5 by 5 mirrored random dots, run together."""
    cell = np.floor(q)
    inside = (q - cell - 0.5) * 7.0
    dots = np.stack([np.abs(inside[0]), inside[1]]) + 0.5 + cell * 31.0
    ink = lattice.noise(dots) * ramp(3.0 - np.abs(inside).max(axis=0), 0.0, 0.8)
    return ramp(ink, 0.42, 0.56)


def terrazzo(lattice: Lattice) -> Pattern:
    """Chips of coloured stone of two sizes in cream cement: the table's top, on a wooden foot (below z = -0.05)."""

    def pattern(p: np.ndarray, n: np.ndarray) -> np.ndarray:
        q = p[:2]
        wood = rgb("9c7450") * (0.9 + 0.2 * lattice.fractal(p * np.array([[9.0], [9.0], [2.0]], np.float32), 2))
        color = CREAM * (0.90 + 0.14 * lattice.fractal(q * 7.0, 3))
        for scale, share, gap in ((14.0, 0.55, 0.13), (6.5, 0.42, 0.09)):
            numbers, seam, _ = lattice.cells(q * scale + 50.0 * share)
            coverage = ramp(seam, gap, gap + 0.13) * (numbers[0] < share)
            color = over(color, pick(TERRAZZO, numbers[1]) * (0.85 + 0.25 * numbers[2]), 0.85 * coverage)
        return over(wood, color, ramp(p[2], -0.06, -0.05))

    return pattern


def wallpaper(lattice: Lattice) -> Pattern:
    """Broad bands of a soft relief map with scattered leaves on the walls; planks on the floor."""

    def pattern(p: np.ndarray, n: np.ndarray) -> np.ndarray:
        q = flat(p, n)
        color = bands(WALLS, 1.25 * lattice.fractal(q * 0.9, 3) - 0.12, 0.12)
        numbers, _, offset = lattice.cells(q * 2.3)
        turn = 2.0 * np.pi * numbers[0]
        along = np.cos(turn) * offset[0] + np.sin(turn) * offset[1]
        across = -np.sin(turn) * offset[0] + np.cos(turn) * offset[1]
        leaf = ramp(0.36 * numbers[2] + 0.1 - np.abs(along) - 2.2 * np.abs(across) - 3.0 * across * along, 0.0, 0.09)
        color = over(color, pick(TERRAZZO, numbers[1]), 0.55 * leaf * (numbers[3] < 0.8))
        return np.where(np.abs(n[2]) > 0.5, planks(lattice, q), color)

    return pattern


def planks(lattice: Lattice, q: np.ndarray) -> np.ndarray:
    """Colours of a floor of wooden boards at q [2, M] metres, each with its own tone and grain."""
    row = np.floor(q[1] / 0.28)
    shifted = q[0] + 1.7 * lattice.noise(np.stack([row + 0.5, 0.0 * row]))
    board = np.stack([np.floor(shifted / 1.3), row]).astype(np.int32)
    slot = lattice.slot(board)
    grain = lattice.fractal(np.stack([q[0] * 1.6, q[1] * 8.0 + 9.0 * lattice.values[1][slot]]), 2)
    edge = np.minimum(np.abs(q[1] / 0.28 - row - 0.5) * -0.28 + 0.14, 0.65 - np.abs(shifted / 1.3 % 1.0 - 0.5) * 1.3)
    return pick(PLANKS, lattice.values[2][slot]) * (0.88 + 0.22 * grain) * (0.74 + 0.26 * ramp(edge, 0.0, 0.035))


def globe(lattice: Lattice, radius: float) -> Pattern:
    """A little world: seas, beaches, meadows and snow by the height of a fractal land."""

    def pattern(p: np.ndarray, n: np.ndarray) -> np.ndarray:
        height = lattice.fractal(p * (1.6 / radius) + 7.3, 4)
        return bands(LANDS, 1.35 * (height - 0.5) + 0.42, 0.2) * (0.9 + 0.2 * lattice.noise(p * (9.0 / radius)))

    return pattern


def patchwork(lattice: Lattice, scale: float) -> Pattern:
    """Irregular patches of cloth with dark seams and a weave of blots."""

    def pattern(p: np.ndarray, n: np.ndarray) -> np.ndarray:
        numbers, seam, _ = lattice.cells(p * scale + 3.1)
        color = pick(PATCHES, numbers[1]) * (0.78 + 0.35 * lattice.fractal(p * 2.2 * scale, 2))
        return over(0.6 * color, color, ramp(seam, 0.02, 0.14))

    return pattern


def book(lattice: Lattice, cover: str, sign: str, half: tuple[float, float, float], size: float) -> Pattern:
    """A cloth-bound book lying flat: signs on its covers and spine (the -x side), streaky pages on the other sides."""
    ground, ink = rgb(cover), rgb(sign)

    def pattern(p: np.ndarray, n: np.ndarray) -> np.ndarray:
        q = flat(p, n)
        cloth = ground * (0.82 + 0.32 * lattice.fractal(q * 14.0, 2))
        margin = np.minimum(half[0] - np.abs(p[0]), half[1] - np.abs(p[1]))
        signs = glyphs(lattice, q / size) * np.where(np.abs(n[2]) > 0.5, ramp(margin, 0.03, 0.05), 1.0)
        cloth = over(cloth, ink, 0.9 * signs)
        streak = lattice.noise(np.stack([q[0] * 5.0, q[1] * 38.0]))
        pages = rgb("e9dcc0") * (0.72 + 0.3 * streak)
        pages = over(cloth, pages, ramp(half[2] - np.abs(p[2]), 0.012, 0.02))
        return np.where((np.abs(n[2]) > 0.5) | (n[0] < -0.5), cloth, pages)

    return pattern


def block(lattice: Lattice, half: float) -> Pattern:
    """A toy block: four big signs on every side, framed, each side in its own colour."""

    def pattern(p: np.ndarray, n: np.ndarray) -> np.ndarray:
        q = flat(p, n)
        side = np.abs(n).argmax(axis=0) * 2 + (n.sum(axis=0) > 0)
        wood = rgb("ecd3a4") * (0.84 + 0.24 * lattice.fractal(np.stack([q[0] * 6.0, q[1] * 24.0]), 2))
        edge = half - np.sort(np.abs(p), axis=0)[1]
        color = over(wood, PATCHES[:, [0, 3, 6, 4, 5, 1]][:, side], 0.92 * ramp(edge, 0.018, 0.028))
        return over(color, CREAM, ramp(edge, 0.028, 0.036) * glyphs(lattice, q / (0.9 * half)))

    return pattern


def glaze(lattice: Lattice, height: float) -> Pattern:
    """A vase: cream clay with a painted frieze, blots, and a blue glaze that has run down from the rim."""

    def pattern(p: np.ndarray, n: np.ndarray) -> np.ndarray:
        q = around(p, 0.2)
        color = CREAM * (0.84 + 0.22 * lattice.fractal(p * 9.0, 3))
        numbers, _, offset = lattice.cells(q * 14.0)
        spot = ramp(0.18 + 0.2 * numbers[2] - np.sqrt((offset**2).sum(axis=0)), 0.0, 0.14)
        color = over(color, pick(palette("c96f4f", "e3b04b", "35506e"), numbers[1]), spot * (q[1] < 0.26 * height))
        frieze = np.abs(q[1] / height - 0.40)
        color = over(color, rgb("b5533f"), ramp(0.115 - frieze, 0.0, 0.012))
        color = over(color, CREAM, ramp(0.10 - frieze, 0.0, 0.012) * glyphs(lattice, (q + 0.13) / 0.125))
        run = q[1] / height - 0.80 + 0.30 * lattice.fractal(np.stack([q[0] * 11.0, 0.6 * q[1]]), 2)
        sea = bands(palette("224a66", "2f6f86", "4a93a0", "7fb8b5"), lattice.fractal(p * 8.0, 3), 0.3)
        return over(color, sea, ramp(run, 0.0, 0.02))

    return pattern


def confetti(lattice: Lattice, ground: str) -> Pattern:
    """Dots of many colours and sizes: the paper cone."""
    paper = rgb(ground)

    def pattern(p: np.ndarray, n: np.ndarray) -> np.ndarray:
        color = paper * (0.86 + 0.22 * lattice.fractal(p * 8.0, 2))
        for scale in (24.0, 11.0):
            numbers, _, offset = lattice.cells(p * scale + scale)
            dot = ramp(0.22 + 0.24 * numbers[2] - np.sqrt((offset**2).sum(axis=0)), 0.0, 0.12)
            color = over(color, pick(PATCHES, numbers[1]), dot)
        return color

    return pattern


def doughnut(lattice: Lattice, ring: float) -> Pattern:
    """Baked dough below, pink icing with a wavy rim above, and sprinkles on the icing."""

    def pattern(p: np.ndarray, n: np.ndarray) -> np.ndarray:
        angle = np.arctan2(p[1], p[0])
        dough = rgb("c98d4e") * (0.75 + 0.4 * lattice.fractal(p * 16.0, 3))
        rim = n[2] + 0.7 * (lattice.fractal(p * 9.0 + 4.0, 2) - 0.5)
        icing = rgb("e79aa6") * (0.9 + 0.16 * lattice.fractal(p * 10.0, 2))
        q = np.stack([angle * ring, ring * 0.45 * np.arctan2(n[2], np.hypot(p[0], p[1]) - ring)])
        numbers, _, offset = lattice.cells(q * 27.0)
        turn = np.pi * numbers[0]
        along = np.cos(turn) * offset[0] + np.sin(turn) * offset[1]
        rest = offset - np.clip(along, -0.3, 0.3) * np.stack([np.cos(turn), np.sin(turn)])
        sprinkle = ramp(0.22 - np.sqrt((rest**2).sum(axis=0)), 0.0, 0.1)
        icing = over(icing, pick(palette("f7f0df", "e3b04b", "3f868c", "7a3b2e", "8fae8b"), numbers[1]), sprinkle)
        return over(dough, icing, ramp(rim, 0.02, 0.10))

    return pattern
