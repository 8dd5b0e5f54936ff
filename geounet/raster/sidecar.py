"""Names and colours of a class raster for QGIS (.qml) and GDAL (.aux.xml)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from geounet.atomic import write_text
from geounet.config.card import ClassInfo
from geounet.raster.parts import srs_xml

_RAT_FIELDS = (("Value", 0, 5), ("ClassName", 2, 2), ("Red", 0, 6), ("Green", 0, 7), ("Blue", 0, 8), ("Alpha", 0, 9))
"""Name, GDAL's type (0 integer, 2 string) and usage (minmax, name, red, green, blue, alpha) of each column."""


def _presence(info: ClassInfo) -> list[ClassInfo]:
    """Return the classes of one band of a multi-label mask: 0 without, 1 with the class."""
    without = ClassInfo(name=f"no {info.name}", code=0, colour="#000000")
    return [without, info.model_copy(update={"code": 1})]


def write_qml(dest: Path, classes: Sequence[ClassInfo], *, multilabel: bool = False) -> None:
    """Write a QGIS style: a paletted renderer with exactly these classes, names and colours.

    Parameters
    ----------
    dest : Path
        `<raster without ending>.qml`; appears when complete.
    classes : sequence of ClassInfo
        Classes in the order of the legend.
    multilabel : bool
        The raster has a 0/1 band a class: band 1 is shown, 0 transparent.
    """
    shown = _presence(classes[0]) if multilabel else classes
    entries = "".join(
        f'        <paletteEntry value="{c.code}" color="{c.colour.lower()}" '
        f'alpha="{0 if multilabel and c.code == 0 else 255}" label={quoteattr(c.name)}/>\n'
        for c in shown
    )
    write_text(
        dest,
        "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
        '<qgis version="3.22" styleCategories="AllStyleCategories" hasScaleBasedVisibilityFlag="0">\n'
        "  <pipe>\n"
        '    <rasterrenderer type="paletted" band="1" opacity="1" alphaBand="-1" nodataColor="">\n'
        "      <rasterTransparency/>\n"
        f"      <colorPalette>\n{entries}      </colorPalette>\n"
        "    </rasterrenderer>\n"
        '    <brightnesscontrast brightness="0" contrast="0" gamma="1"/>\n'
        '    <huesaturation saturation="0" grayscaleMode="0" colorizeOn="0"/>\n'
        '    <rasterresampler maxOversampling="2"/>\n'
        "  </pipe>\n"
        "  <blendMode>0</blendMode>\n"
        "</qgis>\n",
    )


def _band(number: int, classes: Sequence[ClassInfo]) -> str:
    names = {c.code: c.name for c in classes}
    categories = "".join(
        f"      <Category>{escape(names.get(code, ''))}</Category>\n" for code in range(max(names) + 1)
    )
    fields = "".join(
        f'      <FieldDefn index="{i}"><Name>{name}</Name><Type>{kind}</Type><Usage>{usage}</Usage></FieldDefn>\n'
        for i, (name, kind, usage) in enumerate(_RAT_FIELDS)
    )
    rows = ""
    for index, info in enumerate(classes):
        cells = "".join(f"<F>{escape(str(v))}</F>" for v in (info.code, info.name, *info.rgb, 255))
        rows += f'      <Row index="{index}">{cells}</Row>\n'
    return (
        f'  <PAMRasterBand band="{number}">\n'
        f"    <CategoryNames>\n{categories}    </CategoryNames>\n"
        f'    <GDALRasterAttributeTable tableType="thematic">\n{fields}{rows}    </GDALRasterAttributeTable>\n'
        "  </PAMRasterBand>\n"
    )


def write_aux(
    dest: Path, classes: Sequence[ClassInfo], *, multilabel: bool = False, crs_wkt: str | None = None
) -> None:
    """Write GDAL's sidecar: category names and a raster attribute table with names and colours.

    Parameters
    ----------
    dest : Path
        `<raster>.aux.xml`; appears when complete.
    classes : sequence of ClassInfo
        What the codes mean; none: the raster has no classes.
    multilabel : bool
        The raster has a 0/1 band a class.
    crs_wkt : str, optional
        CRS of a raster whose own format cannot tell it.
    """
    if multilabel:
        bands = "".join(_band(i, _presence(c)) for i, c in enumerate(classes, start=1))
    else:
        bands = _band(1, sorted(classes, key=lambda c: c.code)) if classes else ""
    write_text(dest, f"<PAMDataset>\n{srs_xml(crs_wkt)}{bands}</PAMDataset>\n")
