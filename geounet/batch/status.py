"""What is done, running and failed in an output folder, and removing what runs left behind. Reads; computes nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from geounet.batch.lock import locked
from geounet.engine.ledger import folder_bytes
from geounet.engine.manifest import read_manifest
from geounet.errors import GeounetError, LockedError


def _work(out: Path, work: Path | None) -> Path:
    return work if work is not None else out / ".geounet"


def read_status(out: Path, work: Path | None = None) -> dict[str, Any]:
    """Return the state of an output folder.

    Returns
    -------
    `running` (whether a run holds the lock), `scenes`: one entry a finished scene, an unfinished one, or one that the
    last run could not do, with `name`, `state` (`done`, `running`, `interrupted`, `failed`), `blocks`, `error` and
    `bytes`.

    Raises
    ------
    GeounetError
        If the folder is no output folder.
    """
    folder = _work(out, work)
    if not folder.is_dir() and not (out / "manifest.json").exists():
        raise GeounetError(f"{out}: no output folder of a run (it holds neither manifest.json nor .geounet)")
    running = _is_locked(folder)
    scenes: dict[str, dict[str, Any]] = {}
    for path in sorted(out.glob("*/manifest.json")) + sorted(out.glob("*/*/manifest.json")):
        manifest = read_manifest(path.parent)
        if manifest is not None and manifest.get("state") == "done":
            name = str(path.parent.relative_to(out))
            blocks = manifest.get("blocks", {})
            scenes[name] = {
                "name": name,
                "state": "done",
                "blocks": {"total": blocks.get("total"), "done": blocks.get("done")},
                "failed_blocks": blocks.get("failed", []),
                "finished": manifest.get("finished"),
                "error": None,
            }
    for entry in _last_run(out):
        if entry.get("state") == "failed" and entry["name"] not in scenes:
            scenes[entry["name"]] = {"name": entry["name"], "state": "failed", "error": entry.get("error")}
    for path in _ledgers(folder):
        name = str(path.parent.relative_to(folder / "scenes"))
        record = json.loads((path / "record.json").read_text(encoding="utf-8"))
        entry = scenes.get(name, {"name": name, "error": None})
        entry["state"] = "running" if running else ("failed" if entry.get("state") == "failed" else "interrupted")
        entry["blocks"] = {"total": _total(record), "done": len(list((path / "receipts" / "infer").glob("*.json")))}
        entry["bytes"] = folder_bytes([path])
        events = _events(path)
        entry["worker_deaths"] = sum(e["event"] == "death" for e in events)
        errors = [e for e in events if e["event"] == "failed"]  # what raised once may have succeeded since
        if errors and not entry.get("error"):
            entry["error"] = errors[-1].get("error")
        scenes[name] = entry
    return {"folder": str(out), "running": running, "scenes": [scenes[name] for name in sorted(scenes)]}


def _is_locked(folder: Path) -> bool:
    if not (folder / "lock").exists():
        return False
    try:
        with locked(folder):
            return False
    except LockedError:
        return True


def _ledgers(folder: Path) -> Iterator[Path]:
    for record in sorted((folder / "scenes").glob("**/record.json")):
        yield record.parent


def _total(record: dict[str, Any]) -> int:
    from geounet.grid.blocks import BlockGrid
    from geounet.grid.tiles import TileGrid

    recipe = record["recipe"]
    rows, cols = recipe["model_shape"]
    return BlockGrid(TileGrid(rows, cols, recipe["tile"], recipe["overlap"]), recipe["side"]).count


def _events(path: Path) -> list[dict[str, Any]]:
    events = []
    try:
        for line in (path / "journal.jsonl").read_text(encoding="utf-8").splitlines():
            try:
                events.append(json.loads(line))
            except ValueError:
                continue  # a line that a killed driver left unfinished
    except OSError:
        return []
    return events


def _last_run(out: Path) -> list[dict[str, Any]]:
    try:
        return list(json.loads((out / "manifest.json").read_text(encoding="utf-8"))["scenes"])
    except (OSError, ValueError, KeyError):
        return []


def clean(out: Path, work: Path | None = None) -> tuple[int, int]:
    """Remove the parts of finished and abandoned runs; return how many scenes had some, and their bytes.

    An interrupted run can no longer be continued afterwards; finished output stays.

    Raises
    ------
    LockedError
        If a run is at work in the folder.
    GeounetError
        If the folder is no output folder.
    """
    folder = _work(out, work)
    if not folder.is_dir():
        if (out / "manifest.json").exists():
            return 0, 0
        raise GeounetError(f"{out}: no output folder of a run (it holds no .geounet)")
    with locked(folder):
        parts = sorted(p for stage in ("scenes", "mosaics") for p in (folder / stage).glob("*") if p.is_dir())
        size = folder_bytes(parts)
        for path in parts:
            shutil.rmtree(path)
    return len(parts), size
