"""Vector labels on the grid of a scene."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine
from rasterio import CRS
from rasterio.features import rasterize

from geounet.config.data import Contact, Labels, Not
from geounet.errors import LabelError
from geounet.labels.frames import Frame
from geounet.labels.values import IGNORED, partial
from geounet.labels.vectors import UNKNOWN, VectorLayer, read_features
from geounet.types import Rect

CODES = {"land": 0, "building": 1, "road": 2, "contact": 3}
UTM = CRS.from_epsg(32645).to_wkt()
WHOLE = Rect(0, 0, 120, 100)


def frame(crs: str | None = UTM, gsd: float | None = 0.5) -> Frame:
    """100 × 120 px of half a metre in Nepal."""
    return Frame("scene", WHOLE.shape, (0.5, 0.0, 350000.0, 0.0, -0.5, 3056000.0), crs, gsd)


def box(col: float, row: float, width: float, height: float) -> Any:
    """Rectangle given in pixels of the frame."""
    x, y = 350000 + col * 0.5, 3056000 - row * 0.5
    return shapely.box(x, y - height * 0.5, x + width * 0.5, y)


def save(path: Path, shapes: list[Any], crs: Any = UTM, **columns: Any) -> str:
    frame = geopandas.GeoDataFrame({**columns}, geometry=shapes, crs=crs)
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_file(path)
    return str(path)


def read(file: str, grid: Frame | None = None, rect: Rect = WHOLE, **keys: Any) -> Any:
    spec = Labels.model_validate({"files": [file], **keys})
    return VectorLayer(read_features(file, spec, CODES), spec, CODES, grid or frame()).read(rect)


@pytest.mark.parametrize(
    ("crs", "ending"),
    [
        ("EPSG:32645", ".gpkg"),
        ("EPSG:4326", ".geojson"),
        ("EPSG:3857", ".fgb"),
        ("EPSG:4326", ".shp"),
        ("EPSG:4326", ".parquet"),
    ],
)
def test_polygons_in_any_crs_are_burnt_where_they_lie(tmp_path: Path, crs: str, ending: str) -> None:
    shapes = [box(10, 20, 31, 13), box(50, 60, 20, 40)]
    there = geopandas.GeoSeries(shapes, crs=UTM).to_crs(crs).tolist()
    found = read(save(tmp_path / f"a{ending}", there, crs), **{"class": "building"})
    truth = rasterize(shapes, WHOLE.shape, transform=Affine(*frame().transform))
    assert truth.sum() == 31 * 13 + 20 * 40
    np.testing.assert_array_equal(found == 1, truth == 1)
    assert (found[truth == 0] == UNKNOWN).all()


def test_windows_are_crops_of_the_whole(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    shapes = [
        shapely.affinity.rotate(box(*rng.uniform(0, 100, 2), *rng.uniform(3, 30, 2)), rng.uniform(0, 90))
        for _ in range(40)
    ]
    file = save(tmp_path / "a.gpkg", shapes, kind=[("building", "road")[k % 2] for k in range(40)])
    keys = {"column": "kind", "values": {"building": "building", "road": "road"}, "border_m": 0.7}
    whole = read(file, **keys)
    assert {UNKNOWN, 1, 2, IGNORED} == set(np.unique(whole).tolist())
    for _ in range(20):
        y, x = (int(v) for v in rng.integers(0, 90, 2))
        rect = Rect(y, x, min(y + 37, 120), min(x + 23, 100))
        np.testing.assert_array_equal(read(file, rect=rect, **keys), whole[rect.slices_in(WHOLE)])


def test_what_values_lists_first_lies_on_top(tmp_path: Path) -> None:
    file = save(tmp_path / "a.gpkg", [box(0, 0, 20, 20), box(10, 10, 20, 20)], kind=[5, 7])
    one = read(file, column="kind", values={"5": "building", "7": "road"})
    other = read(file, column="kind", values={"7": "road", "5": "building"})
    assert (one[15, 15], other[15, 15]) == (1, 2)
    assert (one[5, 5], one[25, 25]) == (1, 2)


@pytest.mark.parametrize(("epsg", "latitude"), [(3857, 60.0), (4326, 60.0), (32633, 0.0)])
def test_widths_are_metres_on_the_ground(tmp_path: Path, epsg: int, latitude: float) -> None:
    # half a metre a pixel on the ground: in Web Mercator at 60° that is a metre of the map, in degrees they differ
    size = {3857: (1.0, 1.0), 4326: (0.5 / 55800.0, 0.5 / 111412.0), 32633: (0.5, 0.5)}[epsg]
    corner = {3857: (1.0e6, 8.39974e6), 4326: (10.0, 60.0), 32633: (500000.0, 5.0e5)}[epsg]
    grid = Frame("s", (100, 100), (size[0], 0, corner[0], 0, -size[1], corner[1]), CRS.from_epsg(epsg).to_wkt(), 0.5)
    x, y = corner[0] + 50 * size[0], corner[1] - 50 * size[1]
    down = shapely.LineString([(x, corner[1]), (x, corner[1] - 100 * size[1])])
    across = shapely.LineString([(corner[0], y), (corner[0] + 100 * size[0], y)])
    file = save(tmp_path / "a.gpkg", [down, across], CRS.from_epsg(epsg), width=[8.0, 5.0])
    found = read(file, grid, Rect(0, 0, 100, 100), **{"class": "road", "width_m": "width"}) == 2
    assert found[10].sum() == pytest.approx(16, abs=1)
    assert found[:, 10].sum() == pytest.approx(10, abs=1)
    points = save(tmp_path / "p.gpkg", [shapely.Point(x, y)], CRS.from_epsg(epsg))
    found = read(points, grid, Rect(0, 0, 100, 100), **{"class": "building", "width_m": 20}) == 1
    assert found.sum() == pytest.approx(math.pi * 20**2, rel=0.05)


def test_contacts_are_the_pixels_near_to_two_buildings(tmp_path: Path) -> None:
    shapes = [box(10, 10, 20, 30), box(30, 10, 20, 30), box(10, 43, 45, 20), box(80, 90, 5, 5)]
    file = save(tmp_path / "a.gpkg", shapes)
    found = read(file, **{"class": "building", "contact": {"distance_m": 1.1}})
    at = shapely.points(*np.meshgrid(350000 + (np.arange(100) + 0.5) * 0.5, 3056000 - (np.arange(120) + 0.5) * 0.5))
    near = sum((shapely.distance(at, shape) <= 1.1).astype(int) for shape in shapes)
    expected = near >= 2
    assert expected.sum() > 150
    # a circle is a polygon here, so pixels at its rim may differ
    assert (found == 3).sum() == pytest.approx(expected.sum(), rel=0.02)
    assert ((found == 3) & ~expected).sum() == 0
    inside = rasterize(shapes, WHOLE.shape, transform=Affine(*frame().transform)) == 1
    assert (found[inside & ~expected] == 1).all()


def test_contacts_may_bar_a_class(tmp_path: Path) -> None:
    file = save(tmp_path / "a.gpkg", [box(10, 10, 20, 30), box(30, 10, 20, 30)])
    found = read(file, **{"class": "building", "contact": Contact(class_=Not(not_="building"), distance_px=2)})
    assert found[20, 26:34].tolist() == [1, 1, *[partial(1)] * 4, 1, 1]


@pytest.mark.parametrize("distance", [{"distance_m": 1.0}, {"distance_px": 2}])
def test_a_building_that_is_mapped_twice_or_in_parts_has_no_contact_in_it(
    tmp_path: Path, distance: dict[str, Any]
) -> None:
    house, beside = box(10, 10, 40, 30), box(53, 10, 20, 30)
    halves = [box(10, 10, 20, 30), box(30, 10, 20, 30)]
    keys = {"class": "building", "contact": distance}
    for shapes in ([house, house], [house, box(20, 15, 10, 10)], [*halves, house], [house, box(10.5, 10, 40, 30)]):
        found = read(save(tmp_path / "a.gpkg", shapes), **keys)
        assert set(np.unique(found).tolist()) == {UNKNOWN, 1}
        # it is kept from its neighbour as before
        alone, twice = (read(save(tmp_path / "b.gpkg", [*s, beside]), **keys) for s in ([house], shapes))
        assert (alone == 3).any()
        assert not ((alone == 3) & (twice != 3)).any()


def test_buildings_that_overlap_a_little_are_kept_apart_by_a_band(tmp_path: Path) -> None:
    file = save(tmp_path / "a.gpkg", [box(10, 10, 40, 30), box(40, 10, 40, 30)])
    found = read(file, **{"class": "building", "contact": {"distance_m": 1.0}})
    assert found[20, 36:54].tolist() == [1, 1, *[3] * 4, *[1] * 12]


@pytest.mark.parametrize("contact", ["contact", {"not": "building"}])
def test_contacts_are_between_buildings_only(tmp_path: Path, contact: Any) -> None:
    shapes = [box(10, 10, 20, 30), box(30, 10, 20, 30), box(50, 5, 8, 60), box(57, 5, 20, 20)]
    file = save(tmp_path / "a.gpkg", shapes, kind=["house", "house", "street", "street"])
    keys = {"column": "kind", "values": {"house": "building", "street": "road"}}
    found = read(file, **keys, contact={"class": contact, "distance_m": 1.0})
    plain = read(file, **keys)
    rows, cols = np.nonzero(found != plain)
    assert (cols.min(), cols.max(), rows.min(), rows.max()) == (28, 31, 8, 41)


def test_contacts_of_classes_whose_names_do_not_tell(tmp_path: Path) -> None:
    codes = {"hut": 0, "road": 1, "barn": 2, "contact": 3}
    shapes = [box(10, 10, 20, 30), box(30, 10, 20, 30), box(50, 10, 8, 30), box(10, 40, 40, 20)]
    file = save(tmp_path / "a.gpkg", shapes, kind=["hut", "hut", "road", "barn"])
    values = {name: name for name in ("hut", "road", "barn")}

    def contacts(**keys: Any) -> Any:
        spec = Labels.model_validate({"files": [file], **keys})
        found = VectorLayer(read_features(file, spec, codes), spec, codes, frame()).read(WHOLE)
        return np.nonzero(found >= 3)

    rows, cols = contacts(column="kind", values=values, contact={"distance_m": 1.0})
    assert (cols.min(), cols.max()) == (28, 31)  # huts are kept from huts
    # the class that is barred is said to be the one
    rows, _ = contacts(column="kind", values=values, contact={"class": {"not": "barn"}, "distance_m": 1.0})
    assert not len(rows)
    # all features are of one class
    rows, cols = contacts(**{"class": "hut", "contact": {"distance_m": 1.0}})
    assert (cols.max(), rows.max()) == (51, 41)


@pytest.mark.parametrize("crs", ["EPSG:32645", "EPSG:4326", "EPSG:3857"])
def test_labels_reach_into_small_scenes(tmp_path: Path, crs: str) -> None:
    chip = Frame("chip", (128, 128), (0.5, 0.0, 350000.0, 0.0, -0.5, 3056000.0), UTM, 0.5)
    every = Rect(0, 0, 128, 128)

    def there(*shapes: Any) -> list[Any]:
        there: list[Any] = geopandas.GeoSeries(list(shapes), crs=UTM).to_crs(crs).tolist()
        return there

    line = shapely.LineString([(349000, 3056005), (351000, 3056005)])  # five metres above it
    for file in (
        save(tmp_path / "a.gpkg", there(line), crs),
        save(tmp_path / "b.gpkg", there(line, box(0, 100, 1, 1)), crs),
    ):
        for width, rows in ((8, 0), (12, 2), (16, 6), (20, 10)):
            found = read(file, chip, every, **{"class": "road", "width_m": width})[:64] == 2
            assert found.any(axis=1).sum() == rows
            assert found[:rows].sum() == pytest.approx(rows * 128, abs=rows)
    # a circle of 50 m, ten of them in the scene
    point = save(tmp_path / "p.gpkg", there(shapely.Point(349960, 3055968)), crs)
    found = read(point, chip, every, **{"class": "road", "width_m": 100}) == 2
    assert found.sum() == pytest.approx(4 * (50**2 * math.acos(0.8) - 40 * 30), rel=0.05)
    # of houses beyond the scene, what is about their outline, and between them
    house, other = box(-30, 20, 24, 40), box(-30, 62, 24, 40)
    file = save(tmp_path / "h.gpkg", there(house, other, box(60, 60, 5, 5)), crs)
    found = read(file, chip, every, **{"class": "building", "border_m": 5.0}) == IGNORED
    assert (found[20:60, :4].all(), found[20:60, 4].any(), found[115:].any()) == (True, False, False)
    found = read(file, chip, every, **{"class": "building", "contact": {"distance_m": 5.0}}) == 3
    assert found[59:63, :3].all()
    found = read(file, chip, every, **{"class": "building", "contact": {"distance_px": 10.0}}) == 3
    assert found[59:63, :3].all()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "nothing tells the features' class"),
        ({"column": "kind", "values": {"7": "road"}}, "kind has values that the job does not list: none, '5'"),
        ({"column": "kin", "values": {"7": "road"}}, "has no attribute 'kin'; it has kind"),
        ({"class": "road", "layer": "b"}, "has no layer 'b'; it has a"),
        ({"colours": {"#ffffff": "road"}}, "`colours` are for rasters"),
    ],
)
def test_layers_that_do_not_fit_are_refused(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    file = save(tmp_path / "a.gpkg", [box(0, 0, 9, 9)] * 3, kind=[5.0, 7.0, None])
    with pytest.raises(LabelError, match=message):
        read(file, **keys)


def test_other_values_may_be_skipped_ignored_or_a_class(tmp_path: Path) -> None:
    file = save(tmp_path / "a.gpkg", [box(0, 0, 9, 9), box(20, 20, 9, 9)], kind=["a", "b"])
    for others, value in (("skip", UNKNOWN), ("ignored", IGNORED), ("land", 0), ({"not": "road"}, partial(2))):
        found = read(file, column="kind", values={"a": "building"}, others=others)
        assert (found[4, 4], found[24, 24]) == (1, value)


def test_lines_need_a_width_and_empty_layers_are_refused(tmp_path: Path) -> None:
    line = shapely.LineString([(350000, 3056000), (350020, 3055990)])
    with pytest.raises(LabelError, match=r"a.gpkg: 1 lines have no width; give `width_m`"):
        read(save(tmp_path / "a.gpkg", [line]), **{"class": "road"})
    with pytest.raises(LabelError, match=r"b.gpkg: holds no features"):
        read(save(tmp_path / "b.gpkg", []), **{"class": "road"})
    with pytest.raises(LabelError, match=r"c.gpkg: holds no feature with a geometry"):
        read(save(tmp_path / "c.gpkg", [shapely.Polygon()]), **{"class": "road"})
    (tmp_path / "d.gpkg").write_text("no vectors")
    with pytest.raises(LabelError, match=r"d.gpkg: not a vector file that can be read"):
        read(str(tmp_path / "d.gpkg"), **{"class": "road"})


def test_metres_need_a_known_pixel_size_and_a_crs_a_georeferenced_scene(tmp_path: Path) -> None:
    line = save(tmp_path / "a.gpkg", [shapely.LineString([(350000, 3056000), (350020, 3055990)])])
    nowhere = Frame("s", (50, 50), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), None, None)
    with pytest.raises(LabelError, match=r"has a CRS \(EPSG:32645\), the scene s has none"):
        read(line, nowhere, **{"class": "road", "width_m": 4})
    with pytest.raises(LabelError, match="does not tell its ground sample distance"):
        read(line, frame(gsd=None), **{"class": "road", "width_m": 4})


def test_a_spike_leaves_the_polygon(tmp_path: Path) -> None:
    corners = [(350010, 3055990), (350020, 3055990), (350025, 3055990), (350020, 3055990), (350020, 3055980),
               (350010, 3055980)]  # fmt: skip
    flat = [(350030, 3055990), (350040, 3055990), (350030, 3055990)]
    file = save(tmp_path / "a.gpkg", [shapely.Polygon(flat), shapely.Polygon(corners), box(80, 80, 10, 10)])
    found = read_features(file, Labels.model_validate({"files": [file], "class": "building"}), CODES)
    assert {shape.geom_type for shape in found.shapes} <= {"Polygon", "MultiPolygon"}
    assert sorted(shapely.area(found.shapes)) == [25, 100]
    assert len(found.values) == len(found.widths) == 2
    # so that it has an outline
    assert (read(file, **{"class": "building", "border_m": 1})[20:40, 18:22] == IGNORED).all()
    bare = save(tmp_path / "b.gpkg", [shapely.Polygon(flat)])
    with pytest.raises(LabelError, match=r"b.gpkg: holds no feature with a geometry"):
        read(bare, **{"class": "building"})


def test_a_file_that_is_written_anew_is_read_anew(tmp_path: Path) -> None:
    for ending in (".geojson", ".shp"):
        for k, kind in enumerate(("road", "land")):
            # of one size, and the geometry of the shapefile's .shp stays as it is
            file = save(tmp_path / f"a{ending}", [box(10, 10, 9, 9)], kind=[kind])
            for path in tmp_path.glob("a.*"):
                if ending != ".shp" or path.suffix == ".dbf":
                    os.utime(path, ns=(k * 10**9, k * 10**9))
                else:
                    os.utime(path, ns=(0, 0))
            found = read(file, column="kind", values={"road": "road", "land": "land"})
            assert found[15, 15] == CODES[kind]


def test_widths_may_be_text(tmp_path: Path) -> None:
    across = [shapely.LineString([(350000, 3056000 - y), (350060, 3056000 - y)]) for y in (10, 20, 30)]
    shapes, area = [*across, box(0, 80, 10, 10)], None
    file = save(tmp_path / "a.gpkg", shapes, wide=["6 m", "2.5", " 4m", area])
    found = read(file, **{"class": "road", "width_m": "wide"})
    assert [(found[rows, 50] == 2).sum() for rows in (slice(0, 30), slice(30, 50), slice(50, 75))] == [12, 5, 8]
    for text in ("6 ft", "6;4", "wide", "-6"):
        file = save(tmp_path / "b.gpkg", shapes, wide=["6 m", "2.5", text, area])
        with pytest.raises(LabelError, match=rf"b.gpkg: wide holds '{text}', expected widths in metres, as in 6.5"):
            read(file, **{"class": "road", "width_m": "wide"})
    file = save(tmp_path / "c.gpkg", shapes, wide=["6 m", "", "4", area])
    with pytest.raises(LabelError, match=r"c.gpkg: 1 lines have no width"):
        read(file, **{"class": "road", "width_m": "wide"})


def test_what_parts_share_is_no_hole(tmp_path: Path) -> None:
    one, other = box(10, 10, 20, 30), box(20, 20, 30, 30)
    loop = [(60, 10), (90, 10), (90, 40), (60, 40), (60, 20), (80, 20), (80, 30), (60, 30)]  # its end lies on it
    twice = shapely.Polygon([(350000 + x * 0.5, 3056000 - y * 0.5) for x, y in loop])
    assert not twice.is_valid
    file = save(tmp_path / "a.gpkg", [shapely.MultiPolygon([one, other]), twice])
    apart = save(tmp_path / "b.gpkg", [one, other, box(60, 10, 30, 30)])
    found, expected = (read(name, **{"class": "building"}) for name in (file, apart))
    np.testing.assert_array_equal(found, expected)


def test_bow_ties_and_holes(tmp_path: Path) -> None:
    # an invalid outline is mended, a hole stays open
    x, y = 350000.0, 3056000.0
    tie = shapely.Polygon([(x, y), (x + 10, y - 10), (x + 10, y), (x, y - 10)])
    ring = shapely.Polygon(box(40, 40, 30, 30).exterior, [box(50, 50, 10, 10).exterior])
    found = read(save(tmp_path / "a.gpkg", [tie, ring]), **{"class": "building"})
    assert found[10, 2] == 1
    assert found[2, 10] == UNKNOWN
    assert (found[45, 45], found[55, 55]) == (1, UNKNOWN)
