"""The command `splatlearn bench`, for those who work from a checkout: python scripts/bench.py ..."""

import sys

from splatlearn.cli import main

sys.exit(main(["bench", *sys.argv[1:]]))
