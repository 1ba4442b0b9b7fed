"""Rotate a scene together with its view-dependent colours: spherical harmonics up to degree 4.

The colour along a unit direction d is 1/2 + sum_k Y_k(d) f_k. After a rotation R of the scene the same colour appears
along R d, so the new coefficients g satisfy Y(R d) g = Y(d) f for all d. The harmonics of one degree l rotate among
themselves: g_l = D_l f_l with an orthogonal matrix D_l. Least squares over many fixed directions determines D_l to
rounding; Ivanic and Ruedenberg (1996) derive it by recurrence. Y has the sign convention of 3D Gaussian splatting, as
in `csrc/math/sh.h`.
"""

import math
from functools import cache, lru_cache

import numpy as np

MAX_DEGREE = 4
# 180 degrees about x: COLMAP's x right, y down, z forward <-> x right, y up, z backward (glTF's Y-up, SPZ's RUB)
HALF_TURN = np.diag([1.0, -1.0, -1.0])


def basis(directions: np.ndarray) -> np.ndarray:
    """Evaluate the 25 real spherical harmonics [M,25] of degree 0 to 4 at unit directions [M,3], float64."""
    x, y, z = np.asarray(directions, np.float64).T
    xx, yy, zz = x * x, y * y, z * z
    columns = [
        0.28209479177387814 + 0 * x,
        -0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x,
        1.0925484305920792 * x * y, -1.0925484305920792 * y * z, 0.31539156525252005 * (2 * zz - xx - yy),
        -1.0925484305920792 * x * z, 0.5462742152960396 * (xx - yy),
        -0.5900435899266435 * y * (3 * xx - yy), 2.890611442640554 * x * y * z,
        -0.4570457994644658 * y * (4 * zz - xx - yy), 0.3731763325901154 * z * (2 * zz - 3 * (xx + yy)),
        -0.4570457994644658 * x * (4 * zz - xx - yy),
        1.445305721320277 * z * (xx - yy), -0.5900435899266435 * x * (xx - 3 * yy),
        2.5033429417967046 * x * y * (xx - yy), -1.7701307697799304 * y * z * (3 * xx - yy),
        0.9461746957575601 * x * y * (7 * zz - 1), -0.6690465435572892 * y * z * (7 * zz - 3),
        0.10578554691520431 * (zz * (35 * zz - 30) + 3), -0.6690465435572892 * x * z * (7 * zz - 3),
        0.47308734787878004 * (xx - yy) * (7 * zz - 1), -1.7701307697799304 * x * z * (xx - 3 * yy),
        0.6258357354491761 * (xx * (xx - 3 * yy) - yy * (3 * xx - yy)),
    ]  # fmt: skip
    return np.stack(columns, axis=1)


def sh_rotation(rotation: np.ndarray, degree: int) -> np.ndarray:
    """Compute D_l [2l+1, 2l+1], float64, which maps coefficients of degree l to those after `rotation` [3,3]."""
    return _sh_rotations(np.asarray(rotation, np.float64).tobytes(), degree)[degree]


@lru_cache(maxsize=64)
def _sh_rotations(rotation: bytes, degree: int) -> list[np.ndarray]:
    """Compute D_0 to D_l for a rotation [3,3] given as bytes; a file may have hundreds of nodes with few rotations."""
    directions, before = _directions()
    after = basis(directions @ np.frombuffer(rotation).reshape(3, 3).T)
    rows = [slice(l * l, (l + 1) ** 2) for l in range(degree + 1)]  # noqa: E741
    return [np.asarray(np.linalg.lstsq(after[:, part], before[:, part], rcond=None)[0]) for part in rows]


@cache
def _directions() -> tuple[np.ndarray, np.ndarray]:
    """Return directions [64,3] and the basis there [64,25]."""
    directions = _spiral(64)
    return directions, basis(directions)


def rotate_sh(shN: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Rotate coefficients [N,K-1,3] of degree 1 and up by `rotation` [3,3]; returns float32."""
    rotated = np.empty_like(shN, dtype=np.float32)
    highest = math.isqrt(shN.shape[1] + 1) - 1
    matrices = _sh_rotations(np.asarray(rotation, np.float64).tobytes(), highest) if highest else []
    for degree in range(1, highest + 1):
        rows = slice(degree * degree - 1, (degree + 1) ** 2 - 1)
        matrix = matrices[degree].copy()
        whole = np.abs(matrix - np.round(matrix)) < 1e-12
        matrix[whole] = np.round(matrix[whole])
        signs = np.diagonal(matrix)
        if np.array_equal(matrix, np.diag(signs)):  # a half turn only negates: exact, and without a float64 copy
            rotated[:, rows] = shN[:, rows] * signs[:, None].astype(np.float32)
        else:
            rotated[:, rows] = np.einsum("kj,njc->nkc", matrix, shN[:, rows].astype(np.float64))
    return rotated


def rotate_quats(quats: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Rotate quaternions [N,4] (wxyz, any norm) by `rotation` [3,3]; returns float32, with the norms unchanged.

    For a reflection, the result belongs to the reflected Gaussian, which its negative, a rotation, gives as well.
    """
    from scipy.spatial.transform import Rotation

    proper = rotation if np.linalg.det(rotation) > 0 else -np.asarray(rotation)
    x, y, z, w = Rotation.from_matrix(proper).as_quat()
    # the matrix of the quaternion product p q for p = (w, x, y, z)
    left = np.array([[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]])
    left[np.abs(left) < 1e-15] = 0
    return np.asarray(quats.astype(np.float64) @ left.T, np.float32)


def rotate_scene(arrays: dict[str, np.ndarray], rotation: np.ndarray) -> dict[str, np.ndarray]:
    """Rotate or reflect means, quats and shN of a scene by `rotation` [3,3], orthogonal; other arrays are shared.

    Values that are not finite stay so; readers check for them afterwards.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        wide = np.float64 if arrays["means"].dtype == np.float64 else np.float32
        means = np.asarray(arrays["means"].astype(np.float64) @ np.asarray(rotation, np.float64).T, wide)
        quats, shN = rotate_quats(arrays["quats"], rotation), rotate_sh(arrays["shN"], rotation)
    return {**arrays, "means": means, "quats": quats, "shN": shN}


def _spiral(count: int) -> np.ndarray:
    """Return directions [count,3] spread evenly over the sphere by the golden angle."""
    steps = np.arange(count) + 0.5
    z, angle = 1 - 2 * steps / count, steps * math.pi * (3 - math.sqrt(5))
    radius = np.sqrt(1 - z * z)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), z], axis=1)
