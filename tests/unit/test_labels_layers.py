"""Layers of labels in order of priority, their files, and the area that is completely labelled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely
from rasterio import CRS

from geounet.config.data import Data
from geounet.errors import JobError, LabelError
from geounet.labels.frames import Frame
from geounet.labels.layers import Stack, expand, files_of
from geounet.labels.values import IGNORED, partial
from geounet.types import Rect
from tests.support.rasters import NORTH_UP, UTM, write

CODES = {"land": 0, "building": 1, "road": 2}
SHAPE = (60, 80)
WHOLE = Rect(0, 0, *SHAPE)
HERE = Frame("scene", SHAPE, tuple(NORTH_UP)[:6], CRS.from_string(UTM).to_wkt(), 0.5)
NOWHERE = Frame("scene", SHAPE, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), None, None)


def box(x0: float, y0: float, x1: float, y1: float) -> Any:
    """Rectangle given in pixels of the scene."""
    return shapely.box(400000 + x0 / 2, 5800000 - y1 / 2, 400000 + x1 / 2, 5800000 - y0 / 2)


def save(path: Path, *shapes: Any, crs: Any = UTM) -> str:
    geopandas.GeoDataFrame(geometry=list(shapes), crs=crs).to_file(path)
    return path.name


def stack(root: Path, frame: Frame = HERE, scene: str = "s.tif", **keys: Any) -> Stack:
    data = Data.model_validate({"scenes": scene, **keys})
    path = root / scene
    return Stack(files_of(data, CODES, [frame], [path], root, "data[0]"), data.complete, CODES, frame, str(path), root)


def test_the_first_layer_that_knows_a_pixel_decides(tmp_path: Path) -> None:
    roads = save(tmp_path / "roads.gpkg", box(0, 20, 80, 30))
    houses = save(tmp_path / "houses.gpkg", box(10, 10, 40, 40))
    layers = [{"files": roads, "class": "road"}, {"files": houses, "class": "building"}]
    for order in (1, -1):
        found = stack(tmp_path, labels=layers[::order]).read(WHOLE)
        expected = np.full(SHAPE, IGNORED)
        expected[10:40, 10:40] = 1
        expected[20:30] = 2
        if order == -1:
            expected[10:40, 10:40] = 1
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("rest", "value"), [("land", 0), ({"not": "building"}, partial(1)), ("ignored", IGNORED)])
def test_the_rest_is_known_where_everything_is_labelled(tmp_path: Path, rest: Any, value: int) -> None:
    labels = [{"files": save(tmp_path / "houses.gpkg", box(10, 10, 40, 40)), "class": "building"}]
    found = stack(tmp_path, labels=labels, complete={"rest": rest}).read(WHOLE)
    expected = np.full(SHAPE, value)
    expected[10:40, 10:40] = 1
    np.testing.assert_array_equal(found, expected)
    # only within polygons, or four numbers
    save(tmp_path / "area.gpkg", box(5, 5, 20, 50))
    bounds = [400000 + 5 / 2, 5800000 - 50 / 2, 400000 + 20 / 2, 5800000 - 5 / 2]
    inside = np.full(SHAPE, IGNORED)
    inside[5:50, 5:20] = value
    inside[10:40, 10:40] = 1
    for area in ("area.gpkg", bounds):
        found = stack(tmp_path, labels=labels, complete={"rest": rest, "area": area}).read(WHOLE)
        np.testing.assert_array_equal(found, inside)


def test_the_complete_area_may_have_a_spike(tmp_path: Path) -> None:
    labels = [{"files": save(tmp_path / "houses.gpkg", box(10, 10, 12, 12)), "class": "building"}]
    corners = [(20, 20), (60, 20), (70, 20), (60, 20), (60, 50), (20, 50)]
    save(tmp_path / "area.gpkg", shapely.Polygon([(400000 + x / 2, 5800000 - y / 2) for x, y in corners]))
    found = stack(tmp_path, labels=labels, complete={"rest": "land", "area": "area.gpkg"}).read(WHOLE)
    assert (found[20:50, 20:60] == 0).all()
    assert (found == 0).sum() == 30 * 40


def test_the_complete_area_may_be_in_degrees(tmp_path: Path) -> None:
    labels = [{"files": save(tmp_path / "houses.gpkg", box(10, 10, 12, 12)), "class": "building"}]
    west, south, east, north = geopandas.GeoSeries([box(20, 20, 60, 50)], crs=UTM).to_crs(4326).total_bounds
    complete = {"rest": "land", "area": [west, south, east, north], "crs": "EPSG:4326"}
    found = stack(tmp_path, labels=labels, complete=complete).read(WHOLE)
    assert (found[22:48, 22:58] == 0).all()
    assert (found[:17] != 0).all()


@pytest.mark.parametrize("area", [[-180, -90, 180, 90], "world.gpkg"])
def test_the_complete_area_may_reach_far_beyond(tmp_path: Path, area: Any) -> None:
    """The world has no place in UTM, the scene has."""
    labels = [{"files": save(tmp_path / "houses.gpkg", box(10, 10, 12, 12)), "class": "building"}]
    save(tmp_path / "world.gpkg", shapely.box(-180, -90, 180, 90), crs="EPSG:4326")
    found = stack(tmp_path, labels=labels, complete={"rest": "land", "area": area, "crs": "EPSG:4326"}).read(WHOLE)
    assert (found == 0).sum() == 60 * 80 - 4


@pytest.mark.parametrize(
    ("area", "crs"),
    [("far.gpkg", None), ([400000, 5799900, 400040, 5800000], "EPSG:4326"), ([0, 0, 9, 9], None)],
)
def test_a_complete_area_that_lies_elsewhere_is_refused(tmp_path: Path, area: Any, crs: str | None) -> None:
    labels = [{"files": save(tmp_path / "houses.gpkg", box(10, 10, 12, 12)), "class": "building"}]
    save(tmp_path / "far.gpkg", box(0, 0, 80, 60), crs="EPSG:32645")  # the right numbers in the wrong CRS
    with pytest.raises(
        LabelError, match=r"complete.area: .* overlaps none of the scenes: scene lies at .* CRS right\?"
    ):
        stack(tmp_path, labels=labels, complete={"rest": "land", "area": area, "crs": crs})


def test_rasters_and_vectors_together(tmp_path: Path) -> None:
    values = np.full((1, *SHAPE), 2, np.uint8)
    values[0, :, 40:] = 255
    write(tmp_path / "l.tif", values)
    layers = [{"files": save(tmp_path / "h.gpkg", box(30, 0, 50, 60)), "class": "building"}, {"files": "l.tif"}]
    found = stack(tmp_path, labels=layers).read(WHOLE)
    assert (found[:, :30] == 2).all()
    assert (found[:, 30:50] == 1).all()
    assert (found[:, 50:] == IGNORED).all()


def test_files_of_the_same_name_belong_together(tmp_path: Path) -> None:
    names = [f"{tile}/images/part_{k}.jpg" for tile in ("Tile 2", "Tile 10") for k in (1, 10)]
    for n, name in enumerate(names):
        mask = tmp_path / name.replace("images", "masks").replace(".jpg", "_mask.png" if n % 2 else ".png")
        mask.parent.mkdir(parents=True, exist_ok=True)
        write(mask, np.full((1, *SHAPE), n % 3, np.uint8), driver="PNG", crs=None, transform=None)
    data = Data.model_validate({"scenes": "Tile */images/*.jpg", "labels": [{"files": "Tile */masks/*.png"}]})
    paths = sorted(tmp_path / name for name in names)
    (found,) = files_of(data, CODES, [NOWHERE] * 4, paths, tmp_path, "data[0]")
    for n, name in enumerate(names):
        raster = found.paired[str(tmp_path / name)]
        assert Path(raster.file).parts[-3:-1] == (Path(name).parts[0], "masks")
        assert Path(raster.file).stem.removesuffix("_mask") == Path(name).stem
        layer = Stack([found], None, CODES, NOWHERE, str(tmp_path / name), tmp_path)
        assert (layer.read(WHOLE) == n % 3).all()


@pytest.mark.parametrize(
    ("scenes", "labels"),
    [
        (["a/images/x.jpg", "a-b/images/x.jpg"], ["a/masks/x.png", "a-b/masks/x.png"]),
        (["images/a/x.jpg", "images/a-b/x.jpg"], ["masks/a/x.png", "masks/a-b/x.png"]),
        (["b/images/x.jpg", "a/x.jpg"], ["b/x_mask.png", "a/gt/x.png"]),
        (["images/x.jpg", "images/x-1/x.jpg"], ["masks/x.png", "masks/x-1/x.png"]),
        # neither the first nor the last folders tell: in order, folder by folder
        (["a/i/1/x.jpg", "a/i/2/x.jpg", "a-b/i/1/x.jpg", "a-b/i/2/x.jpg"],
         ["a/m/1/x.png", "a/m/2/x.png", "a-b/m/1/x.png", "a-b/m/2/x.png"]),
    ],
)  # fmt: skip
def test_labels_of_one_name_go_by_folder(tmp_path: Path, scenes: list[str], labels: list[str]) -> None:
    for name in labels:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / name, np.zeros((1, *SHAPE), np.uint8), driver="PNG", crs=None, transform=None)
    for there in (labels, labels[::-1]):
        data = Data.model_validate({"scenes": scenes, "labels": [{"files": there}]})
        paths = [tmp_path / name for name in scenes]
        (found,) = files_of(data, CODES, [NOWHERE] * len(paths), paths, tmp_path, "data[0]")
        assert {scene: found.paired[str(tmp_path / scene)].file for scene in scenes} == {
            scene: str(tmp_path / label) for scene, label in zip(scenes, labels, strict=True)
        }


def test_scenes_and_labels_without_partners(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / f"{name}.png", np.zeros((1, *SHAPE), np.uint8), driver="PNG", crs=None, transform=None)
    data = Data.model_validate({"scenes": "x/*.jpg", "labels": [{"files": "*.png"}]})
    frames, paths = [NOWHERE] * 2, [tmp_path / "x/a.jpg", tmp_path / "x/c.jpg"]
    with pytest.raises(LabelError, match=r"b.png: no scene of this name"):
        files_of(data, CODES, frames, paths, tmp_path, "data[0]")
    data = Data.model_validate({"scenes": "x/*.jpg", "labels": [{"files": "a.png"}]})
    with pytest.raises(LabelError, match=r"c.jpg: none of the label files of data\[0\] covers this scene"):
        files_of(data, CODES, frames, paths, tmp_path, "data[0]")
    with pytest.raises(LabelError, match="1 labels for 2 scenes are named a"):
        files_of(data, CODES, frames, [tmp_path / "x/a.jpg", tmp_path / "y/a.jpg"], tmp_path, "data[0]")


def test_labels_that_lie_elsewhere(tmp_path: Path) -> None:
    far = save(tmp_path / "far.gpkg", box(5000, 5000, 5010, 5010))
    with pytest.raises(LabelError, match=r"far.gpkg: does not overlap its scenes: it lies at .* \(EPSG:32633\), scene"):
        stack(tmp_path, labels=[{"files": far, "class": "building"}])
    # the right numbers in the wrong CRS
    wrong = save(tmp_path / "wrong.gpkg", box(10, 10, 20, 20), crs="EPSG:32645")
    with pytest.raises(LabelError, match=r"wrong.gpkg: does not overlap .*EPSG:32645.*is its CRS right\?"):
        stack(tmp_path, labels=[{"files": wrong, "class": "building"}])
    write(tmp_path / "far.tif", np.zeros((1, 9, 9), np.uint8), crs="EPSG:32645")
    with pytest.raises(LabelError, match=r"far.tif: does not overlap"):
        stack(tmp_path, labels=[{"files": "far.tif"}])
    degrees = save(tmp_path / "deg.gpkg", shapely.box(10, 50, 11, 51), crs="EPSG:4326")
    with pytest.raises(LabelError, match=r"has a CRS .*, the scene scene has none"):
        stack(tmp_path, NOWHERE, labels=[{"files": degrees, "class": "building"}])


def test_a_line_beyond_a_scene_covers_it_with_its_width(tmp_path: Path) -> None:
    x, y = HERE.transform[2], HERE.transform[5]
    line = shapely.LineString([(x - 50, y + 5), (x + 500, y + 5)])
    save(tmp_path / "roads.gpkg", line)
    layers = {"files": "roads.gpkg", "class": "road"}
    whole = Rect(0, 0, *HERE.shape)
    assert (stack(tmp_path, labels=[{**layers, "width_m": 12}]).read(whole) == CODES["road"]).any()
    with pytest.raises(LabelError, match="does not overlap its scenes"):
        stack(tmp_path, labels=[{**layers, "width_m": 9}])


def test_paths_that_match_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for pattern, message in (
        ("b.tif", "no such file"),
        ("*.tif", "matches no file"),
        ("a", "is a folder; give a pattern"),
    ):
        with pytest.raises(JobError, match=message):
            expand([pattern], tmp_path, "data[0].scenes")
    (tmp_path / "a" / "x[1].tif").write_text("")
    assert [p.name for p in expand(["a/x[1].tif", "a/*.tif"], tmp_path, "k")] == ["x[1].tif"]
