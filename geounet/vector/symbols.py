"""Symbols of QGIS as XML: fills, lines and markers, with sizes that follow the map's scale or a feature's columns."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias
from xml.etree import ElementTree as ET

Rgb = tuple[int, int, int]

GROUND = "RenderMetersInMapUnits"
"""Unit of sizes in metres on the ground, in maps of any CRS."""


def element(tag: str, children: Iterable[ET.Element] = (), *, text: str | None = None, **attributes: str) -> ET.Element:
    """Return an XML element; a `_` at the end of an attribute's name is left out."""
    made = ET.Element(tag, {name.rstrip("_"): value for name, value in attributes.items()})
    made.text = text
    made.extend(children)
    return made


Value: TypeAlias = "str | bool | int | Mapping[str, Value] | Sequence[Value] | None"
"""What an option may hold."""


def option(value: Value, name: str | None = None) -> ET.Element:
    """Return a value as QGIS's `<Option>`."""
    known = {} if name is None else {"name": name}
    if isinstance(value, Mapping):
        return element("Option", [option(inner, key) for key, inner in value.items()], type="Map", **known)
    if isinstance(value, bool):
        return element("Option", (), type="bool", value=str(value).lower(), **known)
    if isinstance(value, int):
        return element("Option", (), type="int", value=str(value), **known)
    if isinstance(value, str) or value is None:
        return element("Option", (), type="QString", value=value or "", **known)
    return element("Option", [option(inner) for inner in value], type="List", **known)


def colour(rgb: Rgb, alpha: int = 255) -> str:
    """Return a colour as QGIS writes it."""
    return f"{rgb[0]},{rgb[1]},{rgb[2]},{alpha}"


def darker(rgb: Rgb, share: float) -> Rgb:
    """Return a colour with all its parts reduced to a share."""
    red, green, blue = (round(v * share) for v in rgb)
    return red, green, blue


def ramp(rgb: Rgb, count: int) -> list[Rgb]:
    """Return `count` tints from pale to full of a colour's hue: steps of lightness that are told apart on any ground.

    The lightest and the darkest do not depend on how light the colour itself is; a grey stays grey.
    """
    hue, _, saturation = colorsys.rgb_to_hls(*(v / 255 for v in rgb))
    found: list[Rgb] = []
    for step in range(count):
        share = step / max(1, count - 1)
        parts = colorsys.hls_to_rgb(hue, 0.90 - 0.50 * share, min(saturation, 0.6) if saturation > 0.08 else 0.0)
        red, green, blue = (round(255 * v) for v in parts)
        found.append((red, green, blue))
    return found


@dataclass(frozen=True)
class Stroke:
    """One layer of a symbol: its class in QGIS, its options, and expressions that override them feature by feature."""

    kind: str
    options: Mapping[str, str]
    expressions: Mapping[str, str] = field(default_factory=dict)
    level: int = 0
    """Layers of a higher level are drawn after all features of the lower ones, where the renderer has levels."""

    def element(self) -> ET.Element:
        """Return its XML."""
        parts = [option(dict(self.options))]
        if self.expressions:
            properties: dict[str, Value] = {
                k: {"active": True, "expression": v, "type": 3} for k, v in self.expressions.items()
            }
            collection = option({"name": "", "properties": properties, "type": "collection"})
            parts.append(element("data_defined_properties", [collection]))
        return element("layer", parts, class_=self.kind, enabled="1", locked="0", pass_=str(self.level))


def symbol(kind: str, name: str, layers: Sequence[Stroke], opacity: float = 1.0) -> ET.Element:
    """Return a symbol: `kind` is `fill`, `line` or `marker`."""
    return element(
        "symbol",
        [layer.element() for layer in layers],
        type=kind,
        name=name,
        alpha=f"{opacity:g}",
        clip_to_extent="1",
        force_rhr="0",
    )


def fill(rgb: Rgb, alpha: int, outline: Rgb, width: float, expressions: Mapping[str, str] | None = None) -> Stroke:
    """Return a plain fill with an outline `width` mm wide; 0: none."""
    options = {
        "color": colour(rgb, alpha),
        "style": "solid" if alpha else "no",
        "outline_color": colour(outline),
        "outline_style": "solid" if width > 0 else "no",
        "outline_width": f"{width:g}",
        "outline_width_unit": "MM",
        "joinstyle": "miter",
    }
    return Stroke("SimpleFill", options, expressions or {})


def line(
    rgb: Rgb, metres: float, least: float, level: int, expressions: Mapping[str, str] | None = None, **more: str
) -> Stroke:
    """Return a line `metres` wide on the ground, and at least `least` mm on the map."""
    options = {
        "line_color": colour(rgb),
        "line_style": "solid",
        "line_width": f"{metres:g}",
        "line_width_unit": GROUND,
        # Smallest and largest scale, then: least size on (1), its mm, largest size on (0), its mm.
        "width_map_unit_scale": f"3x:0,0,1,{least:g},0,0",
        "capstyle": "round",
        "joinstyle": "round",
        **more,
    }
    return Stroke("SimpleLine", options, expressions or {}, level)


def marker(shape: str, rgb: Rgb, outline: Rgb, size: float, width: float = 0.2) -> Stroke:
    """Return a marker `size` mm wide with an outline of `width` mm."""
    options = {
        "name": shape,
        "color": colour(rgb),
        "outline_color": colour(outline),
        "outline_width": f"{width:g}",
        "outline_width_unit": "MM",
        "size": f"{size:g}",
        "size_unit": "MM",
    }
    return Stroke("SimpleMarker", options)
