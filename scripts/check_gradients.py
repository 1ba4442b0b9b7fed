"""The command `splatlearn check-gradients`, from a checkout: python scripts/check_gradients.py ..."""

import sys

from splatlearn.cli import main

sys.exit(main(["check-gradients", *sys.argv[1:]]))
