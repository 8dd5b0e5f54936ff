"""Default styles of the layers as QGIS 3.22 and later read them: symbols, names and units of columns, map tips, scales.

Three rules: what covers the ground lies flat (land cover in the model's colours, pale enough for a scene below it);
lines are as wide as the road, never thinner than the eye needs; detail comes with the scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from xml.etree import ElementTree as ET

from geounet.config.card import ClassInfo, Kind
from geounet.vector.content import LayerContent
from geounet.vector.schema import BUILDINGS, LANDCOVER, ROAD_EDGES, ROAD_NODES, Column, Layer
from geounet.vector.symbols import Rgb, Stroke, Value, darker, element, fill, line, marker, option, ramp, symbol

QGIS = "3.22.0"
"""Version that the documents are written for; later ones read them, too."""

CONFIDENCES = ((0.0, 0.6), (0.6, 0.7), (0.7, 0.8), (0.8, 0.9), (0.9, 1.0))
"""Classes of confidence: the same in every file, so that maps can be compared."""

ROADS: tuple[tuple[float, float, Rgb, float], ...] = (
    (0, 4, (255, 255, 255), 0.30),
    (4, 7, (255, 247, 205), 0.45),
    (7, 12, (253, 224, 118), 0.65),
    (12, 20, (247, 178, 72), 0.90),
    (20, 1e6, (228, 118, 61), 1.20),
)
"""Classes of road width: from, to (m); colour; least width of the line on the map (mm), its casing left out."""

CASING: Rgb = (84, 70, 58)

RENDERERS = ("singleSymbol", "categorizedSymbol", "graduatedSymbol")


@dataclass(frozen=True)
class Style:
    """What a layer looks like.

    Attributes
    ----------
    renderer
        QGIS's `<renderer-v2>`.
    opacity
        Of the layer as a whole, 0 to 1.
    largest_scale_only
        The layer is shown at this scale (its denominator) and larger ones; none: always.
    """

    renderer: ET.Element
    opacity: float = 1.0
    largest_scale_only: int | None = None
    values: dict[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    """Columns whose values have names: `(value, name)`."""


def scales(gsd: float | None) -> tuple[int, int]:
    """Return the denominators of the scales up to which nodes, and outlines of areas, are shown.

    1:5 000 and 1:15 000 for pixels up to half a metre; coarser scenes have coarser features.
    """
    coarser = max(1.0, (gsd or 0.5) / 0.5)
    return int(round(5000 * coarser, -3)), int(round(15000 * coarser, -3))


def style(content: LayerContent, gsd: float | None = None) -> Style:
    """Return the style of a layer.

    Parameters
    ----------
    content
        One of the layers of `schema`, with the classes it shows.
    gsd
        Ground sample distance of the raster it was made of, metres.
    """
    return _STYLES[content.layer.name](content, *scales(gsd))


def qml(content: LayerContent, gsd: float | None = None) -> str:
    """Return the style of a layer as a document of its own, see `style`."""
    root = element("qgis", version=QGIS, styleCategories="Symbology|Rendering|Fields|Forms|MapTips")
    describe(root, content, style(content, gsd))
    text = ET.tostring(root, encoding="unicode")
    return f"<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n{text}"


def describe(node: ET.Element, content: LayerContent, look: Style) -> None:
    """Add a style to the element of a layer: its attributes and children are the same in QML and in projects."""
    limited = look.largest_scale_only is not None
    node.set("hasScaleBasedVisibilityFlag", "1" if limited else "0")
    node.set("minScale", f"{look.largest_scale_only or 100000000}")  # "min" is the smallest scale, the largest number
    node.set("maxScale", "0")
    columns = [Column("fid", content.layer.columns[0].type, "number"), *content.layer.columns]
    node.append(look.renderer)
    node.append(element("blendMode", text="0"))
    node.append(element("featureBlendMode", text="0"))
    node.append(element("layerOpacity", text=f"{look.opacity:g}"))
    node.append(element("fieldConfiguration", [_widget(c, look.values.get(c.name, c.values)) for c in columns]))
    aliases = [element("alias", index=str(i), field=c.name, name=c.alias) for i, c in enumerate(columns)]
    node.append(element("aliases", aliases))
    node.append(element("previewExpression", text=_DISPLAY[content.layer.name]))
    node.append(element("mapTip", text=_tip(content.layer), enabled="1"))


def _widget(column: Column, values: Sequence[tuple[str, str]]) -> ET.Element:
    kind = "TextEdit"
    config: dict[str, Value] = {}
    if values:
        kind, config = "ValueMap", {"map": [{name: value} for value, name in values]}
    elif column.name == "confidence":
        kind, config = "Range", {"Min": 0, "Max": 1, "Precision": 2, "AllowNull": True, "Style": "SpinBox"}
    elif str(column.type) == "bool":
        kind = "CheckBox"
    return element("field", [element("editWidget", [element("config", [option(config)])], type=kind)], name=column.name)


_DISPLAY = {
    BUILDINGS.name: "concat(\"class\", ' ', $id, ', ' || format_number(\"area_m2\", 0) || ' m²')",
    ROAD_EDGES.name: "concat('road ', $id, ', ' || format_number(\"length_m\", 0) || ' m')",
    ROAD_NODES.name: "concat('node ', \"node\")",
    LANDCOVER.name: "concat(\"class\", ' ', $id, ', ' || format_number(\"area_m2\", 0) || ' m²')",
}
"""Expressions that name a feature in lists; a NULL between `||` leaves its part out."""


def _tip(layer: Layer) -> str:
    """Return what is shown when the pointer rests on a feature: its name, and the columns that are not NULL."""
    rows = []
    for column in layer.columns:
        if column.name in ("class", "class_id"):
            continue
        value = f'"{column.name}"'
        if str(column.type) in ("double", "float"):
            digits = 2 if column.name == "confidence" else 1
            value = f'format_number("{column.name}", {digits})'
        elif str(column.type) == "bool":
            value = f"if(\"{column.name}\", 'yes', NULL)"
        row = f"'<tr><td>{column.alias}</td><td>' || {value} || '</td></tr>'"
        rows.append(f"[% coalesce({row}, '') %]")
    return f"<b>[% {_DISPLAY[layer.name]} %]</b><table>{''.join(rows)}</table>"


def _renderer(kind: str, parts: Sequence[ET.Element], *, levels: bool = False, **attributes: str) -> ET.Element:
    assert kind in RENDERERS
    return element(
        "renderer-v2", parts, type=kind, symbollevels="1" if levels else "0", forceraster="0", enableorderby="0",
        **attributes,
    )  # fmt: skip


def _graduated(
    attribute: str, ranges: Sequence[tuple[float, float, str]], symbols: Sequence[ET.Element], *, levels: bool = False
) -> ET.Element:
    nodes = [
        element("range", lower=f"{low:.6f}", upper=f"{high:.6f}", symbol=str(i), label=label, render="true")
        for i, (low, high, label) in enumerate(ranges)
    ]
    parts = [element("ranges", nodes), element("symbols", symbols)]
    return _renderer("graduatedSymbol", parts, levels=levels, attr=attribute, graduatedMethod="GraduatedColor")


def _categorised(
    attribute: str, categories: Sequence[tuple[str, str]], symbols: Sequence[ET.Element], kind: str
) -> ET.Element:
    nodes = [
        element("category", value=value, symbol=str(i), label=label, render="true", type=kind)
        for i, (value, label) in enumerate(categories)
    ]
    return _renderer("categorizedSymbol", [element("categories", nodes), element("symbols", symbols)], attr=attribute)


def _colour(classes: Sequence[ClassInfo], kind: Kind, default: Rgb) -> Rgb:
    return next((c.rgb for c in classes if c.kind == kind), classes[0].rgb if classes else default)


def _finer(width: float, until: int) -> dict[str, str]:
    """Return expressions for an outline that grows thinner towards a scale and is gone beyond it."""
    return {
        "outlineWidth": f"scale_linear(@map_scale, {until // 15}, {until}, {width:g}, {width / 3:.3g})",
        "outlineStyle": f"if(@map_scale > {until}, 'no', 'solid')",
    }


def _buildings(content: LayerContent, near: int, middle: int) -> Style:
    rgb = _colour(content.classes, Kind.building, (230, 25, 75))
    outlines = _finer(0.3, middle)
    tints = ramp(rgb, len(CONFIDENCES))
    edge = darker(tints[-1], 0.4)
    if not content.measured:
        plain = symbol("fill", "0", [fill(tints[3], 150, edge, 0.2, outlines)])
        return Style(_renderer("singleSymbol", [element("symbols", [plain])]))
    ranges = [(low, high, f"{low:g} to {high:g}") for low, high in CONFIDENCES]
    ranges[0] = (*CONFIDENCES[0], f"below {CONFIDENCES[0][1]:g}: look first")
    symbols = [symbol("fill", str(i), [fill(tint, 150, edge, 0.2, outlines)]) for i, tint in enumerate(tints)]
    # Seen first where nothing is known: it is not left out.
    return Style(_graduated('coalesce("confidence", 0)', ranges, symbols))


def _roads(content: LayerContent, near: int, middle: int) -> Style:
    ranges, symbols = [], []
    for index, (low, high, rgb, least) in enumerate(ROADS):
        label = f"over {low:g} m" if high >= 1e6 else f"{low:g} to {high:g} m"
        ranges.append((low, high, label))
        middle_of = low * 1.2 if high >= 1e6 else (low + high) / 2
        width = f'coalesce("width_m", {middle_of:g})'
        inner = f"max({width} * 0.75, {width} - 1.2)"
        dashed = {"customdash": "1.6;1.2", "customdash_unit": "MM", "use_custom_dash": "1"}
        strokes = [
            # Casings below all fills, wide roads above narrow ones: junctions stay open.
            line(CASING, middle_of, least + 0.26, 0, {"outlineWidth": width}),
            line(rgb, middle_of * 0.75, least, 1 + index, {"outlineWidth": inner}),
            line(CASING, 0.5, 0.2, 9, {"enabled": 'coalesce("bridged", false)'}, **{**dashed, "capstyle": "flat"}),
        ]
        symbols.append(symbol("line", str(index), strokes))
    return Style(_graduated('coalesce("width_m", 0)', ranges, symbols, levels=True))


def _nodes(content: LayerContent, near: int, middle: int) -> Style:
    dead = symbol("marker", "0", [marker("circle", (255, 255, 255), (200, 60, 40), 1.5, 0.35)])
    crossing = symbol("marker", "1", [marker("circle", CASING, (255, 255, 255), 1.3, 0.2)])
    attribute = "if(\"degree\" <= 1, 'end', 'junction')"
    categories = [("end", "dead end"), ("junction", "junction")]
    return Style(_categorised(attribute, categories, [dead, crossing], "string"), largest_scale_only=near)


def _landcover(content: LayerContent, near: int, middle: int) -> Style:
    symbols = []
    for index, info in enumerate(content.classes):
        # Background stands back: it is there, so that nothing is a hole, and hardly seen.
        alpha = 70 if info.kind == Kind.background else 255
        symbols.append(symbol("fill", str(index), [_cover(info.rgb, alpha, middle)]))
    categories = [(str(content.values.get(info.code, info.code)), info.name) for info in content.classes]
    renderer = _categorised("class_id", categories, symbols, "long")
    # One opacity for the layer, not of each fill: outlines of neighbours overlap.
    return Style(renderer, opacity=0.7, values={"class_id": tuple(categories)})


def _cover(rgb: Rgb, alpha: int, until: int) -> Stroke:
    return fill(rgb, alpha, darker(rgb, 0.75), 0.15, _finer(0.2, until))


_STYLES = {
    BUILDINGS.name: _buildings,
    ROAD_EDGES.name: _roads,
    ROAD_NODES.name: _nodes,
    LANDCOVER.name: _landcover,
}
