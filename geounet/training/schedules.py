"""Schedules of the learning rate, from a table: pure functions of the step, so that resuming needs no state."""

from __future__ import annotations

import math
from collections.abc import Callable

_START, _END = 1 / 25, 1 / 25e4
"""First and last factor of one cycle, as in torch."""


def _cosine(progress: float) -> float:
    """Loshchilov and Hutter 2017, arXiv 1608.03983, without restarts."""
    return (1 + math.cos(math.pi * progress)) / 2


def _poly(progress: float) -> float:
    """Liu et al. 2015, arXiv 1506.04579: `(1 - t) ** 0.9`."""
    return float((1 - progress) ** 0.9)


def _down(progress: float) -> float:
    """Return the second part of one cycle: a cosine to nearly 0."""
    return _END + (1 - _END) * _cosine(progress)


SCHEDULES: dict[str, Callable[[float], float]] = {
    "one-cycle": _down,
    "cosine": _cosine,
    "poly": _poly,
    "constant": lambda progress: 1.0,
}
"""Factor of the peak rate at a progress of 0 to 1 after the warm-up, by the name it has in a job file."""


def factor(name: str, step: int, total: int, warmup: float) -> float:
    """Return the factor of the peak learning rate for a step.

    Parameters
    ----------
    name
        Key of `SCHEDULES`.
    step
        From 0.
    total
        Number of steps.
    warmup
        Share of the steps that the rate rises. One cycle rises along a cosine from 1/25 (Smith and Topin 2018, arXiv
        1708.07120, with the numbers and steps of torch's `OneCycleLR`), the others in a line.
    """
    if name == "one-cycle":
        rise = warmup * total - 1
        if rise > 0 and step <= rise:
            return 1 + (_START - 1) * _cosine(step / rise)
        rise = max(rise, -1.0)
        progress = (step - rise) / max(total - 1 - rise, 1e-9)
        return SCHEDULES[name](min(max(progress, 0.0), 1.0))
    rise = round(warmup * total)
    if step < rise:
        return (step + 1) / (rise + 1)
    return SCHEDULES[name](min((step - rise) / max(total - rise, 1), 1.0))
