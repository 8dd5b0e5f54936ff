"""Small rasters for the tests of `geounet.raster`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rasterio import Affine

from geounet.raster.env import open_quietly
from geounet.raster.scene import Scene, SceneSpec, open_scene
from geounet.raster.slabs import SlabWriter

UTM = "EPSG:32633"
NORTH_UP = Affine(0.5, 0, 400000, 0, -0.5, 5800000)


def write(path: Path, array: Any, *, crs: Any = UTM, transform: Affine | None = NORTH_UP, **how: Any) -> Path:
    """Write `(bands, rows, cols)` as a raster; `how` goes to rasterio, a few keys to the open file."""
    after = {key: how.pop(key) for key in ("colorinterp", "descriptions", "scales", "offsets") if key in how}
    mask, colormap = how.pop("mask", None), how.pop("colormap", None)
    array = np.asarray(array)
    profile = {"driver": "GTiff", "count": array.shape[0], "height": array.shape[1], "width": array.shape[2]}
    profile |= {"dtype": array.dtype.name, "crs": crs, "transform": transform}
    with open_quietly(path, "w", **(profile | how)) as raster:
        for key, value in after.items():
            setattr(raster, key, value)
        if colormap is not None:
            raster.write_colormap(1, colormap)
        raster.write(array)
        if mask is not None:
            raster.write_mask(mask)
    return path


def write_part(path: Path, array: Any, nodata: int = 255, tags: dict[str, str] | None = None, slab: int = 0) -> int:
    """Write `(bands, rows, cols)` as a part, `slab` rows at a time (all at once if 0); return its size in bytes."""
    with SlabWriter(path, array.shape, array.dtype.name, nodata, tags or {}) as writer:
        for top in range(0, array.shape[1], slab or array.shape[1]):
            writer.write(array[:, top : top + (slab or array.shape[1])])
    return writer.bytes


def scene(*paths: Path, **how: Any) -> Scene:
    """Open files as a scene."""
    return open_scene(SceneSpec("test", tuple(str(p) for p in paths), **how))


def noise(bands: int, rows: int, cols: int, low: int = 1, high: int = 255, dtype: str = "uint8", seed: int = 0) -> Any:
    """Return random imagery without 0 and 255."""
    return np.random.default_rng(seed).integers(low, high, (bands, rows, cols)).astype(dtype)
