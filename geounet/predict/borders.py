"""Border files: the sums that a block hands to its neighbours, and those that wait for theirs.

One uncompressed `.npz` a block, made atomically; the zip's checksums are verified by reading. Members are int32
`(channels, rows, cols)` by piece name, and `valid_<strip>` as packed bits.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geounet.atomic import atomic
from geounet.errors import PartError


def write_borders(
    path: Path, fingerprint: str, sums: dict[str, NDArray[np.int32]], valid: dict[str, NDArray[np.bool_]]
) -> int:
    """Write a border file and return its size in bytes."""
    members: dict[str, NDArray[Any]] = {"fingerprint": np.array(fingerprint), **sums}
    for name, bits in valid.items():
        members[f"valid_{name}"] = np.packbits(bits)
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **members)  # type: ignore[arg-type]
    return path.stat().st_size


class Borders:
    """Reads a border file.

    Raises
    ------
    PartError
        If it is missing, damaged or of another run.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path = path
        try:
            self._members = np.load(path, allow_pickle=False)
            found = str(self._members["fingerprint"])
        except FileNotFoundError:
            raise PartError(f"{path}: border file is missing") from None
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise PartError(f"{path}: border file is damaged: {error}") from None
        if found != fingerprint:
            raise PartError(f"{path}: border file of another run ({found[:12]}, expected {fingerprint[:12]})")

    def _read(self, name: str) -> NDArray[Any]:
        try:
            return np.asarray(self._members[name])
        except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
            raise PartError(f"{self.path}: border file is damaged: {error}") from None

    def sums(self, name: str) -> NDArray[np.int32]:
        """Return the sums of a piece, `(channels, rows, cols)`."""
        return self._read(name)

    def valid(self, name: str, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Return the validity of a strip, `(rows, cols)`."""
        bits = np.unpackbits(self._read(f"valid_{name}"), count=shape[0] * shape[1])
        return bits.astype(bool).reshape(shape)

    def close(self) -> None:
        """Close the file."""
        self._members.close()
