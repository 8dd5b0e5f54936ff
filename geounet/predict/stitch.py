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
from geounet.raster.cog import keeps_crs, write_mask, write_probability
from geounet.raster.parts import write_mosaic
from geounet.raster.scene import SceneInfo
from geounet.raster.sidecar import write_aux, write_qml
from geounet.raster.space import check_space
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


def _scene_pieces(recipe: Recipe, what: str, failed: Iterable[BlockId]) -> Iterable[tuple[Rect, Path]]:
    if recipe.resampled:
        return [(rect, recipe.chunk(rect, what)) for rect in chunks(recipe)]
    return _pieces(recipe, what, set(failed))


def scene_mosaic(recipe: Recipe, info: SceneInfo, what: str, bands: int, failed: Iterable[BlockId]) -> Path:
    """Write the mosaic of `mask` or `prob` parts on the scene's grid, and return it."""
    path = Path(recipe.folder) / f"{what}.vrt"
    pieces = _scene_pieces(recipe, what, failed)
    write_mosaic(path, recipe.scene_shape, bands, "uint8", NODATA, pieces, info.crs_wkt, info.transform)
    return path


def probability_mosaic(recipe: Recipe) -> Path:
    """Return where `stitch` leaves the mosaic of stored probabilities."""
    return Path(recipe.folder) / "prob.vrt"


def _whole(write: Callable[..., None], parts: Iterable[Path], source: Path, dest: Path, *args: Any) -> None:
    """Write a raster from parts; GDAL's errors have no number, be it that a part is missing or that the disk is full.

    Raises
    ------
    OSError
        If the disk is full.
    PartError
        If a part is missing or damaged.
    """
    try:
        write(source, dest, *args)
    except OSError as error:
        if error.errno is not None:
            raise
        # GDAL has removed what it wrote. With overviews, which are written twice, that is less than the parts twice.
        check_space(dest.parent, 2 * sum(part.stat().st_size for part in parts if part.exists()))
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

    Raises
    ------
    OSError
        If the disk is full.
    PartError
        If a part is missing or damaged.
    """

    def parts(what: str) -> Iterator[Path]:
        return (path for _, path in _scene_pieces(recipe, what, failed))

    started = time.perf_counter()
    card: Card = load_bundle(recipe.model).card
    folder, name = Path(staging), info.name
    folder.mkdir(parents=True, exist_ok=True)
    multilabel = card.head == "multilabel"
    classes = card.classes if multilabel else card.mask_classes()
    mask = folder / f"{name}_mask.tif"
    source = scene_mosaic(recipe, info, "mask", card.channels if multilabel else 1, failed)
    _whole(write_mask, parts("mask"), source, mask, info, classes, tags)
    write_qml(folder / f"{name}_mask.qml", classes, multilabel=multilabel)
    lost = None if keeps_crs(mask, info.crs_wkt) else info.crs_wkt
    write_aux(folder / f"{name}_mask.tif.aux.xml", classes, multilabel=multilabel, crs_wkt=lost)
    files = {"mask": mask.name, "style": f"{name}_mask.qml", "aux": f"{name}_mask.tif.aux.xml"}
    if recipe.keep_probability:
        source = scene_mosaic(recipe, info, "prob", card.channels, failed)
        if probability:
            dest = folder / f"{name}_prob.tif"
            _whole(write_probability, parts("prob"), source, dest, info, card.classes, tags)
            files["probability"] = dest.name
            if lost is not None:
                files["probability_aux"] = f"{dest.name}.aux.xml"
                write_aux(folder / files["probability_aux"], (), crs_wkt=lost)
    return {"files": files, "seconds": round(time.perf_counter() - started, 3)}
