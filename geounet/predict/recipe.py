"""What a worker must know to make any part of a scene: small, picklable, the same for all blocks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from geounet.grid.blocks import BlockGrid, BlockId
from geounet.grid.tiles import TileGrid
from geounet.raster.scene import SceneSpec
from geounet.types import Rect

PREFETCH = 1
"""Bands of tile rows that are read ahead of the network."""


@dataclass(frozen=True)
class Recipe:
    """How the parts of one scene are made. Every value is resolved: nothing here is `auto`."""

    scene: SceneSpec
    fingerprint: str
    """Identity of what is asked for: input, model and settings."""
    model: str
    """Folder of the bundle, readable by the workers."""
    model_sha256: str
    scene_shape: tuple[int, int]
    """`(rows, cols)` of the scene's grid."""
    model_shape: tuple[int, int]
    """`(rows, cols)` of the model grid; equal to the scene's unless resampled."""
    tile: int
    overlap: int
    side: int
    """Tiles per side of a block."""
    device: str
    precision: str
    batch: int
    tta: str
    threads: int
    """Processors that a task may use; on CPU each forward pass takes one of them."""
    keep_probability: bool
    folder: str
    """Where parts and receipts go; on storage that all workers share."""

    @property
    def resampled(self) -> bool:
        """Whether the network sees another grid than the scene's."""
        return self.scene_shape != self.model_shape

    @property
    def side_by_side(self) -> int:
        """Forward passes at work at once; a GPU has one, while another is made ready."""
        return max(1, self.threads) if self.device == "cpu" else 2

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Self:
        """Return what `dataclasses.asdict` made of a recipe, also where it went through JSON."""
        fields = {key: _tupled(value) for key, value in given.items()}
        return cls(**{**fields, "scene": SceneSpec(**{key: _tupled(v) for key, v in given["scene"].items()})})

    @property
    def tiles(self) -> TileGrid:
        """The tile grid, over the model grid."""
        return TileGrid(*self.model_shape, self.tile, self.overlap)

    @property
    def blocks(self) -> BlockGrid:
        """The block grid."""
        return BlockGrid(self.tiles, self.side)

    @property
    def stamp(self) -> str:
        """Identity of the parts: what is asked for, and all that was resolved and decides their shapes and bits.

        Stands in every part and receipt: a task of a run that was killed may end when its record is gone, and the next
        run, with other workers, has other tiles and blocks of the same names.
        """
        decided = (self.fingerprint, self.scene_shape, self.model_shape, self.tile, self.overlap, self.side,
                   self.device, self.precision, self.batch, self.tta, self.keep_probability)  # fmt: skip
        return hashlib.sha256(json.dumps(decided).encode()).hexdigest()

    @property
    def tags(self) -> dict[str, str]:
        """Tags of every part."""
        return {"GEOUNET_FINGERPRINT": self.stamp}

    def _place(self, kind: str) -> Path:
        return Path(self.folder) / kind / self.stamp[:8]

    def part(self, block: BlockId, piece: str, what: str) -> Path:
        """Return the file of a finished piece (`core`, `top`, `left`) of a block; `what` is `mask` or `prob`."""
        return self._place("parts") / f"{block.row:04d}" / f"{block}_{piece}_{what}.tif"

    def sums(self, block: BlockId) -> Path:
        """Return the file of a block's borders as un-normalised sums."""
        return self._place("sums") / f"{block.row:04d}" / f"{block}.npz"

    def receipt(self, stage: str, name: str) -> Path:
        """Return the receipt of a finished task."""
        return Path(self.folder) / "receipts" / stage / f"{name}.json"

    def chunk(self, rect: Rect, what: str) -> Path:
        """Return the file of a chunk of the scene's grid, where the scene is resampled."""
        return self._place("chunks") / f"{rect.y0:07d}" / f"{rect.y0:07d}_{rect.x0:07d}_{what}.tif"


def _tupled(value: Any) -> Any:
    return tuple(map(_tupled, value)) if isinstance(value, list) else value
