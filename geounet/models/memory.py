"""Memory that a process of the network keeps between steps, so that its pages are not faulted in anew each time."""

from __future__ import annotations

import ctypes
import sys

# Numbers of glibc's malloc.h, part of its ABI.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_FOR_EVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Have the C library keep what is freed for the next use, instead of giving it back to the system.

    A step of a training takes and frees gigabytes in blocks of many megabytes. By default glibc maps each block anew,
    and the system clears each page at its first touch: a quarter of a training's time on two cores (docs/training.md).
    Workers get the same by their environment (`geounet.engine.cluster`); this is for a process that already runs, and
    holds for what it takes from now on. Resident memory stays at its peak until the process ends.

    Returns
    -------
    bool
        Whether it was done: with glibc on Linux. Elsewhere nothing is changed.

    References
    ----------
    mallopt(3), with `M_MMAP_MAX`, `M_TRIM_THRESHOLD` and `M_ARENA_MAX`.
    """
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):  # musl has no mallopt
        return False
    # One arena: those of further threads are mapped in pieces of 64 MiB and given back one by one.
    wishes = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _FOR_EVER), (_ARENA_MAX, 1))
    return all(library.mallopt(option, value) == 1 for option, value in wishes)
