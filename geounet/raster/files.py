"""Files that appear under their final name only when complete."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a name beside `path` to write to; at the end it becomes `path`, after an error it is removed.

    Files that a writer puts beside the temporary one under a longer name (overviews, sidecars) are removed.

    Parameters
    ----------
    path : Path
        The final name. Its folder exists.

    Yields
    ------
    Path
        The temporary name, in the same folder.
    """
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}-{secrets.token_hex(3)}")
    try:
        yield temporary
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        for rest in path.parent.glob(f"{_literal(temporary.name)}*"):
            rest.unlink(missing_ok=True)


def _literal(name: str) -> str:
    return "".join(f"[{c}]" if c in "[]*?" else c for c in name)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file that appears when complete."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
