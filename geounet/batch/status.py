"""What is done, running and failed in an output folder, and removing what runs left behind. Reads; computes nothing."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

from geounet.batch.lock import HIDDEN, LOCK, NoLocksError, is_locked, locked, noted
from geounet.engine.ledger import STAGES, discard, folder_bytes, is_discarded, is_ledger
from geounet.engine.manifest import read_manifest, sweep
from geounet.errors import GeounetError, JobError

logger = logging.getLogger(__name__)


def _works(out: Path, work: Path | None, manifest: Mapping[str, Any] | None) -> list[Path]:
    """Return where parts may lie: in the work folder that is given, else in those that runs of this folder had."""
    if work is not None:
        return [work]
    # Runs note them; those of older versions did not, but the last of them says it in its manifest.
    job = (manifest or {}).get("job")
    outputs = job.get("outputs") if isinstance(job, dict) else None
    last = outputs.get("work") if isinstance(outputs, dict) else None
    told = [Path(last)] if isinstance(last, str) and Path(last).is_absolute() else []
    return list(dict.fromkeys([out / HIDDEN, *noted(out), *told]))


def refuse_scene(out: Path, manifest: Mapping[str, Any] | None) -> None:
    """Refuse the folder of a scene, whose manifest describes the scene, in the place of an output folder.

    Raises
    ------
    JobError
        Naming the output folder; also if the manifest lists scenes as none of a run does.
    """
    if manifest is None:
        return
    scenes = manifest.get("scenes", [])
    if not isinstance(scenes, list) or not all(isinstance(entry, dict) for entry in scenes):
        raise JobError(f"{out / 'manifest.json'}: is not of a run of geounet; give the output folder of one")
    if "scenes" in manifest or "files" not in manifest:
        return
    # With several models, a scene's folder holds one for each.
    above = [folder for folder in out.absolute().parents[:2] if "scenes" in (read_manifest(folder) or {})]
    raise JobError(f"{out}: a scene's folder; give {above[0] if above else out.absolute().parent}")


def read_status(out: Path, work: Path | None = None) -> dict[str, Any]:
    """Return the state of an output folder, also where one may only read, and without being in a run's way.

    Returns
    -------
    `running` (whether a run holds the lock), `scenes`: one entry a finished scene, an unfinished one, or one that the
    last run could not do, with `name`, `state` (`done`, `running`, `interrupted`, `failed`), `blocks`, `error` and
    `bytes` (of parts). A scene that is done stays so until a run at work makes it anew; `error` says if the last run
    could not.

    Raises
    ------
    JobError
        If the folder is that of a scene.
    GeounetError
        If the folder is no output folder.
    """
    last = read_manifest(out)
    refuse_scene(out, last)
    folders = _works(out, work, last)
    if not any(folder.is_dir() for folder in folders) and not (out / "manifest.json").exists():
        raise GeounetError(f"{out}: no output folder of a run (it holds neither manifest.json nor .geounet)")
    running = is_locked(out / HIDDEN) or any(map(is_locked, folders))
    # Before the manifests: what ends meanwhile is then found in both places, not in none.
    ledgers = sorted(
        (entry for folder in folders for entry in _ledgers(folder)), key=lambda entry: (entry[0], entry[1]["began"])
    )
    scenes: dict[str, dict[str, Any]] = {}
    for path in sorted(out.glob("*/manifest.json")) + sorted(out.glob("*/*/manifest.json")):
        manifest = read_manifest(path.parent)
        if manifest is not None and manifest.get("state") == "done":
            name = path.parent.relative_to(out).as_posix()
            blocks = found if isinstance(found := manifest.get("blocks"), dict) else {}
            scenes[name] = {
                "name": name,
                "state": "done",
                "blocks": {"total": blocks.get("total"), "done": blocks.get("done")},
                "failed_blocks": blocks.get("failed", []),
                "finished": manifest.get("finished"),
                "error": None,
            }
    last = read_manifest(out) or {}
    for entry in last.get("scenes", []):
        if entry.get("state") != "failed":
            continue
        name, error = entry.get("folder") or entry["name"], entry.get("error")
        if name not in scenes:
            scenes[name] = {"name": name, "state": "failed", "error": error}
        elif _seconds(scenes[name]["finished"]) <= _seconds(last.get("finished")):
            scenes[name]["error"] = f"the last run failed: {error}"
    for name, parts in ledgers:
        began, bytes_ = parts.pop("began"), parts.pop("bytes")
        known = scenes.setdefault(name, {"name": name, "error": None})
        known["bytes"] = known.get("bytes", 0) + bytes_
        # Finished output stays it, whatever older runs left behind, until a run at work replaces it.
        if known.get("state") == "done" and not (running and began > _seconds(known["finished"]) + 1):
            continue
        known["state"] = "running" if running else ("failed" if known.get("state") == "failed" else "interrupted")
        error = parts.pop("error")
        known |= {**parts, "error": known["error"] or error}
    return {"folder": str(out), "running": running, "scenes": [scenes[name] for name in sorted(scenes)]}


def _ledgers(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return the names of scenes that have parts, with what these say; what a run removes meanwhile is left out."""
    found = []
    for root, folders, names in os.walk(folder / "scenes"):
        folders[:] = [name for name in folders if not is_discarded(name)]
        if "record.json" not in names:
            continue
        folders.clear()
        path = Path(root)
        try:
            total = _total(json.loads((path / "record.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError):
            continue
        events = _events(path)
        errors = [e for e in events if e["event"] == "failed"]  # what raised once may have succeeded since
        parts = {
            "blocks": {"total": total, "done": _receipts(path / "receipts" / "infer")},
            "bytes": folder_bytes([path]),
            "worker_deaths": sum(e["event"] == "death" for e in events),
            "error": errors[-1].get("error") if errors else None,
            "began": max((e["time"] for e in events if e["event"] == "start"), default=0.0),
        }
        found.append((path.parent.relative_to(folder / "scenes").as_posix(), parts))
    return found


def _receipts(folder: Path) -> int:
    try:
        return sum(path.suffix == ".json" and not path.name.startswith(".") for path in folder.iterdir())
    except OSError:
        return 0


def _seconds(moment: Any) -> float:
    try:
        return datetime.fromisoformat(moment).timestamp()
    except (TypeError, ValueError):
        return 0.0


def _total(record: dict[str, Any]) -> int:
    from geounet.grid.blocks import BlockGrid
    from geounet.grid.tiles import TileGrid

    recipe = record["recipe"]
    rows, cols = recipe["model_shape"]
    return BlockGrid(TileGrid(rows, cols, recipe["tile"], recipe["overlap"]), recipe["side"]).count


def _events(path: Path) -> list[dict[str, Any]]:
    events = []
    try:
        text = (path / "journal.jsonl").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    for line in text.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue  # a line that a killed driver left unfinished
        if isinstance(event, dict) and "event" in event and isinstance(event.get("time"), int | float):
            events.append(event)
    return events


def clean(out: Path, work: Path | None = None) -> tuple[int, int]:
    """Remove the parts of finished and abandoned runs; return how many scenes had some, and their bytes.

    An interrupted run can no longer be continued afterwards; finished output stays. In a work folder that the job named
    only what runs have made goes: other things may lie in it.

    Raises
    ------
    LockedError
        If a run is at work in the folder.
    JobError
        If the folder is that of a scene.
    GeounetError
        If the folder is no output folder, or the work folder none of a run.
    """
    last = read_manifest(out)
    refuse_scene(out, last)
    if work is not None and not (work / LOCK).exists() and not _parts(work):
        raise GeounetError(f"{work}: no work folder of a run (it holds no {LOCK})")
    folders = _distinct(_works(out, work, last))
    if not folders and not (out / "manifest.json").exists():
        raise GeounetError(f"{out}: no output folder of a run (it holds no .geounet)")
    count, size = 0, 0
    with ExitStack() as stack:
        for folder in folders:
            stack.enter_context(locked(folder, out))
        _lock_output(stack, out, folders)
        for folder in folders:
            parts = _parts(folder)
            names = {path.relative_to(folder).parts[:2] for path in parts}
            if parts:
                logger.info("%s: removing the parts of %d scenes", folder, len(names))
            count, size = count + len(names), size + folder_bytes(parts)
            for path in parts:
                discard(path, folder / path.relative_to(folder).parts[0], strict=True)
        sweep(out)
    return count, size


def _lock_output(stack: ExitStack, out: Path, folders: Sequence[Path]) -> None:
    """Lock an output folder beside work folders elsewhere: a run with yet another one may be at work in it."""
    hidden = out / HIDDEN
    if not hidden.is_dir() or any(map(hidden.samefile, folders)):
        return  # no run was here; or its lock is held already
    try:
        stack.enter_context(locked(hidden, out))
    except NoLocksError as error:
        logger.warning("%s; runs with other work folders are not seen", error)


def _distinct(folders: Sequence[Path]) -> list[Path]:
    """Return the folders that are there, each under one of its names: its lock would never be free under the next."""
    found: list[Path] = []
    for folder in folders:
        if folder.is_dir() and not any(map(folder.samefile, found)):
            found.append(folder)
    return found


def _parts(folder: Path) -> list[Path]:
    """Return the folders of parts in a work folder."""
    if folder.name == HIDDEN:  # where nobody else keeps anything
        return sorted(p for stage in STAGES for p in (folder / stage).glob("*") if p.is_dir())
    below = (p for stage in STAGES for depth in ("*/*", "*/*/*") for p in (folder / stage).glob(depth))
    return sorted(p for p in below if is_ledger(p))
