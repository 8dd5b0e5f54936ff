"""The table of networks: what a card's `architecture` may name, and the geometry that follows from its arguments.

Plain values: reading this table imports neither torch nor smp.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Network:
    """One line of the table."""

    library: Literal["smp", "geounet"]
    depth: int
    """How often the encoder halves the grid, unless `arguments` say otherwise."""
    stride: int
    """Largest stride of the encoder, px; 0: the patch size of the vision transformer."""
    about: str
    paper: str
    arguments: str = ""
    """Of our own networks: names and defaults. smp's classes document theirs."""


NETWORKS: dict[str, Network] = {
    "Unet": Network("smp", 5, 32, "U-Net on an encoder of choice", "arxiv.org/abs/1505.04597"),
    "UnetPlusPlus": Network("smp", 5, 32, "nested U-Nets: dense skip connections", "arxiv.org/abs/1807.10165"),
    "MAnet": Network("smp", 5, 32, "attention over positions and channels", "doi.org/10.1109/ACCESS.2020.3025372"),
    "Linknet": Network("smp", 5, 32, "skip connections are added; light and fast", "arxiv.org/abs/1707.03718"),
    "FPN": Network("smp", 5, 32, "feature pyramid", "arxiv.org/abs/1612.03144"),
    "PSPNet": Network("smp", 3, 32, "pooling at several scales", "arxiv.org/abs/1612.01105"),
    "PAN": Network("smp", 5, 16, "pyramid attention", "arxiv.org/abs/1805.10180"),
    "DeepLabV3": Network("smp", 5, 8, "dilated convolutions at several rates", "arxiv.org/abs/1706.05587"),
    "DeepLabV3Plus": Network("smp", 5, 16, "DeepLabV3 with a decoder", "arxiv.org/abs/1802.02611"),
    "UPerNet": Network("smp", 5, 32, "feature pyramid and pooling at several scales", "arxiv.org/abs/1807.10221"),
    "Segformer": Network("smp", 5, 32, "decoder of linear layers", "arxiv.org/abs/2105.15203"),
    "DPT": Network("smp", 4, 0, "vision transformer, reassembled to images", "arxiv.org/abs/2103.13413"),
    "Unet2015": Network(
        "geounet", 4, 16, "the U-Net of 2015, with its own encoder", "arxiv.org/abs/1505.04597",
        "width=64, depth=4, padding=same, normalisation=none, dropout=0.5",
    ),
    "AttentionUnet": Network(
        "geounet", 4, 16, "U-Net whose skip connections pass additive gates", "arxiv.org/abs/1804.03999",
        "width=64, depth=4, dropout=0.0",
    ),
    "ResUnet": Network(
        "geounet", 3, 8, "U-Net of pre-activated residual units", "arxiv.org/abs/1711.10684",
        "width=64, depth=3, dropout=0.0",
    ),
}  # fmt: skip
"""Networks by name. smp's take `encoder_depth` and, some, `encoder_output_stride` in `arguments`."""


def context(architecture: str, arguments: Mapping[str, Any]) -> int:
    """Return how many pixels a network wants to see on each side of a tile beside the tile itself.

    None but the U-Net of 2015 with valid convolutions, which loses a border at every convolution. From an input of
    `rows + 2 * context` it computes at least `rows` for any `rows` that is a multiple of `2 ** depth`.

    Ronneberger et al. 2015, Fig. 1 and 2: for depth 4 an input of 572 px gives 388 px. With b px at the bottom the
    input is `2^d b + 4 (2^d - 1)` and the output `2^d (b - 4) - 4 (2^d - 1)`, which for d > 2 is 4 more than a multiple
    of `2^d`.
    """
    if architecture != "Unet2015" or arguments.get("padding", "same") != "valid":
        return 0
    depth = int(arguments.get("depth", NETWORKS[architecture].depth))
    lost: int = 12 * 2**depth - 8
    surplus = 4 if depth > 2 else 0
    return (lost + surplus) // 2
