"""Reading what one tile row of a block needs, normalised as the network expects it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from geounet.config.card import InputSpec
from geounet.grid.blocks import Block
from geounet.grid.tiles import reflected
from geounet.predict.recipe import PREFETCH, Recipe
from geounet.raster.resample import ResampledScene
from geounet.raster.scene import Scene, open_scene
from geounet.types import Rect

Reader = Scene | ResampledScene


@contextmanager
def open_grid(recipe: Recipe) -> Iterator[Reader]:
    """Open the scene on the model grid."""
    with open_scene(recipe.scene) as scene:
        yield ResampledScene(scene, recipe.model_shape) if recipe.resampled else scene


class TileRow(NamedTuple):
    """The pixels of one tile row of a block, from its first tile's first to its last tile's last column."""

    row: int
    values: tuple[NDArray[np.float32], ...]
    """`(bands, tile + 2 margin, columns + 2 margin)`, normalised for each model; reflected past the scene."""
    valid: NDArray[np.bool_]
    """`(rows, columns)` within the scene only: fewer rows and columns than `values` at its lower and right edge."""
    seconds: float


def normalise(values: NDArray[np.float32], valid: NDArray[np.bool_], spec: InputSpec) -> None:
    """Normalise `(bands, rows, cols)` in place; invalid pixels take the card's fill value."""
    for band, scaling in zip(values, spec.value_scaling, strict=True):
        band -= np.float32(scaling.mean)
        band *= np.float32(1.0 / scaling.stddev)
    if not valid.all():
        values[:, ~valid] = np.float32(spec.fill)


def read_row(reader: Reader, block: Block, row: int, specs: Sequence[InputSpec], margin: int = 0) -> TileRow:
    """Read one tile row of a block, with `margin` px around it that the networks see beside its tiles."""
    started = time.perf_counter()
    grid, cover = block.grid, block.covered
    y0, x0 = row * grid.stride, cover.x0
    across = block.last[1] - block.first[1]
    rows = reflected(y0 - margin, y0 + grid.tile + margin, grid.rows)
    cols = reflected(x0 - margin, x0 + (across - 1) * grid.stride + grid.tile + margin, grid.cols)
    rect = Rect(int(rows.min()), int(cols.min()), int(rows.max()) + 1, int(cols.max()) + 1)
    raw, valid = reader.read(rect)
    inside = valid[y0 - rect.y0 : min(y0 + grid.tile, grid.rows) - rect.y0, x0 - rect.x0 : cover.x1 - rect.x0]
    made: list[NDArray[np.float32]] = []
    for k, spec in enumerate(specs):
        if spec in specs[:k]:
            made.append(made[specs.index(spec)])
            continue
        values = raw if k == len(specs) - 1 else raw.copy()
        normalise(values, valid, spec)
        # What begins at the last pixel is all mirrored, and no pixel is there twice.
        if len(rows) > rect.rows or rows[0] > rows[-1]:
            values = values[:, rows - rect.y0]
        if len(cols) > rect.cols or cols[0] > cols[-1]:
            values = values[:, :, cols - rect.x0]
        made.append(values)
    return TileRow(row, tuple(made), inside, time.perf_counter() - started)


def tile_rows(recipe: Recipe, block: Block, specs: Sequence[InputSpec], margin: int = 0) -> Iterator[TileRow]:
    """Yield the tile rows of a block in order, read ahead by one while the networks work on another."""
    with open_grid(recipe) as reader, ThreadPoolExecutor(1, thread_name_prefix="geounet-read") as pool:
        waiting: list[Future[TileRow]] = []
        upcoming = iter(range(block.first[0], block.last[0]))
        try:
            for row in upcoming:
                waiting.append(pool.submit(read_row, reader, block, row, specs, margin))
                if len(waiting) > PREFETCH:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()
