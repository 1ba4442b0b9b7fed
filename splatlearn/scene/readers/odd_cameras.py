"""Intrinsics out of reason: those that no camera has are refused, those that hint at a failed reconstruction are named.

COLMAP itself refuses focal lengths outside of 0.1 to 10 image widths and distortion above 1 while it reconstructs, so
that such values come from elsewhere: other units, other conventions, or a model that was edited.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from splatlearn.notices import warn
from splatlearn.scene.photos.suffixes import some
from splatlearn.scene.readers.colmap_records import Intrinsics

USUAL_FOCAL = (0.2, 10.0)  # longer image sides
POSSIBLE_FOCAL = (1e-3, 1e5)
POSSIBLE_CENTER = 1e4  # longer image sides from the corner
POSSIBLE_DISTORTION = 1e6
USUAL_DISTORTION = 1.0
USUAL_ASPECT = 2.0  # of fx and fy: anamorphic pixels have up to 1.5
# Parameters that are no coefficients of distortion, or of a quotient of polynomials, where any size is possible.
_OTHERS = {
    "FOV": ("omega",), "EUCM": ("alpha", "beta"), "FULL_OPENCV": ("k1", "k2", "k3", "k4", "k5", "k6"),
    "EQUIRECTANGULAR": ("w", "h"),
}  # fmt: skip


def unusable_parameter(intrinsics: Intrinsics) -> str | None:
    """What no camera can have, as the end of a sentence, or None."""
    side = max(intrinsics.width, intrinsics.height)
    if intrinsics.model == "EQUIRECTANGULAR":
        return None
    for key, value in intrinsics.named().items():
        if key.startswith("f"):
            if not value > 0:
                return f"its focal length {key} must be above zero, but is {value}"
            if not POSSIBLE_FOCAL[0] * side <= value <= POSSIBLE_FOCAL[1] * side:
                return f"its focal length {key} must be that of a camera in pixels, but is {value:g}"
        elif key in ("cx", "cy"):
            if not abs(value) <= POSSIBLE_CENTER * side:
                return f"its principal point {key} must be in pixels, but is {value:g}"
        elif not abs(value) <= POSSIBLE_DISTORTION:
            return f"its distortion {key} must be at most {POSSIBLE_DISTORTION:g}, but is {value:g}"
    return None


def warn_of_odd_cameras(cameras: Iterable[Intrinsics], where: Path) -> None:
    """Warn of cameras whose values are out of reason.

    Args:
        cameras: those in use. where: the model's folder, for the message.
    """
    odd = {camera.id: text for camera in cameras if (text := _odd(camera))}
    if odd:
        count = f"{len(odd):,} camera{' is' if len(odd) == 1 else 's are'}"
        described = some([f"camera {number} ({text})" for number, text in odd.items()], 3)
        warn(f"{where}: {count} out of reason, so that something is wrong with the reconstruction: {described}.")


def _odd(camera: Intrinsics) -> str:
    if camera.model == "EQUIRECTANGULAR":
        return ""
    named, side = camera.named(), max(camera.width, camera.height)
    focal = {key: value for key, value in named.items() if key.startswith("f")}
    head = f"{camera.model}, {camera.width}x{camera.height}"
    for key, value in focal.items():
        if not USUAL_FOCAL[0] <= value / side <= USUAL_FOCAL[1]:
            usual = f"{USUAL_FOCAL[0]:g} to {USUAL_FOCAL[1]:g}"
            return f"{head}, focal length {key}={value:g} px or {value / side:.3g} image widths, usual are {usual}"
    if max(focal.values()) > USUAL_ASPECT * min(focal.values()):
        return f"{head}, focal lengths {' and '.join(f'{key}={value:g}' for key, value in focal.items())} differ"
    if not (0 <= named["cx"] <= camera.width and 0 <= named["cy"] <= camera.height):
        return f"{head}, principal point ({named['cx']:g}, {named['cy']:g}) outside of the image"
    others = (*_OTHERS.get(camera.model, ()), *focal, "cx", "cy")
    large = [f"{key}={value:g}" for key, value in named.items() if key not in others and abs(value) > USUAL_DISTORTION]
    return f"{head}, distortion {', '.join(large)}, usual is at most {USUAL_DISTORTION:g}" if large else ""
