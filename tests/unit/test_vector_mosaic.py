"""Mosaics of class rasters: which pixel belongs to whom, grids that agree and grids that do not, refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyproj import Transformer
from rasterio import Affine
from rasterio.crs import CRS

from geounet.errors import VectorError
from geounet.raster.env import open_quietly
from geounet.types import NODATA
from geounet.vector.mosaic import Mosaic, Piece, mosaic
from tests.support.rasters import write

PX = 0.5
X, Y = 400000.0, 5800000.0


def grid(row: float, col: float, px: float = PX) -> Affine:
    return Affine(px, 0, X + col * PX, 0, -px, Y - row * PX)


@pytest.fixture
def piece(tmp_path: Path) -> Callable[..., Piece]:
    """Writes a mask whose first pixel lies at `(row, col)` of a common grid, and its probability."""

    def write_piece(values: Any, row: float = 0, col: float = 0, **how: Any) -> Piece:
        values = np.atleast_3d(np.asarray(values, dtype=np.uint8).T).T
        name = f"{len(list(tmp_path.glob('*.tif')))}"
        how = {"transform": grid(row, col), "nodata": NODATA} | how
        stored = np.where(values == NODATA, NODATA, 254 - values)
        mask = write(tmp_path / f"scene_{name}.tif", values, **how)
        return Piece(str(mask), str(write(tmp_path / f"prob_{name}.tif", stored, **how)))

    return write_piece


def read(path: str | None) -> tuple[Any, Affine]:
    assert path is not None
    with open_quietly(Path(path)) as dataset:
        assert dataset.nodata == NODATA
        return dataset.read(), dataset.transform


def scene(seed: int, rows: int, cols: int) -> Any:
    values = np.random.default_rng(seed).integers(0, 200, (rows, cols))
    values[np.random.default_rng(seed + 1).random((rows, cols)) < 0.3] = NODATA
    return values


def test_the_first_valid_scene_owns_a_pixel(piece: Callable[..., Piece], tmp_path: Path) -> None:
    # Places on the common grid: some overlap twice, one lies above and left of the first, one apart.
    places = [(0, 0, 40, 60), (-20, -30, 50, 50), (10, 40, 60, 45), (70, -5, 20, 30)]
    arrays = [scene(i, rows, cols) for i, (_, _, rows, cols) in enumerate(places)]
    made = mosaic([piece(a, r, c) for a, (r, c, _, _) in zip(arrays, places, strict=True)], tmp_path / "out")
    top, left = -20, -30
    expected = np.full((110, 115), NODATA, dtype=np.uint8)
    for values, (row, col, rows, cols) in zip(arrays, places, strict=True):
        part = expected[row - top : row - top + rows, col - left : col - left + cols]
        free = part == NODATA
        part[free] = values[free]
    found, transform = read(made.mask)
    assert np.array_equal(found[0], expected)
    assert tuple(transform)[:6] == pytest.approx(tuple(grid(top, left))[:6])
    stored, _ = read(made.probability)
    assert np.array_equal(stored[0], np.where(expected == NODATA, NODATA, 254 - expected))
    assert made.notes == ()


def test_bands_of_multilabel_masks_have_their_own_owners(piece: Callable[..., Piece], tmp_path: Path) -> None:
    first, second = np.zeros((2, 8, 8)), np.ones((2, 8, 8))
    first[0, :4], first[1, :, :3] = NODATA, NODATA
    found, _ = read(mosaic([piece(first), piece(second)], tmp_path / "out").mask)
    assert np.array_equal(found, np.where(first == NODATA, second, first))


def test_windows_of_a_mosaic_are_those_of_the_whole(piece: Callable[..., Piece], tmp_path: Path) -> None:
    made = mosaic([piece(scene(1, 50, 50)), piece(scene(2, 50, 50), 20, 30)], tmp_path / "out")
    whole, _ = read(made.mask)
    with open_quietly(Path(made.mask)) as dataset:
        for row, col in ((0, 0), (13, 27), (40, 50)):
            part = dataset.read(1, window=((row, row + 25), (col, col + 25)))
            assert np.array_equal(part, whole[0, row : row + 25, col : col + 25])


def test_parts_of_a_pixel_off_the_grid_are_moved_and_told(piece: Callable[..., Piece], tmp_path: Path) -> None:
    values = scene(3, 20, 20)
    made = mosaic([piece(np.full((10, 10), NODATA)), piece(values, 4.3, 7.4)], tmp_path / "out")
    found, _ = read(made.mask)
    assert np.array_equal(found[0, 4:24, 7:27], values)
    (note,) = made.notes
    assert "0.50 px off the grid" in note


def nearest(values: Any, its: Affine, its_crs: str, found: Any, transform: Affine, crs: str) -> Any:
    """What each pixel of `found` would be: the value of the pixel its centre lies in."""
    rows, cols = np.indices(found.shape)
    x = transform.a * (cols + 0.5) + transform.c
    y = transform.e * (rows + 0.5) + transform.f
    x, y = Transformer.from_crs(crs, its_crs, always_xy=True).transform(x, y)
    col, row = np.floor((x - its.c) / its.a).astype(int), np.floor((y - its.f) / its.e).astype(int)
    inside = (row >= 0) & (row < values.shape[0]) & (col >= 0) & (col < values.shape[1])
    expected = np.full(found.shape, NODATA, dtype=np.uint8)
    expected[inside] = values[row[inside], col[inside]]
    return expected


@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:3857", "EPSG:4326"])
def test_other_grids_are_brought_to_the_first_by_the_nearest_pixel(
    crs: str, piece: Callable[..., Piece], tmp_path: Path
) -> None:
    values = scene(5, 60, 70)
    x, y = Transformer.from_crs("EPSG:32633", crs, always_xy=True).transform(X + 3, Y - 4)
    px = {"EPSG:32633": 0.7, "EPSG:3857": 0.9, "EPSG:4326": 7e-6}[crs]
    its = Affine(px, 0, x, 0, -px, y)
    first = piece(np.full((10, 10), NODATA))
    made = mosaic([first, piece(values, transform=its, crs=crs)], tmp_path / "out")
    found, transform = read(made.mask)
    expected = nearest(values, its, crs, found[0], transform, "EPSG:32633")
    # A centre may fall on the edge between two pixels within rounding.
    assert (found[0] != expected).sum() <= 2
    assert (found[0] != NODATA).sum() > 1000
    (note,) = made.notes
    assert "is not on the grid of scene_0.tif" in note
    stored, _ = read(made.probability)
    assert np.array_equal(stored[0], np.where(found[0] == NODATA, NODATA, 254 - found[0]))


DEGREE = 1e-4


def degrees(west: float, px: float = DEGREE) -> dict[str, Any]:
    return {"crs": "EPSG:4326", "transform": Affine(px, 0, west, 0, -px, -17)}


def test_scenes_on_both_sides_of_the_antimeridian_are_neighbours(piece: Callable[..., Piece], tmp_path: Path) -> None:
    east, west = scene(7, 30, 50), scene(8, 30, 40)
    pieces = [piece(east, **degrees(180 - 50 * DEGREE)), piece(west, **degrees(-180))]
    expected = np.concatenate([east, west], axis=1)
    for order, x in ((1, 180 - 50 * DEGREE), (-1, -180 - 50 * DEGREE)):
        made = mosaic(pieces[::order], tmp_path / "out")
        found, transform = read(made.mask)
        assert np.array_equal(found[0], expected)
        assert transform.c == pytest.approx(x, abs=1e-9)
        assert made.notes == ()
    # Where scenes go all around, longitudes stay what they are.
    around = [piece(np.zeros((2, 9)), **degrees(west, 10)) for west in (-180, -90, 0, 90)]
    assert read(mosaic(around, tmp_path / "out").mask)[1].c == -180


@pytest.mark.parametrize("west", [179.999, -180.0])
def test_a_scene_across_the_antimeridian_is_brought_to_one_in_degrees(
    west: float, piece: Callable[..., Piece], tmp_path: Path
) -> None:
    x, y = Transformer.from_crs("EPSG:4326", "EPSG:32660", always_xy=True).transform(179.996, -17.0)
    values = np.random.default_rng(9).integers(0, 200, (60, 80))  # 800 m: to the other side
    its = Affine(10, 0, x, 0, -10, y)
    first = piece(np.full((10, 10), NODATA), **degrees(west))
    other = piece(values, transform=its, crs="EPSG:32660")
    found, transform = read(mosaic([first, other], tmp_path / "out").mask)
    expected = nearest(values, its, "EPSG:32660", found[0], transform, "EPSG:4326")
    assert (found[0] != expected).sum() <= 2
    assert (found[0] != NODATA).sum() > 3500
    # And the other way around: pixels of both sides are found in a raster whose longitudes go on.
    beyond = piece(np.zeros((80, 100)), **degrees(179.995))
    found, _ = read(mosaic([piece(np.full((60, 80), NODATA), transform=its, crs="EPSG:32660"), beyond],
                           tmp_path / "out").mask)  # fmt: skip
    assert (found[0] == 0).sum() == pytest.approx(80 * 100 * 1.18, rel=0.01)


def test_names_of_files_are_no_formats(piece: Callable[..., Piece], tmp_path: Path) -> None:
    one = piece(np.zeros((2, 9, 9)))
    named = Path(one.mask).rename(tmp_path / "{band}.tif")
    found, _ = read(mosaic([Piece(str(named)), Piece(piece(np.ones((2, 9, 9)), 9).mask)], tmp_path / "{band}").mask)
    assert found.sum(axis=(1, 2)).tolist() == [81, 81]


def test_copies_do_not_depend_on_their_windows(
    piece: Callable[..., Piece], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = [piece(np.zeros((10, 10))), piece(scene(6, 90, 80), transform=grid(3, 4, 0.37))]
    whole, _ = read(mosaic(pieces, tmp_path / "whole").mask)
    monkeypatch.setattr("geounet.vector.mosaic.SLAB", 17)
    parts, _ = read(mosaic(pieces, tmp_path / "parts").mask)
    assert np.array_equal(whole, parts)


def test_identity_follows_the_files(piece: Callable[..., Piece], tmp_path: Path) -> None:
    one, two = piece(np.zeros((9, 9))), piece(np.zeros((9, 9)), 5)

    def identity(*pieces: Piece) -> str:
        return mosaic(pieces, tmp_path / "out").identity

    first = identity(one, two)
    assert identity(one, two) == first
    assert identity(two, one) != first
    write(Path(two.mask), np.ones((1, 9, 9), np.uint8), transform=grid(5, 0), nodata=NODATA, compress="deflate")
    assert identity(one, two) != first


def test_without_all_probabilities_there_are_none(piece: Callable[..., Piece], tmp_path: Path) -> None:
    made: Mosaic = mosaic([piece(np.zeros((9, 9))), Piece(piece(np.zeros((9, 9)), 5).mask)], tmp_path / "out")
    assert made.probability is None
    assert "not every scene has probabilities" in made.notes[0]


def test_what_does_not_go_together_is_refused(piece: Callable[..., Piece], tmp_path: Path) -> None:
    plain = piece(np.zeros((9, 9)))
    for other, why in (
        (piece(np.zeros((2, 9, 9))), "has 2 bands"),
        (piece(np.zeros((9, 9)), crs=None, transform=None), "no georeference"),
        (piece(np.zeros((9, 9)), crs=None), "no coordinate system"),
        (piece(np.zeros((9, 9)), 10**7, 10**6), "so far apart"),
        (piece(np.zeros((9, 9)), crs=CRS.from_epsg(4326), transform=Affine(0.1, 0, -120, 0, -0.1, 89)), "would have"),
        (Piece(str(tmp_path / "missing.tif")), "missing.tif"),
    ):
        with pytest.raises(VectorError, match=why) as refused:
            mosaic([plain, other], tmp_path / "out")
        assert "\n" not in str(refused.value)
