"""How GDAL is configured, and opening of files without its warnings."""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.errors import NotGeoreferencedWarning, RasterioError

CACHE_MB = 64
"""Size of GDAL's block cache, MiB. GDAL's own default is 5 % of the machine's memory, for every process."""

GDAL_ERRORS: tuple[type[Exception], ...] = (RasterioError, CPLE_BaseError)
"""What rasterio raises when GDAL fails; some of its functions pass GDAL's own errors on."""

_LOCK = threading.Lock()


def gdal_env(cache_mb: int = CACHE_MB) -> dict[str, Any]:
    """Return the options for `rasterio.Env` under which this package reads and writes.

    The block cache is shared by all threads of a process, and rasterio resizes it whenever an environment that names a
    size is entered: code that asks for another size asks for the whole process.

    Parameters
    ----------
    cache_mb : int
        Size of the block cache of the process, MiB.
    """
    return {
        # rasterio hands an integer to GDAL as bytes.
        "GDAL_CACHEMAX": cache_mb * 2**20,
        # Anything else hides masks (.msk), metadata (.aux.xml) and world files beside the image.
        "GDAL_DISABLE_READDIR_ON_OPEN": "FALSE",
        # Python code inside a VRT is never run.
        "GDAL_VRT_ENABLE_PYTHON": "NO",
        # Warped virtual rasters are computed in blocks of their own grid, whatever bands and window are asked for.
        "GDAL_VRT_WARP_USE_DATASET_RASTERIO": "NO",
        # One decoding thread: the pipeline reads while the network computes, and workers share the machine.
        "GDAL_NUM_THREADS": 1,
    }


@contextmanager
def _quiet() -> Iterator[None]:
    # `catch_warnings` changes the state of the process: one thread at a time.
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def open_quietly(path: Path, mode: str = "r", **options: Any) -> Any:
    """Open a raster with rasterio, without its warning about a missing geotransform.

    Parameters
    ----------
    path : Path
        A local file. Paths are passed as `Path`, because rasterio parses strings as URLs.
    mode : str
        As for `rasterio.open`.
    options
        As for `rasterio.open`.

    Raises
    ------
    rasterio.errors.RasterioIOError
        If GDAL cannot open it.
    """
    with _quiet():
        return rasterio.open(path, mode, **options)


def one_line(error: BaseException) -> str:
    """Return the message of an exception on one line; of its cause where it only refers to it."""
    cause = error.__cause__
    if cause is not None and str(cause) and "See previous exception" in str(error):
        error = cause
    # GDAL's advice about drivers is no option of ours.
    text = re.sub(r"[.;\s]*It might help to specify the correct driver.*", "", " ".join(str(error).split()))
    return text or type(error).__name__
