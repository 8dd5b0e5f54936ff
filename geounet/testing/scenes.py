"""Aerial scenes that are made up, with their labels: for the demo, for tests and for training the demo's model.

A world is an endless plane of pixels given by a seed. `window` shows a rectangle of it: the same pixel has the same
value in every window, so that scenes of any size are written in pieces and share their content.

    >>> truth = generate(Path("scene.tif"), width=2048, height=2048, seed=7, labels=Path("labels.tif"))

The class codes of labels are 0 land (open ground: grass, crops, soil, yards), 1 building, 2 road, 3 vegetation (trees,
bushes and hedges), 4 water; 255 is nodata.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS, Geod, Transformer
from rasterio.windows import Window

from geounet.atomic import atomic
from geounet.errors import SceneError
from geounet.testing.faces import face
from geounet.testing.layout import faces_near
from geounet.testing.noise import number
from geounet.testing.paint import BLOCK, block
from geounet.types import NODATA, Rect

CLASSES = ("land", "building", "road", "vegetation", "water")
"""Names of the label codes 0 to 4."""

_BANDS = ("red", "green", "blue", "nir")
_PIECE = 4 * BLOCK  # pixels per side of what is written at a time
_ANCHOR = (15.0, 47.9)  # longitude and latitude of scenes, where the CRS allows it
_SCALE = {"uint8": 1.0, "uint16": 16.0, "float32": 1 / 255}

DType = Literal["uint8", "uint16", "float32"]


@dataclass(frozen=True)
class Vectors:
    """What is true of a rectangle, as geometries: buildings, and roads between junctions."""

    buildings: tuple[shapely.Polygon, ...]
    roads: tuple[shapely.LineString, ...]
    widths: tuple[float, ...]
    """Width of each road, metres."""
    kinds: tuple[str, ...]
    """Kind of each road: main, street, lane or dirt."""


@dataclass(frozen=True)
class SceneTruth:
    """A scene that was written, and what is true about it."""

    path: Path
    labels: Path | None
    width: int
    height: int
    seed: int
    gsd: float
    origin: tuple[int, int]
    transform: tuple[float, float, float, float, float, float]
    """Order of rasterio's Affine: a, b, c, d, e, f."""
    crs: str | None

    def vectors(self) -> Vectors:
        """Return buildings and roads in the scene's coordinates, cut at its border (not at nodata)."""
        row, col = self.origin
        found = truth_vectors(self.seed, Rect(row, col, row + self.height, col + self.width), self.gsd)
        a, b, c, d, e, f = self.transform

        def place(geometry: Any) -> Any:
            return shapely.transform(geometry, lambda p: p @ np.array([[a, d], [b, e]]) + (c, f))

        return Vectors(
            tuple(place(g) for g in found.buildings), tuple(place(g) for g in found.roads), found.widths, found.kinds
        )


def window(seed: int, rect: Rect, *, gsd: float = 0.3, bands: int = 3) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Show a rectangle of the world.

    Parameters
    ----------
    seed
        The world.
    rect
        Pixels; may be anywhere, also at negative positions.
    gsd
        Metres per pixel, 0.1 to 2.
    bands
        1 (grey), 3 (red, green, blue) or 4 (with near infrared).

    Returns
    -------
    picture, labels
        (bands, rows, cols) uint8 in 1..254 and (rows, cols) uint8 in 0..4. A pixel depends on seed, gsd, bands and its
        own position alone.
    """
    if bands not in (1, 3, 4) or not 0.1 <= gsd <= 2:
        raise ValueError(f"bands is 1, 3 or 4 and gsd 0.1 to 2 m, found bands={bands}, gsd={gsd}")
    picture = np.empty((bands, *rect.shape), dtype=np.uint8)
    labels = np.empty(rect.shape, dtype=np.uint8)
    if rect.empty:
        return picture, labels
    for row in range(rect.y0 // BLOCK, (rect.y1 - 1) // BLOCK + 1):
        for col in range(rect.x0 // BLOCK, (rect.x1 - 1) // BLOCK + 1):
            whole = Rect(row * BLOCK, col * BLOCK, (row + 1) * BLOCK, (col + 1) * BLOCK)
            part = rect.intersection(whole)
            colours, codes = block(seed, row, col, gsd, bands)
            here, there = part.slices_in(rect), part.slices_in(whole)
            picture[:, *here] = colours[:, *there]
            labels[here] = codes[there]
    return picture, labels


def wedge(seed: int, rect: Rect, width: int, height: int) -> NDArray[np.bool_]:
    """Return where a scene of that size has no data: a slanted strip along one side, as at the end of a flight."""
    share, slope = 0.03 + 0.05 * number(seed, 100), 0.06 + 0.1 * number(seed, 101)
    y = ((np.arange(rect.y0, rect.y1) + 0.5) / height)[:, None]
    x = ((np.arange(rect.x0, rect.x1) + 0.5) / width)[None, :]
    if number(seed, 102) < 0.5:
        x = 1 - x
    if number(seed, 103) < 0.5:
        y = 1 - y
    edge: NDArray[np.bool_] = x < share + slope * (y - 0.5)
    return edge


def generate(
    path: Path,
    *,
    width: int,
    height: int,
    seed: int = 0,
    gsd: float = 0.3,
    crs: str | None = "EPSG:32633",
    nodata_wedge: bool = True,
    labels: Path | None = None,
    dtype: DType = "uint8",
    bands: int = 3,
    origin: tuple[int, int] = (0, 0),
) -> SceneTruth:
    """Write a scene, and its labels if asked, piece by piece; memory does not depend on the size.

    Parameters
    ----------
    path
        Tiled GeoTIFF, (bands, height, width), nodata 0; pixels with data are never 0.
    width, height
        Pixels.
    seed, gsd, bands, origin
        The world, its scale, and the row and column of the scene's first pixel in it; see `window`.
    crs
        Any CRS that pyproj knows; None writes no georeference.
    nodata_wedge
        Whether a slanted strip along one side is nodata.
    labels
        Tiled GeoTIFF, uint8, the codes of `CLASSES`, nodata 255.
    dtype
        uint8: 1 to 254; uint16: sixteen times that; float32: divided by 255.

    Raises
    ------
    SceneError
        If the size is not positive.
    """
    path = Path(path)
    labels = None if labels is None else Path(labels)
    if width < 1 or height < 1:
        raise SceneError(f"{path}: a scene has at least one pixel, found width={width}, height={height}")
    transform = Affine.identity() if crs is None else _grid(crs, gsd)
    common = {
        "driver": "GTiff", "width": width, "height": height, "tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK,
        "compress": "deflate", "zlevel": 4, "BIGTIFF": "IF_SAFER",
    }  # fmt: skip
    if crs is not None:
        common |= {"crs": crs, "transform": transform}
    colour = {"photometric": "rgb"} if bands > 1 else {}
    if bands == 4:
        colour["ALPHA"] = "NO"
    with contextlib.ExitStack() as stack:
        image_file = stack.enter_context(atomic(path))
        label_file = None if labels is None else stack.enter_context(atomic(labels))
        image = stack.enter_context(
            rasterio.open(
                image_file, "w", count=bands, dtype=dtype, nodata=0, predictor=_predictor(dtype), **common, **colour
            )
        )
        names = _BANDS[:bands] if bands > 1 else ("grey",)
        for k, name in enumerate(names):
            image.set_band_description(k + 1, name)
        codes_out = None
        if label_file is not None:
            codes_out = stack.enter_context(
                rasterio.open(label_file, "w", count=1, dtype="uint8", nodata=NODATA, **common)
            )
        for rect in _pieces(width, height):
            picture, codes = window(seed, rect.shifted(*origin), gsd=gsd, bands=bands)
            if nodata_wedge:
                empty = wedge(seed, rect, width, height)
                picture[:, empty] = 0
                codes[empty] = NODATA
            where = Window(rect.x0, rect.y0, rect.cols, rect.rows)
            values = picture if dtype == "uint8" else (picture * np.float32(_SCALE[dtype])).astype(dtype)
            image.write(values, window=where)
            if codes_out is not None:
                codes_out.write(codes, 1, window=where)
    a, b, c, d, e, f = tuple(transform)[:6]
    return SceneTruth(path, labels, width, height, seed, gsd, origin, (a, b, c, d, e, f), crs)


def truth_vectors(seed: int, rect: Rect, gsd: float = 0.3) -> Vectors:
    """Return buildings and roads of a rectangle, in pixels relative to its corner (x right, y down), cut at its border.

    Roads are split at junctions and joined where only two meet; ends closer than a centimetre are one point. What
    crowns of trees hide is there all the same.
    """
    y0, x0, y1, x1 = (float(v) * gsd for v in rect)
    frame = shapely.box(x0, y0, x1, y1)
    faces = [face(seed, i, j) for i, j in faces_near(seed, y0, x0, y1, x1)]
    houses = np.array([b for f in faces for b in f.buildings], dtype=object)
    if len(houses):
        houses = shapely.intersection(houses[shapely.intersects(houses, frame)], frame)
        houses = shapely.get_parts(houses)
        houses = houses[(shapely.get_type_id(houses) == shapely.GeometryType.POLYGON) & (shapely.area(houses) > 0)]
    sources = [road for f in faces for road in f.roads]
    lines = np.array([shapely.LineString(r.line) for r in sources], dtype=object)
    pieces: list[shapely.LineString] = []
    owners: list[int] = []
    if len(lines):
        noded = shapely.line_merge(shapely.union_all(lines, grid_size=0.01))
        cut = shapely.get_parts(shapely.intersection(noded, frame))
        pieces = [g for g in cut.tolist() if g.geom_type == "LineString" and g.length > 0]
        middles = [g.interpolate(0.5, normalized=True) for g in pieces]
        owners = shapely.STRtree(lines).nearest(middles).tolist() if middles else []

    def pixels(geometry: Any) -> Any:
        return shapely.transform(geometry, lambda p: (p - (x0, y0)) / gsd)

    return Vectors(
        tuple(pixels(g) for g in houses.tolist()),
        tuple(pixels(g) for g in pieces),
        tuple(sources[k].width for k in owners),
        tuple(sources[k].kind for k in owners),
    )


def _pieces(width: int, height: int) -> Iterator[Rect]:
    # squares, so that the faces in memory are few however wide the scene is
    for y in range(0, height, _PIECE):
        for x in range(0, width, _PIECE):
            square = Rect(y, x, min(y + _PIECE, height), min(x + _PIECE, width))
            for row in range(square.y0, square.y1, BLOCK):
                yield Rect(row, square.x0, min(row + BLOCK, square.y1), square.x1)


def _predictor(dtype: DType) -> int:
    return 3 if dtype == "float32" else 2


def _grid(crs: str, gsd: float) -> Affine:
    """Return a north-up grid whose pixels measure `gsd` metres on the ground, within the area the CRS is made for."""
    system = CRS.from_user_input(crs)
    lon, lat = _ANCHOR
    area = system.area_of_use
    if area is not None and not (area.west <= lon <= area.east and area.south <= lat <= area.north):
        lon, lat = (area.west + area.east) / 2, (area.south + area.north) / 2
    to_map = Transformer.from_crs("EPSG:4326", system, always_xy=True)
    east_lon, east_lat, _ = Geod(ellps="WGS84").fwd(lon, lat, 90, 100)
    north_lon, north_lat, _ = Geod(ellps="WGS84").fwd(lon, lat, 0, 100)
    (x, y), (xe, _), (_, yn) = (
        to_map.transform(*p) for p in ((lon, lat), (east_lon, east_lat), (north_lon, north_lat))
    )
    sx, sy = abs(xe - x) / 100 * gsd, abs(yn - y) / 100 * gsd
    if abs(sx / gsd - 1) < 2e-3 and abs(sy / gsd - 1) < 2e-3:  # metres: a round number rather than the map's scale
        sx = sy = gsd
    if not system.is_geographic:
        x, y = round(x, -2), round(y, -2)
    return Affine(sx, 0, x, 0, -sy, y)
