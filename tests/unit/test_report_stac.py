from __future__ import annotations

import hashlib
import json
import re
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyproj import CRS
from pystac.validation import validate_dict
from shapely.geometry import shape

from geounet.config.card import Card
from geounet.raster.scene import SceneInfo
from geounet.report.ground import footprint, ground
from geounet.report.stac import write_item

STARTED = datetime(2026, 3, 1, 10, 0, tzinfo=UTC)
FINISHED = datetime(2026, 3, 1, 10, 30, 5, tzinfo=UTC)


def scene(
    crs: str | None = "EPSG:32645",
    transform: tuple[float, ...] = (0.5, 0, 354000, 0, -0.5, 3057000),
    size: tuple[int, int] = (400, 600),
    **changes: Any,
) -> SceneInfo:
    fields: dict[str, Any] = {
        "name": "banepa",
        "files": ("/data/banepa.tif",),
        "driver": "GTiff",
        "height": size[0],
        "width": size[1],
        "band_names": ("red", "green", "blue"),
        "dtype": "uint8",
        "crs_wkt": CRS.from_user_input(crs).to_wkt() if crs else None,
        "transform": transform,
        "georeferenced": True,
        "gsd": 0.5,
        "validity": (),
        "fingerprint": "0" * 64,
        "block_shape": (256, 256),
        "decoded_bytes": 1,
        "warnings": (),
    }
    return SceneInfo(**(fields | changes))


def card(activation: str = "softmax", classes: int = 3, **changes: Any) -> Card:
    named = [
        {"name": "background", "code": 0, "colour": "#1f1f1f", "kind": "background"},
        {"name": "building", "code": 1, "colour": "#e6194b", "kind": "building", "description": "roofs"},
        {"name": "forest & scrub", "code": 2, "colour": "#3cb44b"},
    ]
    chosen = named[:classes] if activation == "softmax" else named[1 : 1 + classes]
    fields: dict[str, Any] = {
        "name": "aerial",
        "architecture": "Unet",
        "encoder": "resnet18",
        "activation": activation,
        "input": {
            "bands": ["red", "green", "blue"],
            "data_type": "uint8",
            "value_scaling": [{"mean": 100.0, "stddev": 50.0}] * 3,
        },
        "gsd": 0.5,
        "classes": chosen,
        "total_parameters": 14_000_000,
        "licence": "CC-BY-4.0",
    }
    return Card.model_validate(fields | changes)


def write(folder: Path, info: SceneInfo, model: Card, extra: dict[str, Any] | None = None, sources: Any = None) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    names = {
        "mask": "banepa_mask.tif",
        "probability": "banepa_prob.tif",
        "vectors": "banepa.gpkg",
        "preview": "banepa_preview.png",
        "style": "banepa_mask.qml",
        "manifest": "manifest.json",
    }
    for name in names.values():
        (folder / name).write_bytes(name.encode() * 100)
    dest = folder / "banepa.json"
    write_item(
        dest,
        info=info,
        card=model,
        assets={k: folder / v for k, v in names.items()},
        started=STARTED,
        finished=FINISHED,
        software={"geounet": "0.1.0", "torch": "2.15.0"},
        source_files=sources or [str(folder.parent / "in put" / "banepa.tif")],
        extra=extra or {},
    )
    return json.loads(dest.read_text(encoding="utf-8"))


def no_network(*_: Any, **__: Any) -> Any:
    raise AssertionError("an item is written without the network")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "create_connection", no_network)


def validated(item: dict[str, Any]) -> dict[str, Any]:
    """Validate against the core 1.1.0 schema, which pystac carries; extensions would need the network."""
    core = item | {"stac_extensions": []}
    assert validate_dict(core, stac_version="1.1.0")
    return item


def test_item_is_valid_and_complete(tmp_path: Path) -> None:
    item = validated(write(tmp_path / "out" / "banepa", scene(), card()))
    assert item["stac_version"] == "1.1.0"
    assert item["id"] == "banepa-aerial"
    properties = item["properties"]
    assert properties["datetime"] == "2026-03-01T10:30:05Z"
    assert properties["processing:datetime"] == "2026-03-01T10:30:05Z"
    assert properties["processing:software"] == {"geounet": "0.1.0", "torch": "2.15.0"}
    assert "forest & scrub" in properties["processing:lineage"]
    assert properties["proj:code"] == "EPSG:32645"
    assert "proj:wkt2" not in properties
    assert properties["proj:shape"] == [400, 600]
    assert properties["proj:transform"] == [0.5, 0, 354000, 0, -0.5, 3057000]
    assert properties["gsd"] == 0.5
    assert properties["mlm:name"] == "aerial"
    assert properties["mlm:architecture"] == "Unet"
    assert properties["mlm:tasks"] == ["semantic-segmentation"]
    assert properties["mlm:total_parameters"] == 14_000_000
    assert properties["geounet:model_licence"] == "CC-BY-4.0"


def test_every_used_extension_is_declared_but_mlm(tmp_path: Path) -> None:
    item = write(tmp_path, scene(), card())
    declared = {re.search(r"github\.io/([a-z-]+)/v", uri).group(1) for uri in item["stac_extensions"]}  # type: ignore[union-attr]
    text = json.dumps(item)
    used = set(re.findall(r'"([a-z]+):[a-z_]+":', text))
    prefixes = {"projection": "proj"}
    # The MLM schema wants the weights as an asset: an item of a mask that declared it would be invalid.
    assert used - {"mlm", "geounet"} == {prefixes.get(d, d) for d in declared}


def test_assets_have_types_roles_sizes_and_checksums(tmp_path: Path) -> None:
    assets = write(tmp_path, scene(), card())["assets"]
    assert assets["mask"]["type"] == "image/tiff; application=geotiff; profile=cloud-optimized"
    assert assets["probability"]["type"] == "image/tiff; application=geotiff; profile=cloud-optimized"
    assert assets["vectors"]["type"] == "application/geopackage+sqlite3"
    assert assets["preview"]["type"] == "image/png"
    assert assets["preview"]["roles"] == ["overview"]
    assert assets["manifest"]["type"] == "application/json"
    assert assets["style"]["type"] == "application/xml"
    for asset in assets.values():
        assert asset["href"].startswith("./")
        path = tmp_path / asset["href"]
        assert asset["file:size"] == path.stat().st_size > 0
        # Multihash: sha2-256 is 0x12, its length 0x20.
        assert asset["file:checksum"] == "1220" + hashlib.sha256(path.read_bytes()).hexdigest()


def test_assets_may_lie_elsewhere_until_they_have_their_names(tmp_path: Path) -> None:
    (tmp_path / ".tmp.tif").write_bytes(b"mask")
    mask = {"mask": tmp_path / "banepa_mask.tif"}
    given: dict[str, Any] = {"started": STARTED, "finished": FINISHED, "software": {}, "source_files": [], "extra": {}}
    lying = {"mask": tmp_path / ".tmp.tif"}
    write_item(tmp_path / "item.json", info=scene(), card=card(), assets=mask, lying=lying, **given)
    asset = json.loads((tmp_path / "item.json").read_text())["assets"]["mask"]
    assert (asset["href"], asset["file:size"]) == ("./banepa_mask.tif", 4)
    assert asset["file:checksum"] == "1220" + hashlib.sha256(b"mask").hexdigest()


def test_classes_of_a_softmax_mask(tmp_path: Path) -> None:
    mask = write(tmp_path, scene(), card())["assets"]["mask"]
    assert mask["data_type"] == "uint8"
    assert mask["nodata"] == 255
    classes = mask["classification:classes"]
    assert [c["value"] for c in classes] == [0, 1, 2, 255]
    assert [c["name"] for c in classes] == ["background", "building", "forest___scrub", "nodata"]
    assert classes[2]["title"] == "forest & scrub"
    assert classes[1]["description"] == "roofs"
    assert classes[1]["color_hint"] == "E6194B"
    assert classes[3]["nodata"] is True
    for entry in classes:
        assert re.fullmatch(r"[0-9A-Za-z_-]+", entry["name"])
        assert re.fullmatch(r"[0-9A-F]{6}", entry.get("color_hint", "000000"))


def test_classes_of_a_binary_mask_include_the_background(tmp_path: Path) -> None:
    item = validated(write(tmp_path, scene(), card("sigmoid", 1)))
    assert [c["value"] for c in item["assets"]["mask"]["classification:classes"]] == [0, 1, 255]
    assert [b["name"] for b in item["assets"]["probability"]["bands"]] == ["p(building)"]


def test_classes_of_a_multilabel_mask_stand_at_its_bands(tmp_path: Path) -> None:
    mask = validated(write(tmp_path, scene(), card("sigmoid", 2)))["assets"]["mask"]
    assert "classification:classes" not in mask
    assert [b["name"] for b in mask["bands"]] == ["building", "forest & scrub"]
    for band in mask["bands"]:
        assert [c["value"] for c in band["classification:classes"]] == [0, 1, 255]


def test_probability_is_scaled(tmp_path: Path) -> None:
    asset = write(tmp_path, scene(), card())["assets"]["probability"]
    assert asset["raster:scale"] * 254 == pytest.approx(1.0)
    assert asset["raster:offset"] == 0.0
    assert asset["nodata"] == 255
    assert [b["name"] for b in asset["bands"]] == ["p(background)", "p(building)", "p(forest & scrub)"]


def test_links_name_the_input(tmp_path: Path) -> None:
    sources = [str(tmp_path / "in put" / "a#1.tif"), "https://example.org/b.tif"]
    item = validated(write(tmp_path / "out", scene(), card(), sources=sources))
    links = [(link["rel"], link["href"]) for link in item["links"]]
    assert links == [("derived_from", "../in%20put/a%231.tif"), ("derived_from", "https://example.org/b.tif")]
    assert item["links"][0]["type"] == "image/tiff; application=geotiff"


def test_extra_properties_win(tmp_path: Path) -> None:
    extra = {"datetime": "2020-07-01T00:00:00Z", "license": "CC-BY-4.0", "geounet:run": "abc"}
    properties = validated(write(tmp_path, scene(), card(), extra))["properties"]
    assert properties["datetime"] == "2020-07-01T00:00:00Z"
    assert properties["created"] == "2026-03-01T10:30:05Z"
    assert properties["license"] == "CC-BY-4.0"
    assert properties["geounet:run"] == "abc"


def test_time_without_zone_and_numbers_that_are_not_json_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write(tmp_path, scene(), card(), {"x": float("nan")})
    assert not (tmp_path / "banepa.json").exists()
    with pytest.raises(ValueError, match="no time zone"):
        write_item(
            tmp_path / "x.json", info=scene(), card=card(), assets={}, started=STARTED,
            finished=datetime(2026, 1, 1), software={}, source_files=[], extra={},
        )  # fmt: skip


def test_without_a_crs_there_is_no_geometry(tmp_path: Path) -> None:
    item = validated(write(tmp_path, scene(crs=None, gsd=None), card()))
    assert item["geometry"] is None
    assert "bbox" not in item
    assert item["properties"]["proj:code"] is None
    assert item["properties"]["proj:transform"] == [0.5, 0, 354000, 0, -0.5, 3057000]
    assert "gsd" not in item["properties"]
    bare = validated(write(tmp_path, scene(crs=None, gsd=None, georeferenced=False), card()))
    assert "proj:transform" not in bare["properties"]


def test_crs_without_a_code_is_written_as_wkt2(tmp_path: Path) -> None:
    own = "+proj=tmerc +lat_0=10 +lon_0=20.5 +k=0.9993 +x_0=0 +y_0=0 +ellps=GRS80 +units=m"
    item = validated(write(tmp_path, scene(own, (10, 0, 0, 0, -10, 0)), card()))
    assert item["properties"]["proj:code"] is None
    assert CRS.from_wkt(item["properties"]["proj:wkt2"]).equals(CRS.from_user_input(own))
    assert item["bbox"][0] == pytest.approx(20.5)


# Footprints


def test_footprint_runs_counterclockwise_and_closes() -> None:
    geometry, bbox = footprint(scene()) or ({}, [])
    assert geometry["type"] == "Polygon"
    ring = shape(geometry).exterior
    assert ring.is_ccw
    assert ring.coords[0] == ring.coords[-1]
    assert shape(geometry).bounds == pytest.approx(bbox)
    assert bbox == pytest.approx([85.52, 27.63, 85.53, 27.64], abs=0.02)


def test_footprint_follows_curved_sides() -> None:
    """In Lambert conformal conic the parallel through both corners lies off the straight side by far."""
    info = scene("EPSG:3034", (1000, 0, 2_500_000, 0, -1000, 4_000_000), (3000, 3000))
    geometry, _ = footprint(info) or ({}, [])
    corners = shape(geometry).exterior
    assert len(corners.coords) > 40
    chord = shape({"type": "Polygon", "coordinates": [geometry["coordinates"][0][::16]]})
    assert shape(geometry).symmetric_difference(chord).area > 1.0


def test_footprint_across_the_antimeridian_is_cut() -> None:
    """RFC 7946, 3.1.9 and 5.2: parts on each side, and a box whose west is greater than its east."""
    info = scene("EPSG:32660", (1000, 0, 600_000, 0, -1000, 7_000_000), (300, 500))
    geometry, bbox = footprint(info) or ({}, [])
    assert geometry["type"] == "MultiPolygon"
    parts = list(shape(geometry).geoms)
    assert len(parts) == 2
    assert all(p.exterior.is_ccw for p in parts)
    assert sorted(round(p.bounds[0]) for p in parts) == [-180, round(bbox[0])]
    assert max(p.bounds[2] for p in parts) == 180.0
    assert 175 < bbox[0] <= 180
    assert -180 <= bbox[2] < -165
    assert bbox[0] > bbox[2]


def test_footprint_with_longitudes_beyond_180() -> None:
    geometry, bbox = footprint(scene("EPSG:4326", (0.5, 0, 200.0, 0, -0.5, 10.0), (20, 40))) or ({}, [])
    assert bbox == [-160.0, 0.0, -140.0, 10.0]
    assert shape(geometry).bounds == (-160.0, 0.0, -140.0, 10.0)
    _, crossing = footprint(scene("EPSG:4326", (0.5, 0, 170.0, 0, -0.5, 10.0), (20, 40))) or ({}, [])
    assert crossing == [170.0, 0.0, -170.0, 10.0]


@pytest.mark.parametrize("west", [-180.0, 0.0])
def test_footprint_of_the_whole_world(west: float) -> None:
    geometry, bbox = footprint(scene("EPSG:4326", (1, 0, west, 0, -1, 90), (180, 360))) or ({}, [])
    assert bbox == [-180.0, -90.0, 180.0, 90.0]
    assert shape(geometry).area == pytest.approx(360 * 180)


@pytest.mark.parametrize(("crs", "south", "north"), [("EPSG:3413", 60.0, 90.0), ("EPSG:3031", -90.0, -60.0)])
def test_footprint_around_a_pole_contains_it(crs: str, south: float, north: float) -> None:
    geometry, bbox = footprint(scene(crs, (20_000, 0, -2e6, 0, -20_000, 2e6), (200, 200))) or ({}, [])
    assert (bbox[0], bbox[2]) == (-180.0, 180.0)
    assert bbox[1] >= south
    assert bbox[3] <= north
    assert 90.0 in (abs(bbox[1]), abs(bbox[3]))
    assert shape(geometry).is_valid
    # The cap down to the corners' latitude: about 1/28 of the sphere's 360 × 180 degrees would be a strip, not this.
    assert shape(geometry).area > 360 * 15


def test_footprint_of_a_full_disc_is_left_out() -> None:
    full_disc = "+proj=geos +h=35785831 +lon_0=0 +a=6378169 +b=6356583.8 +units=m"
    assert footprint(scene(full_disc, (3000, 0, -5_570_000, 0, -3000, 5_570_000), (3712, 3712))) is None


def test_footprint_of_a_rotated_grid_is_not_its_box() -> None:
    c, s = np.cos(np.radians(30)) * 0.5, np.sin(np.radians(30)) * 0.5
    geometry, _ = footprint(scene(transform=(c, s, 354000, s, -c, 3057000))) or ({}, [])
    outline = shape(geometry)
    assert outline.area / outline.envelope.area < 0.7


# Ground


def test_ground_of_projected_and_geographic_grids() -> None:
    across, along, bearing = ground(scene()) or (0, 0, 0)
    assert across == pytest.approx(0.5, rel=1e-3)
    assert along == pytest.approx(0.5, rel=1e-3)
    assert abs(bearing) < 1.0
    across, along, bearing = ground(scene("EPSG:4326", (0.001, 0, 10, 0, -0.001, 60.2), (400, 400))) or (0, 0, 0)
    assert across == pytest.approx(111_320 * 0.001 * 0.5, rel=5e-3)
    assert along == pytest.approx(111.4, rel=5e-3)
    assert bearing == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("angle", [-120, -30, 30, 90, 179])
def test_ground_knows_the_direction_of_north(angle: float) -> None:
    """A grid turned so that north points `angle` degrees clockwise from the top of the image."""
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    # On the central meridian of the zone grid north is true north.
    _, _, bearing = ground(scene("EPSG:32645", (c, s, 500_000, s, -c, 3_000_000), (10, 10))) or (0, 0, 0)
    assert bearing == pytest.approx(angle, abs=0.01)


def test_ground_of_a_south_up_grid() -> None:
    _, _, bearing = ground(scene("EPSG:32645", (1, 0, 500_000, 0, 1, 3_000_000), (10, 10))) or (0, 0, 0)
    assert abs(bearing) == pytest.approx(180.0, abs=0.01)
    c, s = np.cos(np.radians(20)), np.sin(np.radians(20))
    # The image of a grid turned by 20 degrees, then upside down: north at 180 - 20.
    _, _, bearing = ground(scene("EPSG:32645", (c, -s, 500_000, s, c, 3_000_000), (10, 10))) or (0, 0, 0)
    assert bearing == pytest.approx(160.0, abs=0.01)


def test_ground_is_unknown_without_a_crs() -> None:
    assert ground(scene(crs=None)) is None
    assert ground(scene(georeferenced=False)) is None
