"""The command `splatlearn train`, for those who work from a checkout: python scripts/train.py ..."""

import sys

from splatlearn.cli import main

sys.exit(main(["train", *sys.argv[1:]]))
