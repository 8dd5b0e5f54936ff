"""What a worker says of itself before work is given to it."""

from __future__ import annotations

import platform
import uuid
from pathlib import Path
from typing import Any

from geounet.errors import ClusterError, ModelError
from geounet.models.bundle import load_bundle
from geounet.raster.space import disk_full


def probe(model: str, sha256: str, device: str, precision: str, work: str | None) -> dict[str, Any]:
    """Check that this worker sees the model and (unless None) the work folder; resolve device and precision here.

    Returns
    -------
    `device`, `precision`, `multiple` (what tile and stride are multiples of, px).

    Raises
    ------
    ModelError
        If the model is not the driver's, or device or precision are not to be had.
    ClusterError
        If the work folder is not writable here.
    OSError
        If its disk is full.
    """
    from geounet.models.device import resolve
    from geounet.models.members import stride_of

    bundle = load_bundle(model)
    if bundle.sha256 != sha256:
        raise ModelError(f"{model}: the worker on {platform.node()} sees another model than the driver")
    if work is not None:
        _check_writable(Path(work))
    resolved, chosen = resolve(device, precision)
    return {
        "device": resolved,
        "precision": chosen,
        "multiple": stride_of(bundle),
    }


def _check_writable(work: Path) -> None:
    nonce = work / f".probe-{uuid.uuid4().hex}"
    try:
        work.mkdir(parents=True, exist_ok=True)
        nonce.write_text("geounet", encoding="utf-8")
        nonce.unlink()
    except OSError as error:
        if disk_full(error):
            raise
        raise ClusterError(
            f"{work}: the worker on {platform.node()} cannot write there ({error}); outputs.work must be on storage "
            "that all workers share"
        ) from None


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
