"""Checkpoints: all that training needs to go on exactly, in files that appear complete or not at all.

`last.pt` is the state (tensors and plain containers, read by torch's restricted unpickler), `last.safetensors` and
`best.safetensors` are weights alone, as any tool reads them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from geounet.atomic import atomic
from geounet.errors import PartError, first_line

STATE = "last.pt"
LAST, BEST = "last.safetensors", "best.safetensors"


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write the state, atomically."""
    with atomic(folder / STATE) as temporary:
        torch.save(state, temporary)


def load_state(folder: Path) -> dict[str, Any] | None:
    """Return the state on the CPU, or nothing where there is none.

    Raises
    ------
    PartError
        If it cannot be read.
    """
    path = folder / STATE
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a damaged file raises is not documented
        raise PartError(f"{path}: cannot be read ({first_line(error)}); remove it, or ask to start anew") from None
    return dict(state)


def save_weights(path: Path, network: torch.nn.Module) -> None:
    """Write a network's weights as safetensors, float32, atomically."""
    tensors = {
        key: value.detach().to("cpu").clone(memory_format=torch.contiguous_format)
        for key, value in network.state_dict().items()
    }
    with atomic(path) as temporary:
        temporary.write_bytes(save(tensors, metadata={"format": "pt"}))  # save_file's are for their owner alone


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a weights file."""
    return dict(load_file(path))
