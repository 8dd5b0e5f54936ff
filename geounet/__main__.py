"""`python -m geounet` is the command `geounet`."""

from __future__ import annotations

import sys

from geounet.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
