"""Attention U-Net.

Oktay et al.: Attention U-Net: Learning Where to Look for the Pancreas, MIDL 2018, https://arxiv.org/abs/1804.03999.
The paper's network is three-dimensional; this is its plane counterpart, layer by layer, without deep supervision (a
matter of the loss). The skip connection of the finest level has no gate, as in the paper: it does not represent the
image "in a high dimensional space".
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from geounet.models.networks.blocks import check_size, initialise, levels, share, two_convolutions


class Gate(nn.Module):
    """Additive attention gate, eq. 1 and Fig. 2 of the paper.

    `q = psi(relu(theta(x) + phi(g)))`, `alpha = sigmoid(q)`: x, the features of a skip connection, are brought to the
    grid of the coarser gating signal g, the coefficients back to that of x.

    Parameters
    ----------
    skip, gating
        Channels of x and g.
    """

    def __init__(self, skip: int, gating: int) -> None:
        super().__init__()
        self.theta = nn.Conv2d(skip, skip, 2, stride=2, bias=False)
        self.phi = nn.Conv2d(gating, skip, 1)
        self.psi = nn.Conv2d(skip, 1, 1)
        self.output = nn.Sequential(nn.Conv2d(skip, skip, 1), nn.BatchNorm2d(skip))

    def forward(self, x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        """Return the gated `(n, skip, rows, cols)` of x of that shape and g `(n, gating, rows / 2, cols / 2)`."""
        gated: torch.Tensor = self.output(x * self.coefficients(x, g))
        return gated

    def coefficients(self, x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        """Return what each pixel of x is multiplied with, `(n, 1, rows, cols)`, 0 to 1."""
        q = self.psi(functional.relu(self.theta(x) + self.phi(g)))
        return functional.interpolate(q.sigmoid(), scale_factor=2.0, mode="bilinear", align_corners=False)


class AttentionUnet(nn.Module):
    """U-Net whose skip connections pass additive attention gates.

    Parameters
    ----------
    in_channels, classes
        Bands in, logits out.
    width
        Channels of the first level; each halving of the grid doubles them. The paper takes 16, in three dimensions.
    depth
        Halvings of the grid.
    dropout
        Share of the values dropped at the coarsest level, in training; none in the paper.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """

    def __init__(
        self, in_channels: int, classes: int, *, width: int = 64, depth: int = 4, dropout: float = 0.0
    ) -> None:
        super().__init__()
        channels = levels(width, depth)
        self._multiple = 2**depth
        self.encoder = nn.ModuleList(two_convolutions(a, b) for a, b in pairwise([in_channels, *channels]))
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout(share("dropout", dropout))
        coarsest = channels[-1]
        self.gating = nn.Sequential(nn.Conv2d(coarsest, coarsest, 1), nn.BatchNorm2d(coarsest), nn.ReLU(inplace=True))
        upwards = list(pairwise(reversed(channels)))
        self.gates = nn.ModuleList(Gate(b, a) for a, b in upwards[:-1])
        self.decoder = nn.ModuleList(two_convolutions(a + b, b) for a, b in upwards)
        self.segmentation_head = nn.Sequential(nn.Conv2d(width, classes, 1))
        initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits `(n, classes, rows, cols)` of `(n, bands, rows, cols)`."""
        check_size(x.shape[-2], x.shape[-1], self._multiple)
        skips: list[torch.Tensor] = []
        for level, block in enumerate(self.encoder):
            x = block(self.pool(x) if level else x)
            skips.append(x)
        x = self.dropout(skips.pop())
        signal = self.gating(x)
        for level, block in enumerate(self.decoder):
            skip = skips.pop()
            if level < len(self.gates):
                skip = self.gates[level](skip, signal)
            x = functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            x = signal = block(torch.cat([skip, x], dim=1))
        logits: torch.Tensor = self.segmentation_head(x)
        return logits
