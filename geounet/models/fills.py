"""Building networks without drawing random numbers that nobody reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn import init
from torch.overrides import TorchFunctionMode

_FILLS = frozenset(
    (torch.Tensor.normal_, torch.Tensor.uniform_, init.normal_, init.uniform_, init.trunc_normal_, init.xavier_normal_,
     init.xavier_uniform_, init.kaiming_normal_, init.kaiming_uniform_, init.orthogonal_)
)  # fmt: skip
"""What networks draw their first weights with."""


class without_fills(TorchFunctionMode):  # noqa: N801 - used as a context, as torch's own modes are
    """Leave tensors as they are instead of filling them with random numbers.

    Those without data (`meta`) always: smp builds each of timm's encoders once so, to see its shapes, and filling what
    holds nothing has torch import its compiler, which took 2.8 of the 2.9 s that it took to load `aerial`.

    Parameters
    ----------
    everywhere
        Parameters with data, too: what is loaded afterwards replaces them.
    """

    def __init__(self, *, everywhere: bool = False) -> None:
        super().__init__()
        self._everywhere = everywhere

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Return the tensor that would be filled, or do as told."""
        kwargs = kwargs or {}
        if func in _FILLS:
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta or (self._everywhere and isinstance(tensor, torch.nn.Parameter)):
                return tensor
        return func(*args, **kwargs)
