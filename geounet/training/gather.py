"""From a training job to its scenes: opened, checked, kept in memory as far as they fit, their labels counted."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import get_args

from geounet.config.card import DataType
from geounet.config.data import Data
from geounet.config.job import BandSet
from geounet.config.train import TrainJob
from geounet.errors import JobError, SceneError
from geounet.labels.frames import Frame
from geounet.labels.layers import expand, files_of
from geounet.labels.values import value_of
from geounet.raster.resample import SQUARE
from geounet.raster.scene import SceneSpec, describe
from geounet.training.places import Cells, survey
from geounet.training.sources import WORLD_BANDS, WORLD_CLASSES, FileOpener, Source, WorldReader

logger = logging.getLogger(__name__)

_SILENCE = 20.0
"""Seconds after which counting labels says how far it is."""


@dataclass(frozen=True)
class Gathered:
    """Scenes and labels before they are split: what the folds of a job share.

    Attributes
    ----------
    sources : list of Source
    names : list of str
        Of the data sections.
    bands : tuple of str
    dtype : str
        Stored type of the scenes.
    cells : list of Cells
        Labels of each scene.
    """

    sources: list[Source]
    names: list[str]
    bands: tuple[str, ...]
    dtype: str
    cells: list[Cells]


def gather(job: TrainJob) -> Gathered:
    """Open all scenes of a job, decode those that fit into memory, and count all labels.

    Raises
    ------
    JobError, SceneError, LabelError
        As `load_data`.
    """
    sources, names = open_sources(job)
    bands, dtype = _common(job, sources)
    _keep(job, sources)
    cells = _surveyed(job, sources)
    for source, found in zip(sources, cells, strict=True):
        if len(found.corner) == 0:
            logger.warning("%s: no labelled pixel", source.name)
    return Gathered(sources, names, bands, dtype, cells)


def open_sources(job: TrainJob) -> tuple[list[Source], list[str]]:
    """Return the scenes of a job in order, and the names of its data sections; checked as far as needs no pixels.

    Raises
    ------
    JobError, SceneError, LabelError
        As `load_data`.
    """
    codes, root = job.codes(), Path(job.root)
    sources: list[Source] = []
    names: list[str] = []
    for number, data in enumerate(job.data):
        found = list(
            _worlds(job, data, number, codes) if data.generated is not None else _files(job, data, number, codes, root)
        )
        names.append(data.name or (found[0].name.split("/")[0] if found else f"data{number}"))
        sources += found
    twice = {s.name for s in sources if sum(o.name == s.name for o in sources) > 1}
    if twice:
        raise JobError(f"data: {min(twice)} is named in two sections; each scene belongs to one")
    return sources, names


def _worlds(job: TrainJob, data: Data, number: int, codes: dict[str, int]) -> Iterator[Source]:
    spec = data.generated
    assert spec is not None
    meanings = spec.values or {name: name for name in WORLD_CLASSES}
    for name in meanings:
        if name not in WORLD_CLASSES:
            raise JobError(f"data[{number}].generated.values: {name!r}; made-up scenes have {', '.join(WORLD_CLASSES)}")
    missing = [name for name in WORLD_CLASSES if name not in meanings or meanings[name] not in {*codes, "ignored"}]
    if missing and spec.values is None:
        raise JobError(
            f"data[{number}].generated: the job has no class {missing[0]!r}; say in `values` what it counts as"
        )
    table = tuple(value_of(meanings.get(name, "ignored"), codes) for name in WORLD_CLASSES)
    side = spec.size
    for seed in range(spec.seeds[0], spec.seeds[1] + 1):
        name = f"{data.name or 'generated'}/{seed}"
        # a place of its own, without a CRS: no scene meets another
        frame = Frame(name, (side, side), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), None, spec.gsd)
        yield Source(
            name, number, frame, WORLD_BANDS[spec.bands], "uint8", WorldReader(seed, spec, table), _zoom(job, frame)
        )


def _files(job: TrainJob, data: Data, number: int, codes: dict[str, int], root: Path) -> Iterator[Source]:
    key = f"data[{number}]"
    found = _scenes(data, root, f"{key}.scenes")
    bands = data.bands if data.bands is not None else job.bands
    nodata = data.nodata
    specs, infos = [], []
    for path, parts in found:
        specs.append(
            SceneSpec(
                name=path.stem,
                files=tuple(str(part) for part in parts),
                bands=None if bands is None else tuple(bands),
                nodata=None if nodata is None else tuple(nodata) if isinstance(nodata, list) else (nodata,),
                aoi=None if data.aoi is None else str(expand([data.aoi], root, f"{key}.aoi")[0]),
            )
        )
        infos.append(describe(specs[-1]))
    paths = [path for path, _ in found]
    frames = [Frame.of(_name(path, root), info, data.gsd) for path, info in zip(paths, infos, strict=True)]
    files = tuple(files_of(data, codes, frames, paths, root, key))
    for path, spec, info, frame in zip(paths, specs, infos, frames, strict=True):
        opener = FileOpener(spec, str(path), files, data.complete, codes, frame, root)
        yield Source(
            frame.name, number, frame, info.band_names, info.dtype, opener, _zoom(job, frame), scaled=info.scaled
        )


def _scenes(data: Data, root: Path, key: str) -> list[tuple[Path, list[Path]]]:
    """Return what names each scene of a section (its file, or the name given), and its files."""
    found: dict[Path, list[Path]] = {}
    for entry in data.scenes or ():
        if isinstance(entry, BandSet):
            found[root / entry.name] = expand(entry.files, root, key)
        else:
            found.update({path: [path] for path in expand([entry], root, key)})
    return list(found.items())


def _name(path: Path, root: Path) -> str:
    try:
        return path.relative_to(root).as_posix()
    except ValueError:
        return path.as_posix()


def _zoom(job: TrainJob, frame: Frame) -> tuple[float, float]:
    """Return the scene's pixels per pixel of the model, down and across."""
    if job.gsd is None:
        return 1.0, 1.0
    metres = frame.metres()
    if metres is None or frame.gsd is None:
        raise SceneError(
            f"{frame.name}: its ground sample distance is unknown, so it cannot be brought to {job.gsd:g} m; give "
            "`gsd` beside `scenes`, or leave out the job's `gsd`"
        )
    across, down = metres
    if max(across / down, down / across) > 1 + SQUARE:  # square on the ground, as prediction resamples
        return job.gsd / down, job.gsd / across
    # a hair's difference is not worth a resampling
    zoom = job.gsd / frame.gsd
    return (1.0, 1.0) if abs(zoom - 1) < 1e-3 else (zoom, zoom)


def _common(job: TrainJob, sources: Sequence[Source]) -> tuple[tuple[str, ...], str]:
    """Return the names of the bands and the stored type that all scenes have.

    Raises
    ------
    JobError, SceneError
        If they differ, or a model cannot have them.
    """
    first = sources[0]
    if first.dtype not in get_args(DataType):
        raise SceneError(
            f"{first.name}: holds {first.dtype}; models take {', '.join(t for t in get_args(DataType) if t != 'any')}; "
            "convert the scenes (gdal_translate -ot)"
        )
    # Where nobody says which bands are taken, all are, in the order of the file.
    unnamed = [s for s in sources if job.bands is None and job.data[s.data].bands is None]
    for source in sources[1:]:
        if len(source.bands) != len(first.bands):
            raise SceneError(
                f"{source.name}: has {len(source.bands)} bands ({', '.join(source.bands)}), {first.name} has "
                f"{len(first.bands)} ({', '.join(first.bands)}); choose the same ones with `bands`"
            )
        if source.dtype != first.dtype:
            raise SceneError(
                f"{source.name}: holds {source.dtype}, {first.name} holds {first.dtype}; a model takes one data type"
            )
        if source.scaled != first.scaled:
            yes, no = (source, first) if source.scaled else (first, source)
            raise SceneError(
                f"{yes.name}: has a scale or offset that makes other values of those stored, {no.name} has none; a "
                "model takes values of one kind"
            )
    for source in unnamed[1:]:
        _check_order(source, unnamed[0])
    names = tuple(job.bands) if job.bands is not None else first.bands
    if len(set(names)) < len(names):  # in a job they are not
        names = tuple(f"band{number}" for number in range(1, len(names) + 1))
    if len(names) != len(first.bands):
        raise JobError(f"bands: found {len(names)} ({', '.join(names)}), the scenes have {len(first.bands)}")
    return names, first.dtype


def _check_order(source: Source, first: Source) -> None:
    """Refuse a scene that has a band of the first one's name in another place."""
    ours, theirs = ([name.casefold() for name in one.bands] for one in (source, first))
    if any(name in theirs and ours.index(name) != theirs.index(name) for name in ours):
        raise SceneError(
            f"{source.name}: its bands are {', '.join(source.bands)}, those of {first.name} {', '.join(first.bands)}; "
            f"give the job's `bands: [{', '.join(first.bands)}]`, and they are found by name"
        )


def _keep(job: TrainJob, sources: Sequence[Source]) -> None:
    """Decode scenes into memory, in the job's order, as far as they fit."""
    left = job.sampling.cache_mb * 2**20
    kept = []
    for source in sources:
        if source.bytes <= left:
            left -= source.bytes
            kept.append(source)
    with ThreadPoolExecutor(job.sampling.threads, thread_name_prefix="geounet-decode") as pool:
        for _ in pool.map(lambda s: s.keep(), kept):
            pass
    if len(kept) < len(sources):
        logger.info("%d of %d scenes fit into memory (sampling.cache_mb), the others are read as needed",
                    len(kept), len(sources))  # fmt: skip


def _surveyed(job: TrainJob, sources: Sequence[Source]) -> list[Cells]:
    """Count the labels of all scenes; where that takes long, say how far it is."""
    total = sum(s.shape[0] * s.shape[1] for s in sources)
    done, said, lock = 0, time.monotonic(), Lock()

    def told(pixels: int) -> None:
        nonlocal done, said
        with lock:
            done += pixels
            if time.monotonic() - said > _SILENCE:
                said = time.monotonic()
                logger.info("labels: %.0f of %.0f Mpx counted", done / 1e6, total / 1e6)

    with ThreadPoolExecutor(job.sampling.threads, thread_name_prefix="geounet-survey") as pool:
        return list(pool.map(lambda s: survey(s, told), sources))
