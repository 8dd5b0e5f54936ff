"""What measurements of vectors share: class rasters, runs of `geounet vectorize`, growth of memory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Row, python, watched


def write_classes(path: Path, classes: NDArray[np.uint8], pixel_m: float) -> Path:
    """Write a class raster `(rows, cols)` in UTM, nodata 255, and return its path."""
    import rasterio

    from geounet.atomic import atomic

    rows, cols = classes.shape
    with (
        atomic(path) as temporary,
        rasterio.open(
            temporary, "w", driver="GTiff", width=cols, height=rows, count=1, dtype="uint8", nodata=255,
            crs="EPSG:32633", transform=rasterio.Affine(pixel_m, 0, 500000, 0, -pixel_m, 5000000), tiled=True,
            blockxsize=512, blockysize=512, compress="deflate", zlevel=1,
        ) as raster,
    ):  # fmt: skip
        raster.write(classes, 1)
    return path


def vectorized(raster: Path, out: Path, kind: str, workers: int, *options: object) -> tuple[dict[str, Any], Row]:
    """Run `geounet vectorize`; return what it reports, and how long it took with what memory."""
    command = python("-m", "geounet", "vectorize", raster, "--kind", kind, "--out", out, "--overwrite", "--json")
    seen = watched([*command, "--workers", str(workers), *map(str, options)])
    return json.loads(seen.ended.output), {
        "wall s": round(seen.ended.wall, 1),
        "cpu s": round(seen.ended.cpu, 1),
        "driver MiB": round(seen.peaks_mib["driver"]),
        "worker MiB": round(seen.peaks_mib["worker"]) if workers > 1 else None,
    }


def add_growth(rows: Sequence[Row], same: Sequence[str]) -> None:
    """Add to rows how much more memory they took than the first row that agrees in the columns `same`."""
    for k, row in enumerate(rows):
        first = next(r for r in rows if all(r[name] == row[name] for name in same))
        if first is not row and k:
            growth = [row[name] / first[name] - 1 for name in ("driver MiB", "worker MiB") if row[name] and first[name]]
            row["memory growth %"] = round(100 * max(growth), 1)
