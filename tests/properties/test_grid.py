"""Tiles, weights and blocks: partitions of unity and of the scene, for any size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geounet.grid.blocks import BlockGrid, BlockId
from geounet.grid.choice import choose_block, choose_overlap, choose_tile
from geounet.grid.tiles import TileGrid, count_tiles, reflected
from geounet.grid.weights import STEPS, TOTAL, UNIT, axis_weights


@st.composite
def grids(draw: st.DrawFn) -> TileGrid:
    tile = draw(st.integers(1, 40))
    overlap = draw(st.integers(0, tile // 2))
    return TileGrid(draw(st.integers(1, 150)), draw(st.integers(1, 150)), tile, overlap)


@given(size=st.integers(1, 500), tile=st.integers(1, 64), share=st.floats(0, 0.5))
def test_weights_are_a_partition_of_unity(size: int, tile: int, share: float) -> None:
    overlap = min(int(tile * share), tile // 2)
    count = count_tiles(size, tile, overlap)
    total = np.zeros((count - 1) * (tile - overlap) + tile, dtype=np.int64)
    for index in range(count):
        start = index * (tile - overlap)
        weights = axis_weights(tile, overlap, index, count)
        assert weights.min() >= 0
        total[start : start + tile] += weights
    assert len(total) >= size
    assert (total == UNIT).all()


def test_sums_fit_in_int32() -> None:
    assert TOTAL == STEPS * 65536
    assert TOTAL + (1 << 22) < 2**31  # the rounding term of the stored probability
    assert (TOTAL + (1 << 22)) >> 23 == 254


@given(size=st.integers(2, 500), tile=st.integers(1, 64), share=st.floats(0, 0.5))
def test_last_tile_holds_more_than_the_overlap(size: int, tile: int, share: float) -> None:
    overlap = min(int(tile * share), tile // 2)
    count = count_tiles(size, tile, overlap)
    if count > 1:
        assert size - (count - 1) * (tile - overlap) > overlap


@given(size=st.integers(1, 30), start=st.integers(0, 30), length=st.integers(1, 80))
def test_reflection_equals_numpy(size: int, start: int, length: int) -> None:
    padded = np.pad(np.arange(size), (0, start + length), mode="reflect") if size > 1 else np.zeros(start + length, int)
    assert (reflected(start, start + length, size) == padded[start : start + length]).all()


@given(grid=grids(), side=st.integers(1, 6))
def test_blocks_partition_tiles_and_pixels(grid: TileGrid, side: int) -> None:
    owned = np.zeros((grid.rows, grid.cols), dtype=int)
    finished = np.zeros_like(owned)
    tiles = 0
    for block in BlockGrid(grid, side):
        tiles += block.tiles
        rect = block.owned
        owned[rect.y0 : rect.y1, rect.x0 : rect.x1] += 1
        for piece in [block.core, *block.strips.values()]:
            if not piece.empty:
                finished[piece.y0 : piece.y1, piece.x0 : piece.x1] += 1
    assert tiles == grid.count
    assert (owned == 1).all()
    assert (finished == 1).all()


@settings(max_examples=40)
@given(grid=grids().filter(lambda grid: grid.count <= 400), side=st.integers(1, 6))
def test_every_contribution_reaches_its_owner(grid: TileGrid, side: int) -> None:
    """Sums of own coverage and the givers' spills are complete on every owned pixel."""
    blocks = BlockGrid(grid, side)
    down, across = grid.shape
    total = np.zeros((grid.rows, grid.cols), dtype=np.int64)

    def sums(block_id: BlockId) -> tuple[np.ndarray, tuple[int, int]]:
        block = blocks.block(block_id)
        cover = block.covered
        plane = np.zeros((cover.rows + grid.tile, cover.cols + grid.tile), dtype=np.int64)
        for i in range(block.first[0], block.last[0]):
            for j in range(block.first[1], block.last[1]):
                rect = grid.tile_rect(i, j).shifted(-cover.y0, -cover.x0)
                weight = np.outer(
                    axis_weights(grid.tile, grid.overlap, i, down), axis_weights(grid.tile, grid.overlap, j, across)
                )
                plane[rect.y0 : rect.y1, rect.x0 : rect.x1] += weight
        return plane[: cover.rows, : cover.cols], (cover.y0, cover.x0)

    for block in blocks:
        plane, _origin = sums(block.id)
        owned = block.owned
        total[owned.y0 : owned.y1, owned.x0 : owned.x1] += plane[: owned.rows, : owned.cols]
        for name, giver in block.givers.items():
            other, (oy, ox) = sums(giver)
            spill = blocks.block(giver).spills.get(name)
            if spill is None:
                continue
            part = spill.intersection(owned)
            assert part == spill, "a spill goes to one block only"
            total[part.y0 : part.y1, part.x0 : part.x1] += other[
                part.y0 - oy : part.y1 - oy, part.x0 - ox : part.x1 - ox
            ]
    assert (total == UNIT * UNIT).all()


@given(rows=st.integers(1, 9000), cols=st.integers(1, 9000), size=st.sampled_from([256, 512]))
def test_auto_is_legal(rows: int, cols: int, size: int) -> None:
    overlap = choose_overlap(size, 32)
    tile = choose_tile(rows, cols, size, overlap, 32)
    grid = TileGrid(rows, cols, tile, overlap)
    assert tile % 32 == 0
    assert grid.stride % 32 == 0
    assert 1 <= choose_block(grid, 2) <= max(grid.shape)


def test_auto_tile_minimises_inferred_pixels() -> None:
    tile = choose_tile(4096, 4096, 512, 128, 32)
    best = TileGrid(4096, 4096, tile, 128)
    assert best.count * tile**2 < TileGrid(4096, 4096, 512, 128).count * 512**2
    assert best.count * tile**2 <= 1.3 * 4096**2


@pytest.mark.parametrize(("tile", "overlap"), [(10, 6), (10, -1), (0, 0)])
def test_impossible_grids_are_refused(tile: int, overlap: int) -> None:
    with pytest.raises(ValueError):
        TileGrid(100, 100, tile, overlap)
