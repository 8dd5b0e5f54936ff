"""Scenes that are products: STAC items and folders of Sentinel-2, and which of their files a model takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geounet.batch.attempts import Attempts
from geounet.batch.run import _earlier, scene_runs
from geounet.batch.scenes import find_scenes
from geounet.config.job import Job
from geounet.engine.scene import SceneRun
from geounet.errors import JobError, OutputExistsError, SceneError
from geounet.raster.members import choose_members
from geounet.raster.products import Asset, Product, ProductBand, acquired, product_name, read_product
from geounet.raster.scene import open_scene
from geounet.types import Rect
from tests.support.models import small_unet
from tests.support.rasters import NORTH_UP, noise, write

WHOLE = Rect(0, 0, 96, 96)
COG = "image/tiff; application=geotiff; profile=cloud-optimized"


def item(path: Path, assets: dict[str, dict[str, Any]], *, name: str = "S2_x", **more: Any) -> Path:
    """Write a STAC item."""
    data: dict[str, Any] = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "geometry": None,
        "properties": {"datetime": "2024-05-06T10:20:30Z", "platform": "sentinel-2a", "eo:cloud_cover": 3},
        "links": [],
        "assets": assets,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data | more))
    return path


def single(key: str, common: str, **more: Any) -> dict[str, Any]:
    """An asset of one band, as before STAC 1.1."""
    return {"href": f"./{key}.tif", "type": COG, "roles": ["data"],
            "eo:bands": [{"name": key, "common_name": common}]} | more  # fmt: skip


COLOURS = {"B04": "red", "B03": "green", "B02": "blue", "B08": "nir"}


def singles(folder: Path) -> dict[str, dict[str, Any]]:
    """Four bands in a file each, and what no model takes."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, key in enumerate(COLOURS):
        write(folder / f"{key}.tif", noise(1, 96, 96, seed=seed))
    write(folder / "thumbnail.jpg", noise(3, 12, 12), crs=None, transform=None, driver="JPEG")
    assets = {key: single(key, common) for key, common in reversed(COLOURS.items())}
    assets["thumbnail"] = {"href": "./thumbnail.jpg", "type": "image/jpeg", "roles": ["thumbnail"]}
    assets["metadata"] = {"href": "./m.xml", "type": "application/xml", "roles": ["metadata"]}
    return assets


def runs(tmp_path: Path, scenes: list[Any], **keys: Any) -> list[SceneRun]:
    model = tmp_path / "model"
    if not model.exists():
        small_unet(model)
    data = {"scenes": scenes, "model": f"{model}/", "outputs": {"folder": str(tmp_path / "out")}}
    return scene_runs(Job.model_validate(data | keys))


def pixels(run: SceneRun) -> Any:
    spec, info = run.describe()
    assert info.band_names == ("red", "green", "blue")
    with open_scene(spec) as scene:
        return scene.read(WHOLE)[0]


def test_bands_of_an_item_are_found_by_their_common_names(tmp_path: Path) -> None:
    path = item(tmp_path / "data" / "i.json", singles(tmp_path / "data"))
    (run,) = runs(tmp_path, [str(path)])
    assert run.spec.name == run.folder.name == "S2_x"
    assert [Path(file).name for file in run.spec.files] == ["B04.tif", "B03.tif", "B02.tif"]
    expected = np.concatenate([noise(1, 96, 96, seed=seed) for seed in range(3)])
    assert (pixels(run) == expected).all()
    files = [str(tmp_path / "data" / f"{key}.tif") for key in ("B04", "B03", "B02")]
    (same,) = runs(tmp_path, [{"name": "S2_x", "files": files}])
    spec, _ = same.describe()
    with open_scene(spec) as scene:
        assert (scene.read(WHOLE)[0] == expected).all()


def test_bands_of_an_item_by_key(tmp_path: Path) -> None:
    path = item(tmp_path / "data" / "i.json", singles(tmp_path / "data"))
    (run,) = runs(tmp_path, [str(path)], bands=["B08", "B04", "b02"])
    spec, info = run.describe()
    assert info.band_names == ("B08", "B04", "b02")
    with open_scene(spec) as scene:
        found = scene.read(WHOLE)[0]
    assert (found == np.concatenate([noise(1, 96, 96, seed=seed) for seed in (3, 0, 2)])).all()


def test_one_file_with_all_bands_goes_before_several(tmp_path: Path) -> None:
    assets = singles(tmp_path / "data")
    picture = noise(3, 96, 96, seed=9)
    write(tmp_path / "data" / "TCI 1.tif", picture)
    bands = [{"name": c, "eo:common_name": c, "data_type": "uint8"} for c in ("red", "green", "blue")]
    assets["visual"] = {"href": "./TCI%201.tif", "type": COG, "roles": ["visual"], "bands": bands}
    (run,) = runs(tmp_path, [str(item(tmp_path / "data" / "i.json", assets))])
    assert [Path(file).name for file in run.spec.files] == ["TCI 1.tif"]
    assert (pixels(run) == picture).all()
    (other,) = runs(tmp_path, [str(tmp_path / "data" / "i.json")], bands=["B04", "visual:green", "visual:blue"])
    assert [Path(file).name for file in other.spec.files] == ["B04.tif", "TCI 1.tif"]
    spec, _ = other.describe()
    with open_scene(spec) as scene:
        assert (scene.read(WHOLE)[0] == np.stack([noise(1, 96, 96, seed=0)[0], picture[1], picture[2]])).all()


def test_what_an_item_says_of_nodata(tmp_path: Path) -> None:
    assets = singles(tmp_path / "data")
    for key in COLOURS:
        assets[key]["raster:bands"] = [{"nodata": 7, "data_type": "uint8"}]
        values = noise(1, 96, 96, low=8)
        values[:, :, :40] = 7
        write(tmp_path / "data" / f"{key}.tif", values)
    path = item(tmp_path / "data" / "i.json", assets)
    (run,) = runs(tmp_path, [str(path)])
    spec, info = run.describe()
    assert info.validity == ("fill",)
    with open_scene(spec) as scene:
        valid = scene.read_validity(WHOLE)
    assert not valid[:, :40].any()
    assert valid[:, 40:].all()
    (given,) = runs(tmp_path, [str(path)], nodata=0)
    assert given.spec.nodata == (0.0,)


def test_an_item_with_one_file_is_that_file(tmp_path: Path) -> None:
    picture = noise(3, 96, 96)
    write(tmp_path / "a.tif", picture, descriptions=("blue", "green", "red"))
    write(tmp_path / "t.png", noise(3, 8, 8), crs=None, transform=None, driver="PNG")
    assets = {"image": {"href": "a.tif"}, "thumbnail": {"href": "t.png"}}  # neither types nor roles
    (run,) = runs(tmp_path, [str(item(tmp_path / "i.json", assets))])
    assert (pixels(run) == picture[::-1]).all()
    (numbered,) = runs(tmp_path, [str(tmp_path / "i.json")], bands=[1, 2, 3])
    spec, _ = numbered.describe()
    with open_scene(spec) as scene:
        assert (scene.read(WHOLE)[0] == picture).all()


def test_files_that_are_not_here_do_not_count(tmp_path: Path) -> None:
    assets = singles(tmp_path / "data")
    there = {key: {**asset, "href": f"https://x.y/gone_{key}.tif"} for key, asset in assets.items()}
    mirrored = {**{f"{key}-cog": asset for key, asset in there.items()}, **assets}
    (run,) = runs(tmp_path, [str(item(tmp_path / "data" / "i.json", mirrored))])
    assert [Path(file).name for file in run.spec.files] == ["B04.tif", "B03.tif", "B02.tif"]
    (away,) = runs(tmp_path, [str(item(tmp_path / "data" / "j.json", there, name="j"))])
    with pytest.raises(SceneError, match=r"j\.json: none of its files is on this machine \(https://x\.y/gone_B08\.tif"):
        away.describe()
    lacking = {key: asset for key, asset in assets.items() if key != "B03"} | {"B03": there["B03"]}
    (part,) = runs(tmp_path, [str(item(tmp_path / "data" / "k.json", lacking, name="k"))])
    with pytest.raises(
        SceneError,
        match=r"k\.json: no band is named green; its bands are B08 \(nir\), B02 \(blue\), B04 \(red\); not on this "
        r"machine: B03; choose with `bands`, for example --set bands=B08,B02,B04$",
    ):
        part.describe()
    (numbered,) = runs(tmp_path, [str(tmp_path / "data" / "i.json")], bands=[1, 2, 3])
    with pytest.raises(SceneError, match=r"bands by number, but its bands lie in 8 files; name them: B08 \(nir\), B02"):
        numbered.describe()
    one = {"B08": assets["B08"], "B04": {**assets["B04"], "href": "s3://bucket/there/B4.tif"}}
    (wrong,) = runs(tmp_path, [str(item(tmp_path / "data" / "l.json", one, name="l"))], bands=["red", "red", "red"])
    with pytest.raises(SceneError, match=r"no band is named red, red, red; its bands are B08 \(nir\); not on this"):
        wrong.describe()
    write(tmp_path / "data" / "B4.tif", noise(1, 96, 96, seed=0))  # as where it was downloaded to
    (found,) = runs(tmp_path, [str(tmp_path / "data" / "l.json")], bands=["red", "B08", "B04"])
    assert [Path(file).name for file in found.spec.files] == ["B4.tif", "B08.tif"]
    assert found.describe()[1].band_names == ("red", "B08", "red")


def test_what_an_item_says_of_its_only_file_is_not_dropped(tmp_path: Path) -> None:
    write(tmp_path / "a.tif", noise(3, 96, 96))
    names = ("nir", "red", "green")
    asset = {"href": "a.tif", "type": COG, "eo:bands": [{"name": n, "common_name": n} for n in names]}
    (run,) = runs(tmp_path, [str(item(tmp_path / "i.json", {"data": asset}))])
    with pytest.raises(
        SceneError, match=r"no band is named blue; its bands are data:nir, data:red, data:green; choose"
    ):
        run.describe()


def test_a_catalog_is_not_overwritten_by_its_results(tmp_path: Path) -> None:
    folder = tmp_path / "out" / "S2_x"
    path = item(folder / "S2_x.json", singles(folder))
    before = path.read_bytes()
    with pytest.raises(JobError, match=r"S2_x\.json: is the scene itself, and its results would replace it"):
        runs(tmp_path, [str(path)])
    assert path.read_bytes() == before
    other = item(tmp_path / "out" / "elsewhere" / "elsewhere.json", singles(folder), name="elsewhere")
    picture = write(tmp_path / "elsewhere.tif", noise(3, 96, 96))
    (beside,) = runs(tmp_path, [str(picture)])
    with pytest.raises(OutputExistsError, match=r"elsewhere\.json: is there, and no manifest\.json beside it says"):
        beside.finished()
    assert other.exists()


@pytest.mark.parametrize("href", ["data:image/tiff;base64," + "A" * 400, "x" * 300 + ".tif"])
def test_hrefs_that_are_no_paths(tmp_path: Path, href: str) -> None:
    path = item(tmp_path / "i.json", {"a": {"href": href, "type": COG}})
    good = write(tmp_path / "good.tif", noise(3, 96, 96))
    first, second = runs(tmp_path, [str(path), str(good)])
    with pytest.raises(SceneError, match=r"i\.json: none of its files is on this machine"):
        first.describe()
    second.describe()


def test_an_id_is_cut_to_what_names_of_files_may_have(tmp_path: Path) -> None:
    found = {
        text: product_name(item(tmp_path / "i.json", {}, name=text)) for text in ("a" * 200, "図" * 90, "x/y", ".")
    }
    assert found == {"a" * 200: "a" * 150, "図" * 90: "図" * 50, "x/y": "x_y", ".": "i"}


def test_an_item_of_an_old_version_that_is_damaged(tmp_path: Path) -> None:
    asset = {"href": "a.tif", "eo:bands": [3]}
    path = item(tmp_path / "i.json", {"a": asset}, stac_version="0.8.1", stac_extensions=["eo"])
    data = json.loads(path.read_text())
    data["properties"]["eo:bands"] = [{"name": "B1"}]
    path.write_text(json.dumps(data))
    (run,) = runs(tmp_path, [str(path)])
    with pytest.raises(SceneError, match=r"i\.json: not a valid STAC item: "):
        run.describe()


def test_paths_that_look_like_urls(tmp_path: Path) -> None:
    folder = tmp_path / "a#b?c%20d"
    path = item(folder / "i.json", singles(folder))
    (run,) = runs(tmp_path, [str(path)])
    assert {str(Path(file).parent) for file in run.spec.files} == {str(folder)}
    assert pixels(run).shape == (3, 96, 96)


def test_a_corrected_item_is_tried_again(tmp_path: Path) -> None:
    assets = singles(tmp_path / "data")
    write(tmp_path / "data" / "B03.tif", noise(2, 96, 96))
    path = item(tmp_path / "data" / "i.json", assets)
    attempts = Attempts(tmp_path, 1)
    (run,) = runs(tmp_path, [str(path)])
    attempts.ended(run, "wrong")
    assert attempts.given_up(run)
    assets["B03"]["eo:bands"].append({"name": "mask"})
    item(path, assets)
    (run,) = runs(tmp_path, [str(path)])
    assert Attempts(tmp_path, 1).given_up(run) is None
    run.describe()


def test_a_scene_that_waits_for_a_band_is_still_known(tmp_path: Path) -> None:
    path = item(tmp_path / "data" / "i.json", singles(tmp_path / "data"))
    (run,) = runs(tmp_path, [str(path)], vector="none", predict={"device": "cpu"})
    run.run()
    (tmp_path / "data" / "B03.tif").unlink()
    (again,) = runs(tmp_path, [str(path)], vector="none", predict={"device": "cpu"})
    assert again.spec.fault is not None
    assert _earlier(again) is not None


def test_items_do_not_go_among_files(tmp_path: Path) -> None:
    path = item(tmp_path / "data" / "i.json", singles(tmp_path / "data"))
    with pytest.raises(JobError, match=r"i\.json: is a scene of several files; name it by itself"):
        runs(tmp_path, [{"name": "x", "files": [str(path), "b.tif"]}])


def test_a_file_with_other_bands_than_its_item_says(tmp_path: Path) -> None:
    assets = singles(tmp_path / "data")
    write(tmp_path / "data" / "B03.tif", noise(2, 96, 96))
    (run,) = runs(tmp_path, [str(item(tmp_path / "data" / "i.json", assets))])
    with pytest.raises(SceneError, match=r"B03\.tif: has 2 bands, but what it belongs to says 1 \(green\)"):
        run.describe()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"assets": 3}', "not a valid STAC item"),
        ("{}", "none of its assets is a raster"),
    ],
)
def test_bad_items_are_one_scenes_failure(tmp_path: Path, text: str, message: str) -> None:
    path = item(tmp_path / "x.json", {})
    path.write_text(json.dumps(json.loads(path.read_text()) | json.loads(text)))
    (run,) = runs(tmp_path, [str(path)])
    with pytest.raises(SceneError, match=rf"x\.json: {message}"):
        run.describe()


def test_patterns_find_items_and_leave_out_their_lists(tmp_path: Path) -> None:
    assets = singles(tmp_path / "data")
    item(tmp_path / "data" / "a.json", assets, name="a")
    item(tmp_path / "data" / "b.json", assets, name="b/c")
    (tmp_path / "data" / "other.json").write_text('{"a": 1}')
    lists = {"type": "Collection", "stac_version": "1.0.0", "id": "all"}
    (tmp_path / "data" / "collection.json").write_text(json.dumps(lists))
    assert [run.spec.name for run in runs(tmp_path, [str(tmp_path / "data" / "*.json")])] == ["a", "b_c"]
    with pytest.raises(JobError, match=r"collection\.json: a Collection, no single STAC item"):
        runs(tmp_path, [str(tmp_path / "data" / "collection.json")])
    assert product_name(tmp_path / "data" / "collection.json", named=False) is None


def band(name: str, common: str = "", data_type: str | None = None) -> ProductBand:
    return ProductBand(name, common, data_type)


def product(tmp_path: Path, **assets: tuple[ProductBand, ...]) -> Product:
    for key in assets:
        (tmp_path / key).touch()
    return Product(tmp_path / "p", tuple(Asset(k, str(tmp_path / k), bands) for k, bands in assets.items()))


def chosen(of: Product, *wanted: str, data_type: str = "any") -> list[str]:
    return [Path(file).name for file in choose_members(of, wanted, data_type, chosen=False).files]


def test_the_data_type_decides(tmp_path: Path) -> None:
    colours = ("red", "green", "blue")
    of = product(
        tmp_path,
        **{c: (band(c, c, "uint16"),) for c in colours},
        visual=tuple(band(c, c, "uint8") for c in colours),
        other=tuple(band(c, c) for c in colours),
    )
    assert chosen(of, *colours, data_type="uint16") == ["red", "green", "blue"]
    assert chosen(of, *colours, data_type="uint8") == ["visual"]
    assert chosen(of, *colours, data_type="float32") == ["other"]


def test_files_say_their_type_where_the_product_does_not(tmp_path: Path) -> None:
    names = ("red", "green", "blue")
    for key in names:
        write(tmp_path / f"B_{key}.tif", noise(1, 9, 9, dtype="uint16"))
    write(tmp_path / "visual.tif", noise(3, 9, 9))
    of = Product(tmp_path / "p", (
        *(Asset(f"B_{name}", str(tmp_path / f"B_{name}.tif"), (band(f"B_{name}", name),)) for name in names),
        Asset("visual", str(tmp_path / "visual.tif"), tuple(band(f"v_{name}", name) for name in names)),
    ))  # fmt: skip
    assert chosen(of, *names, data_type="uint8") == ["visual.tif"]
    for data_type in ("uint16", "float32"):
        assert chosen(of, *names, data_type=data_type) == ["B_red.tif", "B_green.tif", "B_blue.tif"]


def test_what_may_be_two_bands_is_asked(tmp_path: Path) -> None:
    of = product(tmp_path, B05=(band("B05", "rededge"),), B06=(band("B06", "rededge"),), m=(band("B06", "rededge"),))
    with pytest.raises(SceneError, match=r"rededge may be B05:B05, B06:B06, m:B06; choose with `bands`"):
        chosen(of, "rededge")
    assert chosen(of, "B06") == ["B06"]
    assert chosen(of, "m") == ["m"]


def sentinel2(folder: Path, level: str = "L2A") -> Path:
    """Write a folder like those of Sentinel-2, without what is not read."""
    path = folder / f"S2A_MSI{level}_20240506T102030_N0510_R065_T33UVU_20240506T120000.SAFE"
    images = path / "GRANULE" / f"{level}_T33UVU_A1_20240506T102030" / "IMG_DATA"
    how = {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES"}
    a, b, c, d, e, f = tuple(NORTH_UP)[:6]
    for size, side, keys in ((10, 96, ("B02", "B03", "B04", "TCI")), (20, 48, ("B02", "B11")), (60, 16, ("B01",))):
        for key in keys:
            where = images / f"R{size}m" if level == "L2A" else images
            where.mkdir(parents=True, exist_ok=True)
            count, kind = (3, "uint8") if key == "TCI" else (1, "uint16")
            values = noise(count, side, side, dtype=kind, seed=sum(map(ord, key)) + size)
            values[:, :, : side // 4] = 0
            name = f"T33UVU_20240506T102030_{key}" + (f"_{size}m" if level == "L2A" else "")
            step = 96 // side
            if level != "L2A" and (where / f"{name}.jp2").exists():
                continue
            transform = type(NORTH_UP)(a * step, b, c, d, e * step, f)
            write(where / f"{name}.jp2", values, transform=transform, **how)
    return path


@pytest.mark.parametrize("level", ["L1C", "L2A"])
def test_folders_of_sentinel2(tmp_path: Path, level: str) -> None:
    path = sentinel2(tmp_path / "data", level)
    of = read_product(path)
    assert [asset.key for asset in of.assets] == ["B01", "B02", "B03", "B04", "B11", "TCI"]
    assert acquired(path) == {"datetime": "2024-05-06T10:20:30Z"}
    old = "S2A_OPER_PRD_MSIL1C_PDMC_20160101T123456_R065_V20151231T102030_20151231T102030.SAFE"
    assert acquired(Path(old)) == {"datetime": "2015-12-31T10:20:30Z"}
    for scenes in (path, path.parent, path.parent / "*.SAFE", path.parent / "**" / "*"):
        (run,) = runs(tmp_path, [str(scenes)])  # a model of uint8
        assert run.spec.name == path.stem
        assert [Path(file).name.split("_")[2].removesuffix(".jp2") for file in run.spec.files] == ["TCI"]
    assert (pixels(run)[:, :, 24:] > 0).all()
    (other,) = runs(tmp_path, [str(path)], bands=["swir16", "red", "blue"], data_type="ignore")
    spec, info = other.describe()
    assert (info.shape, info.dtype) == ((96, 96), "uint16")
    with open_scene(spec) as scene:
        values, valid = scene.read(WHOLE)
    assert not valid[:, :20].any()
    assert valid[:, 28:].all()
    assert (values[2, :, 28:] == noise(1, 96, 96, dtype="uint16", seed=sum(map(ord, "B02")) + 10)[0, :, 28:]).all()


def test_folders_that_hold_no_sentinel2(tmp_path: Path) -> None:
    path = tmp_path / "S1A_IW_GRDH.SAFE"
    path.mkdir()
    (run,) = runs(tmp_path, [str(path)])
    with pytest.raises(SceneError, match=r"S1A_IW_GRDH\.SAFE: no bands of Sentinel-2"):
        run.describe()
    for name in ("a", "b"):
        (path / "GRANULE" / name).mkdir(parents=True)
    (run,) = runs(tmp_path, [str(path)])
    with pytest.raises(SceneError, match=r"holds 2 granules, expected one"):
        run.describe()


def test_files_of_a_product_count_as_the_scenes(tmp_path: Path) -> None:
    path = item(tmp_path / "data" / "i.json", singles(tmp_path / "data"))
    job = Job.model_validate({"scenes": [str(path)], "model": "demo", "outputs": {"folder": str(tmp_path / "out")}})
    (spec,) = find_scenes(job)
    assert {Path(file).name for file in spec.files} == {"i.json", *(f"{key}.tif" for key in COLOURS)}


def test_results_say_what_an_item_said(tmp_path: Path) -> None:
    path = item(tmp_path / "data" / "i.json", singles(tmp_path / "data"))
    (run,) = runs(tmp_path, [str(path)], vector="none", predict={"device": "cpu"})
    manifest = run.run()
    assert manifest["input"]["product"] == str(path)
    made = json.loads((run.folder / "S2_x.json").read_text())
    assert made["properties"]["datetime"] == "2024-05-06T10:20:30Z"
    assert made["properties"]["platform"] == "sentinel-2a"
    assert [link["href"] for link in made["links"]] == ["../../data/i.json"]
    (again,) = runs(tmp_path, [str(path)], vector="none", predict={"device": "cpu"})
    assert again.finished() is not None
    write(tmp_path / "data" / "B03.tif", noise(1, 96, 96, seed=50))
    (changed,) = runs(tmp_path, [str(path)], vector="none", predict={"device": "cpu"}, outputs={
        "folder": str(tmp_path / "out"), "overwrite": True})  # fmt: skip
    assert changed.finished() is None
