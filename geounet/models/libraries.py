"""Importing segmentation-models-pytorch (smp) without torch's compiler: two thirds of the time.

smp imports timm, and timm torchvision. Both want one function each of `torch._dynamo`, which takes over a second to
import, for code that no network of smp runs: torchvision's `roi_align`, and decorators in one of timm's transformers.
Stand-ins give them these functions and import the compiler when they are called; `torch._dynamo` itself can be imported
as ever.
"""

from __future__ import annotations

import functools
import gc
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

_NAME = "torch._dynamo.utils"


class _Later(ModuleType):
    """Stands for `torch._dynamo.utils` until somebody wants more of it than torchvision does."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system asks for these
            raise AttributeError(name)
        return getattr(_real(), name)


def _real() -> ModuleType:
    if isinstance(sys.modules.get(_NAME), _Later):
        del sys.modules[_NAME]
    return importlib.import_module(_NAME)


def _is_compile_supported(device_type: Any) -> Any:
    return _real().is_compile_supported(device_type)


def _disable(function: Any = None, recursive: bool = True, *, reason: str | None = None) -> Any:
    """Do as `torch.compiler.disable` does, from when something is compiled."""
    if function is None:
        return functools.partial(_disable, recursive=recursive, reason=reason)
    import torch

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return torch.compiler.disable(function, recursive, reason=reason)(*args, **kwargs)  # type: ignore[no-untyped-call]
        return function(*args, **kwargs)

    return run


@contextmanager
def _without_compiler() -> Iterator[None]:
    import torch

    if _NAME in sys.modules:
        yield
        return
    stand_in, disable = _Later(_NAME), torch.compiler.disable
    vars(stand_in)["is_compile_supported"] = _is_compile_supported
    sys.modules[_NAME] = stand_in
    torch.compiler.disable = _disable
    try:
        yield
    finally:
        torch.compiler.disable = disable
        if sys.modules.get(_NAME) is stand_in:
            del sys.modules[_NAME]


@contextmanager
def uncollected() -> Iterator[None]:
    """Look for no garbage while much is imported: it takes a fifth of the time and finds none."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def import_libraries() -> None:
    """Import what building a network takes: seconds that a worker can spend before it has work."""
    with uncollected(), _without_compiler():
        import segmentation_models_pytorch  # noqa: F401 - the import is the work
