"""A small town as labels and as a prediction, for the tests of `geounet.evaluation`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rasterio import Affine

from tests.support.rasters import write

UTM = "EPSG:32633"
GRID = Affine(0.5, 0, 500000, 0, -0.5, 5300000)
NAMES = {0: "land", 1: "building", 2: "road", 3: "water"}
SIZE = (150, 170)


def names_beside(path: Path, names: dict[int, str]) -> None:
    """Category names as GDAL keeps them beside a raster."""
    categories = "".join(f"<Category>{names.get(k, '')}</Category>" for k in range(max(names) + 1))
    text = (
        f"<PAMDataset><PAMRasterBand band='1'><CategoryNames>{categories}</CategoryNames></PAMRasterBand></PAMDataset>"
    )
    path.with_name(path.name + ".aux.xml").write_text(text)


def raster(path: Path, codes: np.ndarray, names: dict[int, str] | None = None, **how: Any) -> Path:
    options = {"crs": UTM, "transform": GRID, "nodata": 255} | how
    write(path, codes[None].astype(how.get("dtype", codes.dtype)), **options)
    if names:
        names_beside(path, names)
    return path


def town(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels and a prediction that is wrong here and there, with unknown parts on both sides."""
    random = np.random.default_rng(seed)
    truth = np.zeros(SIZE, np.uint8)
    truth[:, 120:] = 3
    truth[70:78, :120] = 2
    truth[:, 60:66] = 2
    for y, x in ((5, 5), (5, 30), (30, 8), (95, 10), (100, 80), (120, 30), (20, 80), (40, 95)):
        truth[y : y + random.integers(12, 20), x : x + random.integers(12, 20)] = 1
    found = truth.copy()
    found[100:, 80:100] = 0  # a building is missed
    found[140:148, 100:112] = 1  # one is made up
    found[:, 118:122] = 0
    found[70:78, 20:30] = 0  # the road has a gap
    found = np.roll(found, 1, axis=1)
    truth[:10, 100:] = 255
    found[140:, :12] = 255
    return truth, found
