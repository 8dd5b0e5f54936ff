"""What a worker says of itself before work is given to it."""

from __future__ import annotations

import platform
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from geounet.errors import ClusterError, ModelError
from geounet.models.bundle import load_bundle
from geounet.raster.space import disk_full

SHARED = "must be on storage that all workers share"

LAG_S = 3.0
"""Seconds that storage of a network may take to show what was written on another machine."""


def probe(model: str, sha256: str, device: str, precision: str) -> dict[str, Any]:
    """Check that this worker sees the model; resolve device and precision here.

    Returns
    -------
    `device`, `precision`, `multiple` (what tile and stride are multiples of, px).

    Raises
    ------
    ModelError
        If the model is not the driver's, or device or precision are not to be had.
    """
    from geounet.models.device import resolve
    from geounet.models.members import stride_of

    bundle = load_bundle(model)
    if bundle.sha256 != sha256:
        raise ModelError(f"{model}: the worker on {platform.node()} sees another model than the driver")
    resolved, chosen = resolve(device, precision)
    return {
        "device": resolved,
        "precision": chosen,
        "multiple": stride_of(bundle),
    }


def answer(question: str) -> tuple[str, str]:
    """Read a file that the driver wrote into the work folder, and write its content into another one beside it.

    Returns
    -------
    Name of this machine, and that of the file.

    Raises
    ------
    ClusterError
        If the file is not seen here, or the folder not writable.
    OSError
        If its disk is full.
    """
    asked, host = Path(question), platform.node()
    if first_unseen([question]) is not None:
        raise ClusterError(
            f"{asked.parent}: the worker on {host} does not see what this process writes there; outputs.work {SHARED}"
        )
    answered = asked.with_name(f"{asked.name}-{uuid.uuid4().hex}")
    try:
        answered.write_text(asked.read_text(encoding="utf-8"), encoding="utf-8")
    except OSError as error:
        if disk_full(error):
            raise
        raise ClusterError(
            f"{asked.parent}: the worker on {host} cannot write there ({error}); outputs.work {SHARED}"
        ) from None
    return host, answered.name


def first_unseen(paths: Iterable[str]) -> str | None:
    """Return the first of some files that is not seen on this machine, also not a moment later; None if all are."""
    until = time.monotonic() + LAG_S
    for path in paths:
        while not Path(path).exists():
            if time.monotonic() > until:
                return path
            time.sleep(0.1)
    return None


def memory_needed(model: str, device: str, precision: str, tile: int, batch: int) -> int:
    """Return the bytes of the machine's memory that a forward pass takes; with a GPU those of its input alone.

    0 where that cannot be told: the network itself says what is wrong.
    """
    from geounet.models.batch import estimate_memory
    from geounet.models.members import margin_of

    bundle = load_bundle(model)
    if device != "cpu":  # which halves a batch that is too large for it
        return batch * len(bundle.card.input.bands) * (tile + 2 * margin_of(bundle)) ** 2 * 4
    try:
        return estimate_memory(bundle, tile, batch, precision)
    except ModelError:
        return 0


def best_batch(model: str, device: str, precision: str, tile: int) -> int:
    """Return the number of tiles per forward pass that suits this worker."""
    from geounet.models.batch import auto_batch

    return int(auto_batch(load_bundle(model), device, precision, tile))
