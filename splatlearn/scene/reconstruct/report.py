"""What came of a reconstruction, in plain words and as JSON: what was placed, what was not and why, what to do."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from splatlearn.files import replacing
from splatlearn.scene.photos.suffixes import LeftOut, sentence, some
from splatlearn.scene.reconstruct.gather import Photo
from splatlearn.scene.reconstruct.phases import Pairs

FEW_FEATURES = 100  # with fewer, a photograph hardly ever finds its place
DARK, BRIGHT = 12.0, 243.0  # mean grey values beyond which a photograph shows nothing
BLURRED = 0.15  # sharpness, in medians of the others, below which blur is the likely reason
RELATED = 15  # matches of one geometry that relate two photographs (as pycolmap counts)
GOOD_ERROR_PX, POOR_ERROR_PX = 1.0, 2.0
FEW_PHOTOS = 12


@dataclass(frozen=True)
class Missing:
    """A photograph that is not in the model: kind is one word of ADVICE, reason says more."""

    name: str
    kind: str
    reason: str


ADVICE = {
    "dark": "Photographs that show next to nothing are of no use: leave them out, or take them again with more light.",
    "plain": "Plain walls and glossy or moving surfaces give no hold: let more of the surroundings into the picture.",
    "blurred": "Hold the camera still, or use more light: blurred photographs cannot be placed.",
    "alone": "Each photograph must show much of what another one shows: take some more in between, a step apart.",
    "apart": "The groups do not overlap: add photographs that lead from one to the other, or reconstruct them apart.",
    "loose": "Step aside between photographs: those from one spot, or with little in common, give no depth.",
}  # fmt: skip

MORE_PHOTOS = {"alone", "apart"}  # kinds whose advice asks for further photographs


@dataclass(frozen=True)
class Report:
    """What structure from motion found; the error is the mean distance of the projected points to their features."""

    registered: int
    total: int  # photographs that were tried: without exact copies
    points: int
    mean_reprojection_error_px: float
    seconds: float
    missing: tuple[Missing, ...] = ()
    copies: Mapping[str, str] = field(default_factory=dict)  # left out, and the photograph each is equal to
    models: tuple[int, ...] = ()  # photographs of each model found, largest (the one kept) first
    cameras: tuple[Mapping[str, Any], ...] = ()
    matching: str = "exhaustive"
    seconds_of_phases: Mapping[str, float] = field(default_factory=dict)
    left_out: tuple[LeftOut, ...] = ()  # files beside the photographs that were not tried

    @property
    def warning(self) -> str:
        """A sentence for the user when photographs could not be placed, else an empty string."""
        if not self.missing:
            return ""
        names = some([missing.name for missing in self.missing])
        return f"{len(self.missing)} of {self.total} photographs could not be placed and are left out ({names}); " + (
            f"{sentence(self.left_out)}" if self.left_out else "more overlap between neighbouring photographs helps"
        )

    def text(self) -> str:
        """The report in plain words."""
        lines = [
            f"{self.registered} of {self.total} photographs placed, {self.points:,} points, "
            f"mean reprojection error {self.mean_reprojection_error_px:.2f} px ({self._judged()}).",
        ]
        for camera in self.cameras:
            focal = " x ".join(f"{value:.1f}" for value in camera["focal_px"])
            lines.append(
                f"Camera {camera['id']}: {camera['model']}, {camera['width']}x{camera['height']}, "
                f"focal length {focal} px, {camera['photographs']} photographs."
            )
        if len(self.models) > 1:
            others = ", ".join(map(str, self.models[1:]))
            lines.append(
                f"{len(self.models)} separate groups were found; the largest is kept ({self.models[0]} photographs; "
                f"the others have {others})."
            )
        if self.left_out:
            lines.append(f"{sentence(self.left_out)}.")
        if self.copies:
            twins = [f"{name} = {kept}" for name, kept in self.copies.items()]
            lines.append(f"Left out as exact copies: {some(twins)}.")
        if self.missing:
            width = max(len(missing.name) for missing in self.missing)
            lines.append("Not placed, with the likely reason:")
            lines += [f"  {missing.name:<{width}}  {missing.reason}" for missing in self.missing]
        advice = self.advice()
        if advice:
            lines.append("What to do:")
            lines += [f"  - {sentence}" for sentence in advice]
        return "\n".join(lines) + "\n"

    def _judged(self) -> str:
        error = self.mean_reprojection_error_px
        if error < GOOD_ERROR_PX:
            return f"good: below {GOOD_ERROR_PX:g}"
        return "fair" if error < POOR_ERROR_PX else f"poor: above {POOR_ERROR_PX:g}"

    def advice(self) -> list[str]:
        """Sentences on what would make the result better; none where nothing is wrong."""
        kinds = {missing.kind for missing in self.missing}
        sentences = []
        if self.left_out:  # they come first: more of what was left out is not needed
            sentences.append(
                "Make the files that are left out readable, and reconstruct again: they may be what lacks."
            )
            kinds -= MORE_PHOTOS
        sentences += [ADVICE[kind] for kind in ADVICE if kind in kinds]
        if self.registered < FEW_PHOTOS and not self.left_out:
            sentences.append(f"A scene of {self.registered} photographs is thin: 30 and more show it from all sides.")
        if self.matching == "sequential" and len(self.missing) > self.total // 10:
            sentences.append(
                "Only neighbours by name were matched: if the names do not follow the walk, try --matching exhaustive."
            )
        if self.mean_reprojection_error_px >= POOR_ERROR_PX:
            sentences.append(
                "The cameras do not fit well: photographs that were cropped, stabilised or taken with several lenses "
                "want --cameras per-image."
            )
        return sentences

    def write(self, out: Path) -> None:
        """Writes `out`/reconstruction.txt and `out`/reconstruction.json."""
        import json

        with replacing(out / "reconstruction.txt") as path:
            path.write_text(self.text(), encoding="utf-8")
        with replacing(out / "reconstruction.json") as path:
            told = asdict(self) | {"advice": self.advice()}
            path.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def cameras_of(model: Any) -> tuple[dict[str, Any], ...]:
    """The cameras of a pycolmap.Reconstruction that took at least one of its photographs."""
    counts: dict[int, int] = {}
    for image in model.images.values():
        if image.has_pose:
            counts[image.camera_id] = counts.get(image.camera_id, 0) + 1
    return tuple(
        {
            "id": number,
            "model": camera.model.name,
            "width": camera.width,
            "height": camera.height,
            "focal_px": [float(camera.params[index]) for index in camera.focal_length_idxs()],
            "photographs": counts[number],
        }
        for number, camera in sorted(model.cameras.items())
        if number in counts
    )


def diagnose(photos: list[Photo], placed: set[str], others: list[set[str]], pairs: Pairs) -> tuple[Missing, ...]:
    """Why photographs are not in the model.

    placed: names in the model that is kept. others: names of the other models, one set each.
    """
    partners: dict[str, dict[str, int]] = {photo.name: {} for photo in photos}
    for (one, other), count in pairs.inliers.items():
        partners.setdefault(one, {})[other] = partners.setdefault(other, {})[one] = count
    good = [photo for photo in photos if photo.name in placed] or photos
    usual_features = statistics.median(pairs.features.get(photo.name, 0) for photo in good)
    usual_sharpness = statistics.median(photo.sharpness for photo in good)
    found = []
    for photo in photos:
        if photo.name not in placed:
            features = pairs.features.get(photo.name, 0)
            looks = _looks(photo, features, usual_features, usual_sharpness)
            kind, reason = looks or _relations(photo.name, placed, others, partners[photo.name])
            found.append(Missing(photo.name, kind, reason))
    return tuple(found)


def _looks(photo: Photo, features: int, usual: float, usual_sharpness: float) -> tuple[str, str] | None:
    """A reason that lies in the photograph itself."""
    numbers = f"{features:,} features, where the others have about {usual:,.0f}"
    if photo.brightness < DARK or photo.brightness > BRIGHT:
        word = "dark" if photo.brightness < DARK else "bright"
        return "dark", f"too {word} to show anything (mean grey value {photo.brightness:.0f} of 255)"
    if photo.sharpness < BLURRED * usual_sharpness and features < usual / 2:
        return (
            "blurred",
            f"blurred: {photo.sharpness / max(usual_sharpness, 1e-9):.0%} of the usual sharpness; {numbers}",
        )
    if features < min(FEW_FEATURES, usual / 2):
        return "plain", f"too few features: {numbers}"
    return None


def _relations(name: str, placed: set[str], others: list[set[str]], partners: Mapping[str, int]) -> tuple[str, str]:
    """A reason that lies in how it matches the other photographs."""
    for group in others:
        if name in group:
            return "apart", f"belongs to a separate group of {len(group)} photographs that does not overlap the others"
    best = max(partners.values(), default=0)
    if best < RELATED:
        return "alone", "matches no other photograph: another place, or too far from the rest"
    inside = {other: count for other, count in partners.items() if other in placed}
    if not inside:
        return "alone", f"matches only photographs that could not be placed either ({some(sorted(partners), 3)})"
    nearest = max(inside, key=lambda other: inside[other])
    return "loose", (
        f"few matches: {inside[nearest]} with {nearest}, its best, and {len(inside)} photographs in all; "
        "or taken from the same spot"
    )


def why_none(pairs: Pairs) -> str:
    """What is known of photographs that gave no model, as the end of a sentence: "of which ..."."""
    related = sum(count >= RELATED for count in pairs.inliers.values())
    if related:
        return (
            f"{related} pairs match but show no depth: the camera only turned, or hardly moved, or the photographs are "
            "too few"
        )
    usual = statistics.median(pairs.features.values())
    if usual < FEW_FEATURES:
        return f"half have fewer than {usual + 1:.0f} features: too little detail"
    return "no two match each other"


def finite(value: float) -> float:
    """The value, or 0 where it is no number: pycolmap gives none for a model without points."""
    return value if math.isfinite(value) else 0.0
