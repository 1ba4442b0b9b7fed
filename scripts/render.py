"""The command `splatlearn render`, for those who work from a checkout: python scripts/render.py ..."""

import sys

from splatlearn.cli import main

sys.exit(main(["render", *sys.argv[1:]]))
