"""How much memory a forward needs, and how many tiles go into one."""

from __future__ import annotations

import functools
import logging
import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from geounet.errors import ModelError, first_line
from geounet.models.members import margin_of
from geounet.models.network import build, give_context, margin

if TYPE_CHECKING:
    from geounet.config.card import Card
    from geounet.models.bundle import Bundle

logger = logging.getLogger(__name__)

LIMIT = 64
"""Largest batch that `auto_batch` considers; beyond it GPUs gain nothing."""

_SHARE = 0.8  # of a GPU's free memory: the rest is for kernels' workspaces and fragmentation
_MARGIN = 1.25
"""Kernels' own memory. Measured on a CPU for twelve pairs of architecture and encoder: 0.87 to 1.46 of the tensors."""
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors that are alive, and their peak."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0
        self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        identity = storage._cdata  # what tensors of one memory have in common
        if identity not in self._known:
            self._known.add(identity)
            self.bytes += storage.nbytes()
            self.peak = max(self.peak, self.bytes)
            weakref.finalize(storage, self._release, identity, storage.nbytes())

    def _release(self, identity: int, size: int) -> None:
        self._known.discard(identity)
        self.bytes -= size


def estimate_memory(bundle: Bundle, tile: int, batch: int, precision: str) -> int:
    """Estimate the memory that a predictor needs at most, beside the libraries.

    A forward on torch's `meta` device (shapes without data) counts the tensors that are alive together; input, output
    and weights are added.

    Parameters
    ----------
    bundle
        The model.
    tile, batch
        Side of a tile in px, tiles per forward.
    precision
        `fp32`, `bf16` or `fp16`.

    Returns
    -------
    int
        Bytes.

    Raises
    ------
    ModelError
        If the network does not take tiles of this size.
    """
    card = bundle.card
    item = _DTYPES[precision].itemsize
    needs = [_footprint(part.card.model_dump_json(), tile, item) for part in bundle.parts]
    # Members of an ensemble work one after the other, but their weights are all there.
    weights, forward = sum(own for own, _ in needs), max(peak for _, peak in needs)
    pixels = batch * tile * tile
    copies = 2 if len(needs) == 1 else 3  # as given, in the network's memory layout, in a member's normalisation
    given = batch * (tile + 2 * margin_of(bundle)) ** 2 * len(card.input.bands) * 4 * copies
    # Logits in float32, probabilities, their sum, int16 twice (the caller's array).
    returned = pixels * card.channels * (4 + 4 + 4 + 2 + 2)
    return weights + given + max(round(_MARGIN * batch * forward), returned)


def auto_batch(bundle: Bundle, device: str, precision: str, tile: int) -> int:
    """Choose how many tiles go into one forward.

    On a CPU one: two or four are slower per tile (a resnet18 U-Net of 512 px, fp32: 255, 290, 325 ms). On a GPU the
    largest power of two, at most `LIMIT`, that the estimate allows in 80 % of the free memory and that a forward with
    it proves.

    Parameters
    ----------
    bundle
        The model.
    device, precision
        As `geounet.models.device.resolve` returns them.
    tile
        Side of a tile, px.

    Raises
    ------
    ModelError
        If not even one tile fits, or the network does not take this size.
    """
    if device == "cpu":
        return 1
    from geounet.models.predictor import Predictor

    free, _ = torch.cuda.mem_get_info(device)
    batch = 1
    while batch < LIMIT and estimate_memory(bundle, tile, 2 * batch, precision) <= _SHARE * free:
        batch *= 2
    predictor = Predictor(bundle, device=device, precision=precision, tta="none", tile=tile, batch=batch)
    predictor.trial()
    logger.info("%s: batch %d for tiles of %d px on %s", bundle.card.name, predictor.batch, tile, device)
    return predictor.batch


@functools.lru_cache(maxsize=32)
def _footprint(card_json: str, tile: int, item: int) -> tuple[int, int]:
    """Return bytes of weights and the peak bytes of a forward of one tile, in numbers of `item` bytes."""
    from geounet.config.card import Card

    card: Card = Card.model_validate_json(card_json)
    network = build(card).eval().requires_grad_(False)
    side = tile + 2 * margin(card)
    if side > tile:
        give_context(network)
    weights = sum(t.numel() * t.element_size() for t in network.state_dict().values())
    dtype = {4: torch.float32, 2: torch.bfloat16}[item]
    network = network.to(device="meta", dtype=dtype)
    live = _Live()
    try:
        with torch.inference_mode(), live:
            network(torch.empty((1, len(card.input.bands), side, side), device="meta", dtype=dtype))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ModelError(
            f"{card.name}: {card.network} does not take tiles of {tile} px: {first_line(error)}"
        ) from error
    return weights, live.peak
