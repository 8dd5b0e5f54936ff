"""Expanding the `scenes` of a job into files, globs and folders; names are unique."""

from __future__ import annotations

import glob
import logging
import re
from collections.abc import Iterable, Iterator
from itertools import takewhile
from pathlib import Path

from geounet.batch.lock import HIDDEN
from geounet.config.job import BandSet, Job
from geounet.engine.manifest import FORMAT, read_manifest
from geounet.errors import JobError
from geounet.raster.scene import SceneSpec

logger = logging.getLogger(__name__)

ENDINGS = frozenset(
    {".tif", ".tiff", ".gtiff", ".cog", ".jp2", ".j2k", ".png", ".jpg", ".jpeg", ".vrt", ".img", ".ntf", ".nitf",
     ".ecw", ".sid", ".bil", ".bsq", ".bip", ".asc", ".hdf", ".nc"}
)  # fmt: skip
"""Endings that count as rasters when a folder is searched; a file named outright may have any."""


def find_scenes(job: Job, *, some: bool = True) -> list[SceneSpec]:
    """Return the scenes of a job, in order, each once.

    Parameters
    ----------
    job
        Whose scenes.
    some
        Whether every folder and pattern has to hold a scene.

    Raises
    ------
    JobError
        If a pattern matches nothing, or two scenes have one name.
    """
    specs: list[SceneSpec] = []
    seen: set[tuple[Path, ...]] = set()
    names: dict[str, str] = {}
    for name, files in _expand(job, some=some):
        key = tuple(f.resolve() for f in files)
        if key in seen:
            continue
        seen.add(key)
        shown = ", ".join(str(f) for f in files)
        if name.lower() in names:
            raise JobError(
                f"two scenes are named {name!r}: {names[name.lower()]} and {shown}; they would overwrite each other: "
                "rename one, run them into different folders, or name one with {name: …, files: […]}"
            )
        names[name.lower()] = shown
        specs.append(_spec(job, name, files))
    return specs


def _spec(job: Job, name: str, files: list[Path]) -> SceneSpec:
    nodata: tuple[float, ...] | None = None
    if job.nodata != "auto":
        nodata = tuple(float(v) for v in job.nodata) if isinstance(job.nodata, list) else (float(job.nodata),)
    return SceneSpec(
        name=name,
        files=tuple(str(f.absolute()) for f in files),
        bands=None if job.bands == "auto" else tuple(job.bands),
        nodata=nodata,
        aoi=job.aoi,
        bbox=None if job.bbox is None else (job.bbox[0], job.bbox[1], job.bbox[2], job.bbox[3]),
    )


def _expand(job: Job, *, some: bool) -> Iterator[tuple[str, list[Path]]]:
    out = Path(job.outputs.folder).resolve()
    work = out if job.outputs.work == "auto" else Path(job.outputs.work).resolve()
    for entry in job.scenes:
        if isinstance(entry, BandSet):
            yield entry.name, [Path(f) for f in entry.files]
            continue
        path, left = Path(entry), ""
        if path.is_dir():
            here = (p for p in sorted(path.rglob("*")) if _is_scene(p) and not _is_ours(p, path, out, work))
            found, left = _without_results(here, entry, path)
            if some and not found:
                raise JobError(f"{entry}: the folder holds no raster ({', '.join(sorted(ENDINGS)[:6])}, …){left}")
        elif path.exists() or not glob.has_magic(entry):
            found = [path]  # a missing file is one scene's failure, not the job's
        else:
            matches = (Path(p) for p in glob.iglob(entry, recursive=True))
            start = Path(*takewhile(lambda part: not glob.has_magic(part), path.parts))
            here = (p for p in sorted(matches) if p.is_file() and not _is_ours(p, start, out, work))
            found, left = _without_results(here, entry, start)
            if some and not found:
                raise JobError(f"{entry}: matches no file{left}")
        for file in found:
            yield file.stem, [file]


def _is_scene(path: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.parts[-3:] if part not in (".", ".."))
    return path.suffix.lower() in ENDINGS and path.is_file() and not hidden


def _without_results(paths: Iterable[Path], entry: str, start: Path) -> tuple[list[Path], str]:
    """Return what a search from `start` found without what earlier runs left in other folders, and words on that.

    Those are parts, and what lies beside the manifest of a scene, but for the scene itself.
    """
    inputs: dict[Path, set[str] | None] = {}
    found, left = [], 0
    for path in paths:
        folder = path.parent
        if folder not in inputs:
            inputs[folder] = _inputs(folder)
        names = inputs[folder]
        if HIDDEN in folder.relative_to(start).parts or (names is not None and path.name not in names):
            left += 1
        else:
            found.append(path)
    if not left:
        return found, ""
    logger.info("%s: files of earlier runs that are left out: %d", entry, left)
    return found, f"; files of earlier runs, which are no scenes: {left}"


def _inputs(folder: Path) -> set[str] | None:
    """Return the names of the files that a scene's results in a folder were made of; None where there are none."""
    manifest = read_manifest(folder)
    if manifest is None or manifest.get("format") != FORMAT or "scenes" in manifest:  # which that of a whole run has
        return None
    made_of = manifest.get("input")
    files = made_of.get("files", ()) if isinstance(made_of, dict) else ()
    return {Path(file).name for file in files if isinstance(file, str)}


def _is_ours(path: Path, start: Path, out: Path, work: Path) -> bool:
    """Return whether a file that a search from `start` found is a result, or a part that a run left behind."""
    path = path.resolve()
    if path.is_relative_to(out):
        return True
    if not path.is_relative_to(work):
        return False
    if not start.resolve().is_relative_to(work):
        return True
    # Scenes that lie in the work folder themselves: only what is placed as parts are (`Ledger.folder`) is left out.
    stage, *below = path.relative_to(work).parts
    return stage == "mosaics" or (stage == "scenes" and any(re.fullmatch("[0-9a-f]{16}", name) for name in below[1:-1]))
