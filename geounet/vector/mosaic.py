"""Several class rasters as one, so that no feature is cut or doubled where scenes meet.

An overlap belongs to the first scene, in the order given, that is valid there: pixel by pixel, before anything becomes
a feature. The mosaic is virtual (a VRT) and has the grid of the first scene; masks on other grids are copied onto it by
their nearest pixel first. In degrees, scenes on both sides of the antimeridian are neighbours: longitudes go on beyond
180 where the mosaic is narrower that way.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import numpy.typing as npt
import rasterio
from pyproj import Transformer
from rasterio import Affine
from rasterio.warp import transform_bounds
from rasterio.windows import Window

from geounet.atomic import atomic, write_text
from geounet.errors import VectorError
from geounet.raster.env import GDAL_ERRORS, gdal_env, one_line, open_quietly
from geounet.raster.parts import geotransform_xml, srs_xml
from geounet.types import NODATA, Rect
from geounet.vector.source import opened

F64 = npt.NDArray[np.float64]

Bounds = tuple[float, float, float, float]
"""xmin, ymin, xmax, ymax."""

SNAP = 0.01
"""Fraction of a pixel up to which grids count as the same."""

SPARSE = 50
"""A mosaic may have this many times the pixels of its scenes, or `SMALL`; beyond, the scenes are no neighbours."""

SMALL = 10**9

SLAB = 1024
"""Side of the windows in which a mask is copied onto another grid."""


@dataclass(frozen=True)
class Piece:
    """The rasters of one scene: uint8 with nodata 255, on one grid.

    Attributes
    ----------
    mask, probability
        The files.
    source
        What messages call it, where the mask is a copy: the file that it was made of.
    """

    mask: str
    probability: str | None = None
    source: str | None = None

    @property
    def shown(self) -> str:
        """What messages call it."""
        return self.source or self.mask


@dataclass(frozen=True)
class Mosaic:
    """Rasters of all scenes.

    Attributes
    ----------
    mask, probability
        VRTs; no probability if a scene has none.
    identity
        Changes when a file of a scene does.
    notes
        What a user should know, one sentence each.
    """

    mask: str
    probability: str | None
    identity: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Grid:
    """Where the pixels of a raster lie."""

    crs: Any
    transform: Affine
    width: int
    height: int
    bands: int


def mosaic(pieces: Sequence[Piece], folder: Path) -> Mosaic:
    """Write the mosaic of scenes into a folder.

    Parameters
    ----------
    pieces
        The first that is valid at a pixel owns it.
    folder
        Where the VRTs go, and masks that had to be copied.

    Raises
    ------
    VectorError
        If a raster cannot be read, or the scenes do not go together.
    """
    folder.mkdir(parents=True, exist_ok=True)
    grids = [_grid(piece.mask) for piece in pieces]
    first = grids[0]
    notes: list[str] = []
    placed: list[tuple[Rect, Piece]] = []
    for piece, grid in zip(pieces, grids, strict=True):
        _check(piece, grid, pieces[0], first)
    bounds = [_bounds(piece, grid, first) for piece, grid in zip(pieces, grids, strict=True)]
    turns = _turns(bounds, _circle(first.crs), abs(first.transform.a) + abs(first.transform.b))
    for index, (piece, grid, turn) in enumerate(zip(pieces, grids, turns, strict=True)):
        found = offset(replace(grid, transform=Affine.translation(turn, 0) @ grid.transform), first)
        if found is None:
            notes.append(
                f"{Path(piece.shown).name} is not on the grid of {Path(pieces[0].shown).name}: its pixels were moved "
                "to the nearest ones of that grid"
            )
            x0, y0, x1, y1 = bounds[index]
            placed.append(_moved(piece, grid, (x0 + turn, y0, x1 + turn, y1), first, folder, index))
            continue
        if found[2] > SNAP:
            notes.append(f"{Path(piece.shown).name} lies {found[2]:.2f} px off the grid and was moved onto it")
        placed.append((Rect(found[0], found[1], found[0] + grid.height, found[1] + grid.width), piece))
    whole = Rect(
        min(r.y0 for r, _ in placed), min(r.x0 for r, _ in placed),
        max(r.y1 for r, _ in placed), max(r.x1 for r, _ in placed),
    )  # fmt: skip
    if whole.rows * whole.cols > max(SMALL, SPARSE * sum(r.rows * r.cols for r, _ in placed)):
        raise VectorError(
            f"{pieces[0].shown}: the scenes lie so far apart that their mosaic has {whole.cols} x {whole.rows} pixels, "
            f"over {SPARSE} times their own; make a mosaic of each group of neighbours"
        )
    transform = _shifted(first, whole)
    shifted = [(rect.shifted(-whole.y0, -whole.x0), piece) for rect, piece in placed]
    mask = folder / "mask.vrt"
    _write(mask, whole, first, transform, [(rect, piece.mask) for rect, piece in shifted])
    probability = None
    stored = [(rect, piece.probability) for rect, piece in shifted if piece.probability is not None]
    if len(stored) == len(shifted):
        probability = folder / "prob.vrt"
        _write(probability, whole, _grid(stored[0][1]), transform, stored)
    elif stored:
        notes.append("not every scene has probabilities: confidences are left out")
    identity = _identity(pieces)
    return Mosaic(str(mask), None if probability is None else str(probability), identity, tuple(notes))


def _grid(path: str) -> Grid:
    with opened(path) as dataset:
        return Grid(dataset.crs, dataset.transform, dataset.width, dataset.height, dataset.count)


def _check(piece: Piece, grid: Grid, owner: Piece, first: Grid) -> None:
    path = piece.shown
    if grid.bands != first.bands:
        raise VectorError(f"{path}: has {grid.bands} bands, {owner.shown} has {first.bands}; their classes differ")
    if piece.mask != owner.mask and grid.transform.is_identity:
        raise VectorError(f"{path}: has no georeference, so its place in a mosaic is unknown; georeference it")
    if (grid.crs is None) != (first.crs is None):
        without = path if grid.crs is None else owner.shown
        raise VectorError(f"{without}: has no coordinate system, other scenes of the mosaic have one; give it its own")


def offset(grid: Grid, first: Grid) -> tuple[int, int, float] | None:
    """Return row and column of a scene's first pixel on the grid of the first scene, and how far off it lies (px).

    None if the grids differ in more than where they begin.
    """
    if grid.crs != first.crs:
        return None
    (a, b, c), (d, e, f) = np.linalg.solve(_matrix(first.transform), _matrix(grid.transform))[:2]
    # How far the last pixel is off if the steps differ by a little.
    drift = max(abs(a - 1), abs(d)) * grid.width + max(abs(e - 1), abs(b)) * grid.height
    if drift > 0.1:
        return None
    row, col = round(f), round(c)
    return row, col, math.hypot(f - row, c - col)


def _matrix(transform: Affine) -> F64:
    return np.array((*tuple(transform)[:6], 0, 0, 1), dtype=np.float64).reshape(3, 3)


def _shifted(first: Grid, rect: Rect) -> Affine:
    """Return the transform of the part of the first scene's grid that begins at a rectangle's corner."""
    a, b, c, d, e, f = tuple(first.transform)[:6]
    return Affine(a, b, c + a * rect.x0 + b * rect.y0, d, e, f + d * rect.x0 + e * rect.y0)


def _circle(crs: Any) -> float:
    """Return the length of a full circle of longitude in the unit of a CRS; 0 where x is no longitude."""
    return round(2 * math.pi / crs.units_factor[1], 6) if crs is not None and crs.is_geographic else 0.0


def _bounds(piece: Piece, grid: Grid, first: Grid) -> Bounds:
    """Return the box of a scene in the CRS of the first one."""
    ends = np.array([(x, y, 1) for x in (0, grid.width) for y in (0, grid.height)])
    corners = ends @ _matrix(grid.transform)[:2].T
    x0, y0, x1, y1 = (float(v) for v in (*corners.min(axis=0), *corners.max(axis=0)))
    if grid.crs is not None and grid.crs != first.crs:
        try:
            x0, y0, x1, y1 = transform_bounds(grid.crs, first.crs, x0, y0, x1, y1, densify_pts=51)
        except GDAL_ERRORS as error:
            raise _immovable(piece, error) from error
        if x0 > x1:  # across the antimeridian
            x1 += _circle(first.crs)
    if not all(math.isfinite(v) for v in (x0, y0, x1, y1)):
        raise VectorError(f"{piece.shown}: lies where the coordinate system of the first scene has no coordinates")
    return x0, y0, x1, y1


def _immovable(piece: Piece, error: Exception) -> VectorError:
    return VectorError(f"{piece.shown}: cannot be moved onto the grid of the first scene ({one_line(error)})")


def _turns(bounds: Sequence[Bounds], circle: float, px: float) -> list[float]:
    """Return what to add to the longitudes of each scene, so that together they reach over the least of the circle.

    Nothing to those of the first; nothing at all where that does not save a pixel.
    """
    west, east = (np.array([b[k] for b in bounds]) for k in (0, 2))
    if circle == 0:
        return [0.0] * len(bounds)
    # The widest gap that no scene lies in is left out: the mosaic begins behind it.
    start = west % circle
    order = np.argsort(start, kind="stable")
    reach = np.maximum.accumulate((start + east - west)[order])
    gaps = np.append(start[order][1:], start[order[0]] + circle) - reach
    begin = start[order[(int(np.argmax(gaps)) + 1) % len(order)]]
    moved = begin + (start - begin) % circle
    if np.ptp(np.append(moved, moved + east - west)) > np.ptp(np.append(west, east)) - px:
        return [0.0] * len(bounds)
    turns = np.round((moved - west) / circle)
    return [float(turn) * circle for turn in turns - turns[0]]


def _moved(piece: Piece, grid: Grid, bounds: Bounds, first: Grid, folder: Path, index: int) -> tuple[Rect, Piece]:
    """Copy the rasters of a scene onto the grid of the first one; each pixel takes the value below its centre."""
    try:
        sides = np.array([(x, y, 1) for x in bounds[::2] for y in bounds[1::2]])
        cols, rows = np.linalg.solve(_matrix(first.transform), sides.T)[:2]
        rect = Rect(math.floor(rows.min()), math.floor(cols.min()), math.ceil(rows.max()), math.ceil(cols.max()))
        if rect.rows * rect.cols > max(SMALL, SPARSE * grid.width * grid.height):
            raise VectorError(
                f"{piece.shown}: would have {rect.cols} x {rect.rows} pixels on the grid of the first scene; "
                "put the scene with the largest pixels first, or make mosaics of scenes of one kind"
            )
        mask = _warped(piece.mask, rect, first, folder / f"mask_{index}.tif")
        stored = piece.probability
        return rect, Piece(mask, None if stored is None else _warped(stored, rect, first, folder / f"prob_{index}.tif"))
    except GDAL_ERRORS as error:
        raise _immovable(piece, error) from error


def _warped(path: str, rect: Rect, first: Grid, dest: Path) -> str:
    """Write a rectangle of the first scene's grid from another raster.

    Not by GDAL's warper: its result depends on its windows.
    """
    own = _shifted(first, rect)
    profile = {"driver": "GTiff", "dtype": "uint8", "nodata": NODATA, "compress": "deflate", "bigtiff": "if_safer"}
    tiles = {"tiled": True, "blockxsize": 512, "blockysize": 512, "interleave": "band"}
    grid = {"crs": first.crs, "transform": own, "width": rect.cols, "height": rect.rows}
    with opened(path) as dataset, atomic(dest) as temporary, rasterio.Env(**gdal_env()):
        back = None
        if first.crs is not None and first.crs != dataset.crs:
            back = Transformer.from_crs(first.crs.to_wkt(), dataset.crs.to_wkt(), always_xy=True)
        to_pixel = np.asarray(np.linalg.inv(_matrix(dataset.transform)), dtype=np.float64)
        # Of a finer raster as much is read as of an equal one.
        side = max(32, round(SLAB * min(1.0, math.sqrt(rect.rows * rect.cols / (dataset.width * dataset.height)))))
        with open_quietly(temporary, "w", count=dataset.count, **profile, **tiles, **grid) as out:
            for top in range(0, rect.rows, side):
                for left in range(0, rect.cols, side):
                    part = Rect(top, left, min(top + side, rect.rows), min(left + side, rect.cols))
                    window = Window(part.x0, part.y0, part.cols, part.rows)
                    out.write(_nearest(dataset, part, _matrix(own), back, to_pixel), window=window)
    return str(dest)


def _nearest(dataset: Any, part: Rect, to_map: F64, back: Transformer | None, to_pixel: F64) -> npt.NDArray[np.uint8]:
    """Return the values `(bands, rows, cols)` below the centres of the pixels of `part`."""
    y, x = np.mgrid[part.y0 : part.y1, part.x0 : part.x1].reshape(2, -1) + 0.5
    x, y = (row[0] * x + row[1] * y + row[2] for row in to_map[:2])
    if back is not None:
        x, y = back.transform(x, y)
    if circle := _circle(dataset.crs):
        # Longitudes of the same meridian may differ by a turn.
        centre = dataset.transform @ (dataset.width / 2, dataset.height / 2)
        x = x + circle * np.round((centre[0] - x) / circle)
    known = np.isfinite(x) & np.isfinite(y)
    col, row = (np.floor(m[0] * x[known] + m[1] * y[known] + m[2]) for m in to_pixel[:2])
    inside = (col >= 0) & (col < dataset.width) & (row >= 0) & (row < dataset.height)
    found = np.full((dataset.count, len(x)), NODATA, dtype=np.uint8)
    if inside.any():
        which = np.flatnonzero(known)[inside]
        cols, rows = col[inside].astype(np.int64), row[inside].astype(np.int64)
        x0, y0 = int(cols.min()), int(rows.min())
        values = dataset.read(window=Window(x0, y0, int(cols.max()) - x0 + 1, int(rows.max()) - y0 + 1))
        found[:, which] = values[:, rows - y0, cols - x0]
    return found.reshape(dataset.count, part.rows, part.cols)


def _write(path: Path, whole: Rect, first: Grid, transform: Affine, sources: Sequence[tuple[Rect, str]]) -> None:
    """Write a VRT; of several sources with a value at a pixel the first one counts."""
    lines = [f'<VRTDataset rasterXSize="{whole.cols}" rasterYSize="{whole.rows}">']
    crs = None if first.crs is None else first.crs.to_wkt()
    lines.append(srs_xml(crs) + geotransform_xml(tuple(transform)))
    parts = []
    # The last one is drawn over the others.
    for rect, source in reversed(sources):
        with opened(source) as dataset:
            rows, cols = dataset.block_shapes[0]
        name = escape(os.path.relpath(source, path.parent)) if _near(source, path) else escape(source)
        about = (
            f'<SourceProperties RasterXSize="{rect.cols}" RasterYSize="{rect.rows}" DataType="Byte" '
            f'BlockXSize="{cols}" BlockYSize="{rows}"/>'
            f'<SrcRect xOff="0" yOff="0" xSize="{rect.cols}" ySize="{rect.rows}"/>'
            f'<DstRect xOff="{rect.x0}" yOff="{rect.y0}" xSize="{rect.cols}" ySize="{rect.rows}"/>'
            f"<NODATA>{NODATA}</NODATA>"
        )
        file = f'<SourceFilename relativeToVRT="{int(_near(source, path))}">{name}</SourceFilename>'
        parts.append((file, about))
    for band in range(1, first.bands + 1):
        lines.append(f'<VRTRasterBand dataType="Byte" band="{band}"><NoDataValue>{NODATA}</NoDataValue>')
        number = f"<SourceBand>{band}</SourceBand>"
        lines += [f"<ComplexSource>{file}{number}{about}</ComplexSource>" for file, about in parts]
        lines.append("</VRTRasterBand>")
    write_text(path, "\n".join([*lines, "</VRTDataset>", ""]))


def _near(source: str, path: Path) -> bool:
    """Whether a file can be named relative to another's folder."""
    try:
        os.path.relpath(source, path.parent)
    except ValueError:  # Windows: another drive
        return False
    return not source.startswith("/vsi")


def _identity(pieces: Sequence[Piece]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        for name in (piece.mask, piece.probability):
            stat = None if name is None else Path(name).stat()
            seen = (name, None if stat is None else (stat.st_size, stat.st_mtime_ns))
            digest.update(repr(seen).encode())
    return digest.hexdigest()
