"""From a training job to its data: scenes opened, labels checked and counted, sides dealt out, statistics computed."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from geounet.config.data import Augment, Data, Not
from geounet.config.job import BandSet
from geounet.config.train import TrainJob
from geounet.errors import JobError, LabelError, SceneError
from geounet.labels.frames import Frame
from geounet.labels.layers import expand, files_of
from geounet.labels.values import describe as describe_label
from geounet.labels.values import value_of
from geounet.raster.resample import SQUARE
from geounet.raster.scene import SceneSpec, describe
from geounet.training.augment import Ranges
from geounet.training.places import Cells, Places, on_sides, survey
from geounet.training.samples import Samples, Scenes, Tiles, measured
from geounet.training.sources import WORLD_BANDS, WORLD_CLASSES, FileOpener, Source, WorldReader
from geounet.training.splits import Candidate, Side, split

logger = logging.getLogger(__name__)

_SILENCE = 20.0
"""Seconds after which counting labels says how far it is."""


@dataclass(frozen=True)
class Tally:
    """What one data section holds on one side.

    Attributes
    ----------
    data : str
        Name of the section.
    side : Side
    scenes : int
    pixels : dict of str to int
        Labelled pixels of the scenes by class; partial labels as `not building`.
    share : float
        Share of the training windows that are drawn from it; 0 on other sides.
    centres : dict of str to float
        Share of these windows that are centred on each label.
    """

    data: str
    side: Side
    scenes: int
    pixels: dict[str, int]
    share: float
    centres: dict[str, float]


@dataclass(frozen=True)
class Dataset:
    """All that a training needs of its data.

    Attributes
    ----------
    train : Samples
    validation, test : Tiles
        Empty (`count` 0) where the job holds nothing out.
    bands : tuple of str
    dtype : str
        Stored type of the scenes; float32 where values are scaled.
    gsd : float or None
        Ground sample distance of the windows, metres: the job's, or that of most training pixels.
    gsd_range : tuple of float or None
        Finest and coarsest ground sample distance of training windows, with their change of scale; metres.
    ranges : Ranges
        Normalisation of the bands; `ranges.scaling()` as a card has it.
    codes : dict of str to int
        Label of each class.
    partial : bool
        Whether training labels hold partial ones.
    counts : int64 array (256,)
        Training pixels of each label.
    tallies : tuple of Tally
        For the log and the card.
    scenes : dict of Side to list of str
        Names of the scenes with pixels on each side.
    """

    train: Samples
    validation: Tiles
    test: Tiles
    bands: tuple[str, ...]
    dtype: str
    gsd: float | None
    gsd_range: tuple[float, float] | None
    ranges: Ranges
    codes: dict[str, int]
    partial: bool
    counts: NDArray[np.int64]
    tallies: tuple[Tally, ...]
    scenes: dict[Side, list[str]]


def load_data(job: TrainJob, ranges: Ranges | None = None) -> Dataset:
    """Open and check all scenes and labels of a job.

    Parameters
    ----------
    job
        The training job.
    ranges
        Statistics of an earlier start, which a continued training keeps; None: computed.

    Raises
    ------
    JobError
        If a path or a pattern matches nothing, or there is too little to split.
    SceneError
        If a scene cannot be read, or scenes differ in bands or data type.
    LabelError
        If labels are damaged, lie elsewhere, hold values that the job does not list, or lack a class.
    """
    codes = job.codes()
    sources, names = open_sources(job)
    bands, dtype = _common(job, sources)
    _keep(job, sources)
    cells = _surveyed(job, sources)
    for source, found in zip(sources, cells, strict=True):
        if len(found.corner) == 0:
            logger.warning("%s: no labelled pixel", source.name)
    sides = split(
        job.split,
        [Candidate(s.name, names[s.data], s.frame) for s in sources],
        [c.rects(s.shape) for s, c in zip(sources, cells, strict=True)],
    )
    split_up = [on_sides(c, s, d) for c, s, d in zip(cells, sources, sides, strict=True)]
    ours = {side: [found[side] for found in split_up] for side in Side}
    counts = _total(ours[Side.train])
    _check_classes(job, counts, _total(ours[Side.validation]))
    sections = [k for k in range(len(job.data)) if any(_total([c]).any() for c in _of(k, sources, ours[Side.train]))]
    places = []
    for k in sections:
        chosen = [s for s, c in zip(sources, ours[Side.train], strict=True) if s.data == k and len(c.corner)]
        places.append(
            Places(chosen, [c for c in _of(k, sources, ours[Side.train]) if len(c.corner)], job.sampling.balance)
        )
    shares = _shares(job, sections, [p.pixels for p in places])
    augments = [
        job.augment if job.data[k].scale is None else job.augment.model_copy(update={"scale": job.data[k].scale})
        for k in sections
    ]
    plain = Scenes(sources, sides, Ranges((), (), (), (), clipped=False), job.model.fill)
    if any(s.scaled for s in sources):
        dtype = "float32"  # the range of a stored type tells nothing of values that are scaled
    if ranges is None:
        draws = Samples(plain, places, shares, job.sampling, augments, job.run.seed)
        ranges = measured(draws, job.sampling.statistics, dtype)
    scenes = Scenes(sources, sides, ranges, job.model.fill)
    size = job.sampling.validation_size or job.sampling.size
    chances = {k: (share, p) for k, share, p in zip(sections, shares, places, strict=True)}
    return Dataset(
        train=Samples(scenes, places, shares, job.sampling, augments, job.run.seed),
        validation=Tiles(scenes, Side.validation, size, job.sampling.batch),
        test=Tiles(scenes, Side.test, size, job.sampling.batch),
        bands=bands,
        dtype=dtype,
        gsd=job.gsd if job.gsd is not None else _usual_gsd(sources, ours[Side.train]),
        gsd_range=_gsd_range(job, sources, ours[Side.train], dict(zip(sections, augments, strict=True))),
        ranges=ranges,
        codes=codes,
        partial=_says_not(job.data),
        counts=counts,
        tallies=tuple(_tallies(job, names, sources, ours, chances)),
        scenes={side: [s.name for s, c in zip(sources, ours[side], strict=True) if len(c.corner)] for side in Side},
    )


def _says_not(node: Any) -> bool:
    """Return whether labels may be partial, also where none on the training side is."""
    if isinstance(node, Not):
        return True
    if isinstance(node, BaseModel):
        return any(_says_not(value) for _, value in node)
    if isinstance(node, Mapping):
        return any(_says_not(value) for value in node.values())
    return isinstance(node, list | tuple) and any(_says_not(value) for value in node)


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
    first = sources[0]
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
    names = tuple(job.bands) if job.bands is not None else first.bands
    if len(names) != len(first.bands):
        raise JobError(f"bands: found {len(names)} ({', '.join(names)}), the scenes have {len(first.bands)}")
    return names, first.dtype


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


def _of(section: int, sources: Sequence[Source], cells: Sequence[Cells]) -> list[Cells]:
    return [c for s, c in zip(sources, cells, strict=True) if s.data == section]


def _total(cells: Sequence[Cells]) -> NDArray[np.int64]:
    total = np.zeros(256, dtype=np.int64)
    for found in cells:
        total += found.totals()
    return total


def _check_classes(job: TrainJob, train: NDArray[np.int64], validation: NDArray[np.int64]) -> None:
    if not train.any():
        raise LabelError("no labelled pixel is left to train on; check labels, areas and split")
    for info in job.infos():
        if train[info.code] == 0:
            held = " (all are held out for validation)" if validation[info.code] else ""
            raise LabelError(
                f"class {info.name}: no pixel of it in the labels to train on{held}; map a value to it, change the "
                "split, or leave it out of `classes`"
            )
        if validation.any() and validation[info.code] == 0:
            logger.warning("class %s: no pixel of it among those that validate", info.name)


def _shares(job: TrainJob, sections: Sequence[int], pixels: Sequence[int]) -> list[float]:
    """Return how often each section is drawn from; those that do not say share the rest by their labelled pixels."""
    asked = [job.data[k].share for k in sections]
    given = sum(a for a in asked if a is not None)
    free = [p if a is None else 0 for a, p in zip(asked, pixels, strict=True)]
    if given > 1 + 1e-9 or (given >= 1 - 1e-9 and any(free)):
        raise JobError(f"data: the shares add up to {given:g}, which leaves nothing to the other sections")
    if not any(free):
        return [float(a or 0) / given for a in asked]
    return [float(a) if a is not None else (1 - given) * p / sum(free) for a, p in zip(asked, pixels, strict=True)]


def _usual_gsd(sources: Sequence[Source], cells: Sequence[Cells]) -> float | None:
    """Return the ground sample distance that half of the training pixels do not exceed; None: not all are known."""
    pairs = [(s.frame.gsd, int(c.totals().sum())) for s, c in zip(sources, cells, strict=True) if len(c.corner)]
    if any(gsd is None for gsd, _ in pairs):
        return None
    order = sorted((float(gsd), pixels) for gsd, pixels in pairs if gsd is not None)
    sums = np.cumsum([pixels for _, pixels in order])
    return round(order[int(np.searchsorted(sums, sums[-1] / 2))][0], 4)


def _gsd_range(
    job: TrainJob, sources: Sequence[Source], cells: Sequence[Cells], augments: dict[int, Augment]
) -> tuple[float, float] | None:
    """Return the finest and coarsest ground sample distance of training windows; None: not all are known."""
    ends: list[float] = []
    for source, found in zip(sources, cells, strict=True):
        if not len(found.corner):
            continue
        gsd = job.gsd if job.gsd is not None else source.frame.gsd
        if gsd is None:
            return None
        scale = augments[source.data].scale
        zooms = [1.0] if scale is None else [*scale.range, *([1.0] if scale.chance < 1 else [])]
        ends += [gsd / zoom for zoom in zooms]
    return (round(min(ends), 4), round(max(ends), 4)) if ends else None


def _tallies(job: TrainJob, names: Sequence[str], sources: Sequence[Source], ours: dict[Side, list[Cells]],
             chances: dict[int, tuple[float, Places]]) -> Iterator[Tally]:  # fmt: skip
    codes = job.codes()
    for k in range(len(job.data)):
        for side in Side:
            cells = [c for c in _of(k, sources, ours[side]) if len(c.corner)]
            if not cells:
                continue
            counts = _total(cells)
            pixels = {describe_label(v, codes): int(counts[v]) for v in np.flatnonzero(counts).tolist()}
            share, centres = 0.0, {}
            if side == Side.train:
                share, places = chances[k]
                pairs: Any = zip(places.labels.tolist(), places.chances.tolist(), strict=True)
                centres = {describe_label(v, codes): round(c, 4) for v, c in pairs}
            yield Tally(names[k], side, len(cells), pixels, round(share, 4), centres)
