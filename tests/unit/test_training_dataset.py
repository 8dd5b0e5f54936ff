"""From a training job to its data: files, checks, counts."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine

from geounet.config.train import TrainJob, parse_train
from geounet.errors import GeounetError, JobError, LabelError, SceneError
from geounet.labels.values import IGNORED
from geounet.testing.scenes import window
from geounet.training import places
from geounet.training.augment import Ranges
from geounet.training.dataset import Dataset, load_data
from geounet.training.splits import Side
from geounet.types import Rect
from tests.support.rasters import NORTH_UP, noise, write

SHAPE = (200, 240)
RNG = np.random.default_rng(4)


def job(root: Path, data: Any, **keys: Any) -> TrainJob:
    keys = {"sampling": {"size": 64, "batch": 2, "statistics": 8}, **keys}
    sections = data if isinstance(data, list) else [data]
    return parse_train({"classes": ["land", "building"], "root": str(root), "data": sections, **keys}, "t")


def halves(shape: tuple[int, int] = SHAPE) -> Any:
    """Labels: land at the left, buildings at the right, and a strip without any."""
    labels = np.zeros((1, *shape), dtype=np.uint8)
    labels[:, :, shape[1] // 2 :] = 1
    labels[:, :10] = 255
    return labels


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Three scenes in a row, and their labels."""
    for k in range(3):
        transform = NORTH_UP @ Affine.translation(300 * k, 0)
        picture = noise(3, *SHAPE, seed=k)
        picture[:, -20:] = 0
        write(tmp_path / f"s{k}.tif", picture, transform=transform, nodata=0)
        write(tmp_path / f"s{k}_labels.tif", halves(), transform=transform, nodata=255)
    return tmp_path


PLAIN = {"scenes": "s?.tif", "labels": [{"files": "s?_labels.tif"}]}


def test_what_a_training_gets(files: Path) -> None:
    found = load_data(job(files, {**PLAIN, "name": "plain"}, split={"validation": ["s1*"], "test": ["s2.tif"]}))
    assert (found.bands, found.dtype) == (("red", "green", "blue"), "uint8")
    assert found.gsd == pytest.approx(0.5, rel=1e-3)
    assert found.codes == {"land": 0, "building": 1}
    # 200 rows: the first ten are unlabelled, the last twenty without data
    assert found.counts[:2].tolist() == [170 * 120, 170 * 120]
    assert found.counts[2:].sum() == 0
    assert not found.partial
    assert load_data(job(files, {**PLAIN, "complete": {"area": "scene", "rest": {"not": "building"}}})).partial
    assert found.scenes == {Side.train: ["s0.tif"], Side.validation: ["s1.tif"], Side.test: ["s2.tif"]}
    assert [(t.data, t.side, t.scenes, t.pixels) for t in found.tallies] == [
        ("plain", side, 1, {"land": 20400, "building": 20400}) for side in Side
    ]
    assert found.tallies[0].share == 1
    assert found.tallies[0].centres == {"land": 0.5, "building": 0.5}
    values = noise(3, *SHAPE, seed=0)[:, :-20]
    np.testing.assert_allclose(found.ranges.mean, values.mean(axis=(1, 2)), rtol=0.03)
    np.testing.assert_allclose(found.ranges.stddev, values.std(axis=(1, 2)), rtol=0.03)
    assert [s.mean for s in found.ranges.scaling()] == list(found.ranges.mean)
    assert found.train.batch(0).images.shape == (2, 3, 64, 64)
    for tiles in (found.validation, found.test):
        known = sum(int((tiles.batch(k).labels != IGNORED).sum()) for k in range(len(tiles)))
        assert known == 2 * 20400


def scene_of(root: Path, name: str, picture: Any, k: int, **how: Any) -> None:
    transform = NORTH_UP @ Affine.translation(300 * k, 0)
    write(root / f"{name}.tif", picture, transform=transform, **how)
    write(root / f"{name}_labels.tif", halves(), transform=transform, nodata=255)


def test_bands_in_another_order_are_refused_or_found_by_name(tmp_path: Path) -> None:
    picture = np.stack([np.full(SHAPE, value, np.uint8) for value in (200, 100, 10)])
    scene_of(tmp_path, "a", picture, 0, descriptions=("red", "green", "blue"))
    scene_of(tmp_path, "b", picture[::-1], 1, descriptions=("Blue", "Green", "Red"))
    data = {"scenes": ["a.tif", "b.tif"], "labels": [{"files": "?_labels.tif"}]}
    with pytest.raises(
        SceneError, match=r"b.tif: its bands are Blue, Green, Red, those of a.tif red, green, blue; give"
    ):
        load_data(job(tmp_path, data))
    assert load_data(job(tmp_path, data, bands=["red", "green", "blue"])).ranges.mean == pytest.approx((200, 100, 10))
    sections = [{**data, "scenes": "a.tif"}, {**data, "scenes": "b.tif", "bands": [3, 2, 1]}]
    for section, file in zip(sections, "ab", strict=True):
        section["labels"] = [{"files": f"{file}_labels.tif"}]
    assert load_data(job(tmp_path, sections)).ranges.mean == pytest.approx((200, 100, 10))


def test_scaled_scenes_do_not_go_with_others(tmp_path: Path) -> None:
    for k, (name, how) in enumerate({"dn": {}, "reflectance": {"scales": (1e-4,) * 3}}.items()):
        scene_of(tmp_path, name, noise(3, *SHAPE, high=9999, dtype="uint16"), k, **how)
    data = {"scenes": ["dn.tif", "reflectance.tif"], "labels": [{"files": "*_labels.tif"}]}
    with pytest.raises(SceneError, match=r"reflectance.tif: has a scale or offset .*, dn.tif has none"):
        load_data(job(tmp_path, data))


def test_types_that_no_model_takes_are_refused(tmp_path: Path) -> None:
    scene_of(tmp_path, "a", noise(3, *SHAPE, dtype="int64"), 0)
    with pytest.raises(SceneError, match=r"a.tif: holds int64; models take uint8, "):
        load_data(job(tmp_path, {"scenes": "a.tif", "labels": [{"files": "a_labels.tif"}]}))


def test_bands_of_one_name_are_numbered(tmp_path: Path) -> None:
    scene_of(tmp_path, "a", noise(3, *SHAPE), 0, descriptions=("sar", "sar", "sar"))
    found = load_data(job(tmp_path, {"scenes": "a.tif", "labels": [{"files": "a_labels.tif"}]}))
    assert found.bands == ("band1", "band2", "band3")


def test_the_range_of_ground_sample_distances_follows_from_changes_of_scale(files: Path) -> None:
    def ends(**keys: Any) -> Any:
        return load_data(job(files, {**PLAIN, "name": "plain"}, **keys)).gsd_range

    assert ends() == pytest.approx((0.5, 0.5), rel=1e-3)
    assert ends(augment={"scale": [0.5, 2]}) == pytest.approx((0.25, 1.0), rel=1e-3)
    assert ends(augment={"scale": {"range": [0.5, 0.8], "chance": 0.5}}) == pytest.approx((0.5, 1.0), rel=1e-3)
    assert ends(gsd=0.4, augment={"scale": [0.8, 1]}) == (0.4, 0.5)


def test_a_continued_training_keeps_its_statistics(files: Path) -> None:
    ranges = Ranges((1.0,) * 3, (2.0,) * 3, (0.0,) * 3, (255.0,) * 3, clipped=True)
    assert load_data(job(files, PLAIN), ranges).ranges == ranges


def same(one: Dataset, other: Dataset) -> bool:
    pairs = [(one.train.batch(k), other.train.batch(k)) for k in range(3)]
    pairs += [(one.validation.batch(k), other.validation.batch(k)) for k in range(len(one.validation))]
    return all((a.images == b.images).all() and (a.labels == b.labels).all() for a, b in pairs)


@pytest.mark.parametrize("scale", [[0.9, 1.2], [0.2, 0.5]])
def test_what_is_not_kept_in_memory_is_read_alike(files: Path, scale: list[float]) -> None:
    augment = {"contrast": [0.8, 1.2], "rotation_deg": [-20, 20], "scale": scale}
    keys: dict[str, Any] = {"split": {"validation": 0.3, "block": 100}, "augment": augment}
    kept = load_data(job(files, PLAIN, **keys))
    sampling = {"size": 64, "batch": 2, "statistics": 8, "cache_mb": 0, "threads": 2}
    disk = load_data(job(files, PLAIN, **{**keys, "sampling": sampling}))
    assert same(kept, disk)
    assert (kept.ranges, kept.tallies) == (disk.ranges, disk.tallies)


@pytest.mark.parametrize(("scale", "offset"), [(1.0, -1000.0), (0.5, 0.0), (500.0, 0.0)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_values_of_scaled_scenes_are_the_scaled_ones(tmp_path: Path, dtype: str, scale: float, offset: float) -> None:
    picture = noise(3, *SHAPE, high=250, dtype=dtype)
    write(tmp_path / "s.tif", picture, nodata=0, scales=(scale,) * 3, offsets=(offset,) * 3)
    write(tmp_path / "labels.tif", halves())
    data = {"scenes": "s.tif", "labels": [{"files": "labels.tif"}]}
    sampling = {"size": 64, "batch": 2, "statistics": 16}
    kept = load_data(job(tmp_path, data, sampling=sampling))
    disk = load_data(job(tmp_path, data, sampling={**sampling, "cache_mb": 0}))
    values = picture * scale + offset
    np.testing.assert_allclose(kept.ranges.mean, values.mean(axis=(1, 2)), rtol=0.05)
    np.testing.assert_allclose(kept.ranges.low, offset, atol=5 * scale)
    np.testing.assert_allclose(kept.ranges.high, values.max(), atol=5 * scale)
    assert not kept.ranges.clipped, "scaled values have no bounds that are known"
    assert kept.dtype == "float32", "what the card says of its input"
    assert kept.ranges == disk.ranges
    assert (kept.train.batch(0).images == disk.train.batch(0).images).all()


def test_pixels_that_are_not_square_are_trained_square(tmp_path: Path) -> None:
    step = 0.4 * 2**0.5 / 111_400  # at 60° N, where a pixel is half as wide as high
    for name, degrees in (("wide", 60.0), ("square", 0.0)):
        place = {"transform": Affine(step, 0, 10, 0, -step, degrees), "crs": "EPSG:4326"}
        write(tmp_path / f"{name}.tif", noise(3, *SHAPE), **place)
        write(tmp_path / f"{name}_labels.tif", halves(), nodata=255, **place)
    data = {"scenes": ["wide.tif", "square.tif"], "labels": [{"files": "*_labels.tif"}]}
    zooms = [source.zoom for source in load_data(job(tmp_path, data, gsd=0.3)).train._scenes.sources]
    assert zooms[0] == pytest.approx((0.3 / 0.566, 0.3 / 0.283), rel=0.01)
    assert zooms[1] == pytest.approx((0.3 / 0.566,) * 2, rel=0.01)
    assert zooms[1][0] == zooms[1][1]


def test_patches_of_labels_in_a_large_scene_are_found(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # as if it were large
    monkeypatch.setattr(places, "CELL", 4)
    here = [shapely.box(400100, 5799954, 400103, 5799958), shapely.box(400103, 5799954, 400106, 5799958)]
    patch = save(files / "patch.gpkg", here, kind=["building", "land"])
    spec = {"files": patch, "column": "kind", "values": {"land": "land", "building": "building"}}
    little = {"size": 32, "statistics": 2, "cache_mb": 0}
    found = load_data(job(files, {"scenes": "s0.tif", "labels": [spec]}, sampling=little))
    assert found.counts[:2].tolist() == [48, 48]
    tile = NORTH_UP @ Affine.translation(203, 84)
    write(files / "tile.tif", halves((20, 40))[:, 10:, 15:30], transform=tile, nodata=255)
    found = load_data(job(files, {"scenes": "s0.tif", "labels": [{"files": "tile.tif"}]}, sampling=little))
    assert found.counts[1] > 0


@pytest.mark.parametrize("augment", [{}, {"rotation_deg": [-30, 30], "scale": [0.6, 1.4]}])
def test_ground_that_a_neighbour_holds_out_never_reaches_a_training_window(tmp_path: Path, augment: Any) -> None:
    """Sheets overlap by 16 px; in the one that trains, these are of a value of their own."""
    for k, name in enumerate(("train", "held")):
        transform = NORTH_UP @ Affine.translation(224 * k, 0)
        picture = noise(3, *SHAPE, seed=k, high=100)
        if name == "train":
            picture[:, :, 224:] = 255
        write(tmp_path / f"{name}.tif", picture, transform=transform)
        write(tmp_path / f"{name}_labels.tif", halves(), transform=transform, nodata=255)
    data = {"scenes": ["train.tif", "held.tif"], "labels": [{"files": "*_labels.tif"}]}
    found = load_data(job(tmp_path, data, split={"validation": ["held.tif"]}, augment=augment))
    assert found.counts[:2].tolist() == [190 * 120, 190 * 104]
    mean, stddev = (np.array(v)[:, None, None] for v in (found.ranges.mean, found.ranges.stddev))
    assert mean.max() < 60
    highest = max(float((found.train.batch(k).images * stddev + mean).max()) for k in range(30))
    assert 80 < highest < 110
    known = sum(int((found.validation.batch(k).labels != IGNORED).sum()) for k in range(len(found.validation)))
    assert known == 190 * 240, "the sheet that validates keeps all of its own"


def test_folds_hold_out_every_block_once(files: Path) -> None:
    total = np.zeros(256, dtype=np.int64)
    for fold in range(3):
        found = load_data(job(files, PLAIN, split={"folds": 3, "fold": fold, "block": 100}))
        for k in range(len(found.validation)):
            total += np.bincount(found.validation.batch(k).labels.ravel(), minlength=256)
    assert total[:2].tolist() == [3 * 20400, 3 * 20400]


def test_sections_share_windows_by_area_or_as_asked(files: Path) -> None:
    one, two = {**PLAIN, "scenes": "s0.tif", "labels": [{"files": "s0_labels.tif"}], "name": "one"}, {
        "scenes": ["s1.tif", "s2.tif"], "labels": [{"files": ["s1_labels.tif", "s2_labels.tif"]}], "name": "two"
    }  # fmt: skip
    shares = [t.share for t in load_data(job(files, [one, two])).tallies]
    np.testing.assert_allclose(shares, [1 / 3, 2 / 3], atol=1e-3)
    shares = [t.share for t in load_data(job(files, [{**one, "share": 0.9}, two])).tallies]
    np.testing.assert_allclose(shares, [0.9, 0.1], atol=1e-3)
    with pytest.raises(JobError, match="the shares add up to 1, which leaves nothing"):
        load_data(job(files, [{**one, "share": 1.0}, two]))
    with pytest.raises(JobError, match=r"s0.tif is named in two sections"):
        load_data(job(files, [one, {**PLAIN, "name": "two"}]))


def test_pictures_without_georeference_and_colour_masks(tmp_path: Path) -> None:
    for tile in ("Tile 1", "Tile 2"):
        for kind, array, driver in (("images", noise(3, 90, 110), "JPEG"), ("masks", halves((90, 110)), "PNG")):
            (tmp_path / tile / kind).mkdir(parents=True)
            if kind == "masks":
                array = np.array([[0x3C, 0x10, 0x98], [0x84, 0x29, 0xF6]], np.uint8)[(array[0] > 0).astype(int)]
                array = array.transpose(2, 0, 1)
            path = tmp_path / tile / kind / f"part_001.{'jpg' if kind == 'images' else 'png'}"
            write(path, array, driver=driver, crs=None, transform=None)
    labels = [{"files": "Tile */masks/*.png", "colours": {"#3C1098": "land", "#8429F6": "building"}}]
    data = {"scenes": "Tile */images/*.jpg", "labels": labels}
    found = load_data(job(tmp_path, data, split={"validation": ["Tile 2/*"]}))
    assert found.gsd is None
    assert found.bands == ("red", "green", "blue")
    assert found.counts[:2].tolist() == [80 * 55, 90 * 110 - 80 * 55]
    assert found.scenes[Side.validation] == ["Tile 2/images/part_001.jpg"]
    with pytest.raises(SceneError, match=r"its ground sample distance is unknown, so it cannot be brought to 0.3 m"):
        load_data(job(tmp_path, data, gsd=0.3))
    assert load_data(job(tmp_path, {**data, "gsd": 0.6}, gsd=0.3)).gsd == 0.3
    assert found.gsd_range is None


def test_bands_in_several_files_are_one_scene(files: Path) -> None:
    """The same as the file that holds them all; labels that lie on Earth, and labels by name."""
    whole = load_data(job(files, {**PLAIN, "scenes": "s0.tif", "labels": [{"files": "s0_labels.tif"}]}))
    picture = noise(3, *SHAPE, seed=0)
    picture[:, -20:] = 0
    for k in range(3):
        write(files / f"band{k}.tif", picture[k : k + 1], nodata=0)
    scene = {"name": "town", "files": ["band0.tif", "band1.tif", "band2.tif"]}
    found = load_data(job(files, {"scenes": scene, "labels": [{"files": "s0_labels.tif"}]}))
    assert found.scenes[Side.train] == ["town"]
    np.testing.assert_array_equal(found.train.batch(1).images, whole.train.batch(1).images)
    write(files / "town.png", halves(), driver="PNG", crs=None, transform=None)
    found = load_data(job(files, {"scenes": [scene], "labels": [{"files": "town.png"}]}))
    np.testing.assert_array_equal(found.train.batch(1).labels, whole.train.batch(1).labels)


def test_scenes_of_several_pixel_sizes_are_brought_to_one(tmp_path: Path) -> None:
    """The same ground in 0.5 and 1 m gives the same windows at 1 m."""
    ground = np.kron(RNG.integers(40, 200, (3, 40, 40)), np.ones((1, 10, 10))).astype(np.uint8)
    labels = np.kron(RNG.integers(0, 2, (1, 40, 40)), np.ones((1, 10, 10))).astype(np.uint8)
    images, truths = [], []
    for step in (1, 2):
        for k, name in enumerate(("train", "held")):
            grid = NORTH_UP @ Affine.translation(1000 * k, 0) @ Affine.scale(step)
            write(tmp_path / f"{name}.tif", ground[:, ::step, ::step], transform=grid)
            write(tmp_path / f"{name}_labels.tif", labels[:, ::step, ::step], transform=grid)
        data = {"scenes": ["train.tif", "held.tif"], "labels": [{"files": "*_labels.tif"}]}
        found = load_data(job(tmp_path, data, gsd=1.0, split={"validation": ["held.tif"]}))
        assert found.gsd == 1
        mean, stddev = (np.array(v)[:, None, None] for v in (found.ranges.mean, found.ranges.stddev))
        batch = found.validation.batch(0)
        images.append(batch.images[0] * stddev + mean)
        truths.append(batch.labels[0])
    # metres are those of the ellipsoid, so that pixels drift a little: by far less than one within the window
    inside = np.s_[:, 2::5, 2::5]
    np.testing.assert_allclose(images[0][inside], images[1][inside], atol=2)
    assert (truths[0] == truths[1]).mean() > 0.97


def test_made_up_scenes(caplog: pytest.LogCaptureFixture) -> None:
    classes = ["land", "building", "road", "vegetation", "water"]
    data = [{"name": name, "generated": {"seeds": seeds, "size": 256, "gsd": 0.3}}
            for name, seeds in (("some", [3, 3]), ("others", [10, 10]))]  # fmt: skip
    keys: dict[str, Any] = {
        "split": {"validation": ["others"]},
        "sampling": {"size": 64, "batch": 2, "statistics": 4, "validation_size": 256},
    }  # fmt: skip
    caplog.set_level(logging.WARNING)
    spec = parse_train({"classes": classes[:4], "data": data, **keys}, "t")
    with pytest.raises(JobError, match=r"data\[0\].generated: the job has no class 'water'; say in `values`"):
        load_data(spec)
    values = {"land": "ground", "building": "building", "road": "ground", "vegetation": "ground", "water": "ignored"}
    for entry in data:
        entry["generated"]["values"] = values  # type: ignore[index]
    found = load_data(parse_train({"classes": ["ground", "building"], "data": data, **keys}, "t"))
    assert found.scenes[Side.validation] == ["others/10"]
    batch = found.validation.batch(0)
    picture, truth = window(10, Rect(0, 0, 256, 256))
    np.testing.assert_array_equal(batch.labels[0], np.array([0, 1, 0, 0, 255])[truth])
    mean, stddev = (np.array(v)[:, None, None] for v in (found.ranges.mean, found.ranges.stddev))
    np.testing.assert_allclose(batch.images[0] * stddev + mean, picture, atol=1e-3)


def error(files: Path, data: Any, **keys: Any) -> GeounetError:
    with pytest.raises(GeounetError) as caught:
        load_data(job(files, data, **keys))
    assert "\n" not in str(caught.value)
    return caught.value


def save(path: Path, shapes: list[Any], crs: str = "EPSG:32633", **columns: Any) -> str:
    geopandas.GeoDataFrame(columns, geometry=shapes, crs=crs).to_file(path)
    return path.name


def test_bad_labels_are_one_clear_error_before_training(files: Path) -> None:
    scene = {"scenes": "s0.tif"}
    here = shapely.box(400010, 5799950, 400030, 5799980)

    wrong = save(files / "wrong.gpkg", [here], crs="EPSG:32645")
    found = error(files, {**scene, "labels": [{"files": wrong, "class": "building"}]})
    assert "does not overlap its scenes" in str(found)
    assert (type(found), found.exit_code) == (LabelError, 1)

    empty = save(files / "empty.gpkg", [])
    assert "holds no features" in str(error(files, {**scene, "labels": [{"files": empty, "class": "building"}]}))

    unknown = save(files / "unknown.gpkg", [here], kind=["barn"])
    spec = {"files": unknown, "column": "kind", "values": {"house": "building"}}
    assert "kind has values that the job does not list: 'barn'" in str(error(files, {**scene, "labels": [spec]}))

    write(files / "codes.tif", halves() + 7)
    found = error(files, {**scene, "labels": [{"files": "codes.tif"}]})
    assert "codes.tif: has values that the job does not list: 6, 7, 8" in str(found)

    write(files / "s0.png", noise(1, 50, 60), driver="PNG", crs=None, transform=None)
    assert "is 60 × 50 px, the scene s0.tif is 240 × 200" in str(
        error(files, {**scene, "labels": [{"files": "s0.png"}]})
    )

    write(files / "land.tif", halves() * 0)
    found = error(files, {**scene, "labels": [{"files": "land.tif"}]})
    assert "class building: no pixel of it in the labels to train on" in str(found)
    write(files / "none.tif", halves() * 0 + 255)
    assert "no labelled pixel is left to train on" in str(error(files, {**scene, "labels": [{"files": "none.tif"}]}))

    found = error(files, {**scene, "labels": [{"files": "s1_labels.tif"}]})
    assert "s1_labels.tif: does not overlap its scenes" in str(found)
    found = error(files, {**scene, "labels": [{"files": "missing.tif"}]})
    assert (type(found), found.exit_code) == (JobError, 2)


def test_scenes_must_be_of_one_kind(files: Path) -> None:
    write(files / "grey.tif", noise(1, *SHAPE), transform=NORTH_UP @ Affine.translation(900, 0))
    write(files / "deep.tif", noise(3, *SHAPE, dtype="uint16"), transform=NORTH_UP @ Affine.translation(900, 0))
    write(files / "labels.tif", halves(), transform=NORTH_UP @ Affine.translation(900, 0))
    for name, message in (("grey", "has 1 bands .*choose the same ones"), ("deep", "holds uint16, s0.tif holds uint8")):
        other = {"scenes": f"{name}.tif", "labels": [{"files": "labels.tif"}]}
        with pytest.raises(SceneError, match=message):
            load_data(job(files, [PLAIN, other]))
    assert "no band is named 'nir'" in str(error(files, {**PLAIN, "bands": ["nir"]}))
    found = load_data(job(files, {**PLAIN, "bands": [3, 1]}, bands=["a", "b"]))
    assert found.bands == ("a", "b")
    assert len(found.ranges.mean) == 2
