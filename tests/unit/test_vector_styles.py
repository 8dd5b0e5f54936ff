"""Styles: what they hold for any classes, colours and scales; scenes below them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geounet.config.card import ClassInfo, Kind
from geounet.vector import backdrop
from geounet.vector.content import LayerContent
from geounet.vector.schema import BUILDINGS, LANDCOVER, LAYERS, ROAD_EDGES, ROAD_NODES, Layer
from geounet.vector.styles import CONFIDENCES, ROADS, qml, scales
from geounet.vector.symbols import GROUND, ramp
from tests.support.rasters import write
from tests.support.vectors import CLASSES, GRID

COLOURS = st.tuples(*[st.integers(0, 255)] * 3)


def parsed(layer: Layer, classes: tuple[ClassInfo, ...] = CLASSES, **how: bool) -> ET.Element:
    content = LayerContent(layer, lambda: iter(()), classes, **how)
    text = qml(content, 0.3)
    assert text.startswith("<!DOCTYPE qgis")
    return ET.fromstring(text.split("\n", 1)[1])


def options(node: ET.Element) -> dict[str, str]:
    found = node.find("Option")
    assert found is not None
    return {o.get("name", ""): o.get("value", "") for o in found}


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_every_column_has_a_name_and_every_symbol_its_entry(layer: Layer) -> None:
    root = parsed(layer)
    assert [a.get("field") for a in root.iter("alias")] == ["fid", *(c.name for c in layer.columns)]
    assert [f.get("name") for f in root.find("fieldConfiguration") or ()] == ["fid", *(c.name for c in layer.columns)]
    entries = [*root.iter("range"), *root.iter("category")]
    symbols = {s.get("name") for s in root.iter("symbol")}
    assert {e.get("symbol") for e in entries} <= symbols
    assert root.findtext("previewExpression")
    tip = root.findtext("mapTip") or ""
    assert tip.count("[%") == tip.count("%]") > 1


def test_colours_and_names_are_those_of_the_classes() -> None:
    classes = (*CLASSES, ClassInfo(name='<a & "b">', code=9, colour="#010203"))
    root = parsed(LANDCOVER, classes)
    labels = [(c.get("value"), c.get("label")) for c in root.iter("category")]
    assert labels == [(str(c.code), c.name) for c in classes]
    for info, node in zip(classes, root.iter("symbol"), strict=True):
        layer = node.find("layer")
        assert layer is not None
        red, green, blue, alpha = (int(v) for v in options(layer)["color"].split(","))
        assert (red, green, blue) == info.rgb
        assert alpha == (70 if info.kind == Kind.background else 255)
    widget = next(f for f in root.iter("field") if f.get("name") == "class_id")
    names = [(o.get("value"), o.get("name")) for o in widget.iter("Option") if o.get("value")]
    assert names == labels


def test_roads_are_as_wide_as_on_the_ground() -> None:
    root = parsed(ROAD_EDGES)
    renderer = root.find("renderer-v2")
    assert renderer is not None
    assert renderer.get("symbollevels") == "1"
    bounds = [(float(r.get("lower", "")), float(r.get("upper", ""))) for r in root.iter("range")]
    assert bounds == [(low, high) for low, high, *_ in ROADS]
    assert all(a[1] == b[0] for a, b in pairwise(bounds))
    assert bounds[0][0] == 0
    least = []
    for index, symbol in enumerate(root.iter("symbol")):
        casing, inner, bridge = symbol.findall("layer")
        for layer in (casing, inner):
            assert options(layer)["line_width_unit"] == GROUND
            assert "outlineWidth" in ET.tostring(layer, encoding="unicode")
        assert "bridged" in ET.tostring(bridge, encoding="unicode")
        # All casings before all lines, and wide roads over narrow ones.
        assert (casing.get("pass"), inner.get("pass")) == ("0", str(index + 1))
        widths = [float(options(layer)["width_map_unit_scale"].split(",")[3]) for layer in (casing, inner)]
        assert widths[0] > widths[1]
        least.append(widths[1])
    assert least == sorted(least)


def test_buildings_by_confidence_only_where_there_is_one() -> None:
    found = parsed(BUILDINGS)
    assert [(float(r.get("lower", "")), float(r.get("upper", ""))) for r in found.iter("range")] == list(CONFIDENCES)
    assert CONFIDENCES[0][0] == 0
    assert CONFIDENCES[-1][1] == 1
    plain = parsed(BUILDINGS, measured=False)
    renderer = plain.find("renderer-v2")
    assert renderer is not None
    assert renderer.get("type") == "singleSymbol"
    for layers in (BUILDINGS, ROAD_EDGES, ROAD_NODES, LANDCOVER):
        parsed(layers, ())  # no classes: no failure


@given(COLOURS, st.integers(2, 7))
def test_tints_go_from_pale_to_full(rgb: tuple[int, int, int], count: int) -> None:
    tints = np.array(ramp(rgb, count)).astype(float)
    assert tints.shape == (count, 3)
    assert ((tints >= 0) & (tints <= 255)).all()
    lightness = (tints.max(axis=1) + tints.min(axis=1)) / 2 / 255
    assert (np.diff(lightness) < 0).all()
    assert lightness[0] == pytest.approx(0.90, abs=0.01)
    assert lightness[-1] == pytest.approx(0.40, abs=0.01)
    if max(rgb) == min(rgb):
        assert (np.ptp(tints, axis=1) == 0).all()


@given(st.one_of(st.none(), st.floats(0.01, 1000)))
def test_scales_follow_the_pixels(gsd: float | None) -> None:
    near, middle = scales(gsd)
    assert near % 1000 == middle % 1000 == 0
    assert 5000 <= near < middle
    assert scales(0.5) == scales(None) == (5000, 15000)
    assert scales(10) == (100000, 300000)


def test_scenes_show_natural_colours(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(300, 900, (4, 200, 300)).astype(np.uint16)
    values[:, :40] = 0
    names = ("nir", "red", "green", "blue")
    path = write(tmp_path / "a.tif", values, transform=GRID, nodata=0, descriptions=names)
    found = backdrop.scene(str(path), "a")
    assert found.bands == (2, 3, 4)
    assert len(found.limits) == 3
    # Stretched over what is valid: nodata has no say.
    for low, high in found.limits:
        assert 300 <= low < 330
        assert 870 < high < 900
    unnamed = write(tmp_path / "b.tif", values, transform=GRID)
    assert backdrop.scene(str(unnamed), "b").bands == (1, 2, 3)
    assert backdrop.scene(str(unnamed), "b", names).bands == (2, 3, 4)
    grey = write(tmp_path / "c.tif", values[:2].astype(np.uint8), transform=GRID)
    found = backdrop.scene(str(grey), "c")
    assert (found.bands, found.limits) == ((1,), ())
    assert backdrop.scene(str(tmp_path / "none.tif"), "none").bands == (1,)


def test_paths_are_relative_or_left_out(tmp_path: Path) -> None:
    home = tmp_path / "out" / "town"

    def source(path: object) -> str | None:
        return backdrop.Backdrop(str(path), "x", "scene").source(home)

    assert source(home / "mask.tif") == "./mask.tif"
    assert source(tmp_path / "scenes" / "a b.tif") == "../../scenes/a b.tif"
    assert source("/vsicurl/https://example.org/a.tif") == "/vsicurl/https://example.org/a.tif"
