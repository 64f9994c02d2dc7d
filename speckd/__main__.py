"""``python -m speckd``."""

import sys

from speckd.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
