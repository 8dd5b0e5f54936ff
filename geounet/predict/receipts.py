"""Receipts: what a finished task reports. A receipt appears after its files: it is the proof of the work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from geounet.atomic import write_text


def write_receipt(path: Path, receipt: dict[str, Any]) -> None:
    """Write a receipt under its final name."""
    write_text(path, json.dumps(receipt))


def read_receipt(path: Path, stamp: str, folder: Path) -> dict[str, Any] | None:
    """Return a receipt if it is of the recipe with this stamp and its files are there in full; None otherwise."""
    try:
        receipt = json.loads(path.read_text(encoding="utf-8"))
        if receipt["fingerprint"] != stamp:
            return None
        for name, size in receipt["files"].items():
            if (folder / name).stat().st_size != size:
                return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return dict(receipt)
