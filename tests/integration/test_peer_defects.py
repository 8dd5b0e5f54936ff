"""Defects that were seen in other systems, each as a test of this one."""

from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio

from geounet.config.card import PALETTE, ClassInfo, Kind
from geounet.config.job import Buildings, Landcover, Vector
from geounet.vector.build import SerialExecutor, geopackage
from geounet.vector.request import VectorRequest
from tests.support.local import NORTH_UP, TILE, LocalNetwork, card, run_local, use_network, write_scene


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> LocalNetwork:
    network = LocalNetwork(card())
    use_network(monkeypatch, network, tmp_path)
    return network


def noise(*shape: int, low: int = 0) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(low, 256, shape).astype(np.uint8)


@pytest.mark.parametrize("size", [TILE // 3, TILE // 2, TILE - 7, TILE])
def test_scene_smaller_than_half_a_tile_is_predicted(network: LocalNetwork, tmp_path: Path, size: int) -> None:
    """geo-inference: all zeros, or the last row and column zero, where the Hann weight is 0."""
    values = noise(3, size, size)
    mask, _, _ = run_local(tmp_path, network, write_scene(tmp_path / "scene.tif", values))
    x = (values.astype(np.float32) - 100) / 50
    assert (mask[0] == network.probabilities(x).argmax(axis=0)).mean() > 0.999


def test_a_zero_in_one_band_is_a_value(network: LocalNetwork, tmp_path: Path) -> None:
    """geo-inference: without a nodata tag every pixel with a 0 in any band became nodata."""
    values = np.stack([np.full((40, 50), v, np.uint8) for v in (220, 90, 0)])
    mask, _, _ = run_local(tmp_path, network, write_scene(tmp_path / "scene.tif", values))
    assert (mask != 255).all()


def classes() -> tuple[ClassInfo, ...]:
    kinds = (Kind.background, Kind.building)
    return tuple(ClassInfo(name=k.value, code=i, colour=PALETTE[i], kind=k) for i, k in enumerate(kinds))


def vectors(tmp_path: Path, mask: np.ndarray, layers: Vector) -> Path:
    source = write_scene(tmp_path / "mask.tif", mask[None].astype(np.uint8), nodata=255)
    out = tmp_path / "out.gpkg"
    request = VectorRequest(
        mask=str(source),
        probability=None,
        classes=classes(),
        channels={},
        layers=layers,
        cell=64,
        out=out,
        work=tmp_path / "work",
    )
    geopackage(request, SerialExecutor())
    return out


def test_nodata_is_no_polygon(tmp_path: Path) -> None:
    """geo-inference: a polygon for the value 255."""
    mask = np.full((50, 60), 255)
    mask[10:30, 10:40] = 1
    mask[30:40, 10:40] = 0
    layers = Vector.model_construct(
        cell=64, buildings=False, roads=False, landcover=Landcover(min_area_m2=0, tolerance_px=0)
    )
    frame = geopandas.read_file(vectors(tmp_path, mask, layers), layer="landcover")
    assert sorted(frame["class_id"]) == [0, 1]
    assert frame.area.sum() == pytest.approx((mask != 255).sum() * 0.09)


@pytest.mark.parametrize(
    ("rows", "cols"), [(300 * TILE // 512, 300 * TILE // 512), (300 * TILE // 512, 1500 * TILE // 512)]
)
def test_last_batch_is_flushed(network: LocalNetwork, tmp_path: Path, rows: int, cols: int) -> None:
    """geoai: 300 × 300 px with window 512 came out empty, 300 × 1500 px to 85 %."""
    network.batch = 3
    mask, _, infer = run_local(tmp_path, network, write_scene(tmp_path / "scene.tif", noise(3, rows, cols)), side=9)
    assert (mask != 255).all()
    assert sum(r["tiles"] for r in infer.values()) % network.batch, "else there is no incomplete batch"


@pytest.mark.parametrize("nodata", [-9999.0, np.nan])
def test_float_scene_with_nodata(network: LocalNetwork, tmp_path: Path, nodata: float) -> None:
    """geoai: nodata -9999 or NaN crashed on writing uint8."""
    values = noise(3, 70, 45).astype(np.float32)
    values[:, 20:40, 5:30] = nodata
    mask, prob, _ = run_local(tmp_path, network, write_scene(tmp_path / "scene.tif", values, nodata=nodata))
    assert (mask[0, 20:40, 5:30] == 255).all()
    assert (mask == 255).sum() == 20 * 25
    assert ((prob == 255).any(axis=0) == (mask[0] == 255)).all()


def test_outermost_ring_is_data(network: LocalNetwork, tmp_path: Path) -> None:
    """geoai: linear and cosine blending left the outer ring as nodata; Deepness and others lose the last row."""
    values = noise(3, 3 * TILE + 7, 2 * TILE + 5)
    mask, prob, _ = run_local(tmp_path, network, write_scene(tmp_path / "scene.tif", values))
    direct = network.probabilities((values.astype(np.float32) - 100) / 50)
    for ring in (np.s_[:, 0], np.s_[:, -1], np.s_[:, :, 0], np.s_[:, :, -1]):
        assert (mask[ring] != 255).all()
        assert np.abs(prob[ring] / 254 - direct[ring]).max() < 0.6 / 254


def test_resampled_mask_lies_on_the_scene(network: LocalNetwork, tmp_path: Path) -> None:
    """GeoDeep: a 0.3 m scene with a 1 m model gave 333² px of 0.9009 m, and objects moved by 0.27 m."""
    values = np.full((3, 1000, 1000), 20, np.uint8)
    values[:, 400:460, 915:960] = 250
    scene = write_scene(tmp_path / "scene.tif", values)
    mask, _, _ = run_local(tmp_path, network, scene, model_shape=(300, 300), side=99)
    with rasterio.open(tmp_path / "run" / "final" / "scene_mask.tif") as file:
        assert file.shape == (1000, 1000)
        assert file.transform == NORTH_UP
    assert mask[0, 430, 940] != mask[0, 0, 0], "else the test shows nothing"
    rows, cols = np.nonzero(mask[0] != mask[0, 0, 0])
    assert abs(rows.mean() - 429.5) < 0.5
    assert abs(cols.mean() - 937.0) < 0.5


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float64"])
def test_other_types_keep_their_values(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dtype: str) -> None:
    """GeoDeep: uint16 was divided by 65535, five bands were refused, nodata 0 was the background class."""
    network = LocalNetwork(card(bands=5))
    use_network(monkeypatch, network, tmp_path)
    values = noise(5, 40, 33).astype(dtype)
    mask, _, _ = run_local(tmp_path, network, write_scene(tmp_path / "scene.tif", values))
    direct = network.probabilities((values.astype(np.float32) - 100) / 50).argmax(axis=0)
    assert (mask[0] == direct).mean() > 0.999
    with rasterio.open(tmp_path / "run" / "final" / "scene_mask.tif") as file:
        assert file.nodata == 255


def test_a_polygon_has_the_area_of_its_pixels(tmp_path: Path) -> None:
    """Deepness (OpenCV contours): a block of 5 × 10 px had an area of 36, not 50."""
    mask = np.zeros((40, 40))
    mask[10:15, 20:30] = 1
    layers = Vector.model_construct(
        cell=64,
        buildings=Buildings(**{"class": "building"}, min_area_m2=0, tolerance_px=0),
        roads=False,
        landcover=False,
    )
    frame = geopandas.read_file(vectors(tmp_path, mask, layers), layer="buildings")
    assert frame.area.tolist() == pytest.approx([50 * 0.09])
