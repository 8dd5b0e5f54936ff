"""Whether a forward pass can be had at all is known before anything is taken for it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from geounet.config.job import Job
from geounet.engine import estimate as module
from geounet.engine.estimate import check_memory
from geounet.errors import JobError

GB = 10**9


def checked(monkeypatch: pytest.MonkeyPatch, batch: int, tile: int, **given: Any) -> list[int]:
    """Check a pass that takes a kilobyte a pixel where there are 16 GB; return the batches that were asked about."""
    asked: list[int] = []

    def needed(tiles: int) -> int:
        asked.append(tiles)
        return tiles * tile * tile * 1000

    monkeypatch.setattr(module, "memory_limit", lambda: 16 * GB)
    check_memory(Job.model_validate({"scenes": ["a.tif"], "model": "demo", **given}), tile, batch, needed)
    return asked


def test_what_fits_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checked(monkeypatch, 8, 1000, predict={"batch": 8}) == [8]
    assert checked(monkeypatch, 1, 4000, tiling={"tile": 4000}) == [1]
    assert checked(monkeypatch, 64, 8000) == [], "auto is chosen by the memory"


@pytest.mark.parametrize(
    ("batch", "tile", "given", "message"),
    [
        (
            4096,
            912,
            {"predict": {"batch": 4096}},
            "predict.batch: 4096 tiles of 912 px need about 3,407 GB of memory, 16 are available",
        ),
        (1, 8192, {"tiling": {"tile": 8192}}, "tiling.tile: a tile of 8192 px needs about 67 GB of memory"),
        (
            2,
            8192,
            {"tiling": {"tile": 8192}, "predict": {"batch": 2}},
            "tiling.tile: 2 tiles of 8192 px need about 134 GB of memory",
        ),
    ],
)
def test_what_cannot_be_had_is_refused(
    monkeypatch: pytest.MonkeyPatch, batch: int, tile: int, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(JobError, match=f"^{re.escape(message)}"):
        checked(monkeypatch, batch, tile, **given)
