"""One GeoPackage of all scenes of a job: their masks are taken as one, so nothing is cut or doubled where they meet."""

from __future__ import annotations

import json
import logging
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from geounet.atomic import remove_leftovers, write_text
from geounet.batch.blame import fault_of
from geounet.batch.lock import HIDDEN
from geounet.config.job import Job, Vector
from geounet.config.layers import resolve_layers
from geounet.engine.ledger import fingerprint, remove_empty
from geounet.engine.manifest import remove_replaced
from geounet.engine.plan import versions
from geounet.engine.pool import InlinePool, Pool, PoolExecutor
from geounet.engine.scene import SceneRun
from geounet.errors import ClusterError, GeounetError, OutputExistsError
from geounet.types import Progress

logger = logging.getLogger(__name__)

Entries = Sequence[Mapping[str, Any]]

_NOTED = "mosaics.json"
"""In the hidden folder: names of the files that runs began to write."""


def names(job: Job, models: Sequence[str]) -> list[Path]:
    """Return the GeoPackages of a job's mosaics, one a model; none where no mosaic is asked for."""
    if not isinstance(job.vector, Vector) or not job.vector.mosaic:
        return []
    # The job's name is free text; that of a file is not.
    name = re.sub(r"[^\w.-]+", "_", job.name)
    out = Path(job.outputs.folder).absolute()
    different = dict.fromkeys(models)
    return [out / (f"{name}.gpkg" if job.models is None else f"{name}_{model}.gpkg") for model in different]


def check(job: Job, models: Sequence[str], before: Entries) -> None:
    """Refuse to start where a mosaic would replace a file that no run of this job made.

    Raises
    ------
    OutputExistsError
        If it is there, and `overwrite` is not set.
    """
    known = {file for entry in before for file in dict(entry["files"]).values()}
    known |= set(_noted(Path(job.outputs.folder).absolute()))
    for path in names(job, models):
        if path.exists() and path.name not in known and not job.outputs.overwrite:
            raise OutputExistsError(
                f"{path}: is there and not of this job; set outputs.overwrite: true (--overwrite) to replace it, or "
                "give the job another name"
            )


def _noted(out: Path) -> list[str]:
    try:
        found = json.loads((out / HIDDEN / _NOTED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []


def _note(path: Path) -> None:
    """Note a file before it is written: the manifest may name it late or never, and the next one's job may be another.

    What is gone since is forgotten: a file that takes its name is somebody else's.
    """
    out, before = path.parent, _noted(path.parent)
    told = sorted({path.name, *(name for name in before if (out / name).exists())})
    if told != before:
        write_text(out / HIDDEN / _NOTED, json.dumps(told))


def mosaics(
    job: Job,
    runs: Sequence[SceneRun],
    scenes: Entries,
    before: Entries,
    work: Path,
    pool: Callable[[], Pool | InlinePool],
    progress: Progress,
) -> list[dict[str, Any]]:
    """Make the mosaic of each model, unless it is there already.

    Parameters
    ----------
    job
        What was run.
    runs, scenes
        Its scenes in order, and what the manifest says of each; of those whose results are of an earlier run, though
        they wait or failed since, what that said, with the state `earlier`.
    before
        Mosaics of the last run of this output folder.
    work
        Where parts go.
    pool
        Returns the cluster; called when there is something to do.
    progress
        Told what happens.

    Returns
    -------
    One entry a mosaic: `name`, `state` (`done`, `unchanged`, `failed`), `key`, `files`, `scenes`, `earlier` (those of
    them that are in it as an earlier run made them), `features`, `notes`, `seconds`, `error`.
    """
    bundles = {run.bundle.card.name: run.bundle for run in runs}
    made = []
    for path, (model, bundle) in zip(names(job, list(bundles)), bundles.items(), strict=False):
        here = [(r, s) for r, s in zip(runs, scenes, strict=True) if r.bundle is bundle and s["state"] != "failed"]
        sections = resolve_layers(job, bundle.card)
        if sections is None:
            continue
        if not here:  # the next run must still know the file as this job's
            made += [
                {**entry, "state": "failed" if entry["state"] == "failed" else "unchanged"}
                for entry in before
                if entry["name"] == path.stem and entry["files"]
            ]
            continue
        settings = sections.model_dump(mode="json", by_alias=True)
        key = fingerprint(versions(), settings, [_identity(s) for _, s in here])
        earlier = [s["name"] for _, s in here if s["state"] == "earlier"]
        entry = {
            "name": path.stem,
            "model": model,
            "scenes": [s["name"] for _, s in here],
            "earlier": earlier,
            "key": key,
            "error": None,
        }
        older = [e for e in before if e["name"] == path.stem]
        last = next((e for e in older if e.get("key") == key), None)
        if last is not None and last["files"] and all((path.parent / f).exists() for f in last["files"].values()):
            logger.info("%s: already done", path.name)
            made.append({**last, "state": "unchanged", "earlier": earlier})
            continue
        remove_leftovers(path.parent, path.stem)
        began = time.monotonic()
        try:
            _note(path)
            report = _make(job, path, here, sections, work / "mosaics" / path.stem / key[:16], key, pool(), progress)
        except Exception as error:  # what scenes are done is to be told all the same
            failure = _failure(error, path, work)
            logger.error("%s: %s", path.name, failure)
            # What is there is this job's, though it may be of two keys: it is of none.
            there = {k: f for e in older for k, f in e["files"].items() if (path.parent / f).exists()}
            made.append({**entry, "key": None, "state": "failed", "error": str(failure), "files": there})
            continue
        for replaced in older:
            remove_replaced(path.parent, replaced, report["files"])
        made.append(
            {
                **entry,
                "state": "done",
                "files": report["files"],
                "features": report["layers"],
                "notes": report["notes"],
                "seconds": round(time.monotonic() - began, 2),
            }
        )
    return made


def _failure(error: Exception, path: Path, work: Path) -> GeounetError:
    try:
        return fault_of(error, str(path), [path.parent, work])
    except ClusterError as stopping:
        return stopping


def _identity(entry: Mapping[str, Any]) -> list[str]:
    """Return what a finished scene is known by; which blocks failed decides the mask, too."""
    return [entry["name"], entry["key"], *entry.get("blocks", {}).get("failed", [])]


def _make(
    job: Job,
    path: Path,
    scenes: Sequence[tuple[SceneRun, Mapping[str, Any]]],
    sections: Vector,
    work: Path,
    key: str,
    pool: Pool | InlinePool,
    progress: Progress,
) -> dict[str, Any]:
    from geounet.vector import backdrop
    from geounet.vector.build import geopackage, tell
    from geounet.vector.mosaic import Piece, mosaic
    from geounet.vector.request import DEFAULT_CELL, VectorRequest

    out = path.parent
    card = scenes[0][0].bundle.card
    multilabel = card.head == "multilabel"
    classes = tuple(card.classes if multilabel else card.mask_classes())
    pieces = []
    below: list[backdrop.Backdrop] = []
    for run, entry in scenes:
        mask = str(out / entry["files"]["mask"])
        stored = entry["files"].get("probability")
        pieces.append(Piece(mask, None if stored is None else str(out / stored)))
        room = max(0, backdrop.MOST - len(below))
        below += [backdrop.scene(file, Path(file).stem) for file in run.spec.files[:room]]
    logger.info("%s: %d scenes as one", path.name, len(scenes))
    work.mkdir(parents=True, exist_ok=True)
    write_text(work / "record.json", json.dumps({"key": key}))  # it is a folder of ours, says this
    joined = mosaic(pieces, work)
    request = VectorRequest(
        mask=joined.mask,
        probability=joined.probability,
        classes=classes,
        channels={c.code: channel for channel, c in enumerate(card.classes, start=1)},
        layers=sections,
        cell=sections.cell if isinstance(sections.cell, int) else DEFAULT_CELL,
        out=path,
        work=work,
        metadata={
            "GEOUNET_MODEL": card.name,
            "GEOUNET_MODEL_SHA256": scenes[0][0].bundle.sha256,
            "GEOUNET_FINGERPRINT": key,
            "GEOUNET_INPUT": ", ".join(str(entry["name"]) for _, entry in scenes),
        },
        multilabel=multilabel,
        identity=fingerprint(key, joined.identity),
        formats=tuple(sections.formats),
        backdrops=tuple(below),
    )
    executor = PoolExecutor(pool, lambda label, done, total: progress.update(label, done, total))
    report: dict[str, Any] = geopackage(request, executor, joined.notes)
    tell(request, report)
    shutil.rmtree(work)
    remove_empty(work.parent, work.parent.parent)
    return report
