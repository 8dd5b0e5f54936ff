"""From a training job to its data: sides dealt out, classes checked, places and shares of windows, statistics."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from geounet.config.data import Augment, Not
from geounet.config.train import TrainJob
from geounet.errors import JobError, LabelError
from geounet.labels.values import describe as describe_label
from geounet.training.augment import Ranges
from geounet.training.gather import Gathered, gather
from geounet.training.places import Cells, Places, on_sides
from geounet.training.samples import Samples, Scenes, Tiles, measured
from geounet.training.sources import Source
from geounet.training.splits import Candidate, Side, Sides, split

logger = logging.getLogger(__name__)


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


def load_data(job: TrainJob, ranges: Ranges | None = None, gathered: Gathered | None = None) -> Dataset:
    """Open and check all scenes and labels of a job.

    Parameters
    ----------
    job
        The training job.
    ranges
        Statistics of an earlier start, which a continued training keeps; None: computed.
    gathered
        What `gather` returned for another fold of the job; None: gathered here.

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
    gathered = gather(job) if gathered is None else gathered
    sources, names, bands, dtype = gathered.sources, gathered.names, gathered.bands, gathered.dtype
    sides, ours = _split(job, gathered)
    counts = _total(ours[Side.train])
    for problem in _check_classes(job, {side: _total(cells) for side, cells in ours.items()}):
        logger.warning("%s", problem)
    validating = _total(ours[Side.validation])
    for info in job.infos():
        if validating.any() and validating[info.code] == 0:
            logger.warning("class %s: no pixel of it among those that validate", info.name)
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


def _of(section: int, sources: Sequence[Source], cells: Sequence[Cells]) -> list[Cells]:
    return [c for s, c in zip(sources, cells, strict=True) if s.data == section]


def _total(cells: Sequence[Cells]) -> NDArray[np.int64]:
    total = np.zeros(256, dtype=np.int64)
    for found in cells:
        total += found.totals()
    return total


def check_folds(job: TrainJob, gathered: Gathered, but: int | None = None) -> None:
    """Check the splits of all folds of a job, so that the last one does not fail after the others have learnt.

    Parameters
    ----------
    job
        With `split.folds`.
    gathered
        Its scenes and labels.
    but
        A fold that is left out.

    Raises
    ------
    JobError, LabelError
        As `load_data` for any of them.
    """
    assert job.split.folds is not None
    for number in range(job.split.folds):
        if number != but:
            fold = job.model_copy(update={"split": job.split.model_copy(update={"fold": number})})
            _, ours = _split(fold, gathered)
            for problem in _check_classes(fold, {side: _total(cells) for side, cells in ours.items()}):
                logger.warning("%s", problem)


def _split(job: TrainJob, gathered: Gathered) -> tuple[list[Sides], dict[Side, list[Cells]]]:
    """Return the sides of every scene, and its cells on each."""
    sources, cells = gathered.sources, gathered.cells
    sides = split(
        job.split,
        [Candidate(s.name, gathered.names[s.data], s.frame) for s in sources],
        [c.rects(s.shape) for s, c in zip(sources, cells, strict=True)],
    )
    found = [on_sides(c, s, d) for c, s, d in zip(cells, sources, sides, strict=True)]
    return sides, {side: [parts[side] for parts in found] for side in Side}


def _check_classes(job: TrainJob, counts: Mapping[Side, NDArray[np.int64]]) -> list[str]:
    """Return what is bearable: classes that one fold holds out as a whole, and the others learn."""
    spec, bearable = job.split, []
    fold = "" if spec.folds is None else f"fold {spec.fold + 1} of {spec.folds}: "
    if not counts[Side.train].any():
        raise LabelError(f"{fold}no labelled pixel is left to train on; check labels, areas and split")
    for info in job.infos():
        if counts[Side.train][info.code] > 0:
            continue
        holding = [side.name for side in (Side.validation, Side.test) if counts[side][info.code]]
        if spec.folds is not None and counts[Side.validation][info.code]:
            bearable.append(
                f"{fold}class {info.name}: all pixels of it are held out for {' and '.join(holding)}, so this fold "
                "does not learn it and is measured as missing it; smaller blocks (split.block) spread it over folds"
            )
        else:
            held = f" (all are held out for {' and '.join(holding)})" if holding else ""
            raise LabelError(
                f"class {info.name}: no pixel of it in the labels to train on{held}; map a value to it, change the "
                "split, or leave it out of `classes`"
            )
    return bearable


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
