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
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geounet.atomic import write_text
from geounet.errors import PartError

if TYPE_CHECKING:
    from geounet.predict.recipe import Recipe


def fingerprint(*parts: Any) -> str:
    """Return the sha256 (hex) of JSON-able values, independent of the order of keys."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


STAGES = ("scenes", "mosaics")
"""Folders of a work folder that hold the parts: `STAGE/NAME/KEY`, or `STAGE/NAME/MODEL/KEY`."""

KEY = re.compile("[0-9a-f]{16}")
"""Names of folders of parts: the beginnings of fingerprints."""

_MARKS = ("record.json", "journal.jsonl", "receipts")
"""A task of a run that was killed may end, and leave its receipt, when record and journal are gone."""

_DISCARDED = re.compile(r"\.parts\.[0-9a-f]{32}\.tmp")


def is_ledger(folder: Path) -> bool:
    """Return whether a folder is one of parts that a run has made: a work folder may hold other things, too."""
    if is_discarded(folder.name):
        return True
    return KEY.fullmatch(folder.name) is not None and any((folder / name).exists() for name in _MARKS)


def is_discarded(name: str) -> bool:
    """Return whether a folder of this name is what is left of parts whose removal did not come to its end."""
    return _DISCARDED.fullmatch(name) is not None


def discard(folder: Path, top: Path, *, strict: bool = False) -> None:
    """Remove a folder of parts, what is left of others beside it, and the folders above, as far as they are empty.

    It gets another name first: whoever is killed meanwhile leaves nothing that a run would continue.

    Parameters
    ----------
    folder
        Of parts; it need not be there.
    top
        The folder above that stays.
    strict
        Raise an OSError where something cannot be removed.
    """
    try:
        folder.rename(folder.with_name(f".parts.{uuid.uuid4().hex}.tmp"))
    except OSError:  # it is not there; or a file in it is open, in Windows
        shutil.rmtree(folder / "receipts", ignore_errors=True)  # without them nothing is continued, either
    beside = [path for path in folder.parent.glob(".parts.*") if is_discarded(path.name)]
    for path in (folder, *beside):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=not strict)
    remove_empty(folder.parent, top)


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
        """Write the record atomically, of parts that are to be made: any that are there without one go."""
        if self.folder.exists():
            discard(self.folder, self._work)  # nobody knows how they were made
        write_text(self.record_file, json.dumps({"key": self.key, **record}, indent=1))

    def note(self, event: str, **details: Any) -> None:
        """Append an event to the journal."""
        self.folder.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"time": round(time.time(), 3), "event": event, "pid": os.getpid(), **details})
        with (self.folder / "journal.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def noted(self, event: str) -> list[dict[str, Any]]:
        """Return what the journals of the scene, of any setting, tell of an event."""
        mark, found = f'"event": {json.dumps(event)},', []
        for path in sorted(self.folder.parent.glob("*/journal.jsonl")):
            with suppress(OSError):
                for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                    with suppress(ValueError):  # a line that a killed driver left unfinished
                        found += [json.loads(line)] if mark in line else []
        return found

    def receipts(self, stage: str, recipe: Recipe) -> dict[str, dict[str, Any]]:
        """Return the receipts of a stage, of this recipe, whose files are all there, by name."""
        from geounet.predict.receipts import read_receipt

        found = {}
        for path in sorted((self.folder / "receipts" / stage).glob("*.json")):
            receipt = read_receipt(path, recipe.stamp, self.folder)
            if receipt is not None:
                found[path.stem] = receipt
        return found

    def bytes(self) -> int:
        """Return how much disk the folder takes now."""
        return folder_bytes([self.folder])

    def remove_parts(self) -> None:
        """Remove all intermediate files; the journal goes with them."""
        discard(self.folder, self._work)


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
