"""Expanding the `scenes` of a job into files, globs and folders; names are unique."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import takewhile
from pathlib import Path

from geounet.batch.lock import HIDDEN
from geounet.config.job import BandSet, Job
from geounet.config.keys import is_remote
from geounet.engine.ledger import KEY, STAGES
from geounet.engine.manifest import FORMAT, read_manifest
from geounet.errors import GeounetError, JobError
from geounet.raster.products import SAFE, is_document, local_files, product_name
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
        If a pattern matches nothing, two scenes have one name, or a file lists scenes.
    GeounetError
        If a folder, or that in which a pattern begins, cannot be listed.
    """
    specs: list[SceneSpec] = []
    seen: set[tuple[Path, ...]] = set()
    names: dict[str, str] = {}
    for name, files, product in _expand(job, some=some):
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
        specs.append(_spec(job, name, files, product))
    return specs


def _spec(job: Job, name: str, files: list[Path], product: Path | None) -> SceneSpec:
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
        product=None if product is None else str(product.absolute()),
    )


def _expand(job: Job, *, some: bool) -> Iterator[tuple[str, list[Path], Path | None]]:
    """Yield the name of each scene, its files, and the first of them where it is a product of the others."""
    out = Path(job.outputs.folder).resolve()
    work = out if job.outputs.work == "auto" else Path(job.outputs.work).resolve()
    for entry in job.scenes:
        for name in entry.files if isinstance(entry, BandSet) else [entry]:
            if is_remote(name):  # before it becomes a path, which would lose a slash
                raise JobError(f"{name}: not a local file; copy it to this machine first")
        if isinstance(entry, BandSet):
            files = [Path(f) for f in entry.files]
            products = [file for file in files if product_name(file, named=False) is not None]
            if products:
                raise JobError(f"{products[0]}: is a scene of several files; name it by itself, not among `files`")
            yield entry.name, files, None
            continue
        path, left = Path(entry), ""
        if product_name(path) is not None:
            found = [path]
        elif os.path.isdir(path):  # noqa: PTH112 - False where one may not look
            ours = partial(_is_ours, start=path, out=out, work=work)
            rasters = [p for p in _below(path, ours) if _is_scene(p)]
            found, left = _without_results((p for p in rasters if not ours(p)), entry, path)
            left += _in_output(rasters, entry, path, out) if not found else ""
            if some and not found:
                raise JobError(f"{entry}: the folder holds no raster ({', '.join(sorted(ENDINGS)[:6])}, …){left}")
        elif os.path.exists(path) or not glob.has_magic(entry):  # noqa: PTH110 - as above
            found = [path]  # a missing file is one scene's failure, not the job's
        else:
            fixed = list(takewhile(lambda part: not glob.has_magic(part), path.parts))
            start = Path(*fixed)
            ours = partial(_is_ours, start=start, out=out, work=work)
            if not some or os.path.exists(start):  # noqa: PTH110 - where some are wanted, none is told below
                _warn_of(_unlisted(entry, start, len(fixed)), ours)
            matches = (Path(p) for p in glob.iglob(entry, recursive=True))
            files = _without_members([p for p in sorted(matches) if _is_file(p) or _is_folder(p)])
            found, left = _without_results((p for p in files if not ours(p)), entry, start)
            left += _in_output(files, entry, start, out) if not found else ""
            if some and not found:
                raise JobError(f"{entry}: matches no file{left}")
        for file in found:
            product = product_name(file, named=False)
            if product is None:
                yield file.stem, [file], None
            else:
                yield product, [file, *local_files(file)], file


def _is_folder(path: Path) -> bool:
    """Whether a path is a folder that is a scene."""
    return path.suffix.lower() == SAFE and os.path.isdir(path)  # noqa: PTH112 - False where one may not look


def _without_members(paths: list[Path]) -> list[Path]:
    """Return what a pattern matched without the insides of folders that are scenes, and without JSON of no scene."""
    folders = {path for path in paths if _is_folder(path)}
    found = [path for path in paths if folders.isdisjoint(path.parents)]
    others = {path for path in found if is_document(path) and product_name(path, named=False) is None}
    if others:
        logger.info("%s: JSON files that are left out, as they are no STAC items: %d", min(others).parent, len(others))
    return [path for path in found if path not in others]


def _below(folder: Path, ours: Callable[[Path], bool]) -> list[Path]:
    """Return what lies in a folder and those below it, sorted; warn of those that cannot be listed.

    Raises
    ------
    GeounetError
        If the folder itself cannot be listed.
    """
    _check_listed(folder)
    failed: list[OSError] = []
    found = []
    for root, folders, names in os.walk(folder, onerror=failed.append):
        failed += _refused(root)
        found += [Path(root) / name for name in (*folders, *names)]
        folders[:] = [name for name in folders if not name.lower().endswith(SAFE)]
    _warn_of(failed, ours)
    return sorted(found)


def _unlisted(pattern: str, start: Path, fixed: int) -> Iterator[OSError]:
    """Yield why folders that a pattern leads through cannot be listed, which it passes over in silence.

    Parameters
    ----------
    pattern
        As `glob` has them.
    start
        The part of it without wildcards.
    fixed
        Of how many parts that is.

    Raises
    ------
    GeounetError
        If `start` cannot be listed.
    """
    _check_listed(start)
    parts, seen = Path(pattern).parts, set[str]()
    for count in range(fixed + 1, len(parts)):
        for folder in glob.iglob(os.path.join(*parts[:count], ""), recursive=True):  # noqa: PTH118 - ends in /
            if folder in seen:
                continue
            seen.add(folder)
            yield from _refused(folder)


def _check_listed(folder: Path) -> None:
    for error in _refused(str(folder)):
        raise GeounetError(
            f"{folder}: cannot be listed ({error.strerror}), so scenes there are not found; is its storage there, and "
            "may this user read it?"
        )


def _refused(folder: str) -> list[OSError]:
    """Return why a folder cannot be listed, or what lies in it not be looked at; nothing if both can."""
    try:
        os.scandir(folder).close()
        os.stat(os.path.join(folder, os.curdir))  # noqa: PTH116, PTH118 - Path drops the dot
    except OSError as error:
        return [error]
    return []


def _warn_of(failed: Iterable[OSError], ours: Callable[[Path], bool]) -> None:
    for error in failed:
        folder = Path(error.filename)
        if folder.name != "lost+found" and not ours(folder):
            logger.warning("%s: cannot be listed (%s); scenes there are not found", folder, error.strerror)


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113 - False where one may not look


def _is_scene(path: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.parts[-3:] if part not in (".", ".."))
    return not hidden and ((path.suffix.lower() in ENDINGS and _is_file(path)) or _is_folder(path))


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


def _in_output(paths: Iterable[Path], entry: str, start: Path, out: Path) -> str:
    """Return words on what may be scenes, but lies in the output folder, where results would be taken for them."""
    there, _ = _without_results((p for p in paths if p.resolve().is_relative_to(out)), entry, start)
    if not there:
        return ""
    words = f"{len(there)} lie in the output folder {out}, which is not searched; choose another one (--out)"
    logger.warning("%s: of what it finds, %s", entry, words)
    return f"; {words}, or name them"


def _inputs(folder: Path) -> set[str] | None:
    """Return the names of the files that a scene's results in a folder were made of; None where there are none."""
    manifest = read_manifest(folder)
    if manifest is None or manifest.get("format") != FORMAT or "scenes" in manifest:  # which that of a whole run has
        return None
    made_of = manifest.get("input")
    files = [*made_of.get("files", ()), made_of.get("product")] if isinstance(made_of, dict) else ()
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
    return stage in STAGES and any(KEY.fullmatch(name) for name in below[1:-1])
