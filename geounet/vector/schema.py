"""The layers of the GeoPackage: columns, their types, and what they mean."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

GEOMETRY = "geom"
"""Name of the geometry column in every layer; the styles refer to it."""


@dataclass(frozen=True)
class Column:
    """A column of a layer; the alias is what QGIS shows."""

    name: str
    type: pa.DataType
    alias: str


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


CONFIDENCE = Column("confidence", pa.float32(), "confidence (mean probability, 0 to 1)")

BUILDINGS = Layer(
    "buildings",
    "Polygon",
    "Outlines of buildings",
    (
        Column("class", pa.string(), "class"),
        Column("area_m2", pa.float64(), "area on the ground (m²)"),
        Column("perimeter_m", pa.float64(), "length of all outlines on the ground (m)"),
        CONFIDENCE,
        Column("angle_deg", pa.float32(), "direction of the long axis (° clockwise from grid north, 0 to 180)"),
        Column("reg_status", pa.string(), "outline: simplified, or raw where simplifying would change it too much"),
    ),
)

ROAD_EDGES = Layer(
    "road_edges",
    "LineString",
    "Centre lines of roads between nodes",
    (
        Column("from_node", pa.int64(), "node at the start"),
        Column("to_node", pa.int64(), "node at the end"),
        Column("length_m", pa.float64(), "length on the ground (m)"),
        Column("width_m", pa.float32(), "width on the ground (m)"),
        CONFIDENCE,
        Column("bridged", pa.bool_(), "closes a gap in the mask"),
    ),
)

ROAD_NODES = Layer(
    "road_nodes",
    "Point",
    "Ends and junctions of roads",
    (Column("node", pa.int64(), "number"), Column("degree", pa.int32(), "ends of edges that meet here")),
)

LANDCOVER = Layer(
    "landcover",
    "Polygon",
    "Land cover",
    (
        Column("class_id", pa.int32(), "class code"),
        Column("class", pa.string(), "class"),
        Column("area_m2", pa.float64(), "area on the ground (m²)"),
        CONFIDENCE,
    ),
)
