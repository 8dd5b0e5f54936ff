"""A QGIS project inside the GeoPackage: scene, mask and layers in their order, styled, with paths relative to the file.

QGIS keeps projects of a GeoPackage in the table `qgis_projects`: the bytes of a .qgz file (a zipped .qgs) as
hexadecimal text. It opens them as `geopackage:FILE?projectName=NAME`, or with Project › Open From › GeoPackage.
"""

from __future__ import annotations

import hashlib
import io
import json
import sqlite3
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from pyproj import CRS

from geounet.vector.backdrop import Backdrop, pipe
from geounet.vector.content import Contents, LayerContent
from geounet.vector.schema import BUILDINGS, LANDCOVER, ROAD_EDGES, ROAD_NODES
from geounet.vector.styles import QGIS, describe, style
from geounet.vector.symbols import element

PROJECTS = "CREATE TABLE qgis_projects (name TEXT PRIMARY KEY, metadata BLOB, content BLOB)"
"""As QGIS makes it. It is not listed in `gpkg_contents`, so that no program takes it for a layer."""

TITLES = {
    ROAD_NODES.name: "Road nodes",
    ROAD_EDGES.name: "Roads",
    BUILDINGS.name: "Buildings",
    LANDCOVER.name: "Land cover",
}
"""Names of layers in the project, from the top to the bottom."""

MANY = 12
"""Legends with more classes are folded."""


@dataclass(frozen=True)
class Project:
    """A project that is to be written.

    Attributes
    ----------
    name
        Under which QGIS lists it.
    extent
        `xmin, ymin, xmax, ymax` of the raster, in the CRS of the layers.
    backdrops
        Rasters below the layers, from the top to the bottom.
    home
        Folder in which the GeoPackage will lie: paths start there.
    """

    name: str
    extent: tuple[float, float, float, float]
    backdrops: tuple[Backdrop, ...]
    home: Path


def store(connection: sqlite3.Connection, project: Project, contents: Contents, file: str, stamp: str) -> None:
    """Write a project into a GeoPackage.

    Parameters
    ----------
    connection
        To the GeoPackage.
    project
        What to write.
    contents
        The layers of the GeoPackage.
    file
        Name that the GeoPackage will have.
    stamp
        When it was made, ISO 8601.
    """
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        # ZipInfo's own date, 1980: the same input gives the same bytes.
        archive.writestr(zipfile.ZipInfo(f"{project.name}.qgs"), qgs(project, contents, file), zipfile.ZIP_DEFLATED)
    about = json.dumps({"last_modified_time": stamp, "last_modified_user": ""})
    connection.execute(PROJECTS)
    connection.execute(
        "INSERT INTO qgis_projects (name, metadata, content) VALUES (?, ?, ?)",
        (project.name, about, packed.getvalue().hex()),
    )


def qgs(project: Project, contents: Contents, file: str) -> str:
    """Return the project as a .qgs document."""
    layers = {c.layer.name: c for c in contents.layers}
    system = _system(contents.crs)
    vectors = [_vector(layers[name], title, file, contents) for name, title in TITLES.items() if name in layers]
    rasters = [_raster(b, source, contents) for b in project.backdrops if (source := b.source(project.home))]
    groups = [_group("Vectors", vectors), _group("Rasters", rasters)]
    root = element(
        "qgis",
        [
            element("homePath", path=""),
            element("title", text=project.name),
            element("projectCrs", [system]),
            element("layer-tree-group", [g for g in groups if len(g)]),
            _canvas(project, contents.crs),
            element("projectlayers", [layer.node for layer in [*vectors, *rasters]]),
            element("layerorder", [element("layer", id=layer.id) for layer in [*vectors, *rasters]]),
            _properties(contents.crs),
            _view(project, contents.crs),
        ],
        version=QGIS,
        projectname=project.name,
    )
    ET.indent(root, " ")
    text = ET.tostring(root, encoding="unicode")
    return f"<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n{text}\n"


@dataclass(frozen=True)
class _Layer:
    id: str
    title: str
    source: str
    provider: str
    node: ET.Element
    shown: bool
    unfolded: bool


def _id(title: str, source: str) -> str:
    return f"{''.join(c if c.isalnum() else '_' for c in title)}_{hashlib.sha256(source.encode()).hexdigest()[:16]}"


def _vector(content: LayerContent, title: str, file: str, contents: Contents) -> _Layer:
    source = f"./{file}|layername={content.layer.name}"
    node = element(
        "maplayer",
        [
            element("id", text=_id(title, source)),
            element("datasource", text=source),
            element("layername", text=title),
            element("srs", [_system(contents.crs)]),
            _about(content.layer.title, contents.metadata),
            element("provider", text="ogr", encoding="UTF-8"),
        ],
        type="vector",
        geometry={"LineString": "Line"}.get(content.layer.geometry, content.layer.geometry),
        wkbType=content.layer.geometry,
        simplifyDrawingHints="1",
        simplifyDrawingTol="1",
        simplifyLocal="1",
    )
    describe(node, content, style(content, contents.gsd))
    return _Layer(_id(title, source), title, source, "ogr", node, True, len(content.classes) <= MANY)


def _raster(backdrop: Backdrop, source: str, contents: Contents) -> _Layer:
    name = _id(backdrop.title, source + str(backdrop.bands))
    node = element(
        "maplayer",
        [
            element("id", text=name),
            element("datasource", text=source),
            element("layername", text=backdrop.title),
            element("srs", [_system(backdrop.crs or contents.crs)]),
            element("provider", text="gdal"),
            pipe(backdrop),
            element("blendMode", text="0"),
        ],
        type="raster",
        hasScaleBasedVisibilityFlag="0",
    )
    return _Layer(name, backdrop.title, source, "gdal", node, backdrop.shown, False)


def _about(title: str, metadata: dict[str, str]) -> ET.Element:
    lines = [f"{key}: {value}" for key, value in metadata.items()]
    parts = [element("type", text="dataset"), element("title", text=title), element("abstract", text="\n".join(lines))]
    return element("resourceMetadata", parts)


def _group(title: str, layers: Sequence[_Layer]) -> ET.Element:
    nodes = [
        element(
            "layer-tree-layer",
            id=layer.id,
            name=layer.title,
            source=layer.source,
            providerKey=layer.provider,
            checked="Qt::Checked" if layer.shown else "Qt::Unchecked",
            expanded="1" if layer.unfolded else "0",
        )
        for layer in layers
    ]
    return element("layer-tree-group", nodes, name=title, checked="Qt::Checked", expanded="1")


def _system(crs: str | None) -> ET.Element:
    """Return a CRS as QGIS's `<spatialrefsys>`: by its code where it has one, else by its WKT."""
    if crs is None:
        return element("spatialrefsys")
    known = CRS.from_user_input(crs)
    authority = known.to_authority()
    return element(
        "spatialrefsys",
        [
            element("wkt", text=known.to_wkt("WKT2_2019")),
            element("authid", text=":".join(authority) if authority else ""),
            element("description", text=known.name),
            element("geographicflag", text=str(known.is_geographic).lower()),
        ],
        nativeFormat="Wkt",
    )


def _box(extent: tuple[float, float, float, float]) -> dict[str, str]:
    """Return an extent with a margin, so that no feature lies at the edge of the window."""
    margin = 0.02 * max(extent[2] - extent[0], extent[3] - extent[1])
    sides = zip(("xmin", "ymin", "xmax", "ymax"), extent, (-margin, -margin, margin, margin), strict=True)
    return {name: repr(float(value + shift)) for name, value, shift in sides}


def _canvas(project: Project, crs: str | None) -> ET.Element:
    box = element("extent", [element(side, text=value) for side, value in _box(project.extent).items()])
    return element(
        "mapcanvas",
        [box, element("rotation", text="0"), element("destinationsrs", [_system(crs)])],
        name="theMapCanvas",
        annotationsVisible="1",
    )


def _view(project: Project, crs: str | None) -> ET.Element:
    extent = element("DefaultViewExtent", [_system(crs)], **_box(project.extent))
    return element("ProjectViewSettings", [extent], UseProjectScales="0")


def _properties(crs: str | None) -> ET.Element:
    """Return settings: relative paths, and lengths and areas on the ellipsoid as the columns have them."""

    def entry(name: str, text: str, kind: str = "QString") -> ET.Element:
        return element(name, text=text, type=kind)

    ellipsoid = None if crs is None else CRS.from_user_input(crs).ellipsoid
    shape = "NONE" if ellipsoid is None else (
        f"PARAMETER:{ellipsoid.semi_major_metre!r}:{ellipsoid.semi_minor_metre!r}"
    )  # fmt: skip
    return element(
        "properties",
        [
            element("SpatialRefSys", [entry("ProjectionsEnabled", "1" if crs else "0", "int")]),
            element("Paths", [entry("Absolute", "false", "bool")]),
            element("Measure", [entry("Ellipsoid", shape)]),
            element("Measurement", [entry("DistanceUnits", "meters"), entry("AreaUnits", "m2")]),
        ],
    )
