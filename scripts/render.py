"""The command `splatlearn render`, for those who work from a checkout: python scripts/render.py ..."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from splatlearn.cli import main  # noqa: E402  (the checkout goes first)

sys.exit(main(["render", *sys.argv[1:]]))
