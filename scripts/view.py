"""The command `splatlearn view`, for those who work from a checkout: python scripts/view.py ..."""

import sys

from splatlearn.cli import main

sys.exit(main(["view", *sys.argv[1:]]))
