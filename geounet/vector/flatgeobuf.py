"""FlatGeobuf: a file a layer, with a packed Hilbert R-tree in front, so that parts of it can be read over HTTP."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyogrio

from geounet.vector.content import Contents, numbered, numbered_schema, placed
from geounet.vector.schema import GEOMETRY


def write(out: Path, contents: Contents) -> dict[str, int]:
    """Write the only layer of `contents`; returns the number of its features.

    The index sorts features along a Hilbert curve: their number is the column `fid`.

    Raises
    ------
    VectorError
        If the file cannot be written.
    """
    (content,) = contents.layers
    layer, schema = content.layer, numbered_schema(content.layer)
    count = 0

    def counted() -> Iterator[pa.RecordBatch]:
        nonlocal count
        for batch in numbered(content):
            count += batch.num_rows
            yield batch

    with placed(out) as temporary, warnings.catch_warnings():
        if contents.crs is None:
            warnings.filterwarnings("ignore", message="'crs' was not provided")
        pyogrio.write_arrow(
            pa.RecordBatchReader.from_batches(schema, counted()),
            temporary,
            layer=layer.name,
            driver="FlatGeobuf",
            geometry_name=GEOMETRY,
            geometry_type=layer.geometry,
            crs=contents.crs,
            append=False,
            layer_metadata=contents.metadata or None,
            layer_options={
                "SPATIAL_INDEX": "YES",
                "TITLE": layer.name,
                "DESCRIPTION": layer.title,
                # The index is made of a copy of the features, beside the file and not in the system's /tmp.
                "TEMPORARY_DIR": str(temporary.parent),
            },
        )
    return {layer.name: count}
