"""The solids of the still life: where a ray meets them, and how their surfaces unroll into a flat skin.

Each solid answers three questions in its own frame: at what distance a ray meets it, which skin coordinate a point of
its surface has, and (the inverse) which point and normal a skin coordinate has. All families are closed forms except
the torus, which is sphere traced.

Shapes: M rays; `o` [3, M] or [3, 1] origins and `d` [3, M] unit directions, metres, world frame (z up);
`u`, `v` [M] skin coordinates in 0..1. Arrays are float32.
"""

import abc
from collections.abc import Sequence

import numpy as np

NEAR = 1e-3  # metres: hits nearer than this are the surface that the ray starts on


class Solid(abc.ABC):
    """A solid with a pose; `bound` is the radius of a sphere about `center` that holds all of it."""

    wraps_v = False  # whether the skin also closes on itself vertically
    bound: float

    def __init__(self, center: Sequence[float], turn: np.ndarray | None = None) -> None:
        self.center = np.asarray(center, dtype=np.float32)[:, None]
        self.turn = np.eye(3, dtype=np.float32) if turn is None else turn.astype(np.float32)

    @abc.abstractmethod
    def distance(self, o: np.ndarray, d: np.ndarray) -> np.ndarray:
        """Distance [M] along local rays to the first hit, inf where there is none."""

    @abc.abstractmethod
    def unroll(self, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Skin coordinates (u, v) of local surface points [3, M]."""

    @abc.abstractmethod
    def surface(self, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Local points and outward unit normals, both [3, M], of skin coordinates: the inverse of `unroll`."""

    def local(self, p: np.ndarray) -> np.ndarray:
        """World points [3, M] in the solid's frame."""
        return rotate(self.turn.T, p - self.center)

    def world(self, p: np.ndarray) -> np.ndarray:
        """Local points [3, M] in the world's frame."""
        return rotate(self.turn, p) + self.center

    def hit(self, o: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Indices [H] of the world rays that meet the solid, and their distances [H]."""
        to_center = self.center - o
        along = (to_center * d).sum(axis=0)
        miss = (to_center * to_center).sum(axis=0) - along * along
        index = np.flatnonzero((miss < self.bound**2) & (along > -self.bound))
        start = o if o.shape[1] == 1 else o[:, index]
        t = self.distance(self.local(start), rotate(self.turn.T, d[:, index]))
        met = np.isfinite(t)
        return index[met], t[met]


def rotate(turn: np.ndarray, p: np.ndarray) -> np.ndarray:
    """turn [3, 3] times p [3, M], written out: the same bits however many rays come at once."""
    return np.stack([row[0] * p[0] + row[1] * p[1] + row[2] * p[2] for row in turn])


def turn_about(axis: Sequence[float], degrees: float) -> np.ndarray:
    """Rotation matrix [3, 3] float64 about an axis (Rodrigues)."""
    x, y, z = np.asarray(axis, dtype=np.float64) / np.linalg.norm(axis)
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    angle = np.radians(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * cross @ cross


def first_positive(roots: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Smallest of the valid roots [R, M] beyond NEAR, inf where there is none."""
    return np.where(valid & (roots > NEAR), roots, np.float32(np.inf)).min(axis=0)


class Sphere(Solid):
    """A ball; its skin is u = longitude, v = from the south pole to the north pole."""

    def __init__(self, center: Sequence[float], radius: float, turn: np.ndarray | None = None) -> None:
        super().__init__(center, turn)
        self.radius = self.bound = radius

    def distance(self, o: np.ndarray, d: np.ndarray) -> np.ndarray:
        b = (o * d).sum(axis=0)
        root = np.sqrt(np.maximum(b * b - (o * o).sum(axis=0) + self.radius**2, 0.0))
        return first_positive(np.stack([-b - root, -b + root]), root > 0)

    def unroll(self, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        latitude = np.arctan2(p[2], np.hypot(p[0], p[1]))
        return np.arctan2(p[1], p[0]) / (2 * np.pi) + 0.5, latitude / np.pi + 0.5

    def surface(self, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        longitude, latitude = (u - 0.5) * 2 * np.pi, (v - 0.5) * np.pi
        ring = np.cos(latitude)
        n = np.stack([ring * np.cos(longitude), ring * np.sin(longitude), np.sin(latitude)])
        return n * self.radius, n


class Box(Solid):
    """A box, seen from outside or (inside=True) from within: a room. Its skin is six faces side by side."""

    def __init__(
        self, center: Sequence[float], half: Sequence[float], turn: np.ndarray | None = None, inside: bool = False
    ) -> None:
        super().__init__(center, turn)
        self.half = np.asarray(half, dtype=np.float32)[:, None]
        self.bound = float(np.linalg.norm(self.half))
        self.inside = inside

    def distance(self, o: np.ndarray, d: np.ndarray) -> np.ndarray:
        inverse = 1.0 / np.where(np.abs(d) < 1e-9, np.float32(1e-9), d)
        middle, reach = -o * inverse, self.half * np.abs(inverse)
        enter, leave = (middle - reach).max(axis=0), (middle + reach).min(axis=0)
        if self.inside:
            return leave
        return np.where((enter <= leave) & (enter > NEAR), enter, np.float32(np.inf))

    def unroll(self, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        q = p / self.half
        axis = np.abs(q).argmax(axis=0)
        column = np.arange(p.shape[1])
        face = 2 * axis + (q[axis, column] > 0)
        a, b = q[np.where(axis == 0, 1, 0), column], q[np.where(axis == 2, 1, 2), column]
        # The margin keeps a bilinear look-up from reaching into the neighbouring face.
        return (face + np.clip(0.5 + 0.5 * a, 0.004, 0.996)) / 6.0, 0.5 + 0.5 * b

    def surface(self, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        face = np.minimum((u * 6.0).astype(np.int64), 5)
        axis, sign = face // 2, np.where(face % 2 == 1, 1.0, -1.0).astype(np.float32)
        column = np.arange(len(u))
        q, n = np.empty((3, len(u)), np.float32), np.zeros((3, len(u)), np.float32)
        q[axis, column] = sign
        q[np.where(axis == 0, 1, 0), column] = 2.0 * (u * 6.0 - face) - 1.0
        q[np.where(axis == 2, 1, 2), column] = 2.0 * v - 1.0
        n[axis, column] = -sign if self.inside else sign
        return q * self.half, n


class Lathe(Solid):
    """A profile turned about the z axis: vase, cone, round table. u = angle, v = length along the profile.

    profile: K points (radius, height), from the bottom outside to the end; each piece is a cone frustum or a flat ring.
    """

    def __init__(self, center: Sequence[float], profile: Sequence[tuple[float, float]]) -> None:
        super().__init__(center)
        self.profile = np.asarray(profile, dtype=np.float32)
        self.bound = float(np.linalg.norm(self.profile, axis=1).max())
        lengths = np.linalg.norm(np.diff(self.profile, axis=0), axis=1)
        self.stations = np.concatenate([[0.0], np.cumsum(lengths)]).astype(np.float32) / lengths.sum()

    def distance(self, o: np.ndarray, d: np.ndarray) -> np.ndarray:
        t = np.full(d.shape[1], np.inf, dtype=np.float32)
        for (r0, z0), (r1, z1) in zip(self.profile[:-1], self.profile[1:], strict=True):
            ring = self._ring if abs(z1 - z0) < 1e-6 else self._frustum
            t = np.minimum(t, ring(o, d, r0, z0, r1, z1))
        return t

    @staticmethod
    def _ring(o: np.ndarray, d: np.ndarray, r0: float, z0: float, r1: float, z1: float) -> np.ndarray:
        t = (z0 - o[2]) / np.where(np.abs(d[2]) < 1e-9, np.float32(1e-9), d[2])
        r = np.hypot(o[0] + t * d[0], o[1] + t * d[1])
        return first_positive(t[None], (r >= min(r0, r1)) & (r <= max(r0, r1)))

    @staticmethod
    def _frustum(o: np.ndarray, d: np.ndarray, r0: float, z0: float, r1: float, z1: float) -> np.ndarray:
        slope = (r1 - r0) / (z1 - z0)
        r, dr = r0 + slope * (o[2] - z0), slope * d[2]  # the radius the surface has at the ray's height
        a = d[0] * d[0] + d[1] * d[1] - dr * dr
        b = o[0] * d[0] + o[1] * d[1] - r * dr
        c = o[0] * o[0] + o[1] * o[1] - r * r
        square = b * b - a * c
        root = np.sqrt(np.maximum(square, 0.0))
        # The stable pair of roots (q / a, c / q): no cancellation where a ray runs nearly along the surface.
        q = -(b + np.where(b < 0, -root, root))
        tiny = np.float32(1e-12)
        roots = np.stack([q / np.where(np.abs(a) < tiny, tiny, a), c / np.where(np.abs(q) < tiny, tiny, q)])
        z = o[2] + roots * d[2]
        inside = (square >= 0) & (z >= min(z0, z1)) & (z <= max(z0, z1)) & (r + roots * dr >= 0)
        return first_positive(roots, inside)

    def unroll(self, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        r = np.hypot(p[0], p[1])
        nearest = np.full(p.shape[1], np.inf, dtype=np.float32)
        v = np.zeros(p.shape[1], dtype=np.float32)
        for k, (start, end) in enumerate(zip(self.profile[:-1], self.profile[1:], strict=True)):
            edge = end - start
            f = np.clip(((r - start[0]) * edge[0] + (p[2] - start[1]) * edge[1]) / (edge @ edge), 0.0, 1.0)
            gap = (start[0] + f * edge[0] - r) ** 2 + (start[1] + f * edge[1] - p[2]) ** 2
            v = np.where(gap < nearest, self.stations[k] + f * (self.stations[k + 1] - self.stations[k]), v)
            nearest = np.minimum(nearest, gap)
        return np.arctan2(p[1], p[0]) / (2 * np.pi) + 0.5, v

    def surface(self, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        piece = np.clip(np.searchsorted(self.stations, v, side="right") - 1, 0, len(self.profile) - 2)
        start, edge = self.profile[piece].T, np.diff(self.profile, axis=0)[piece].T
        f = (v - self.stations[piece]) / np.diff(self.stations)[piece]
        r, z = start + f * edge
        angle = (u - 0.5) * 2 * np.pi
        nr, nz = np.stack([edge[1], -edge[0]]) / np.hypot(edge[0], edge[1])
        cos, sin = np.cos(angle), np.sin(angle)
        return np.stack([r * cos, r * sin, z]), np.stack([nr * cos, nr * sin, nz])


class Torus(Solid):
    """A ring about its own z axis; u = angle around the ring, v = angle around the tube."""

    wraps_v = True
    steps = 48  # sphere tracing converges to well under a tenth of a pixel in these

    def __init__(self, center: Sequence[float], ring: float, tube: float, turn: np.ndarray | None = None) -> None:
        super().__init__(center, turn)
        self.ring, self.tube, self.bound = ring, tube, ring + tube

    def _gap(self, p: np.ndarray) -> np.ndarray:
        return np.hypot(np.hypot(p[0], p[1]) - self.ring, p[2]) - self.tube

    def distance(self, o: np.ndarray, d: np.ndarray) -> np.ndarray:
        along = -(o * d).sum(axis=0)
        half = np.sqrt(np.maximum(self.bound**2 - (o * o).sum(axis=0) + along * along, 0.0))
        t = np.maximum(along - half, NEAR)
        for _ in range(self.steps):
            t = t + self._gap(o + t * d)
        close = (np.abs(self._gap(o + t * d)) < 5e-4) & (t < along + half) & (t > 2 * NEAR)
        return np.where(close, t, np.float32(np.inf))

    def unroll(self, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        around_tube = np.arctan2(p[2], np.hypot(p[0], p[1]) - self.ring)
        return np.arctan2(p[1], p[0]) / (2 * np.pi) + 0.5, around_tube / (2 * np.pi) + 0.5

    def surface(self, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        a, b = (u - 0.5) * 2 * np.pi, (v - 0.5) * 2 * np.pi
        n = np.stack([np.cos(b) * np.cos(a), np.cos(b) * np.sin(a), np.sin(b)])
        middle = np.stack([self.ring * np.cos(a), self.ring * np.sin(a), np.zeros_like(a)])
        return middle + self.tube * n, n


def cast(solids: Sequence[Solid], o: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest hit of each world ray: distance [M] (inf for none) and index of the solid [M] (-1 for none)."""
    t = np.full(d.shape[1], np.inf, dtype=np.float32)
    which = np.full(d.shape[1], -1, dtype=np.int32)
    for k, solid in enumerate(solids):
        index, distance = solid.hit(o, d)
        nearer = distance < t[index]
        t[index[nearer]], which[index[nearer]] = distance[nearer], k
    return t, which
