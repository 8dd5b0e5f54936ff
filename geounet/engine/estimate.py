"""What a run will take: tiles, memory, disk, time. Upper bounds where they are called so."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from geounet.config.card import Card
from geounet.config.job import Job, Vector
from geounet.engine.cluster import BASE_BYTES
from geounet.engine.plan import Plan
from geounet.errors import JobError
from geounet.machine import memory_limit
from geounet.raster.scene import SceneInfo

VECTOR_PART_BYTES, VECTOR_FILE_BYTES = 16, 4
"""Disk per pixel that vectors' parts, and a file of them, take at most where small polygons are left out. White noise,
which has more borders than any mask of a network, took 11.2 and 2.1; real imagery 2.9 and 0.6."""

SMALLEST_PART_BYTES, SMALLEST_FILE_BYTES = 160, 300
"""Disk per polygon of the smallest size that is kept, at most: 156 and 258 for each of the 0.6 polygons a pixel that
white noise has when none is left out. No raster holds more polygons than its pixels over that size."""

FILE_OVERHEAD = 64 * 1024

PREVIEW_BYTES = 8 * 2**20
"""A preview of noise, which does not compress; its size in pixels is fixed."""


@dataclass(frozen=True)
class Estimate:
    """Figures of one scene and model."""

    memory_bytes: int
    """Peak of the largest worker process in the raster stage."""
    work_bytes: int
    """Upper bound of the intermediate files at any time."""
    output_bytes: int
    """Upper bound of the finished files."""
    seconds: float | None
    """Network time alone at the measured speed, shared by all workers; None if not measured."""


def estimate(plan: Plan, workers: int, activations: int, seconds_per_tile: float | None) -> Estimate:
    """Return what a plan takes.

    Parameters
    ----------
    plan
        Of one scene.
    workers
        That share the tiles.
    activations
        Bytes that a forward pass of one batch needs.
    seconds_per_tile
        Of the network on one worker; None if unknown.
    """
    recipe = plan.recipe
    channels, bands = plan.card.channels, len(plan.card.input.bands)
    blocks = recipe.blocks
    largest = max(blocks, key=lambda b: b.tiles) if blocks.count < 10_000 else next(iter(blocks))
    width = largest.covered.cols + recipe.tile
    rows_in = recipe.tile * width * (4 * bands + 1)
    sums = channels * recipe.tile * width * 4
    borders = sum(math.prod(r.shape) for r in [*largest.strips.values(), *largest.spills.values()]) * channels * 4
    # Read ahead: one row waits, one is in use; finished rows pass through a mask, probabilities and a slab buffer.
    memory = (
        BASE_BYTES
        + activations * recipe.side_by_side
        + 3 * rows_in
        + 2 * sums
        + borders
        + 512 * width * (channels + 1) * 2
    )
    pixels = math.prod(recipe.scene_shape)
    model_pixels = math.prod(recipe.model_shape)
    mask_bands = channels if plan.card.head == "multilabel" else 1
    kept = channels if recipe.keep_probability else 0
    on_scene = pixels * (mask_bands + kept)
    on_model = model_pixels * channels * 2 if recipe.resampled else 0
    border_files = sum(
        math.prod(r.shape) * (4 * channels + 1) for b in blocks for r in [*b.strips.values(), *b.spills.values()]
    )
    files = blocks.count * 8 * FILE_OVERHEAD
    # A mask of finished output has overviews: a third more. Codecs may add a little to what does not compress.
    output = int(1.4 * pixels * mask_bands) + FILE_OVERHEAD * 64 + PREVIEW_BYTES
    if plan.probability:
        output += int(1.4 * pixels * channels)
    parts, drawn = (0, 0) if plan.layers is None else _vectors(plan.layers, pixels, plan.info.gsd)
    work = int(1.02 * (on_scene + on_model + border_files)) + files + 2 * output + parts + 2 * drawn
    seconds = (
        None
        if seconds_per_tile is None
        else seconds_per_tile * recipe.tiles.count / max(1, workers * (recipe.threads if recipe.device == "cpu" else 1))
    )
    return Estimate(memory, work, output + drawn, seconds)


def in_mosaic(layers: Vector, card: Card, info: SceneInfo, first: SceneInfo, *, moved: bool) -> tuple[int, int]:
    """Return the bytes that a scene adds at most to a mosaic of all scenes: while it is made, and when done.

    Parameters
    ----------
    layers
        Resolved.
    card
        Of the model.
    info, first
        The scene, and the one whose grid the mosaic has.
    moved
        Whether the scene's grid is another, so that its rasters are copied.
    """
    pixels, copies = float(info.width * info.height), 0
    if moved:
        pixels *= 1.0 if info.gsd is None or first.gsd is None else (info.gsd / first.gsd) ** 2
        bands = card.channels + (card.channels if card.head == "multilabel" else 1)
        copies = int(1.02 * 2 * pixels * bands) + FILE_OVERHEAD  # twice: the box around a turned scene
    parts, drawn = _vectors(layers, math.ceil(pixels), first.gsd)
    return copies + parts + 2 * drawn, drawn


def _vectors(layers: Vector, pixels: int, gsd: float | None) -> tuple[int, int]:
    """Return the bytes that vectors take at most: in parts, and in finished files."""
    pixel = None if gsd is None else gsd**2
    parts, file = VECTOR_PART_BYTES * pixels, VECTOR_FILE_BYTES * pixels
    for layer in (layers.buildings, layers.landcover):  # roads are lines: few, however small
        if isinstance(layer, bool) or layer is None:
            continue
        if layer.min_area_px is not None:
            least = layer.min_area_px
        else:
            least = 0.0 if pixel is None else layer.min_area_m2 / pixel
        polygons = pixels / max(1.0, least)
        parts += int(SMALLEST_PART_BYTES * polygons)
        file += int(SMALLEST_FILE_BYTES * polygons)
    return parts, len(layers.formats) * file + FILE_OVERHEAD * 16


def check_memory(job: Job, tile: int, batch: int, needed: Callable[[int], int]) -> None:
    """Check that one forward pass can be had at all on this machine, before a process dies of it again and again.

    Parameters
    ----------
    job
        Whose `auto` is left to itself: it was chosen by the memory.
    tile, batch
        As resolved.
    needed
        Returns the bytes that a forward pass of so many tiles takes.

    Raises
    ------
    JobError
        If it takes more than all memory there is.
    """
    if job.predict.batch == "auto" and job.tiling.tile == "auto":
        return
    size, most = needed(batch), memory_limit()
    if size <= most:
        return
    given = f"about {size / 1e9:,.0f} GB of memory, {most / 1e9:,.0f} are available"
    what = f"a tile of {tile} px needs" if batch == 1 else f"{batch} tiles of {tile} px need"
    if batch > 1 and needed(1) <= most:
        raise JobError(f"predict.batch: {what} {given}; give fewer, or leave it auto")
    raise JobError(f"tiling.tile: {what} {given}; give a smaller one")


def measure(plan: Plan) -> tuple[int, float | None]:
    """Return `(activation bytes, seconds per tile)` of the network on this machine, by running it on an empty tile.

    Seconds are None where this machine has too little memory: another cluster's workers may have more.
    """
    import numpy as np

    from geounet.models.batch import estimate_memory
    from geounet.models.bundle import load_bundle
    from geounet.predict.infer import predictor_of
    from geounet.predict.probe import memory_needed

    recipe = plan.recipe
    if memory_needed(recipe.model, recipe.device, recipe.precision, recipe.tile, recipe.batch) > memory_limit():
        return estimate_memory(load_bundle(recipe.model), recipe.tile, recipe.batch, recipe.precision), None
    predictor = predictor_of(recipe)
    side = recipe.tile + 2 * predictor.margin
    tiles: Any = np.zeros((recipe.batch, len(plan.card.input.bands), side, side), np.float32)
    predictor.quantised(tiles)
    started = time.perf_counter()
    predictor.quantised(tiles)
    seconds = (time.perf_counter() - started) / recipe.batch
    bundle = load_bundle(recipe.model)
    return estimate_memory(bundle, recipe.tile, recipe.batch, recipe.precision), seconds
