"""Files between stages: arrays and sorted features, complete or absent."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from geounet.atomic import atomic
from geounet.errors import PartError

Arrays = dict[str, npt.NDArray[Any]]

BATCH = 50_000
"""Features of a batch that goes to the GeoPackage."""


def save(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> int:
    """Write arrays as an uncompressed `.npz`; returns its size in bytes."""
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    return path.stat().st_size


def load(path: Path, names: Sequence[str] | None = None) -> Arrays:
    """Read all or some arrays of a part.

    Raises
    ------
    PartError
        If it is missing or damaged.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return {name: file[name] for name in (names if names is not None else file.files)}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise PartError(f"{path}: part is missing or damaged ({error}); remove its folder and run again") from error


def save_array(path: Path, array: npt.NDArray[Any]) -> int:
    """Write one array as `.npy`, which can be read in windows; returns its size in bytes."""
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)
    return path.stat().st_size


def save_tables(path: Path, tables: Iterable[pa.Table]) -> int:
    """Write features as an Arrow file, table after table of one schema; returns its size in bytes.

    There is at least one table. The column `id` is sorted over all of them.
    """
    with atomic(path) as temporary, ExitStack() as stack:
        sink = stack.enter_context(pa.OSFile(str(temporary), "wb"))
        writer = None
        for table in tables:
            if writer is None:
                writer = stack.enter_context(pa.ipc.new_file(sink, table.schema))
            writer.write_table(table)
    return path.stat().st_size


def open_table(path: Path) -> pa.Table:
    """Map a file of features into memory, reading only what is touched.

    Raises
    ------
    PartError
        If it is missing or damaged.
    """
    try:
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except (OSError, pa.ArrowInvalid) as error:
        raise PartError(f"{path}: part is missing or damaged ({error}); remove its folder and run again") from error


def merged(paths: Sequence[Path], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Yield all features of files that are each sorted by `id`, in one order over all files.

    In memory are the ids (8 bytes a feature) and one batch; geometries stay in the files until their batch is made.
    `schema` names the columns to yield; `id` itself need not be among them. Ties go by the order of `paths`.
    """
    opened = lru_cache(maxsize=256)(open_table)
    ids = [opened(path)["id"].to_numpy() for path in paths]
    counts = np.array([len(i) for i in ids], dtype=np.int64)
    if counts.sum() == 0:
        return
    order = np.argsort(np.concatenate(ids), kind="stable")
    del ids
    starts = np.concatenate([[0], np.cumsum(counts)])
    for at in range(0, len(order), BATCH):
        rows = order[at : at + BATCH]
        files = np.searchsorted(starts, rows, side="right") - 1
        by_file = np.argsort(files, kind="stable")
        pieces = []
        for group in np.split(by_file, np.flatnonzero(np.diff(files[by_file])) + 1):
            file = int(files[group[0]])
            pieces.append(opened(paths[file]).select(schema.names).take(pa.array(rows[group] - starts[file])))
        back = np.empty(len(rows), dtype=np.int64)
        back[by_file] = np.arange(len(rows))
        batch = pa.concat_tables(pieces).combine_chunks().take(pa.array(back))
        yield from batch.combine_chunks().to_batches()
