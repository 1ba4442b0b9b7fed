"""The command `splatlearn convert`, for those who work from a checkout: python scripts/convert.py ..."""

import sys

from splatlearn.cli import main

sys.exit(main(["convert", *sys.argv[1:]]))
