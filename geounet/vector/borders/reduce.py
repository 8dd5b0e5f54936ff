"""From borders of the mask to finished ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geounet.vector.borders import curve, shift
from geounet.vector.borders.arcs import Arcs, Paths, replace, split
from geounet.vector.borders.choose import Limits, chosen
from geounet.vector.borders.corners import FINE, SHIFT, Corners
from geounet.vector.trace import I32, I64


@dataclass(frozen=True)
class Rule:
    """How borders are drawn.

    Attributes
    ----------
    tolerance_px
        Pixels that corners of the mask are at most away from the border drawn; 0: borders stay as in the mask.
    smooth_px
        How far from a vertex rounding begins, in pixels; 0: none. Rounding comes on top of `tolerance_px`.
    """

    tolerance_px: float
    smooth_px: float = 0.0

    @property
    def limits(self) -> Limits:
        """When vertices may go.

        What the stairs of straight lines need is given at any tolerance, as far as it allows: corners up to 1 px away
        from the line through the first few of them, the variance of steps of one pixel, and edges from corner to corner
        along one side of the stairs.
        """
        tolerance = self.tolerance_px
        line = max(tolerance * 2 / 3, min(1.0, tolerance))
        return Limits(tolerance, line, max(1 / 12, (tolerance / 5.2) ** 2), max(0.6, tolerance / 4))

    @property
    def shift(self) -> float:
        """Farthest a vertex moves in either axis, in pixels."""
        return min(SHIFT / FINE, self.tolerance_px / 3)


def drawn(arcs: Arcs, rule: Rule, corners: Corners) -> tuple[I32, I64]:
    """Return borders as `rule` says: `coords` `(n, 2)` in `FINE` parts of a pixel, and where each border starts."""
    if rule.tolerance_px <= 0 and rule.smooth_px <= 0:
        return np.column_stack([arcs.x, arcs.y]).astype(np.int32) * np.int32(FINE), arcs.offsets
    picked = shift.Chosen(arcs, chosen(arcs, rule.limits, corners))
    moved = shift.shifts(arcs, picked, rule.shift)
    moved = shift.levelled(arcs, picked, moved, rule.shift)
    if rule.smooth_px > 0:
        moved = curve.outwards(picked, moved, rule.smooth_px)
    at = shift.settled(arcs, picked, moved, rule.tolerance_px + rule.smooth_px, corners)
    if rule.smooth_px > 0:
        return curve.rounded(arcs, picked, at, rule.smooth_px, corners)
    return at.astype(np.int32), picked.offsets


def reduced(paths: Paths, rule: Rule, corners: Corners) -> Paths:
    """Return paths with all borders that are whole in them finished, each drawn once."""
    arcs, uses = split(paths)
    return replace(paths, uses, *drawn(arcs, rule, corners))
