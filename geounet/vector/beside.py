"""Probabilities beside a class raster, a band a class: for confidences, valleys between buildings, gaps in roads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from geounet.errors import JobError, VectorError
from geounet.raster.georef import apply
from geounet.types import NODATA, PROBABILITY_STEPS, Progress
from geounet.vector.ingest import Ingested, in_steps, slabs, valid_in, written
from geounet.vector.source import opened
from geounet.vector.wanted import SHOWN, matching, title_of

_OFF_GRID = 1e-2
"""Pixels that grids may be apart."""

_ROUNDING = 1e-4


def with_probability(
    taken: Ingested, raster: Path, path: Path, dest: Path, progress: Progress | None = None
) -> Ingested:
    """Return a class raster with the probabilities of its classes.

    Parameters
    ----------
    taken, raster
        The class raster, and the file that it was.
    path
        A raster on its grid, with a band for each class that has probabilities, described as `name` or `p(name)`.
        Values are 0 to 1, scale and offset of the bands applied.
    dest
        Where a copy goes if it is not stored as this package does: uint8 in steps of 1/254, 255 without data.
    progress
        Told how far a copy is.

    Raises
    ------
    JobError
        If no band is that of a class.
    VectorError
        If it cannot be read, is on another grid, or holds other values.
    """
    with opened(str(path)) as dataset, opened(taken.mask) as mask:
        _check_grid(path, dataset, raster, mask)
        channels = _channels(path, dataset, taken)
        stored = path if as_ours(dataset) else _copied(path, dataset, dest, progress)
    return replace(taken, probability=str(stored), channels=channels)


def _check_grid(path: Path, dataset: Any, raster: Path, mask: Any) -> None:
    if dataset.shape != mask.shape:
        raise VectorError(
            f"{path}: {dataset.width} × {dataset.height} px, but {raster} has {mask.width} × {mask.height}; "
            "expected the probabilities of its own pixels"
        )
    into = ~mask.transform
    corners = ((0, 0), (dataset.width, 0), (0, dataset.height))
    there = [apply(into, *apply(dataset.transform, x, y)) for x, y in corners]
    apart = dataset.crs and mask.crs and dataset.crs != mask.crs
    if apart or not np.allclose(there, corners, rtol=0, atol=_OFF_GRID):
        raise VectorError(f"{path}: its pixels lie elsewhere than those of {raster}; expected the same grid")


def _channels(path: Path, dataset: Any, taken: Ingested) -> dict[int, int]:
    """Return the 1-based band of each class code that has one."""
    titles = [title_of(text) for text in dataset.descriptions]
    found: dict[int, int] = {}
    for info in taken.classes:
        bands = [band for band in matching(titles, info.name) if titles[band]]
        if len(bands) == 1:
            found[info.code] = bands[0] + 1
    if not found:
        bands_ = ", ".join(title or f"band {band}" for band, title in enumerate(titles[:SHOWN], start=1))
        classes = ", ".join(info.name for info in taken.classes[:SHOWN])
        raise JobError(
            f"--probability {path}: no band is described as one of the classes {classes}, but as {bands_}; describe "
            "them, for example with gdal_edit.py or rio edit-info"
        )
    return found


def as_ours(dataset: Any) -> bool:
    """Return whether probabilities are stored as this package does: uint8 in steps of 1/254, 255 without data."""
    steps = np.allclose(dataset.scales, 1 / PROBABILITY_STEPS, rtol=1e-6) and not any(dataset.offsets)
    kinds = {flag.name for flags in dataset.mask_flag_enums for flag in flags}
    return set(dataset.dtypes) == {"uint8"} and steps and set(dataset.nodatavals) == {NODATA} and kinds == {"nodata"}


def _copied(path: Path, dataset: Any, dest: Path, progress: Progress | None) -> Path:
    with written(dataset, dest, dataset.count) as raster:
        for band in dataset.indexes:
            for window in slabs(dataset, progress):
                raster.write(steps_of(path, dataset, band, window), band, window=window)
    return dest


def steps_of(path: Path, dataset: Any, band: int, window: Any) -> Any:
    """Return the probabilities in a window of a band, uint8 in steps of 1/254; 255 where it has no data.

    Raises
    ------
    VectorError
        If it holds other values than 0 to 1, scale and offset applied.
    """
    scale, offset = dataset.scales[band - 1], dataset.offsets[band - 1]
    stored = dataset.read(band, window=window)
    valid = valid_in(dataset, band, window, stored)
    values = np.where(valid, stored.astype(np.float64) * scale + offset, 0)
    # Sums that should be 1 may be a little more.
    if values.min(initial=0) < -_ROUNDING or values.max(initial=0) > 1 + _ROUNDING:
        raise VectorError(
            f"{path}: band {band} holds values from {values.min():g} to {values.max():g}, with its scale; "
            "expected probabilities, 0 to 1"
        )
    return in_steps(values, valid)
