"""Device and precision: what `auto` means on this machine, and what it refuses."""

from __future__ import annotations

import logging
import platform
import re
from functools import cache
from pathlib import Path

from geounet.errors import ModelError

logger = logging.getLogger(__name__)

PRECISIONS = ("fp32", "bf16", "fp16")
_CPUINFO = Path("/proc/cpuinfo")
_FLAGS = ("avx512_bf16", "amx_bf16")


def resolve(device: str, precision: str, instead: str = "--set predict.device=cpu") -> tuple[str, str]:
    """Resolve `auto` on this machine.

    Parameters
    ----------
    device
        `auto` (CUDA where there is one), `cpu`, `cuda` or `cuda:N`.
    precision
        `auto`, `fp32`, `bf16` or `fp16`. `auto` is bf16 where the hardware multiplies it (CUDA from compute capability
        8.0, processors with AVX512-BF16 or AMX), else fp16 with CUDA and fp32 without.
    instead
        What the message about missing devices proposes, in the words of the caller's users.

    Returns
    -------
    tuple
        Device as `cpu` or `cuda:N`, precision as `fp32`, `bf16` or `fp16`.

    Raises
    ------
    ModelError
        If there is no such device, or it does not compute in that precision.
    """
    import torch

    if precision not in ("auto", *PRECISIONS):
        raise ModelError(f"precision {precision!r}: expected auto, {', '.join(PRECISIONS)}")
    match = re.fullmatch(r"auto|cpu|cuda(?::(\d+))?", device)
    if match is None:
        raise ModelError(f"device {device!r}: expected auto, cpu, cuda or cuda:N")
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        if precision == "fp16":
            raise ModelError("precision fp16 on a CPU: slower and less exact there than fp32; use auto, bf16 or fp32")
        fast = cpu_has_bf16()
        if precision == "bf16" and not fast:
            logger.warning("precision bf16: this processor emulates it, which is slower than fp32")
        return "cpu", ("bf16" if fast else "fp32") if precision == "auto" else precision

    if not torch.cuda.is_available():
        built = "" if torch.version.cuda else "; this torch is built without CUDA"
        raise ModelError(f"device {device}: torch finds no CUDA device{built}; use {instead}")
    index = int(match.group(1) or 0)
    count = torch.cuda.device_count()
    if index >= count:
        raise ModelError(f"device {device}: there are {count} CUDA devices, counted from 0")
    capability = torch.cuda.get_device_capability(index)
    if precision == "auto":
        precision = "bf16" if capability >= (8, 0) else "fp16"
    elif precision == "bf16" and capability < (8, 0):
        raise ModelError(
            f"precision bf16 on cuda:{index}: compute capability {capability[0]}.{capability[1]} emulates it slowly, "
            "8.0 is needed; use auto or fp16"
        )
    return f"cuda:{index}", precision


def check_present(device: str) -> None:
    """Check that a device that was resolved before, maybe on another machine, is there.

    Raises
    ------
    ModelError
        If it is not.
    """
    import torch

    if not device.startswith("cuda"):
        return
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(device.partition(":")[2] or 0) >= count:
        raise ModelError(
            f"{device}: a run keeps to the device that it began with, and here torch finds {count} CUDA devices; "
            "continue where it began, or remove its parts with `geounet clean` and start anew"
        )


@cache
def processor_name(device: str) -> str:
    """Return what computes on a resolved device here: a GPU's name, or a CPU's with the instructions torch uses."""
    import torch

    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    try:
        told = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        told = ""
    named = re.search(r"^model name\s*:\s*(.+)$", told, re.MULTILINE)
    name = named[1].strip() if named else platform.processor() or platform.machine()
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


def cpu_has_bf16() -> bool:
    """Return whether this processor multiplies bfloat16 in hardware (AVX512-BF16 or AMX)."""
    import torch

    capabilities = getattr(torch.cpu, "get_capabilities", None)  # public from torch 2.11 on
    if capabilities is not None:
        known = capabilities()
        return any(bool(known.get(flag)) for flag in _FLAGS)
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        return has_bf16_flag(_CPUINFO.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return False


def has_bf16_flag(cpuinfo: str) -> bool:
    """Return whether the text of `/proc/cpuinfo` lists AVX512-BF16 or AMX-BF16."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "flags":
            return any(flag in value.split() for flag in _FLAGS)
    return False
