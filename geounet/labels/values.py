"""What values in label arrays mean.

A label is one uint8 value a pixel:

- a class code (`TrainJob.codes()`): with softmax the channel; with sigmoid 1, 2, … for channels 0, 1, … and 0 for the
  background, which is none of the classes;
- 255: nothing is known. The pixel counts in no loss, no measure and no statistic;
- `254 - code`: partly known: **any class but `code`**. Footprints of buildings without other labels say this of all
  ground between them. A loss takes the likelihood of what is known, `1 - p_code`, hence `-log(1 - p_code)`: the sum of
  the other classes' probabilities (complementary labels, Yu et al. 2018, arXiv 1711.09535; Ishida et al. 2017,
  arXiv 1705.07541). Measures leave such pixels out, but for a false positive of class `code`.

Codes stay below 128, partial labels are above: 154 to 254.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from geounet.config.data import Not
from geounet.types import NODATA

IGNORED = NODATA
"""Label of pixels of which nothing is known."""

_FIRST_PARTIAL = 128

A = TypeVar("A")
"""A numpy array or torch tensor of integers."""


def partial(code: int) -> int:
    """Return the label that means any class but `code`."""
    return IGNORED - 1 - code


def is_partial(labels: Any) -> Any:
    """Return where labels (array or tensor) are partial, bool."""
    return (labels >= _FIRST_PARTIAL) & (labels != IGNORED)


def barred_class(labels: A) -> A:
    """Return the code that is ruled out where labels are partial; elsewhere the values mean nothing.

    Parameters
    ----------
    labels
        Array or tensor of integers.
    """
    result: Any = IGNORED - 1 - labels  # type: ignore[operator]
    return result  # type: ignore[no-any-return]


def value_of(meaning: Not | str, codes: Mapping[str, int]) -> int:
    """Return the label of what a job file says: a class, `ignored`, or `{not: class}`."""
    if isinstance(meaning, Not):
        return partial(codes[meaning.not_])
    return IGNORED if meaning == "ignored" else codes[meaning]


def describe(value: int, codes: Mapping[str, int]) -> str:
    """Return what a label means, in words."""
    names = {code: name for name, code in codes.items()}
    if value == IGNORED:
        return "ignored"
    if is_partial(value):
        return f"not {names.get(barred_class(value), '?')}"
    return names.get(value, f"code {value}")


def counts_of(labels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return how many pixels have each label, int64 `(256,)`."""
    return np.bincount(labels.ravel(), minlength=256).astype(np.int64)
