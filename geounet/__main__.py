"""`python -m geounet` is the command `geounet`."""

from __future__ import annotations

from geounet.cli.main import script

if __name__ == "__main__":
    script()
