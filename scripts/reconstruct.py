"""The command `splatlearn reconstruct`, for those who work from a checkout: python scripts/reconstruct.py ..."""

import sys

from splatlearn.cli import main

sys.exit(main(["reconstruct", *sys.argv[1:]]))
