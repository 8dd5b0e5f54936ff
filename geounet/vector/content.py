"""What is written: layers with their features, and how a file of them comes to its name."""

from __future__ import annotations

import errno
import os
import sqlite3
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from pyogrio.errors import DataLayerError, DataSourceError

from geounet.atomic import remove_temporary
from geounet.config.card import ClassInfo
from geounet.errors import VectorError
from geounet.raster.alias import writable
from geounet.raster.space import check_space, disk_full
from geounet.vector.schema import Layer

if TYPE_CHECKING:
    from geounet.vector.project import Project


@dataclass(frozen=True)
class LayerContent:
    """A layer, its features in order (they are numbered from 1), and the classes it shows.

    Attributes
    ----------
    batches
        Called anew for each file that is written; batches have the columns of `layer.arrow`.
    measured
        Whether features have a confidence: the style shows it then.
    values
        What columns say of a class code; codes without an entry stand for themselves.
    """

    layer: Layer
    batches: Callable[[], Iterator[pa.RecordBatch]]
    classes: Sequence[ClassInfo]
    measured: bool = True
    values: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Contents:
    """All that goes into the files of one result.

    Attributes
    ----------
    layers
        Written in this order; layers without features are written, too.
    crs
        WKT or authority code; none: undefined Cartesian.
    metadata
        Of each layer. `date` (ISO 8601) is also the time stamp of what is in the files.
    gsd
        Ground sample distance of the raster that the features come from, metres: scales of styles follow it.
    project
        The QGIS project that goes into the GeoPackage.
    """

    layers: Sequence[LayerContent]
    crs: str | None
    metadata: dict[str, str] = field(default_factory=dict)
    gsd: float | None = None
    project: Project | None = None

    @property
    def stamp(self) -> str:
        """Time stamp of the files, as GeoPackages have it.

        Raises
        ------
        VectorError
            If `date` is no ISO 8601 date.
        """
        date = self.metadata.get("date")
        try:
            moment = datetime.fromisoformat(date) if date else datetime.now(UTC)
        except ValueError as error:
            raise VectorError(f"metadata `date`: not an ISO 8601 date: {date!r}") from error
        if moment.tzinfo is not None:
            moment = moment.astimezone(UTC)
        return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


@contextmanager
def placed(out: Path) -> Iterator[Path]:
    """Yield a temporary name to write to; what stands there at the end is synced to disk and takes the final name.

    The temporary one has nothing of the final one, which may hold what pyogrio takes for something else.

    Raises
    ------
    VectorError
        If it cannot be written.
    OSError
        If the disk is full: with ENOSPC or EDQUOT.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if disk_full(error):
            raise
        raise VectorError(f"{out}: its folder cannot be made ({error.strerror}); give another --out") from error
    temporary = out.with_name(f".{uuid.uuid4().hex}.tmp{out.suffix}")
    try:
        with writable(temporary) as name:
            yield name
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        temporary.replace(out)
    except (OSError, sqlite3.DatabaseError, DataSourceError, DataLayerError, pa.ArrowException) as error:
        if full := disk_full(error):
            number = (full.errno if isinstance(full, OSError) else None) or errno.ENOSPC
            raise OSError(number, os.strerror(number), str(out)) from error
        if not isinstance(error, OSError):
            check_space(out.parent)  # GDAL need not say so; before what was written is removed
        raise VectorError(f"{out}: cannot be written ({error}); give a folder that can") from error
    finally:
        remove_temporary(temporary)


def numbered(content: LayerContent) -> Iterator[pa.RecordBatch]:
    """Yield the batches of a layer with the numbers of its features in front, for formats that have no numbers."""
    first = 1
    schema = numbered_schema(content.layer)
    for batch in content.batches():
        fid = pa.array(range(first, first + batch.num_rows), pa.int64())
        yield pa.RecordBatch.from_arrays([fid, *batch.columns], schema=schema)
        first += batch.num_rows


def numbered_schema(layer: Layer) -> pa.Schema:
    """Return the schema of `numbered`."""
    return layer.arrow.insert(0, pa.field("fid", pa.int64(), nullable=False))
