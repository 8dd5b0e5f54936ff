"""Sealing a block: adding the spills of its neighbours to its strips and finishing those pixels."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from typing import Any

from geounet.grid.blocks import BlockId
from geounet.models.bundle import load_bundle
from geounet.predict.borders import Borders
from geounet.predict.decide import add_counts
from geounet.predict.infer import PieceWriter
from geounet.predict.receipts import write_receipt
from geounet.predict.recipe import Recipe
from geounet.types import Rect


def seal_block(recipe: Recipe, block_id: BlockId, failed: tuple[BlockId, ...] = ()) -> dict[str, Any]:
    """Finish the strips of a block, write their parts and the receipt, and return the receipt.

    Pixels that lack the contribution of a `failed` neighbour become nodata; the rest is never renormalised.

    Raises
    ------
    PartError
        If a border file is missing, damaged or of another run.
    """
    started = time.perf_counter()
    block = recipe.blocks.block(block_id)
    card = load_bundle(recipe.model).card
    counts: list[dict[str, int]] = []
    files: dict[str, int] = {}
    with ExitStack() as stack:

        def borders(of: BlockId) -> Borders:
            return stack.enter_context(closing(Borders(recipe.sums(of), recipe.stamp)))

        own = borders(block_id)
        givers = {name: (None if giver in failed else borders(giver)) for name, giver in block.givers.items()}
        for name, strip in block.strips.items():
            sums = own.sums(name)
            valid = own.valid(name, strip.shape)
            for spill_name, giver in givers.items():
                spill = recipe.blocks.block(block.givers[spill_name]).spills.get(spill_name, Rect(0, 0, 0, 0))
                part = strip.intersection(spill)
                if part.empty:
                    continue
                here, there = part.slices_in(strip), part.slices_in(spill)
                if giver is None:
                    valid[here] = False
                else:
                    sums[:, here[0], here[1]] += giver.sums(spill_name)[:, there[0], there[1]]
            with PieceWriter(recipe, card, block_id, name, strip) as writer:
                writer.write(sums, valid)
            counts = add_counts(counts, writer.counts)
            files.update(writer.files)
    receipt = {
        "fingerprint": recipe.stamp,
        "block": list(block_id),
        "failed": [list(giver) for giver in block.givers.values() if giver in failed],
        "counts": counts,
        "files": files,
        "seconds": {"total": round(time.perf_counter() - started, 4)},
    }
    write_receipt(recipe.receipt("seal", str(block_id)), receipt)
    return receipt
