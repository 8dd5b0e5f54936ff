"""Small real bundles with random weights."""

from __future__ import annotations

from pathlib import Path

from geounet.config.card import TileSpec
from geounet.models.bundle import Bundle, save_bundle
from tests.support.local import card


def small_unet(folder: Path, *, seed: int = 0, channels: int = 4, **fields: object) -> Bundle:
    """Save a U-Net of 0.3 M parameters that sees 64 px tiles; its classes differ from place to place."""
    import torch

    from geounet.models.network import build

    small = card(
        channels=channels,
        name="small",
        encoder="tu-mobilenetv3_small_050",
        arguments={"encoder_depth": 3, "decoder_channels": [32, 16, 8]},
        tile=TileSpec(size=64, overlap=16, multiple_of=8),
        **fields,
    )
    torch.manual_seed(seed)
    network = build(small)
    # Random heads hardly tell classes apart; louder ones do.
    for parameter in network.segmentation_head.parameters():
        parameter.data *= 40
    return save_bundle(folder, small, network.state_dict(), overwrite=True)
