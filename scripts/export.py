"""The command `splatlearn export`, for those who work from a checkout: python scripts/export.py ..."""

import sys

from splatlearn.cli import main

sys.exit(main(["export", *sys.argv[1:]]))
