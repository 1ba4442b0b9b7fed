"""Small pieces of HTML that every part of a report is made of; whatever comes from a file is escaped here."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from splatlearn.show.run_folder import is_number

if TYPE_CHECKING:
    from PIL.Image import Image as Picture


def escaped(text: object) -> str:
    """The text of anything, safe between tags and within quoted attributes."""
    return html.escape(str(text))


def data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def link(folder: Path, path: Path) -> str:
    """A link to a file below `folder`, where the page lies."""
    relative = path.relative_to(folder).as_posix()
    return f'<a href="{escaped(quote(relative))}">{escaped(relative)}</a>'


def table(rows: Sequence[str]) -> str:
    """A card with a table of rows that are HTML cells."""
    return f'<div class="card"><table>{"".join(f"<tr>{row}</tr>" for row in rows)}</table></div>'


def cell(value: object) -> str:
    """A table cell: numbers to six digits, a dash for none and for what is not finite."""
    shown = str(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        shown = "–" if not is_number(value) else f"{value:,}" if isinstance(value, int) else f"{value:.6g}"
    return f'<td class="n">{escaped("–" if value is None else shown)}</td>'


def bytes_told(size: float) -> str:
    """A number of bytes as people read it: 340 bytes, 1.2 MB."""
    for unit in ("bytes", "KB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def duration_told(seconds: float) -> str:
    """A time as people say it: 0.4 s, 48 s, 2:25 minutes, 3:05 hours."""
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        whole, rest = divmod(round(seconds), 60)
        return f"{whole}:{rest:02} minutes"
    return f"{minutes // 60}:{minutes % 60:02} hours"


def opened_picture(path: Path) -> "Picture | None":
    """The picture as RGB; None if it is damaged or none."""
    from PIL import Image

    try:
        with Image.open(path) as opened:
            return opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def jpeg(picture: "Picture", widest: int, quality: int = 86) -> tuple[bytes, int, int]:
    """The picture as JPEG, at most `widest` pixels across, with the size that it then has."""
    from PIL import Image

    if picture.width > widest:
        size = (widest, max(1, round(picture.height * widest / picture.width)))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue(), picture.width, picture.height
