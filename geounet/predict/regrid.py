"""Bringing a resampled scene's probabilities back to its own grid, chunk by chunk, and deciding the mask there."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.windows import Window

from geounet.config.card import Card
from geounet.grid.blocks import BlockId
from geounet.models.bundle import load_bundle
from geounet.predict.decide import (
    FINE_NODATA,
    FINE_STEPS,
    add_counts,
    count_codes,
    decide,
    stored_from_fine,
)
from geounet.predict.receipts import write_receipt
from geounet.predict.recipe import Recipe
from geounet.raster.env import gdal_env, open_quietly
from geounet.raster.resample import interpolate, source_rect
from geounet.raster.scene import open_scene
from geounet.raster.slabs import SlabWriter
from geounet.types import NODATA, Rect

CHUNK = 4096
"""Side of a chunk of the scene's grid, px."""

ROWS = 256
"""Rows interpolated at a time."""


def chunks(recipe: Recipe) -> list[Rect]:
    """Return the chunks of the scene's grid, row by row."""
    rows, cols = recipe.scene_shape
    return [
        Rect(y, x, min(y + CHUNK, rows), min(x + CHUNK, cols))
        for y in range(0, rows, CHUNK)
        for x in range(0, cols, CHUNK)
    ]


def regrid_chunk(recipe: Recipe, mosaic: str, rect: Rect, failed: tuple[BlockId, ...] = ()) -> dict[str, Any]:
    """Write mask and probability of one chunk of the scene's grid, and the receipt; return the receipt.

    Parameters
    ----------
    recipe
        Of the scene.
    mosaic
        Raster of the fine probabilities on the model grid, uint16 `(channels, rows, cols)`.
    rect
        The chunk.
    failed
        Blocks that the mosaic lacks; the receipt names them.
    """
    started = time.perf_counter()
    card: Card = load_bundle(recipe.model).card
    bands = card.channels if card.head == "multilabel" else 1
    counts: list[dict[str, int]] = []
    with ExitStack() as stack:
        stack.enter_context(rasterio.Env(**gdal_env()))
        scene = stack.enter_context(open_scene(recipe.scene))
        source = stack.enter_context(open_quietly(Path(mosaic)))
        mask_file = SlabWriter(recipe.chunk(rect, "mask"), (bands, *rect.shape), "uint8", NODATA, recipe.tags)
        writers = [stack.enter_context(mask_file)]
        if recipe.keep_probability:
            shape = card.channels, *rect.shape
            writers.append(
                stack.enter_context(SlabWriter(recipe.chunk(rect, "prob"), shape, "uint8", NODATA, recipe.tags))
            )
        for y in range(rect.y0, rect.y1, ROWS):
            part = Rect(y, rect.x0, min(y + ROWS, rect.y1), rect.x1)
            needed = source_rect(part, recipe.scene_shape, recipe.model_shape)
            fine = source.read(window=Window(needed.x0, needed.y0, needed.cols, needed.rows))
            known = fine[0] != FINE_NODATA
            # One more plane tells where any known model pixel contributes.
            planes = np.concatenate([fine, known[None].astype(fine.dtype)])
            values = interpolate(planes, needed, recipe.model_shape, part, recipe.scene_shape, weight=known)
            valid = scene.read_validity(part) & (values[-1] > 0)
            mask = decide(values[:-1], FINE_STEPS, valid, card)
            counts = add_counts(counts, count_codes(mask))
            mask_file.write(mask)
            if recipe.keep_probability:
                writers[1].write(stored_from_fine(values[:-1], valid))
    receipt = {
        "fingerprint": recipe.stamp,
        "chunk": list(rect),
        "failed": [list(block) for block in failed],
        "counts": counts,
        "files": {str(w.path.relative_to(Path(recipe.folder))): w.bytes for w in writers},
        "seconds": {"total": round(time.perf_counter() - started, 4)},
    }
    write_receipt(recipe.receipt("regrid", f"{rect.y0:07d}_{rect.x0:07d}"), receipt)
    return receipt
