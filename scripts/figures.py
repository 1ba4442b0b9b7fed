"""The command `splatlearn figures`, for those who work from a checkout: python scripts/figures.py ..."""

import sys

from splatlearn.cli import main

sys.exit(main(["figures", *sys.argv[1:]]))
