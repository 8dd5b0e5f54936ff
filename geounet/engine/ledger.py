"""The ledger: what has been done for a scene, rebuilt from receipts at every start.

Each scene, model and setting has a folder of its own in the work folder, named by the fingerprint of its parts, so
parts of another job, model or input are never mixed in. `record.json` holds every resolved `auto`: a continued run
uses it. `journal.jsonl` says what happened (starts, deaths, errors); nothing depends on it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from geounet.atomic import write_text
from geounet.errors import PartError


def fingerprint(*parts: Any) -> str:
    """Return the sha256 (hex) of JSON-able values, independent of the order of keys."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


STAGES = ("scenes", "mosaics")
"""Folders of a work folder that hold the parts: `STAGE/NAME/KEY`, or `STAGE/NAME/MODEL/KEY`."""

KEY = re.compile("[0-9a-f]{16}")
"""Names of folders of parts: the beginnings of fingerprints."""

_MARKS = ("record.json", "journal.jsonl")


def is_ledger(folder: Path) -> bool:
    """Return whether a folder is one of parts that a run has made: a work folder may hold other things, too."""
    return KEY.fullmatch(folder.name) is not None and any((folder / name).is_file() for name in _MARKS)


def remove_empty(folder: Path, top: Path) -> None:
    """Remove a folder and those above it, up to `top`, which stays, as far as they are empty."""
    while folder != top:
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent


class Ledger:
    """The work folder of one scene, model and setting.

    Parameters
    ----------
    work
        Work folder of the output folder.
    scene
        Folder name of the scene (with the model's, where there are several).
    key
        Fingerprint of what the parts depend on.
    """

    def __init__(self, work: Path, scene: str, key: str) -> None:
        self.scene, self.key = scene, key
        self._work = work
        self.folder = work / "scenes" / scene / key[:16]

    @property
    def record_file(self) -> Path:
        """Where the resolved settings stand."""
        return self.folder / "record.json"

    def read_record(self) -> dict[str, Any] | None:
        """Return the record of an earlier start, or None.

        Raises
        ------
        PartError
            If it is not readable or belongs to another key.
        """
        try:
            record = json.loads(self.record_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise PartError(f"{self.record_file}: not readable ({error}); remove {self.folder} to start anew") from None
        if record.get("key") != self.key:
            raise PartError(f"{self.record_file}: belongs to another job; remove {self.folder} to start anew")
        return dict(record)

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Write the record atomically."""
        write_text(self.record_file, json.dumps({"key": self.key, **record}, indent=1))

    def note(self, event: str, **details: Any) -> None:
        """Append an event to the journal."""
        self.folder.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"time": round(time.time(), 3), "event": event, "pid": os.getpid(), **details})
        with (self.folder / "journal.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def noted(self, event: str) -> bool:
        """Return whether a journal of the scene, of any setting, tells of an event."""
        mark = f'"event": {json.dumps(event)},'
        for path in self.folder.parent.glob("*/journal.jsonl"):
            with suppress(OSError):
                if mark in path.read_text(encoding="utf-8", errors="replace"):
                    return True
        return False

    def receipts(self, stage: str) -> dict[str, dict[str, Any]]:
        """Return the receipts of a stage whose files are all there, by name."""
        from geounet.predict.receipts import read_receipt

        found = {}
        for path in sorted((self.folder / "receipts" / stage).glob("*.json")):
            receipt = read_receipt(path, self.key, self.folder)
            if receipt is not None:
                found[path.stem] = receipt
        return found

    def bytes(self) -> int:
        """Return how much disk the folder takes now."""
        return folder_bytes([self.folder])

    def remove_parts(self) -> None:
        """Remove all intermediate files; the journal goes with them."""
        shutil.rmtree(self.folder, ignore_errors=True)
        remove_empty(self.folder.parent, self._work)


def folder_bytes(folders: Iterable[Path]) -> int:
    """Return the summed size of all files below folders; files that vanish meanwhile count as nothing."""
    total = 0
    for folder in folders:
        for root, _, names in os.walk(folder):
            for name in names:
                try:
                    total += os.stat(os.path.join(root, name)).st_size  # noqa: PTH116, PTH118 - many small files
                except OSError:
                    continue
    return total
