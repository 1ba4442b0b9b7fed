"""`python -m splatlearn` is the command line."""

import sys

from splatlearn.cli import main

sys.exit(main())
