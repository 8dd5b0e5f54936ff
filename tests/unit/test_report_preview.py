from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine
from PIL import Image

from geounet.config.card import PALETTE, ClassInfo, Kind
from geounet.errors import SceneError
from geounet.raster.scene import SceneInfo, SceneSpec, describe
from geounet.report import picture, sketch
from geounet.report.picture import InputPicture, MaskPicture, paint_mask, read_input, read_mask, shown_bands, stretch
from geounet.report.preview import read_overview, round_length, write_preview
from geounet.report.task import Ahead
from geounet.types import Rect

CLASSES = (
    ClassInfo(name="background", code=0, colour="#8d99a6", kind=Kind.background),
    ClassInfo(name="building", code=1, colour="#e6194b", kind=Kind.building),
    ClassInfo(name="road", code=2, colour="#f5b800", kind=Kind.road),
)
TRANSFORM = Affine(0.5, 0, 354_000, 0, -0.5, 3_057_000)
Array = Any


def raster(path: Path, values: Array, crs: str | None = "EPSG:32645", **options: Any) -> Path:
    bands, rows, cols = values.shape
    where = {"crs": crs, "transform": TRANSFORM} if crs else {}
    profile = {"driver": "GTiff", "count": bands, "height": rows, "width": cols, "dtype": values.dtype, **where}
    with rasterio.open(path, "w", **(profile | options)) as dataset:
        dataset.write(values)
    return path


def imagery(rows: int, cols: int, bands: int = 3) -> Array:
    y, x = np.mgrid[:rows, :cols]
    return np.stack([((x * (b + 1) + y) % 251).astype(np.uint8) for b in range(bands)])


def setup(folder: Path, rows: int = 60, cols: int = 80, **spec: Any) -> tuple[SceneSpec, SceneInfo, Path]:
    """Make a scene and its mask: building left, road right, a corner without data."""
    source = raster(folder / "scene.tif", imagery(rows, cols), photometric="RGB")
    scene = SceneSpec("scene", (str(source),), **spec)
    info = describe(scene)
    codes = np.ones((1, info.height, info.width), dtype=np.uint8)
    codes[:, :, info.width // 2 :] = 2
    codes[:, : info.height // 4, : info.width // 4] = 255
    return scene, info, raster(folder / "mask.tif", codes, nodata=255)


def geopackage(path: Path, crs: str | None = "EPSG:32645") -> Path:
    """Buildings by (row, col) pixel boxes of the grid, one with a courtyard; a road; empty nodes."""
    a, c, e, f = TRANSFORM.a, TRANSFORM.c, TRANSFORM.e, TRANSFORM.f

    def box(y0: float, x0: float, y1: float, x1: float) -> shapely.Polygon:
        return shapely.box(c + x0 * a, f + y1 * e, c + x1 * a, f + y0 * e)

    courtyard = box(10, 10, 40, 40).difference(box(20, 20, 30, 30))
    buildings = gpd.GeoDataFrame(
        {"class": ["building"] * 3, "area_m2": [200.0, 1.0, 4.0]},
        geometry=[courtyard, box(50, 50, 52, 52), box(50, 60, 54, 64)],
        crs=crs,
    )
    road = shapely.LineString([(c, f + 45 * e), (c + 80 * a, f + 45 * e)])
    pyogrio.write_dataframe(buildings, path, layer="buildings", geometry_type="Polygon")
    pyogrio.write_dataframe(gpd.GeoDataFrame({"length_m": [40.0]}, geometry=[road], crs=crs), path, layer="road_edges")
    nodes = gpd.GeoDataFrame({"node": np.array([], dtype=np.int64)}, geometry=gpd.GeoSeries([]), crs=crs)
    pyogrio.write_dataframe(nodes, path, layer="road_nodes", geometry_type="Point")
    return path


def pixels(path: Path) -> Array:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def close(image: Array, colour: str, tolerance: int = 3) -> Array:
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return (np.abs(image - wanted) <= tolerance).all(axis=-1)


# The whole picture


def test_shows_input_mask_and_vectors_in_equal_pictures(tmp_path: Path) -> None:
    scene, info, mask = setup(tmp_path)
    dest = tmp_path / "made" / "preview.png"
    write_preview(dest, scene, info, mask, CLASSES, geopackage(tmp_path / "v.gpkg"), size=160)
    image = pixels(dest)
    assert image.shape[1] > 3 * 160
    assert 120 < image.shape[0] < 260
    # The mask is 160 × 120 px: right half road, left half building but for a hatched sixteenth of the whole.
    assert close(image, "#f5b800").sum() == pytest.approx(80 * 120, rel=0.05)
    assert close(image, "#e6194b").sum() == pytest.approx(80 * 120 - 40 * 30, rel=0.06)
    assert [p.name for p in dest.parent.iterdir()] == ["preview.png"]


def test_same_input_same_bytes(tmp_path: Path) -> None:
    scene, info, mask = setup(tmp_path)
    gpkg = geopackage(tmp_path / "v.gpkg")
    for name in ("a.png", "b.png"):
        write_preview(tmp_path / name, scene, info, mask, CLASSES, gpkg, size=120)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_what_was_read_before_gives_the_same_bytes(tmp_path: Path) -> None:
    scene, info, mask = setup(tmp_path, rows=90, cols=70)
    before = read_overview(scene, info, size=120)
    write_preview(tmp_path / "a.png", scene, info, mask, CLASSES, None, size=120)
    write_preview(tmp_path / "b.png", scene, info, mask, CLASSES, None, size=120, overview=before)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    before.planes[:] = 7  # and it is what is shown
    write_preview(tmp_path / "b.png", scene, info, mask, CLASSES, None, size=120, overview=before)
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


def test_reading_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene, info, _ = setup(tmp_path)
    ahead = Ahead(lambda: (scene, info))
    ahead.end()
    assert ahead.overview(scene, replace(info, fingerprint="changed")) is None
    found = ahead.overview(scene, info)
    assert found is not None
    np.testing.assert_array_equal(found.planes, read_overview(scene, info).planes)
    assert ahead.overview(scene, info) is None, "it is held no longer than needed"
    monkeypatch.setattr("geounet.report.task._QUICK_PIXELS", info.width * info.height - 1)
    large = Ahead(lambda: (scene, info))
    large.end()
    assert large.overview(scene, info) is None


def test_reading_ahead_fails_in_silence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    scene, info, _ = setup(tmp_path)
    Path(scene.files[0]).unlink()
    ahead = Ahead(lambda: (scene, info))
    ahead.end()
    assert ahead.overview(scene, info) is None
    assert capfd.readouterr().err == ""


def test_ignores_the_users_matplotlibrc(tmp_path: Path) -> None:
    import matplotlib as mpl

    scene, info, mask = setup(tmp_path)
    write_preview(tmp_path / "a.png", scene, info, mask, CLASSES, None, size=120)
    with mpl.rc_context({"font.size": 30, "savefig.transparent": True, "savefig.bbox": "tight"}):
        write_preview(tmp_path / "b.png", scene, info, mask, CLASSES, None, size=120)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_large_scenes_get_a_detail_where_the_classes_mix(tmp_path: Path) -> None:
    rows, cols = 600, 800
    source = raster(tmp_path / "s.tif", imagery(rows, cols), photometric="RGB")
    scene = SceneSpec("s", (str(source),))
    codes = np.zeros((1, rows, cols), dtype=np.uint8)
    codes[:, 440:560:2, 610:770] = 1
    codes[:, 441:560:2, 610:770] = 2
    mask = raster(tmp_path / "m.tif", codes, nodata=255)
    info = describe(scene)
    write_preview(tmp_path / "small.png", scene, info, mask, CLASSES, None, size=400)
    write_preview(tmp_path / "large.png", scene, info, mask, CLASSES, None, size=160)
    assert pixels(tmp_path / "small.png").shape[0] < 1.4 * 300  # one row
    detail = pixels(tmp_path / "large.png")
    assert detail.shape[0] > 2 * 120  # two rows
    # At full resolution the stripes of the mixed part are there, one pixel each.
    assert close(detail, "#e6194b").sum() > 0.25 * 160 * 120
    assert close(detail, "#f5b800").sum() > 0.25 * 160 * 120


@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (3, 500), (500, 3)])
def test_odd_shapes(tmp_path: Path, rows: int, cols: int) -> None:
    source = raster(tmp_path / "s.tif", imagery(rows, cols, 1))
    scene = SceneSpec("s", (str(source),))
    mask = raster(tmp_path / "m.tif", np.full((1, rows, cols), 255, np.uint8), nodata=255)
    write_preview(tmp_path / "p.png", scene, describe(scene), mask, CLASSES, None, size=100)
    assert min(pixels(tmp_path / "p.png").shape[:2]) > 20


def test_without_georeference_and_with_names_that_look_like_formulas(tmp_path: Path) -> None:
    source = tmp_path / "s.png"
    Image.fromarray(np.moveaxis(imagery(50, 60), 0, -1)).save(source)
    scene = SceneSpec("a_$x^2$_{", (str(source),))
    mask = tmp_path / "m.png"
    Image.fromarray(np.ones((50, 60), np.uint8)).save(mask)
    classes = [
        ClassInfo(name="_hidden", code=0, colour="#8d99a6"),
        ClassInfo(name="$\\frac{", code=1, colour="#e6194b"),
    ]
    write_preview(tmp_path / "p.png", scene, describe(scene), mask, classes, None, size=100)
    assert close(pixels(tmp_path / "p.png"), "#e6194b").sum() > 80 * 100 * 0.9


def test_many_classes_keep_the_legend_short(tmp_path: Path) -> None:
    scene, info, _ = setup(tmp_path)
    classes = [ClassInfo(name=f"class {i}", code=i, colour=PALETTE[i % len(PALETTE)]) for i in range(254)]
    codes = (np.indices((info.height, info.width))[1] // 20).astype(np.uint8)[None]
    mask = raster(tmp_path / "many.tif", codes, nodata=255)
    write_preview(tmp_path / "p.png", scene, info, mask, classes, None, size=120)
    assert pixels(tmp_path / "p.png").shape[0] < 250


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    _, info, mask = setup(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(SceneError, match="no such file"):
        write_preview(out / "p.png", SceneSpec("x", (str(tmp_path / "none.tif"),)), info, mask, CLASSES, None)
    assert list(out.iterdir()) == []


# Pixels


@pytest.mark.parametrize(
    ("names", "indexes"),
    [
        (("blue", "green", "red", "nir"), (2, 1, 0)),
        (("B02", "B03", "B04", "B08"), (2, 1, 0)),
        (("nir", "swir", "Red"), (0, 1, 2)),
        (("band1", "band2"), (0,)),
        (("gray",), (0,)),
    ],
)
def test_bands_by_name(names: tuple[str, ...], indexes: tuple[int, ...]) -> None:
    assert shown_bands(names) == indexes


def test_stretch_only_where_needed() -> None:
    def grey(values: Array) -> InputPicture:
        plane = np.asarray(values, dtype=float).reshape(1, 1, -1)
        return InputPicture(plane, np.ones(plane.shape[1:], dtype=bool), ("gray",))

    full = grey(np.arange(256))
    assert stretch(full, "uint8") is None
    dull = grey(np.linspace(100, 140, 256))
    ((low, high),) = stretch(dull, "uint8") or [(0, 0)]
    assert (low, high) == pytest.approx((100.8, 139.2))
    reflectance = grey(np.append(np.linspace(0, 3000, 1000), 65535))
    ((low, high),) = stretch(reflectance, "uint16") or [(0, 0)]
    assert high < 3000  # the outlier does not make the picture black
    assert stretch(reflectance._replace(valid=~reflectance.valid), "uint16") == [(0.0, 1.0)]


def test_nodata_and_damage_do_not_count_in_the_stretch(tmp_path: Path) -> None:
    values = np.full((1, 40, 40), 1000, np.uint16)
    values[:, 20:, :] = np.arange(40)[None, None, :] + 2000
    source = raster(tmp_path / "s.tif", values, nodata=1000)
    scene = SceneSpec("s", (str(source),))
    shown = read_input(scene, describe(scene), Rect(0, 0, 40, 40), (40, 40))
    assert not shown.valid[:20].any()
    assert shown.valid[20:].all()
    ((low, _),) = stretch(shown, "uint16") or [(0, 0)]
    assert low >= 2000


def test_fill_named_by_the_job_is_nodata_only_in_all_bands(tmp_path: Path) -> None:
    values = imagery(10, 10)
    values[:, :5, :] = 255
    values[0, 7, 7] = 255
    source = raster(tmp_path / "s.tif", values, photometric="RGB")
    scene = SceneSpec("s", (str(source),), nodata=(255.0,))
    shown = read_input(scene, describe(scene), Rect(0, 0, 10, 10), (10, 10))
    assert not shown.valid[:5].any()
    assert shown.valid[5:].all()


def test_a_window_of_a_scene_shows_that_window(tmp_path: Path) -> None:
    west, north = TRANSFORM @ (20, 10)
    east, south = TRANSFORM @ (60, 50)
    scene, info, _ = setup(tmp_path, bbox=(west, south, east, north))
    assert (info.height, info.width) == (40, 40)
    shown = read_input(scene, info, Rect(5, 6, 35, 36), (30, 30))
    np.testing.assert_array_equal(shown.planes, imagery(60, 80)[:, 15:45, 26:56])


def test_files_of_several_resolutions_and_chosen_bands(tmp_path: Path) -> None:
    fine = raster(tmp_path / "fine.tif", np.full((1, 40, 60), 10, np.uint8))
    coarse = np.zeros((2, 20, 30), np.uint8)
    coarse[1, :, 15:] = 200
    raster(tmp_path / "coarse.tif", coarse, transform=TRANSFORM @ Affine.scale(2))
    scene = SceneSpec("s", (str(fine), str(tmp_path / "coarse.tif")), bands=(3, 1, 2))
    shown = read_input(scene, describe(scene), Rect(0, 20, 40, 60), (40, 40))
    np.testing.assert_array_equal(shown.planes[0, :, :10], 0)
    np.testing.assert_array_equal(shown.planes[0, :, 10:], 200)
    np.testing.assert_array_equal(shown.planes[1], 10)


def test_reads_overviews_by_average(tmp_path: Path) -> None:
    values = np.zeros((1, 512, 512), np.uint8)
    values[:, :, ::2] = 200
    source = raster(tmp_path / "s.tif", values)
    scene = SceneSpec("s", (str(source),))
    shown = read_input(scene, describe(scene), Rect(0, 0, 512, 512), (64, 64))
    np.testing.assert_allclose(shown.planes, 100)


def test_a_damaged_file_is_shown_as_far_as_it_goes(tmp_path: Path) -> None:
    source = raster(
        tmp_path / "s.tif",
        imagery(512, 512),
        tiled=True,
        blockxsize=64,
        blockysize=64,
        photometric="RGB",
        compress="lzw",
    )
    scene = SceneSpec("s", (str(source),))
    info = describe(scene)
    whole = source.read_bytes()
    source.write_bytes(whole[: len(whole) * 3 // 4] + b"\0" * (len(whole) // 4))
    shown = read_input(scene, info, Rect(0, 0, 512, 512), (128, 128))
    assert 0.5 < shown.valid.mean() < 0.95
    assert shown.valid[:32].all()
    np.testing.assert_allclose(shown.planes[:, :32].mean(), imagery(512, 512)[:, :128].mean(), atol=1)


def test_mask_is_read_by_the_most_frequent_class(tmp_path: Path) -> None:
    codes = np.zeros((1, 90, 90), np.uint8)
    codes[:, ::3, :] = 2  # a third
    picture_ = read_mask(raster(tmp_path / "m.tif", codes, nodata=255), CLASSES, Rect(0, 0, 90, 90), (30, 30))
    assert set(np.unique(picture_.codes)) == {0}


def test_multilabel_masks_lie_over_one_another(tmp_path: Path) -> None:
    codes = np.zeros((2, 4, 4), np.uint8)
    codes[:, 0] = 255
    codes[0, 1:3] = 1
    codes[1, 2:4] = 1
    path = tmp_path / "m.tif"
    with rasterio.open(
        path, "w", driver="GTiff", count=2, height=4, width=4, dtype="uint8", nodata=255, transform=TRANSFORM
    ) as dataset:
        dataset.write(codes)
        dataset.descriptions = ("road", "building")  # other than the order of the classes
    shown = read_mask(path, CLASSES[1:], Rect(0, 0, 4, 4), (4, 4))
    assert [c.name for c, _ in shown.planes()] == ["road", "building"]
    painted = paint_mask(shown)
    assert shown.nodata[0].all()
    assert not shown.nodata[1:].any()
    road, both, building = (painted[i, 0].astype(int) for i in (1, 2, 3))
    assert np.abs(road - CLASSES[2].rgb).sum() < np.abs(road - CLASSES[1].rgb).sum()
    assert np.abs(building - CLASSES[1].rgb).sum() < np.abs(building - CLASSES[2].rgb).sum()
    assert (both != road).any()
    assert (both != building).any()


def test_codes_without_a_class_are_grey() -> None:
    shown = MaskPicture(np.array([[[7, 1]]], dtype=np.uint8), CLASSES)
    np.testing.assert_array_equal(paint_mask(shown)[0], [[128, 128, 128], CLASSES[1].rgb])


def test_hatching_covers_only_what_is_missing() -> None:
    painted = np.zeros((30, 30, 3), np.uint8)
    where = np.zeros((30, 30), dtype=bool)
    where[:15] = True
    picture.hatch(painted, where)
    assert len(np.unique(painted[:15].reshape(-1, 3), axis=0)) == 2
    assert painted[:15].min() > 150
    assert not painted[15:].any()


# Vectors


def outlines(path: Path, info: SceneInfo, rect: Rect, shape: tuple[int, int], layer: str) -> Array:
    (chosen,) = [found for found in sketch.layers(path, info) if found.name == layer]
    return [batch.outline for batch in sketch.batches(chosen, info, rect, shape)]


def test_vectors_lie_on_their_pixels(tmp_path: Path) -> None:
    _, info, _ = setup(tmp_path)
    path = geopackage(tmp_path / "v.gpkg")
    (outline,) = outlines(path, info, Rect(0, 0, 60, 80), (120, 160), "buildings")
    xy = np.asarray(outline.vertices)
    assert xy.min(axis=0) == pytest.approx([20, 20])
    assert xy.max(axis=0) == pytest.approx([128, 108])
    (outline,) = outlines(path, info, Rect(40, 20, 60, 60), (20, 40), "road_edges")
    assert np.asarray(outline.vertices) == pytest.approx(np.array([[-16, 5], [56, 5]])), "cut off beyond the picture"


def test_courtyards_stay_open(tmp_path: Path) -> None:
    _, info, _ = setup(tmp_path)
    (outline,) = outlines(geopackage(tmp_path / "v.gpkg"), info, Rect(0, 0, 60, 80), (60, 80), "buildings")
    # Rings of opposite direction: the nonzero rule of the renderer leaves the hole.
    rings = [shapely.LinearRing(xy[:, :2]) for xy in outline.to_polygons(closed_only=True)]
    assert sorted(ring.is_ccw for ring in rings) in ([False, True, True, True], [False, False, False, True])
    hole = min((r for r in rings if r.intersects(shapely.Point(20, 20))), key=lambda r: shapely.Polygon(r).area)
    outer = max(rings, key=lambda r: shapely.Polygon(r).area)
    assert hole.is_ccw != outer.is_ccw


def test_empty_layers_count_and_draw_nothing(tmp_path: Path) -> None:
    _, info, _ = setup(tmp_path)
    path = geopackage(tmp_path / "v.gpkg")
    counts = {layer.name: layer.features for layer in sketch.layers(path, info)}
    assert counts == {"buildings": 3, "road_edges": 1, "road_nodes": 0}
    assert outlines(path, info, Rect(0, 0, 60, 80), (60, 80), "road_nodes") == []


def test_of_too_many_features_the_largest_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sketch, "LIMIT", 2)
    _, info, _ = setup(tmp_path)
    path = geopackage(tmp_path / "v.gpkg")
    (layer,) = [found for found in sketch.layers(path, info) if found.name == "buildings"]
    assert layer.note == "largest 2 drawn"
    (outline,) = outlines(path, info, Rect(0, 0, 60, 80), (60, 80), "buildings")
    corners = {tuple(v) for v in np.asarray(outline.vertices).round(6).tolist()}
    assert (60.0, 50.0) in corners
    assert (50.0, 50.0) not in corners  # the smallest
    # In a detail the window decides, not the size.
    (outline,) = outlines(path, info, Rect(48, 48, 60, 56), (12, 8), "buildings")
    assert (2.0, 2.0) in {tuple(v) for v in np.asarray(outline.vertices).round(6).tolist()}


def test_without_sizes_an_even_choice_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sketch, "LIMIT", 2)
    _, info, _ = setup(tmp_path)
    without = SceneInfo(**(info.to_dict() | {"crs_wkt": None}))
    (layer,) = [x for x in sketch.layers(geopackage(tmp_path / "v.gpkg"), without) if x.name == "buildings"]
    assert layer.note == "1 in 2 drawn"
    (batch,) = sketch.batches(layer, without, Rect(0, 0, 60, 80), (60, 80))
    corners = {tuple(v) for v in np.asarray(batch.outline.vertices).round(6).tolist()}
    assert {(10.0, 10.0), (60.0, 50.0)} <= corners  # first and third
    assert (50.0, 50.0) not in corners


@pytest.mark.parametrize(
    ("room", "label"),
    [(0.034, "2 cm"), (0.7, "50 cm"), (1.0, "1 m"), (49.9, "20 m"), (730, "500 m"), (2.1e6, "2,000 km")],
)
def test_scale_bars_are_round(room: float, label: str) -> None:
    length, text = round_length(room)
    assert text == label
    assert room / 2.5 <= length <= room


def test_a_real_scene(tmp_path: Path, shared_data: Path) -> None:
    source = shared_data / "derived" / "banepa_rot30_rgba_utm45n.tif"
    scene = SceneSpec("turned", (str(source),))
    info = describe(scene)
    with rasterio.open(source) as dataset:
        alpha = dataset.read(4)[None]
    mask = raster(
        tmp_path / "m.tif", np.where(alpha > 0, 1, 255).astype(np.uint8), nodata=255, transform=Affine(*info.transform)
    )
    write_preview(tmp_path / "p.png", scene, info, mask, CLASSES, None, size=200)
    image = pixels(tmp_path / "p.png")
    # The corner without image is hatched, not black, in all three pictures.
    assert close(image, "#000000", 0).mean() < 0.005
    assert close(image, "#e6194b").mean() > 0.2
