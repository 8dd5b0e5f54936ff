"""Default styles of the layers, as QGIS stores them (QML in the table `layer_styles`)."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import quoteattr

from geounet.config.card import ClassInfo
from geounet.vector.schema import BUILDINGS, LANDCOVER, ROAD_EDGES, ROAD_NODES, Layer

WIDTHS_M = ((0.0, 4.0, 0.5), (4.0, 7.0, 0.9), (7.0, 12.0, 1.4), (12.0, 20.0, 2.1), (20.0, 1e6, 3.0))
"""Classes of road width: from, to (m), and how wide the line is drawn (mm)."""


def _colour(rgb: tuple[int, int, int], alpha: int = 255) -> str:
    return f"{rgb[0]},{rgb[1]},{rgb[2]},{alpha}"


def _darker(rgb: tuple[int, int, int], share: float = 0.6) -> tuple[int, int, int]:
    red, green, blue = (round(v * share) for v in rgb)
    return red, green, blue


def _symbol(kind: str, name: str, layers: Sequence[tuple[str, dict[str, str]]]) -> str:
    parts = []
    for index, (symbol, options) in enumerate(layers):
        # Option is what QGIS reads from 3.26 on, prop what it read before.
        quoted = [(quoteattr(key), quoteattr(value)) for key, value in options.items()]
        option = "".join(f'<Option name={key} value={value} type="QString"/>' for key, value in quoted)
        prop = "".join(f"<prop k={key} v={value}/>" for key, value in quoted)
        parts.append(
            f'<layer class="{symbol}" enabled="1" locked="0" pass="{index}">'
            f'<Option type="Map">{option}</Option>{prop}</layer>'
        )
    return (
        f'<symbol type="{kind}" name={quoteattr(name)} alpha="1" clip_to_extent="1" force_rhr="0">'
        f"{''.join(parts)}</symbol>"
    )


def _fill(name: str, rgb: tuple[int, int, int], alpha: int, outline: tuple[int, int, int], width: float) -> str:
    options = {
        "color": _colour(rgb, alpha),
        "style": "solid",
        "outline_color": _colour(outline),
        "outline_style": "solid" if width > 0 else "no",
        "outline_width": f"{width:g}",
        "outline_width_unit": "MM",
        "joinstyle": "miter",
    }
    return _symbol("fill", name, [("SimpleFill", options)])


def _line(name: str, rgb: tuple[int, int, int], width: float) -> str:
    def stroke(colour: tuple[int, int, int], millimetres: float) -> tuple[str, dict[str, str]]:
        return "SimpleLine", {
            "line_color": _colour(colour),
            "line_style": "solid",
            "line_width": f"{millimetres:g}",
            "line_width_unit": "MM",
            "capstyle": "round",
            "joinstyle": "round",
        }

    # A dark casing under the line; with symbol levels, casings do not cut through junctions.
    return _symbol("line", name, [stroke(_darker(rgb, 0.45), width + 0.4), stroke(rgb, width)])


def _document(layer: Layer, renderer: str) -> str:
    columns = [("fid", "")] + [(c.name, c.alias) for c in layer.columns]
    aliases = "".join(
        f'<alias index="{i}" field={quoteattr(name)} name={quoteattr(alias)}/>'
        for i, (name, alias) in enumerate(columns)
    )
    return (
        "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
        '<qgis version="3.22.0" styleCategories="Symbology|Fields" symbologyReferenceScale="-1">'
        f"{renderer}<aliases>{aliases}</aliases></qgis>"
    )


def _single(symbol: str) -> str:
    return f'<renderer-v2 type="singleSymbol" symbollevels="0"><symbols>{symbol}</symbols></renderer-v2>'


def _buildings(classes: Sequence[ClassInfo]) -> str:
    rgb = next((c.rgb for c in classes if c.kind == "building"), classes[0].rgb if classes else (230, 25, 75))
    symbol = _fill("0", rgb, 150, _darker(rgb, 0.5), 0.2)
    return (
        f'<renderer-v2 type="singleSymbol" symbollevels="0" forceraster="0"><symbols>{symbol}</symbols></renderer-v2>'
    )


def _roads(classes: Sequence[ClassInfo]) -> str:
    rgb = next((c.rgb for c in classes if c.kind == "road"), classes[0].rgb if classes else (245, 184, 0))
    ranges, symbols = [], []
    for index, (low, high, width) in enumerate(WIDTHS_M):
        label = f"over {low:g} m" if high >= 1e6 else f"{low:g} to {high:g} m"
        ranges.append(
            f'<range lower="{low:.6f}" upper="{high:.6f}" symbol="{index}" label={quoteattr(label)} render="true"/>'
        )
        symbols.append(_line(str(index), rgb, width))
    return (
        '<renderer-v2 type="graduatedSymbol" attr="coalesce(width_m, 0)" graduatedMethod="GraduatedColor" '
        f'symbollevels="1" forceraster="0"><ranges>{"".join(ranges)}</ranges><symbols>{"".join(symbols)}</symbols>'
        "</renderer-v2>"
    )


def _nodes(classes: Sequence[ClassInfo]) -> str:
    del classes
    options = {
        "name": "circle",
        "color": _colour((255, 255, 255)),
        "outline_color": _colour((40, 40, 40)),
        "outline_width": "0.3",
        "outline_width_unit": "MM",
        "size": "1.4",
        "size_unit": "MM",
    }
    symbol = _symbol("marker", "0", [("SimpleMarker", options)])
    return (
        f'<renderer-v2 type="singleSymbol" symbollevels="0" forceraster="0"><symbols>{symbol}</symbols></renderer-v2>'
    )


def _landcover(classes: Sequence[ClassInfo]) -> str:
    categories, symbols = [], []
    for index, info in enumerate(classes):
        categories.append(
            f'<category value="{info.code}" symbol="{index}" label={quoteattr(info.name)} render="true" type="long"/>'
        )
        symbols.append(_fill(str(index), info.rgb, 210, _darker(info.rgb, 0.7), 0.1))
    return (
        '<renderer-v2 type="categorizedSymbol" attr="class_id" symbollevels="0" forceraster="0">'
        f"<categories>{''.join(categories)}</categories><symbols>{''.join(symbols)}</symbols></renderer-v2>"
    )


_RENDERERS = {
    BUILDINGS.name: _buildings,
    ROAD_EDGES.name: _roads,
    ROAD_NODES.name: _nodes,
    LANDCOVER.name: _landcover,
}


def qml(layer: Layer, classes: Sequence[ClassInfo]) -> str:
    """Return the style of a layer.

    Parameters
    ----------
    layer
        One of the layers of `schema`.
    classes
        Classes that the layer shows, with their colours.
    """
    return _document(layer, _RENDERERS[layer.name](classes))
