"""Rotation matrices of unit quaternions of floats, arrays or tensors; csrc/math/covariance.h has the native one."""

from typing import Any


def rotation_rows(w: Any, x: Any, y: Any, z: Any) -> list[list[Any]]:
    """Return the rotation matrix of a unit quaternion, as three rows of three entries.

    Args:
        w, x, y, z: the four components: floats, or arrays or tensors of one shape, whose shape each entry then has.
    """
    return [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
