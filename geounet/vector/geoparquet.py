"""GeoParquet 1.1: a file a layer, in row groups with bounding boxes, for data frames and column stores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from pyproj import CRS

from geounet.vector.content import Contents, LayerContent, numbered, numbered_schema, placed

GEOMETRY = "geometry"
"""Name that readers of GeoParquet expect."""

BOX = pa.struct([(side, pa.float64()) for side in ("xmin", "ymin", "xmax", "ymax")])


def write(out: Path, contents: Contents) -> dict[str, int]:
    """Write the only layer of `contents`, a row group a batch; returns the number of its features.

    The file follows GeoParquet 1.1.0 with a column `bbox` that readers may skip row groups by. `fid` is a column.

    Raises
    ------
    VectorError
        If the file cannot be written.
    """
    (content,) = contents.layers
    count = 0
    total = np.array([np.inf, np.inf, -np.inf, -np.inf])
    with placed(out) as temporary, pq.ParquetWriter(temporary, _schema(content), compression="zstd") as writer:
        for batch in numbered(content):
            bounds = shapely.bounds(shapely.from_wkb(batch.column(1).to_numpy(zero_copy_only=False)))
            if batch.num_rows:
                total = np.array([*np.minimum(total[:2], bounds[:, :2].min(axis=0)),
                                  *np.maximum(total[2:], bounds[:, 2:].max(axis=0))])  # fmt: skip
            box = pa.StructArray.from_arrays([pa.array(side) for side in bounds.T], fields=list(BOX))
            columns = [*batch.columns, box]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=writer.schema))
            count += batch.num_rows
        # The extent is known at the end, where Parquet has its metadata.
        writer.add_key_value_metadata({"geo": json.dumps(_geo(contents, content, total if count else None))})
        writer.add_key_value_metadata({f"geounet:{key}": value for key, value in contents.metadata.items()})
    return {content.layer.name: count}


def _schema(content: LayerContent) -> pa.Schema:
    about = {c.name: c.about or c.alias for c in content.layer.columns}
    fields = []
    for field in numbered_schema(content.layer):
        if field.name in about:
            fields.append(field.with_metadata({"description": about[field.name]}))
        elif pa.types.is_binary(field.type):
            fields.append(pa.field(GEOMETRY, pa.binary(), nullable=False))
        else:
            fields.append(field)
    return pa.schema([*fields, pa.field("bbox", BOX)])


def _geo(contents: Contents, content: LayerContent, bounds: npt.NDArray[np.float64] | None) -> dict[str, Any]:
    column: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": [content.layer.geometry],
        # Null means undefined; a key that is left out would mean longitude and latitude.
        "crs": None if contents.crs is None else CRS.from_user_input(contents.crs).to_json_dict(),
        "edges": "planar",
        "covering": {"bbox": {side.name: ["bbox", side.name] for side in BOX}},
    }
    if bounds is not None:
        column["bbox"] = bounds.tolist()
    return {"version": "1.1.0", "primary_column": GEOMETRY, "columns": {GEOMETRY: column}}
