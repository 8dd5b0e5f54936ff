"""Batches to learn from and to validate on.

A batch is a function of the seed and its number: there is nothing to save, and nothing to replay when a training is
continued.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from geounet.config.data import Augment, Sampling
from geounet.labels.values import IGNORED
from geounet.training.augment import Ranges, draw_patch, draw_shape, normalised, recoloured
from geounet.training.places import Places
from geounet.training.sources import Source
from geounet.training.splits import Side, Sides
from geounet.training.warp import Cut, Shape, cut
from geounet.types import Rect

T = TypeVar("T")

_TRIES = 8
"""Places that are drawn for a window until it keeps away from held-out pixels."""

_MEASURED = 4096
"""Pixels of a window that statistics are computed from."""


@dataclass(frozen=True)
class Window:
    """Where a window lies.

    Attributes
    ----------
    scene : str
        Name of the scene; empty for padding.
    centre : tuple of float
        Row and column on the scene, px.
    shape : Shape
        How it lies.
    """

    scene: str
    centre: tuple[float, float]
    shape: Shape


@dataclass(frozen=True)
class Batch:
    """Windows side by side.

    Attributes
    ----------
    images : float32 array (n, bands, rows, cols)
        Normalised; invalid pixels hold the fill value.
    labels : uint8 array (n, rows, cols)
        See `geounet.labels.values`.
    windows : tuple of Window
    """

    images: NDArray[np.float32]
    labels: NDArray[np.uint8]
    windows: tuple[Window, ...]


@dataclass(frozen=True)
class Scenes:
    """Scenes with the side of each pixel, and what normalises them."""

    sources: Sequence[Source]
    sides: Sequence[Sides]
    ranges: Ranges
    fill: float


class Samples:
    """Windows to train on, drawn at random.

    Parameters
    ----------
    scenes
        All scenes.
    places
        Where windows of each data section are centred, and the numbers of its scenes.
    shares
        How often each section is drawn from; they add up to 1.
    sampling
        Section of the job.
    augments
        The section `augment` as it is for each data section.
    seed
        Of the draws.
    """

    def __init__(self, scenes: Scenes, places: Sequence[Places], shares: Sequence[float], sampling: Sampling,
                 augments: Sequence[Augment], seed: int) -> None:  # fmt: skip
        self._scenes, self._places = scenes, list(places)
        self.shares = np.asarray(shares, dtype=np.float64)
        self._sampling, self._augments, self._seed = sampling, list(augments), seed
        numbers = {id(source): k for k, source in enumerate(scenes.sources)}
        self._numbers = [[numbers[id(source)] for source in p.sources] for p in self._places]

    def batch(self, step: int) -> Batch:
        """Return batch number `step`, from 0. Any thread may ask for any batch, at any time.

        With several processes or batches a step, count them all: `(step * accumulate + k) * processes + rank`.
        """
        size = self._sampling.batch
        batch = _stacked([self.window(step * size + k) for k in range(size)])
        if all(augment.paste is None for augment in self._augments):
            return batch
        images, labels = batch.images.copy(), batch.labels.copy()
        for k in range(size):
            self._paste(batch, step * size + k, k, images[k], labels[k])
        return Batch(images, labels, batch.windows)

    def window(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.uint8], Window]:
        """Return window number `index`: image `(bands, size, size)`, labels `(size, size)`, and where it lies."""
        # the bit generator is named: that of default_rng may change
        rng = np.random.Generator(np.random.PCG64([self._seed, 1, index]))
        section = self._section(rng)
        augment = self._augments[section]
        found, where = self._draw(rng, section, draw_shape(rng, augment, self._sampling.size))
        image = recoloured(found.values, found.valid, rng, augment, self._scenes.ranges, self._scenes.fill)
        return image, _known(found), where

    def _paste(self, batch: Batch, index: int, k: int, image: NDArray[np.float32], labels: NDArray[np.uint8]) -> None:
        """Cover a rectangle of window `k` by the same one of another window of the batch, as that was drawn."""
        section = self._section(np.random.Generator(np.random.PCG64([self._seed, 1, index])))
        rng = np.random.Generator(np.random.PCG64([self._seed, 3, index]))
        found = draw_patch(rng, self._augments[section], self._sampling.size)
        if found is None or len(batch.images) < 2:
            return
        other = (k + int(rng.integers(1, len(batch.images)))) % len(batch.images)
        patch = found.slices_in(Rect(0, 0, *labels.shape))
        image[(slice(None), *patch)] = batch.images[other][(slice(None), *patch)]
        labels[patch] = batch.labels[other][patch]

    def plain(self, index: int) -> Cut:
        """Return a window without augmentation, in units of the file; its number counts apart from the others."""
        rng = np.random.Generator(np.random.PCG64([self._seed, 2, index]))
        return self._draw(rng, self._section(rng), Shape(self._sampling.size))[0]

    def _section(self, rng: np.random.Generator) -> int:
        return int(np.searchsorted(np.cumsum(self.shares)[:-1], rng.random(), side="right"))

    def _draw(self, rng: np.random.Generator, section: int, shape: Shape) -> tuple[Cut, Window]:
        for _ in range(_TRIES):
            owner, row, col = self._places[section].draw(rng)
            number = self._numbers[section][owner]
            source, sides = self._scenes.sources[number], self._scenes.sides[number]
            down, across = shape.reach(source.zoom)
            row, col = _inward(row, down, source.shape[0]), _inward(col, across, source.shape[1])
            reach = Rect(
                math.floor(row - down), math.floor(col - across), math.ceil(row + down), math.ceil(col + across)
            )
            if sides.only(reach) == Side.train:
                break
        return cut(source, sides, Side.train, (row, col), shape), Window(source.name, (row, col), shape)


class Tiles:
    """All pixels of a side, once each: windows side by side, in batches of one size.

    Parameters
    ----------
    scenes
        All scenes.
    side
        Which pixels.
    size
        Side of a window, px of the model.
    batch
        Windows a batch; the last one is filled up with windows of which nothing is known.
    """

    def __init__(self, scenes: Scenes, side: Side, size: int, batch: int) -> None:
        self._scenes, self._side, self._size, self._batch = scenes, side, size, batch
        self._windows: list[tuple[int, tuple[float, float]]] = []
        for number, (source, sides) in enumerate(zip(scenes.sources, scenes.sides, strict=True)):
            self._windows += [(number, place) for place in self._grid(source, sides)]

    def _grid(self, source: Source, sides: Sides) -> Iterator[tuple[float, float]]:
        if not (sides.table == self._side).any():
            return
        # the same steps on the scene that windows of the size take
        down, across = (self._size * zoom for zoom in source.zoom)
        for i in range(math.ceil(source.shape[0] / down - 1e-9)):
            for j in range(math.ceil(source.shape[1] / across - 1e-9)):
                y, x = i * down, j * across
                rect = Rect(math.floor(y), math.floor(x), math.ceil(y + down), math.ceil(x + across))
                rect = rect.intersection(Rect(0, 0, *source.shape))
                if sides.only(rect) in (None, self._side) and self._labelled(source, sides, rect):
                    yield y + down / 2, x + across / 2

    def _labelled(self, source: Source, sides: Sides, rect: Rect) -> bool:
        mask = sides.mask(rect, self._side)
        return bool(mask.any() and (source.labels(rect)[mask] != IGNORED).any())

    def __len__(self) -> int:
        """Return the number of batches."""
        return -(-len(self._windows) // self._batch)

    @property
    def count(self) -> int:
        """Number of windows."""
        return len(self._windows)

    def batch(self, number: int) -> Batch:
        """Return a batch, from 0."""
        here = self._windows[number * self._batch : (number + 1) * self._batch]
        found = [self._window(*window) for window in here]
        image, labels, _ = found[0]
        blank = Window("", (0.0, 0.0), Shape(self._size))
        missing = self._batch - len(found)
        found += [(np.full_like(image, self._scenes.fill), np.full_like(labels, IGNORED), blank)] * missing
        return _stacked(found)

    def _window(
        self, number: int, centre: tuple[float, float]
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8], Window]:
        source, sides, shape = self._scenes.sources[number], self._scenes.sides[number], Shape(self._size)
        found = cut(source, sides, self._side, centre, shape)
        image = normalised(found.values, found.valid, self._scenes.ranges, self._scenes.fill)
        return image, _known(found), Window(source.name, centre, shape)


def measured(samples: Samples, windows: int, dtype: str) -> Ranges:
    """Return mean, standard deviation and usual range of each band over training windows; only valid pixels count.

    Parameters
    ----------
    samples
        Where windows come from.
    windows
        How many.
    dtype
        Stored type of the scenes: the usual range of uint8 is 0 to 255, of others the 0.1 to 99.9 percentiles.
    """
    kept = []
    for index in range(windows):
        found = samples.plain(index)
        values = found.values[:, found.valid]
        step = max(1, values.shape[1] // _MEASURED)
        kept.append(values[:, ::step].astype(np.float64))
    pixels = np.concatenate(kept, axis=1)
    mean, stddev = pixels.mean(axis=1), pixels.std(axis=1)
    # a band that is one value everywhere tells nothing, and must not be blown up
    scale = np.maximum(np.abs(pixels).max(axis=1), 1.0)
    stddev = np.where(stddev > 1e-6 * scale, stddev, scale)
    if dtype == "uint8":
        low, high = np.zeros(len(mean)), np.full(len(mean), 255.0)
    else:
        low, high = np.percentile(pixels, 0.1, axis=1), np.percentile(pixels, 99.9, axis=1)
        high = np.where(high > low, high, low + scale)
    parts = [tuple(round(float(v), 6) for v in values) for values in (mean, stddev, low, high)]
    return Ranges(parts[0], parts[1], parts[2], parts[3], clipped=dtype == "uint8")


class Prefetch(Generic[T]):
    """Results of a function of 0, 1, 2, … in order, prepared ahead by threads.

    Parameters
    ----------
    function
        Any thread may call it.
    start, stop
        First argument, and the end.
    threads
        How many calls run side by side.
    ahead
        How many results may wait.
    """

    def __init__(self, function: Callable[[int], T], start: int, stop: int, threads: int, ahead: int) -> None:
        self._function, self._range, self._threads, self._ahead = function, range(start, stop), threads, ahead
        self.waited = 0.0
        """Seconds that the caller waited for results so far."""

    def __iter__(self) -> Iterator[T]:
        """Yield the results; an exception of the function is raised in its place."""
        waiting: list[Future[T]] = []
        upcoming = iter(self._range)
        with ThreadPoolExecutor(self._threads, thread_name_prefix="geounet-samples") as pool:
            try:
                while True:
                    while len(waiting) < self._ahead + self._threads and (k := next(upcoming, None)) is not None:
                        waiting.append(pool.submit(self._function, k))
                    if not waiting:
                        return
                    started = perf_counter()
                    result = waiting.pop(0).result()
                    self.waited += perf_counter() - started
                    yield result
            finally:
                for future in waiting:
                    future.cancel()


def _inward(place: float, reach: float, size: int) -> float:
    """Return a centre moved so that the window lies within the scene, where it fits; else in its middle."""
    return min(max(place, reach), size - reach) if 2 * reach <= size else size / 2


def _known(found: Cut) -> NDArray[np.uint8]:
    return np.where(found.valid, found.labels, np.uint8(IGNORED))


def _stacked(found: Sequence[tuple[NDArray[np.float32], NDArray[np.uint8], Window]]) -> Batch:
    images, labels, windows = zip(*found, strict=True)
    return Batch(np.stack(images), np.stack(labels), tuple(windows))
