"""The command `splatlearn sample`, for those who work from a checkout: python scripts/sample.py ..."""

import sys

from splatlearn.cli import main

sys.exit(main(["sample", *sys.argv[1:]]))
