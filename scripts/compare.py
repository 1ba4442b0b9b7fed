"""The command `splatlearn compare`, for those who work from a checkout: python scripts/compare.py ..."""

import sys

from splatlearn.cli import main

sys.exit(main(["compare", *sys.argv[1:]]))
