"""pycolmap, loaded without its signal handler: a run that is told to end by SIGTERM ends without a stack."""

import signal
import sys
import threading
from typing import Any


def load_pycolmap() -> Any:
    """The module. Its first import takes SIGTERM, which is given back where Python allows it: in the main thread."""
    known = "pycolmap" in sys.modules
    before = signal.getsignal(signal.SIGTERM)
    import pycolmap

    if not known and before is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)
    return pycolmap
