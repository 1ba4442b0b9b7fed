"""Load pycolmap without its signal handler, which would print a stack trace when SIGTERM ends a run."""

import signal
import sys
import threading
from typing import Any


def load_pycolmap() -> Any:
    """Import and return pycolmap; restore the SIGTERM handler, which Python allows only in the main thread."""
    loaded = "pycolmap" in sys.modules
    before = signal.getsignal(signal.SIGTERM)
    import PIL.Image  # noqa: F401  first: with pycolmap's zlib in the process, Pillow's writer of PNG would use a part of it and crash
    import pycolmap

    if not loaded and before is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)
    return pycolmap
