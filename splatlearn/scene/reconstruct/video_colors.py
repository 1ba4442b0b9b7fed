"""What a video's pixels mean: matrix, range, primaries, transfer and field order, and ffmpeg's filters to sRGB.

JPEG files mean the matrix of BT.601 in full range, whatever the video was. Without filters ffmpeg would copy the
numbers of an HD video, which follow BT.709, and every saturated colour would change.
"""

import re
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from splatlearn.errors import SplatlearnError
from splatlearn.notices import warn

UNKNOWN = ("unknown", "reserved", "unspecified", "")
HD_WIDTH, HD_HEIGHT = 1280, 720  # from either of these on an untagged video is BT.709, else BT.601
# ffmpeg's names of matrices and what its filter `scale` calls them.
MATRICES = {
    "bt709": "bt709", "smpte170m": "smpte170m", "bt470bg": "bt470bg", "fcc": "fcc", "smpte240m": "smpte240m",
    "bt2020nc": "bt2020",
}  # fmt: skip
HDR = {"smpte2084": "PQ", "arib-std-b67": "HLG"}
# Primaries close to those of sRGB, for which nothing is converted; None of the others is shown right without.
USUAL_PRIMARIES = (*UNKNOWN, "bt709", "bt470bg", "smpte170m", "smpte240m", "bt470m")
HDR_WHITE = 203  # candela per square metre that become white, as in ITU-R BT.2408
HDR_PEAK = 1000 / HDR_WHITE  # the brightest light of common HDR videos, in whites
_SPACES = (*MATRICES, *UNKNOWN, "bt2020c", "bt2020", "ycgco", "ictcp", "gbr", "rgb", "smpte2085", "ipt-c2")


@dataclass(frozen=True)
class VideoColors:
    """How a video stream encodes colours, in ffmpeg's words; "unknown" for what it does not say."""

    pixel_format: str = "unknown"
    range: str = "unknown"  # tv (limited), pc (full)
    matrix: str = "unknown"
    primaries: str = "unknown"
    transfer: str = "unknown"
    interlaced: bool = False
    width: int = 0
    height: int = 0

    @property
    def is_rgb(self) -> bool:
        return self.matrix in ("gbr", "rgb") or bool(
            re.match(r"(gbr|rgb|bgr|argb|abgr|0rgb|0bgr|pal8)", self.pixel_format)
        )

    @property
    def is_full_range(self) -> bool:
        return self.range == "pc" or (self.range in UNKNOWN and self.pixel_format.startswith("yuvj"))


def parse_colors(description: str) -> VideoColors:
    """Read ffmpeg's line of a video stream: "Video: h264 (High), yuv420p(tv, bt709, progressive), 1920x1080 ..."."""
    size = re.search(r"[, ](\d{2,6})x(\d{2,6})(?=[ ,\[]|$)", description)
    width, height = (int(size[1]), int(size[2])) if size else (0, 0)
    stream = re.search(r"Video: [^,(]*(?:\([^)]*\) ?)*, (\w+)(?:\(([^)]*)\))?", description)
    if stream is None:
        return VideoColors(width=width, height=height)
    words = [word.strip() for word in (stream[2] or "").split(",")]
    given_range = next((word for word in words if word in ("tv", "pc")), "unknown")
    color = next((word for word in words if "/" in word or word in _SPACES and word), "unknown")
    matrix, primaries, transfer = color.split("/") if color.count("/") == 2 else (color, color, color)
    interlaced = any(re.match(r"(top|bottom)", word) for word in words)
    return VideoColors(stream[1], given_range, matrix, primaries, transfer, interlaced, width, height)


def deinterlacing(colors: VideoColors) -> list[str]:
    """The filter that makes one whole picture of each interlaced frame; none for progressive ones."""
    return ["bwdif=mode=send_frame:deint=interlaced"] if colors.interlaced else []


def color_filters(video: Path, colors: VideoColors) -> list[str]:
    """ffmpeg's filters from decoded frames to those of a JPEG file (BT.601, full range, 4:4:4).

    Raises:
        SplatlearnError: the video is HDR and this ffmpeg cannot map its tones, or no filter knows its matrix.
    """
    to_jpeg = "out_color_matrix=bt601:out_range=pc,format=yuvj444p"
    if colors.transfer in HDR:
        return [*_tone_mapping(video, colors), f"scale={to_jpeg}"]
    if colors.is_rgb:
        return [f"scale={to_jpeg}"]
    matrix = _matrix(colors)
    if matrix not in MATRICES:
        raise SplatlearnError(
            f"{video}: expected colours by BT.601, BT.709 or BT.2020, got the matrix {matrix!r}; convert it first, as "
            f"with `ffmpeg -i VIDEO -vf zscale=matrix=709 OUT.mp4`"
        )
    in_range = "pc" if colors.is_full_range else "tv"
    if colors.primaries not in USUAL_PRIMARIES:
        gamut = _gamut_mapping(video, colors, matrix, in_range)
        if gamut:
            return [gamut, f"scale={to_jpeg}"]
    return [f"scale=in_color_matrix={MATRICES[matrix]}:in_range={in_range}:{to_jpeg}"]


def _matrix(colors: VideoColors) -> str:
    """The matrix, by the size where it is not given; BT.2020's where the primaries are those."""
    if colors.matrix not in UNKNOWN:
        return "bt2020nc" if colors.matrix == "bt2020" else colors.matrix
    if colors.primaries == "bt2020":
        return "bt2020nc"
    long, short = max(colors.width, colors.height), min(colors.width, colors.height)
    return "bt709" if long >= HD_WIDTH or short >= HD_HEIGHT else "smpte170m"


def _tone_mapping(video: Path, colors: VideoColors) -> list[str]:
    name = HDR[colors.transfer]
    if not {"zscale", "tonemap"} <= filters():
        raise SplatlearnError(
            f"{video}: expected a video of standard dynamic range, got HDR ({name}), whose tones this ffmpeg cannot "
            "map (it lacks zscale or tonemap); convert it to SDR first, or install imageio-ffmpeg"
        )
    warn(
        f"{video} is HDR ({name}): its tones are mapped to standard range, with {HDR_WHITE} cd/m2 as white, so that "
        "its colours are approximate."
    )
    in_range = "full" if colors.is_full_range else "limited"
    matrix = "" if colors.is_rgb else f":matrixin={_zscale_matrix(_matrix(colors))}"
    primaries = "2020" if colors.primaries in UNKNOWN else _zscale(colors.primaries)
    source = f"primariesin={primaries}:transferin={_zscale(colors.transfer)}{matrix}:rangein={in_range}"
    return [
        f"zscale={source}:transfer=linear:npl={HDR_WHITE}",
        "format=gbrpf32le",
        "zscale=primaries=709",
        f"tonemap=mobius:param=0.5:desat=0:peak={HDR_PEAK:.3f}",
        "zscale=transfer=709:range=full",
        "format=gbrp",
    ]


def _gamut_mapping(video: Path, colors: VideoColors, matrix: str, in_range: str) -> str:
    """The filter from wide primaries to those of sRGB, or "" with a warning where there is none."""
    if "zscale" not in filters():
        warn(f"{video} has the primaries {colors.primaries}, which this ffmpeg cannot convert: its colours look paler.")
        return ""
    transfer = "709" if colors.transfer in UNKNOWN else _zscale(colors.transfer)
    return (
        f"zscale=primariesin={_zscale(colors.primaries)}:transferin={transfer}:matrixin={_zscale_matrix(matrix)}:"
        f"rangein={'full' if in_range == 'pc' else 'limited'}:primaries=709:transfer={transfer}:matrix=gbr:range=full,"
        "format=gbrp"
    )


def _zscale(word: str) -> str:
    """zscale's name of ffmpeg's primaries or transfer."""
    return {"bt709": "709", "bt2020": "2020", "bt2020-10": "2020_10", "bt2020-12": "2020_12"}.get(word, word)


def _zscale_matrix(word: str) -> str:
    return {"bt709": "709", "bt2020nc": "2020_ncl", "bt2020c": "2020_cl", "gbr": "gbr"}.get(word, word)


@cache
def filters() -> frozenset[str]:
    """The names of the filters that the ffmpeg in use has."""
    from imageio_ffmpeg import get_ffmpeg_exe

    command = [get_ffmpeg_exe(), "-hide_banner", "-filters"]
    said = subprocess.run(command, capture_output=True, text=True, errors="replace").stdout
    return frozenset(re.findall(r"^ *[.TSC|]{2,3} +(\w+) ", said, re.MULTILINE))
