"""The U-Net of 2015.

Ronneberger, Fischer, Brox: U-Net: Convolutional Networks for Biomedical Image Segmentation, MICCAI 2015,
https://arxiv.org/abs/1505.04597, Fig. 1: two 3 × 3 convolutions a level, 2 × 2 max pooling, 2 × 2 up-convolutions that
halve the channels, skip connections by concatenation.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from geounet.models.networks.blocks import (
    centre,
    check_size,
    initialise,
    levels,
    mirrored,
    one_of,
    share,
    two_convolutions,
)
from geounet.models.networks.table import context


class Unet2015(nn.Module):
    """The U-Net of 2015, 31.0 million parameters as published.

    Parameters
    ----------
    in_channels, classes
        Bands in, logits out.
    width
        Channels of the first level; each halving of the grid doubles them.
    depth
        Halvings of the grid.
    padding
        `same`: zeros around each level, every pixel of the tile is computed from the tile. `valid`: as published, no
        padding. Then each result needs `context` px around it; see `given_context`.
    normalisation
        `none`, as published, or `batch`: batch normalisation after each convolution. Training from scratch is far
        easier with it.
    dropout
        Share of the values dropped at the end of the contracting path (the last two levels), in training.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """

    given_context: bool
    """With valid convolutions: whether the input already holds `context` px around the pixels that are wanted.

    False (as built): the network mirrors the tile at its edges, as the paper does at the edges of the image, and
    returns as many pixels as it is given. True: it returns `context` px less on every side; the main job reads those
    from the scene.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        *,
        width: int = 64,
        depth: int = 4,
        padding: str = "same",
        normalisation: str = "none",
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        channels = levels(width, depth)
        batch = one_of("normalisation", normalisation, ("none", "batch")) == "batch"
        border = 1 if one_of("padding", padding, ("same", "valid")) == "same" else 0
        self.context = context("Unet2015", {"padding": padding, "depth": depth})
        self.given_context = False
        self._multiple = 2**depth
        self.encoder = nn.ModuleList(
            two_convolutions(a, b, padding=border, batch=batch) for a, b in pairwise([in_channels, *channels])
        )
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout(share("dropout", dropout))
        upwards = list(pairwise(reversed(channels)))
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in upwards)
        self.decoder = nn.ModuleList(two_convolutions(a, b, padding=border, batch=batch) for a, b in upwards)
        self.segmentation_head = nn.Sequential(nn.Conv2d(width, classes, 1))
        initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits `(n, classes, rows, cols)` of `(n, bands, rows, cols)`; see `given_context`."""
        beside = 2 * self.context if self.given_context else 0
        rows, cols = x.shape[-2] - beside, x.shape[-1] - beside
        check_size(rows, cols, self._multiple)
        if self.context and not self.given_context:
            x = mirrored(x, self.context)
        skips: list[torch.Tensor] = []
        last = len(self.encoder) - 1
        for level, block in enumerate(self.encoder):
            x = block(self.pool(x) if level else x)
            if level >= last - 1:
                x = self.dropout(x)
            skips.append(x)
        x = skips.pop()
        for up, block in zip(self.up, self.decoder, strict=True):
            x = up(x)
            x = block(torch.cat([centre(skips.pop(), x.shape[-2], x.shape[-1]), x], dim=1))
        logits: torch.Tensor = self.segmentation_head(centre(x, rows, cols))
        return logits
