"""Inferring one block: tile rows in, finished core and border sums out."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geounet.config.card import Card, InputSpec
from geounet.errors import SceneError, ValuesError
from geounet.grid.blocks import Block, BlockId
from geounet.grid.tiles import reflected
from geounet.grid.weights import TOTAL
from geounet.models.bundle import load_bundle
from geounet.models.members import margin_of
from geounet.predict.blend import Band
from geounet.predict.borders import write_borders
from geounet.predict.decide import FINE_NODATA, add_counts, count_codes, decide, fine, stored
from geounet.predict.receipts import write_receipt
from geounet.predict.recipe import Recipe
from geounet.predict.source import TileRow, tile_rows
from geounet.raster.slabs import SlabWriter
from geounet.types import NODATA, Rect

if TYPE_CHECKING:
    from geounet.models.predictor import Predictor


def predictor_of(recipe: Recipe) -> Predictor:
    """Return this process's predictor; torch is imported here, since drivers import this module and need none."""
    from geounet.models.predictor import get_predictor

    return get_predictor(
        recipe.model,
        recipe.model_sha256,
        recipe.device,
        recipe.precision,
        recipe.tta,
        recipe.tile,
        recipe.batch,
        1 if recipe.device == "cpu" else None,
    )


class PieceWriter:
    """Writes finished pixels of one piece of a block: mask and probability, or fine probabilities if resampled."""

    def __init__(self, recipe: Recipe, card: Card, block: BlockId, name: str, rect: Rect) -> None:
        self.recipe, self.card, self.rect = recipe, card, rect
        self.counts: list[dict[str, int]] = []
        self._writers: dict[str, SlabWriter] = {}
        shape = card.channels, rect.rows, rect.cols
        bands = card.channels if card.head == "multilabel" else 1
        if recipe.resampled:
            self._writers["prob"] = SlabWriter(
                recipe.part(block, name, "prob"), shape, "uint16", FINE_NODATA, recipe.tags
            )
        else:
            self._writers["mask"] = SlabWriter(
                recipe.part(block, name, "mask"), (bands, *rect.shape), "uint8", NODATA, recipe.tags
            )
            if recipe.keep_probability:
                self._writers["prob"] = SlabWriter(
                    recipe.part(block, name, "prob"), shape, "uint8", NODATA, recipe.tags
                )
        self._stack = ExitStack()

    def __enter__(self) -> PieceWriter:
        with ExitStack() as stack:
            for writer in self._writers.values():
                stack.enter_context(writer)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def write(self, sums: NDArray[np.int32], valid: NDArray[np.bool_]) -> None:
        """Append rows of blended sums `(channels, rows, cols)`."""
        if self.recipe.resampled:
            self._writers["prob"].write(fine(sums, valid))
            return
        mask = decide(sums, TOTAL, valid, self.card)
        self.counts = add_counts(self.counts, count_codes(mask))
        self._writers["mask"].write(mask)
        if "prob" in self._writers:
            self._writers["prob"].write(stored(sums, valid))

    @property
    def files(self) -> dict[str, int]:
        """Names and sizes of the files written, after the exit."""
        return {str(w.path.relative_to(self.recipe.folder)): w.bytes for w in self._writers.values()}


class BlockSums:
    """Sorts finished rows of a block into its core, its strips and its spills."""

    def __init__(self, block: Block, channels: int, core: PieceWriter | None) -> None:
        self.block, self.core = block, core
        self.pieces = {**block.strips, **block.spills}
        self.sums = {name: np.zeros((channels, *rect.shape), np.int32) for name, rect in self.pieces.items()}
        self.valid = {name: np.zeros(rect.shape, bool) for name, rect in block.strips.items()}

    def take(self, sums: NDArray[np.int32], valid: NDArray[np.bool_], rect: Rect) -> None:
        """Take rows that get no further contribution from this block; `rect` says where they lie."""
        for name, piece in self.pieces.items():
            part = rect.intersection(piece)
            if part.empty:
                continue
            here, there = part.slices_in(rect), part.slices_in(piece)
            self.sums[name][:, there[0], there[1]] = sums[:, here[0], here[1]]
            if name in self.valid:
                self.valid[name][there] = valid[here]
        part = rect.intersection(self.block.core)
        if self.core is not None and not part.empty:
            rows, cols = part.slices_in(rect)
            self.core.write(sums[:, rows, cols], valid[rows, cols])


@dataclass
class _Part:
    """What one model has to do in a block, and how far it is."""

    recipe: Recipe
    card: Card
    reading: InputSpec
    """How the values are normalised that the predictor is given."""
    predictor: Predictor
    core: PieceWriter | None
    sorter: BlockSums
    band: Band
    tiles: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("load", "read", "network", "blend"), 0.0))


class _Batch(NamedTuple):
    """Tiles of one row for one forward pass of one model."""

    row: TileRow
    part: int
    columns: list[int]


@dataclass
class _Done:
    """Marks that all tiles of a row have been seen."""

    row: TileRow


def _batches(rows: Iterable[TileRow], block: Block, parts: Sequence[_Part]) -> Iterator[_Batch | _Done]:
    """Yield the tiles that hold a valid pixel, by batches of each model, and a mark after each row."""
    grid, first = block.grid, block.first[1]
    for row in rows:
        columns = []
        for col in range(first, block.last[1]):
            x = (col - first) * grid.stride
            if row.valid[:, x : x + grid.tile].any():
                columns.append(col)
        for k, part in enumerate(parts):
            size = part.predictor.batch
            for start in range(0, len(columns), size):
                yield _Batch(row, k, columns[start : start + size])
        yield _Done(row)


def _predicted(
    rows: Iterable[TileRow], block: Block, parts: Sequence[_Part], margin: int
) -> Iterator[tuple[_Batch, NDArray[np.int16]] | _Done]:
    """Yield the networks' answers in the order of the tiles, several forward passes at work at once.

    On CPU each pass has one thread of its own: the last bits of a convolution depend on how many threads share it, and
    passes side by side are no slower than threads within one.
    """
    grid, first = block.grid, block.first[1]
    side, threads = grid.tile + 2 * margin, parts[0].recipe.side_by_side

    def predict(batch: _Batch) -> NDArray[np.int16]:
        offsets = [(col - first) * grid.stride for col in batch.columns]
        values = batch.row.values[batch.part]
        tiles = np.stack([values[:, :, x : x + side] for x in offsets])
        try:
            return parts[batch.part].predictor.quantised(tiles)
        except ValuesError as error:
            raise SceneError(_refusal(error, parts[batch.part], batch, tiles, margin)) from None

    waiting: deque[tuple[_Batch, Future[NDArray[np.int16]]] | _Done] = deque()

    def first_done() -> tuple[_Batch, NDArray[np.int16]] | _Done:
        item = waiting.popleft()
        return item if isinstance(item, _Done) else (item[0], item[1].result())

    with ThreadPoolExecutor(threads, thread_name_prefix="geounet-network") as pool:
        try:
            for item in _batches(rows, block, parts):
                waiting.append(item if isinstance(item, _Done) else (item, pool.submit(predict, item)))
                while len(waiting) > threads + 1 or isinstance(waiting[0], _Done):
                    yield first_done()
                    if not waiting:
                        break
            while waiting:
                yield first_done()
        finally:
            for left in waiting:
                if not isinstance(left, _Done):
                    left[1].cancel()


def _refusal(error: ValuesError, part: _Part, batch: _Batch, tiles: NDArray[np.float32], margin: int) -> str:
    """Say which value of a scene a network most likely cannot take, and where it is."""
    recipe, reading, grid = part.recipe, part.reading, part.recipe.tiles
    sizes = np.where(np.isnan(tiles), 0, np.abs(tiles))  # NaN: invalid pixels of an ensemble
    tile, band, y, x = (int(i) for i in np.unravel_index(sizes.argmax(), sizes.shape))
    scaling = reading.value_scaling[band]
    value = np.float32(float(tiles[tile, band, y, x]) * scaling.stddev + scaling.mean)
    there = batch.row.row * grid.stride - margin + y, batch.columns[tile] * grid.stride - margin + x
    row, col = (
        int(reflected(at, at + 1, size)[0]) * whole // size
        for at, size, whole in zip(there, recipe.model_shape, recipe.scene_shape, strict=True)
    )
    found = f"{value:.9g}" if np.isfinite(value) else "a value at the end of what float32 holds"
    return (
        f"{recipe.scene.files[0]}: band {reading.bands[band]} holds {found} near row {row}, column {col}; {error}; if "
        "it is fill that the file does not declare, set `nodata:` to it"
    )


def _finished(block: Block, row: int) -> Rect:
    """Return the pixels that are finished, as far as this block goes, after tile row `row`."""
    cover, stride = block.covered, block.grid.stride
    last = row == block.last[0] - 1
    return Rect(row * stride, cover.x0, cover.y1 if last else (row + 1) * stride, cover.x1)


def infer_block(recipe: Recipe, block_id: BlockId) -> dict[str, Any]:
    """Infer one block with one model; see `infer_together`."""
    return infer_together((recipe,), block_id)[0]


def infer_together(recipes: Sequence[Recipe], block_id: BlockId) -> list[dict[str, Any]]:
    """Infer one block with each of several models, write their parts and receipts, and return the receipts.

    The pixels are read once: the recipes have the same scene, bands, grids and margin of their networks
    (`geounet.engine.together`). Any number of executions, anywhere and at any time, alone or together, leave the same
    files: each is made under a name of its own and renamed when complete.

    Raises
    ------
    SceneError
        If the scene cannot be read, or holds values that a network gives no answer to.
    ModelError
        If a model is not the one of its recipe or cannot be used.
    """
    started = time.perf_counter()
    block = recipes[0].blocks.block(block_id)
    bundles = [load_bundle(recipe.model) for recipe in recipes]
    margin = margin_of(bundles[0])
    parts: list[_Part] = []
    with ExitStack() as stack:
        for recipe, bundle in zip(recipes, bundles, strict=True):
            before = time.perf_counter()
            predictor, card, core = predictor_of(recipe), bundle.card, None
            loading = time.perf_counter() - before
            if not block.core.empty:
                core = stack.enter_context(PieceWriter(recipe, card, block_id, "core", block.core))
            sorter = BlockSums(block, card.channels, core)
            parts.append(_Part(recipe, card, bundle.reading, predictor, core, sorter, Band(block, card.channels)))
            parts[-1].seconds["load"] = loading
        rows = tile_rows(recipes[0], block, [bundle.reading for bundle in bundles], margin)
        before = time.perf_counter()
        for item in _predicted(rows, block, parts, margin):
            between = time.perf_counter()
            if isinstance(item, _Done):
                rect = _finished(block, item.row.row)
                for part in parts:
                    part.seconds["read"] += item.row.seconds / len(parts)
                    part.sorter.take(part.band.sums[:, : rect.rows, : rect.cols], item.row.valid[: rect.rows], rect)
                    part.band.advance()
                before = time.perf_counter()
                for part in parts:
                    part.seconds["blend"] += (before - between) / len(parts)
                continue
            batch, answers = item
            part = parts[batch.part]
            part.seconds["network"] += between - before
            for col, quantised in zip(batch.columns, answers, strict=True):
                part.band.add(batch.row.row, col, quantised)
            part.tiles += len(batch.columns)
            before = time.perf_counter()
            part.seconds["blend"] += before - between
    return [_receipt(part, block_id, time.perf_counter() - started) for part in parts]


def _receipt(part: _Part, block_id: BlockId, seconds: float) -> dict[str, Any]:
    """Write what neighbours need of a finished block, then its receipt; return that."""
    from geounet.models.device import processor_name

    recipe, core = part.recipe, part.core
    files = dict(core.files) if core else {}
    if part.sorter.pieces:
        path = recipe.sums(block_id)
        files[str(path.relative_to(recipe.folder))] = write_borders(
            path, recipe.stamp, part.sorter.sums, part.sorter.valid
        )
    receipt = {
        "fingerprint": recipe.stamp,
        "block": list(block_id),
        "tiles": part.tiles,
        "counts": core.counts if core else [],
        "files": files,
        "halved": part.predictor.halved,
        "processor": processor_name(recipe.device),  # results are the same on those of one family
        "seconds": {name: round(value, 4) for name, value in {**part.seconds, "total": seconds}.items()},
    }
    write_receipt(recipe.receipt("infer", str(block_id)), receipt)
    return receipt


def piece_files(recipe: Recipe, block: Block, what: str) -> Iterator[tuple[Rect, Path]]:
    """Yield the place and file of each piece of a block."""
    if not block.core.empty:
        yield block.core, recipe.part(block.id, "core", what)
    for name, rect in block.strips.items():
        yield rect, recipe.part(block.id, name, what)
