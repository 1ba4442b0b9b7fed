"""Numbers, sizes and durations as people read them."""

from splatlearn.show.report.run_folder import is_number


def short(value: float) -> str:
    """A number in a few characters: 48,213 or 26.83 or 0.0103 or 1.2e-05."""
    size = abs(value)
    if size < 1e7 and (size >= 1000 or value == int(value)):
        return f"{value:,.0f}"
    return f"{value:.4g}" if 1e-3 <= size < 1000 else f"{value:.3g}"


def cell(value: object) -> str:
    """The text of a table cell: numbers to six digits, a dash for None and for a number that is not finite."""
    if value is None:
        return "–"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return "–" if not is_number(value) else f"{value:,}" if isinstance(value, int) else f"{value:.6g}"
    return str(value)


def decibels(value: object) -> str:
    """A PSNR such as 25.12 dB; "" for what is not a number."""
    return f"{value:.2f} dB" if is_number(value) else ""


def byte_size(size: float) -> str:
    """A number of bytes: 340 bytes, 1.2 MB."""
    for unit in ("bytes", "KB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def duration(seconds: float) -> str:
    """A time span: 0.4 s, 48 s, 2:25 minutes, 3:05 hours."""
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        whole, rest = divmod(round(seconds), 60)
        return f"{whole}:{rest:02} minutes"
    return f"{minutes // 60}:{minutes % 60:02} hours"
