"""From parts to the rasters of a scene: mosaics without copying, then one pass into each cloud optimized GeoTIFF."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from geounet.config.card import Card
from geounet.errors import PartError
from geounet.grid.blocks import BlockId
from geounet.models.bundle import load_bundle
from geounet.predict.decide import FINE_NODATA
from geounet.predict.infer import piece_files
from geounet.predict.recipe import Recipe
from geounet.predict.regrid import chunks
from geounet.raster.cog import write_mask, write_probability
from geounet.raster.parts import write_mosaic
from geounet.raster.scene import SceneInfo
from geounet.raster.sidecar import write_aux, write_qml
from geounet.types import NODATA, Rect


def model_mosaic(recipe: Recipe, channels: int, failed: Iterable[BlockId]) -> Path:
    """Write the mosaic of fine probabilities on the model grid of a resampled scene, and return it."""
    path = Path(recipe.folder) / "model_prob.vrt"
    pieces = _pieces(recipe, "prob", set(failed))
    write_mosaic(path, recipe.model_shape, channels, "uint16", FINE_NODATA, pieces)
    return path


def _pieces(recipe: Recipe, what: str, failed: set[BlockId]) -> Iterator[tuple[Rect, Path]]:
    for block in recipe.blocks:
        if block.id not in failed:
            yield from piece_files(recipe, block, what)


def scene_mosaic(recipe: Recipe, info: SceneInfo, what: str, bands: int, failed: Iterable[BlockId]) -> Path:
    """Write the mosaic of `mask` or `prob` parts on the scene's grid, and return it."""
    path = Path(recipe.folder) / f"{what}.vrt"
    pieces: Iterable[tuple[Rect, Path]]
    if recipe.resampled:
        pieces = [(rect, recipe.chunk(rect, what)) for rect in chunks(recipe)]
    else:
        pieces = _pieces(recipe, what, set(failed))
    write_mosaic(path, recipe.scene_shape, bands, "uint8", NODATA, pieces, info.crs_wkt, info.transform)
    return path


def probability_mosaic(recipe: Recipe) -> Path:
    """Return where `stitch` leaves the mosaic of stored probabilities."""
    return Path(recipe.folder) / "prob.vrt"


def _whole(write: Callable[..., None], source: Path, dest: Path, *args: Any) -> None:
    """Write a raster from parts; GDAL's errors have no number when a part is missing or damaged."""
    try:
        write(source, dest, *args)
    except OSError as error:
        if error.errno is not None:
            raise
        raise PartError(f"{error}; run again to make missing parts anew") from None


def stitch(
    recipe: Recipe,
    info: SceneInfo,
    failed: tuple[BlockId, ...],
    staging: str,
    probability: bool,
    tags: Mapping[str, str],
) -> dict[str, Any]:
    """Write mask COG, its sidecars and, if asked, the probability COG of a scene into the staging folder.

    Returns
    -------
    `files` by key, and `seconds`.
    """
    started = time.perf_counter()
    card: Card = load_bundle(recipe.model).card
    folder, name = Path(staging), info.name
    folder.mkdir(parents=True, exist_ok=True)
    multilabel = card.head == "multilabel"
    classes = card.classes if multilabel else card.mask_classes()
    mask = folder / f"{name}_mask.tif"
    source = scene_mosaic(recipe, info, "mask", card.channels if multilabel else 1, failed)
    _whole(write_mask, source, mask, info, classes, tags)
    write_qml(folder / f"{name}_mask.qml", classes, multilabel=multilabel)
    write_aux(folder / f"{name}_mask.tif.aux.xml", classes, multilabel=multilabel)
    files = {"mask": mask.name, "style": f"{name}_mask.qml", "aux": f"{name}_mask.tif.aux.xml"}
    if recipe.keep_probability:
        source = scene_mosaic(recipe, info, "prob", card.channels, failed)
        if probability:
            dest = folder / f"{name}_prob.tif"
            _whole(write_probability, source, dest, info, card.classes, tags)
            files["probability"] = dest.name
    return {"files": files, "seconds": round(time.perf_counter() - started, 3)}
