from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.features
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from geounet.errors import SceneError
from geounet.testing import paint, scenes
from geounet.testing.scenes import CLASSES, generate, truth_vectors, wedge, window
from geounet.testing.strategies import checkerboard, masks, rects, rings, spiral
from geounet.types import NODATA, Rect

SEED = 10_007
WHOLE = Rect(-100, -60, 824, 900)  # crosses block edges, also those at negative positions


@pytest.fixture(scope="module")
def whole() -> tuple[np.ndarray, np.ndarray]:
    return window(SEED, WHOLE)


@given(rects(WHOLE.rows, WHOLE.cols))
@settings(max_examples=60, deadline=None)
def test_a_window_is_a_crop_of_any_larger_one(whole, part):
    picture, labels = window(SEED, part.shifted(WHOLE.y0, WHOLE.x0))
    rows, cols = part.slices_in(Rect(0, 0, WHOLE.rows, WHOLE.cols))
    np.testing.assert_array_equal(picture, whole[0][:, rows, cols])
    np.testing.assert_array_equal(labels, whole[1][rows, cols])


def test_same_seed_same_pixels_after_all_caches_are_gone(whole):
    for cached in (paint.block, scenes.face, paint.climate):
        cached.cache_clear()
    again = window(SEED, Rect(-100, -60, 412, 300))
    np.testing.assert_array_equal(again[0], whole[0][:, :512, :360])
    np.testing.assert_array_equal(again[1], whole[1][:512, :360])


def test_other_seed_other_world(whole):
    other = window(SEED + 1, Rect(-100, -60, 412, 300))[1]
    assert np.mean(other != whole[1][:512, :360]) > 0.2


def test_blocks_fit_together():
    """What a block paints beyond its edge is what its neighbour paints there, but for rare ties of rasterising."""
    size = paint.BLOCK
    picture, labels = window(SEED, Rect(0, size - 60, 2 * size, size + 60))
    picture = picture.astype(int)
    across = np.abs(np.diff(picture, axis=2)).mean(axis=(0, 1))
    seam = across[59]
    assert seam < 1.25 * np.median(across), (seam, np.median(across))
    changes = (np.diff(labels.astype(int), axis=1) != 0).mean(axis=0)
    assert changes[59] < changes.mean() + 4 * changes.std()


def test_values_and_types(whole):
    picture, labels = whole
    assert picture.dtype == labels.dtype == np.uint8
    assert picture.shape == (3, *WHOLE.shape)
    assert labels.shape == WHOLE.shape
    assert picture.min() >= 1
    assert picture.max() <= 254
    assert set(np.unique(labels)) == set(range(len(CLASSES)))


def test_every_class_is_a_fair_part_of_the_world():
    counts = np.zeros(len(CLASSES))
    for seed in (3, 4, SEED):
        labels = window(seed, Rect(0, 0, 1024, 1024))[1]
        counts += np.bincount(labels.ravel(), minlength=len(CLASSES))
    share = counts / counts.sum()
    assert share[0] < 0.8
    assert (share[1:4] > 0.03).all(), share
    assert share[4] > 0.005, share


def test_bands(whole):
    part = Rect(0, 0, 200, 300)
    grey, three, four = (window(SEED, part, bands=n)[0] for n in (1, 3, 4))
    assert grey.shape == (1, 200, 300)
    assert four.shape == (4, 200, 300)
    assert np.abs(four[:3].astype(float).mean(axis=(1, 2)) - three.astype(float).mean(axis=(1, 2))).max() < 1
    nir, labels = window(SEED, Rect(0, 0, 1024, 1024), bands=4)
    nir = nir.astype(float)
    ndvi = (nir[3] - nir[0]) / (nir[3] + nir[0])
    assert ndvi[labels == 3].mean() > ndvi[labels == 1].mean() + 0.2
    assert nir[3][labels == 4].mean() < 0.6 * nir[3][labels == 0].mean()


def test_gsd_scales_the_same_place():
    fine = window(SEED, Rect(0, 0, 800, 800), gsd=0.3)[1]
    coarse = window(SEED, Rect(0, 0, 400, 400), gsd=0.6)[1]
    assert np.mean(fine[::2, ::2] == coarse) > 0.95


@pytest.mark.parametrize(("bands", "gsd"), [(2, 0.3), (3, 0.01), (3, 50.0)])
def test_window_refuses_what_it_cannot_show(bands, gsd):
    with pytest.raises(ValueError, match=r"bands is 1, 3 or 4 and gsd 0\.1 to 2 m"):
        window(0, Rect(0, 0, 4, 4), bands=bands, gsd=gsd)


def test_an_empty_window():
    picture, labels = window(SEED, Rect(5, 5, 5, 9))
    assert picture.shape == (3, 0, 4)
    assert labels.shape == (0, 4)


def test_generate_writes_scene_and_labels(tmp_path: Path):
    truth = generate(
        tmp_path / "a.tif", width=700, height=530, seed=SEED, labels=tmp_path / "sub" / "b.tif", origin=(40, -30)
    )
    picture, labels = window(SEED, Rect(40, -30, 570, 670))
    with rasterio.open(truth.path) as scene, rasterio.open(tmp_path / "sub" / "b.tif") as codes:
        values, truths = scene.read(), codes.read(1)
        assert scene.crs.to_epsg() == 32633
        assert scene.res == (0.3, 0.3)
        assert scene.transform == codes.transform
        assert tuple(scene.transform)[:6] == truth.transform
        assert (scene.nodata, codes.nodata) == (0, NODATA)
        assert scene.descriptions == ("red", "green", "blue")
        assert scene.profile["tiled"]
        assert scene.compression.name == "deflate"
    empty = (values == 0).all(axis=0)
    assert 0.005 < empty.mean() < 0.25
    np.testing.assert_array_equal(empty, (values == 0).any(axis=0))
    np.testing.assert_array_equal(empty, truths == NODATA)
    np.testing.assert_array_equal(empty, wedge(SEED, Rect(0, 0, 530, 700), 700, 530))
    np.testing.assert_array_equal(values[:, ~empty], picture[:, ~empty])
    np.testing.assert_array_equal(truths[~empty], labels[~empty])
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.tif", "b.tif", "sub"]


def test_generate_holds_only_a_piece_of_the_scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[Rect] = []

    def small(seed: int, rect: Rect, *, gsd: float, bands: int) -> tuple[np.ndarray, np.ndarray]:
        seen.append(rect)
        return np.full((bands, *rect.shape), 9, np.uint8), np.zeros(rect.shape, np.uint8)

    monkeypatch.setattr(scenes, "window", small)
    generate(tmp_path / "a.tif", width=5000, height=3000, nodata_wedge=False)
    covered = np.zeros((3000, 5000), dtype=np.uint8)
    for rect in seen:
        assert rect.rows * rect.cols <= 2048 * 512
        covered[rect.y0 : rect.y1, rect.x0 : rect.x1] += 1
    assert (covered == 1).all()


def test_a_scene_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(scenes, "window", broken)
    with pytest.raises(RuntimeError, match="no"):
        generate(tmp_path / "a.tif", width=50, height=50, labels=tmp_path / "b.tif")
    assert list(tmp_path.iterdir()) == []


def test_no_pixels_is_refused(tmp_path: Path):
    with pytest.raises(SceneError, match="at least one pixel, found width=0"):
        generate(tmp_path / "a.tif", width=0, height=5)


@pytest.mark.parametrize(
    ("dtype", "bands", "crs"),
    [("uint16", 4, "EPSG:4326"), ("float32", 1, "EPSG:3857"), ("uint8", 3, "EPSG:2263"), ("uint8", 3, None)],
)
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_types_bands_and_systems(tmp_path: Path, dtype, bands, crs):
    truth = generate(tmp_path / "a.tif", width=40, height=30, seed=3, dtype=dtype, bands=bands, crs=crs)
    with rasterio.open(truth.path) as scene:
        assert scene.dtypes == (dtype,) * bands
        assert scene.count == bands
        assert rasterio.enums.ColorInterp.alpha not in scene.colorinterp
        assert (scene.crs is None) == (crs is None)
        if crs:
            from pyproj import CRS, Geod, Transformer

            system = CRS.from_user_input(crs)
            to_degrees = Transformer.from_crs(system, "EPSG:4326", always_xy=True)
            a, b, c = (to_degrees.transform(*(scene.transform @ p)) for p in ((0, 0), (40, 0), (0, 30)))
            geod = Geod(ellps="WGS84")
            assert geod.inv(*a, *b)[2] == pytest.approx(40 * 0.3, rel=2e-3)
            assert geod.inv(*a, *c)[2] == pytest.approx(30 * 0.3, rel=2e-3)


def test_vectors_agree_with_the_labels():
    rect = Rect(0, 0, 1024, 1024)
    labels = window(SEED, rect)[1]
    truth = truth_vectors(SEED, rect)
    burnt = rasterio.features.rasterize(truth.buildings, out_shape=labels.shape, fill=0, default_value=1) == 1
    building = labels == 1
    assert building.sum() > 20_000
    # crowns hide a part of the roofs
    assert (building & burnt).sum() / building.sum() > 0.97
    assert (building & burnt).sum() / burnt.sum() > 0.85
    assert all(g.is_valid and g.area > 0 for g in truth.buildings)
    road = ndimage.binary_dilation(labels == 2, iterations=3) | (labels == 3)
    line = rasterio.features.rasterize(truth.roads, out_shape=labels.shape) == 1
    assert (road & line).sum() / line.sum() > 0.97
    assert len(truth.roads) == len(truth.widths) == len(truth.kinds) > 10
    assert set(truth.kinds) <= {"main", "street", "lane", "dirt"}
    frame = shapely.box(0, 0, 1024, 1024).buffer(1e-6)
    assert all(frame.covers(g) for g in (*truth.buildings, *truth.roads))


def test_roads_are_a_network_of_pieces_between_junctions():
    truth = truth_vectors(SEED, Rect(0, 0, 2048, 2048))
    ends: dict[tuple[float, float], int] = {}
    for line in truth.roads:
        for x, y in (line.coords[0], line.coords[-1]):
            key = (round(x, 1), round(y, 1))
            ends[key] = ends.get(key, 0) + 1
    assert sum(n >= 3 for n in ends.values()) > 15
    tree = shapely.STRtree(truth.roads)
    a, b = tree.query(truth.roads, predicate="crosses")
    assert len(a) == 0, [(truth.roads[i].wkt[:60], truth.roads[j].wkt[:60]) for i, j in zip(a, b, strict=True)][:3]


def test_vectors_in_map_coordinates(tmp_path: Path):
    truth = generate(tmp_path / "a.tif", width=600, height=500, seed=SEED, origin=(410, 520))
    mapped = truth.vectors()
    plain = truth_vectors(SEED, Rect(410, 520, 910, 1120))
    assert mapped.buildings
    assert sum(g.area for g in mapped.buildings) == pytest.approx(sum(g.area for g in plain.buildings) * 0.09)
    with rasterio.open(truth.path) as scene:
        frame = shapely.box(*scene.bounds).buffer(1e-3)
    assert all(frame.covers(g) for g in (*mapped.buildings, *mapped.roads))


def test_colour_alone_does_not_tell_the_classes():
    """The most frequent class of every colour, learnt on some worlds, is a poor guess in another."""

    def pixels(seed: int) -> tuple[np.ndarray, np.ndarray]:
        picture, labels = window(seed, Rect(0, 0, 1024, 1024))
        colour = (picture // 10).astype(int)
        return ((colour[0] * 26 + colour[1]) * 26 + colour[2]).ravel(), labels.ravel().astype(int)

    counts = np.zeros((26**3, 5))
    for seed in (3, 4):
        key, labels = pixels(seed)
        counts += np.bincount(key * 5 + labels, minlength=26**3 * 5).reshape(-1, 5)
    key, labels = pixels(SEED)
    pairs = np.bincount(labels * 5 + counts.argmax(axis=1)[key], minlength=25).reshape(5, 5)
    iou = np.diag(pairs) / (pairs.sum(axis=0) + pairs.sum(axis=1) - np.diag(pairs))
    assert iou.mean() < 0.55, iou


@given(masks(max_rows=20, max_cols=20, codes=(0, 2, 3)))
def test_masks_hold_only_their_codes(mask):
    assert mask.dtype == np.uint8
    assert 1 <= mask.shape[0] <= 20
    assert 1 <= mask.shape[1] <= 20
    assert set(np.unique(mask)) <= {0, 2, 3, NODATA}


@given(masks(nodata=False), st.data())
def test_masks_without_nodata(mask, data):
    assert NODATA not in mask
    part = data.draw(rects(*mask.shape))
    assert mask[part.slices_in(Rect(0, 0, *mask.shape))].size > 0


def test_patterns():
    assert ndimage.label(spiral(31, 24))[1] == 1
    assert 0.3 < spiral(31, 24).mean() < 0.6
    assert ndimage.label(checkerboard(6, 8))[1] == 24
    assert ndimage.label(rings(9, 9, 4, 4))[1] == 2
    np.testing.assert_array_equal(
        spiral(5, 5), [[1, 1, 1, 1, 1], [0, 0, 0, 0, 1], [1, 1, 1, 0, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]]
    )
