"""The layers of the GeoPackage: columns, their types, and what they mean."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

GEOMETRY = "geom"
"""Name of the geometry column in every layer; the styles refer to it."""


@dataclass(frozen=True)
class Column:
    """A column of a layer.

    Attributes
    ----------
    name, type
        As scripts see it.
    alias
        What people see, with the unit in brackets.
    about
        What it means, one sentence.
    values
        The words that it takes and what they mean, where they are few.
    """

    name: str
    type: pa.DataType
    alias: str
    about: str = ""
    values: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Layer:
    """A layer of the GeoPackage."""

    name: str
    geometry: str
    title: str
    columns: tuple[Column, ...]

    @property
    def arrow(self) -> pa.Schema:
        """Schema of its batches: the geometry as WKB, then the columns."""
        fields = [pa.field(GEOMETRY, pa.binary(), metadata={"ARROW:extension:name": "geoarrow.wkb"})]
        return pa.schema(fields + [pa.field(c.name, c.type) for c in self.columns])


CONFIDENCE = Column(
    "confidence",
    pa.float32(),
    "confidence (0 to 1)",
    "mean probability of the feature's class over its pixels; empty where only classes were known",
)

BUILDINGS = Layer(
    "buildings",
    "Polygon",
    "Outlines of buildings",
    (
        Column("class", pa.string(), "class"),
        Column("area_m2", pa.float64(), "area (m²)", "area on the ground, on the ellipsoid of the CRS"),
        Column(
            "perimeter_m", pa.float64(), "perimeter (m)", "length of all outlines on the ground, courtyards included"
        ),
        CONFIDENCE,
        Column(
            "angle_deg",
            pa.float32(),
            "long axis (°)",
            "direction of the long axis, clockwise from grid north, 0 to 180",
        ),
        Column(
            "reg_status",
            pa.string(),
            "outline",
            "how the outline was made",
            (
                ("regular", "straight walls at right angles or 45°"),
                ("oblique", "straight walls, some at other angles"),
                ("round", "a circle or an ellipse"),
                ("simplified", "simplified: straight walls would change it too much"),
                ("raw", "as in the mask: simplifying would change it too much"),
                ("trimmed", "cut back where it overlapped a neighbour"),
            ),
        ),
    ),
)

ROAD_EDGES = Layer(
    "road_edges",
    "LineString",
    "Centre lines of roads between nodes",
    (
        Column("from_node", pa.int64(), "from node", "node at the start of the line: `node` in road_nodes"),
        Column("to_node", pa.int64(), "to node", "node at the end of the line: `node` in road_nodes"),
        Column("length_m", pa.float64(), "length (m)", "length on the ground, on the ellipsoid of the CRS"),
        Column("width_m", pa.float32(), "width (m)", "width of the road on the ground, median along the line"),
        CONFIDENCE,
        Column("bridged", pa.bool_(), "closes a gap", "whether the line closes a gap in the mask"),
    ),
)

ROAD_NODES = Layer(
    "road_nodes",
    "Point",
    "Ends and junctions of roads",
    (
        Column("node", pa.int64(), "node", "number of the node, from 1"),
        Column("degree", pa.int32(), "degree", "ends of edges that meet here: 1 is a dead end"),
    ),
)

LANDCOVER = Layer(
    "landcover",
    "Polygon",
    "Land cover",
    (
        Column("class_id", pa.int32(), "class code", "code of the class in the mask"),
        Column("class", pa.string(), "class", "name of the class"),
        Column("area_m2", pa.float64(), "area (m²)", "area on the ground, on the ellipsoid of the CRS"),
        CONFIDENCE,
    ),
)

LAYERS = (BUILDINGS, ROAD_EDGES, ROAD_NODES, LANDCOVER)
"""All layers, in the order in which they are written."""
