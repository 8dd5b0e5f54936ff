"""ResUNet.

Zhang, Liu, Wang: Road Extraction by Deep Residual U-Net, IEEE GRSL 15(5), 2018, https://arxiv.org/abs/1711.10684,
Fig. 2 and Table I: seven levels of pre-activated residual units (He et al. 2016, https://arxiv.org/abs/1603.05027),
halved by strides instead of pooling, brought back by nearest-neighbour upsampling.

The paper calls the shortcuts identities and does not say what they are where the number of channels or the grid
changes; here they are 1 × 1 convolutions, as in He et al. The 15 convolutions of Table I hold 7.8 million parameters,
which is the number that the paper gives; the shortcuts add 0.4 million.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from geounet.models.networks.blocks import check_size, initialise, levels, share


class Unit(nn.Module):
    """Residual unit with full pre-activation: BN, ReLU, convolution, twice, and the shortcut.

    Parameters
    ----------
    given, channels
        Channels in and out.
    stride
        Of the first convolution and the shortcut.
    first
        The network's first unit, whose input is the image: no normalisation and no ReLU before it.
    """

    def __init__(self, given: int, channels: int, *, stride: int = 1, first: bool = False) -> None:
        super().__init__()
        before: list[nn.Module] = [] if first else [nn.BatchNorm2d(given), nn.ReLU(inplace=False)]
        self.body = nn.Sequential(
            *before,
            nn.Conv2d(given, channels, 3, stride=stride, padding=1),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
        )
        self.shortcut = nn.Conv2d(given, channels, 1, stride=stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `(n, channels, rows / stride, cols / stride)` of `(n, given, rows, cols)`."""
        y: torch.Tensor = self.body(x) + self.shortcut(x)
        return y


class ResUnet(nn.Module):
    """U-Net of residual units.

    Parameters
    ----------
    in_channels, classes
        Bands in, logits out.
    width
        Channels of the first level; each halving of the grid doubles them.
    depth
        Halvings of the grid.
    dropout
        Share of the values dropped after the coarsest level, in training; none in the paper.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """

    def __init__(
        self, in_channels: int, classes: int, *, width: int = 64, depth: int = 3, dropout: float = 0.0
    ) -> None:
        super().__init__()
        channels = levels(width, depth)
        self._multiple = 2**depth
        self.encoder = nn.ModuleList(
            Unit(a, b, stride=2 if level else 1, first=not level)
            for level, (a, b) in enumerate(pairwise([in_channels, *channels]))
        )
        self.dropout = nn.Dropout(share("dropout", dropout))
        self.decoder = nn.ModuleList(Unit(a + b, b) for a, b in pairwise(reversed(channels)))
        self.segmentation_head = nn.Sequential(nn.Conv2d(width, classes, 1))
        initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits `(n, classes, rows, cols)` of `(n, bands, rows, cols)`."""
        check_size(x.shape[-2], x.shape[-1], self._multiple)
        skips: list[torch.Tensor] = []
        for unit in self.encoder:
            x = unit(x)
            skips.append(x)
        x = self.dropout(skips.pop())
        for unit in self.decoder:
            x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
            x = unit(torch.cat([skips.pop(), x], dim=1))
        logits: torch.Tensor = self.segmentation_head(x)
        return logits
