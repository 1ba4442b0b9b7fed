"""The command `splatlearn eval`, for those who work from a checkout: python scripts/eval.py ..."""

import sys

from splatlearn.cli import main

sys.exit(main(["eval", *sys.argv[1:]]))
