"""Places, batches, tiles, statistics, prefetching."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from geounet.config.data import Augment, Sampling, Split
from geounet.labels.frames import Frame
from geounet.labels.values import IGNORED, partial
from geounet.training.augment import Ranges
from geounet.training.places import CELL, Cells, Places, on_sides, survey
from geounet.training.samples import Prefetch, Samples, Scenes, Tiles, measured
from geounet.training.sources import Source
from geounet.training.splits import Candidate, Side, Sides, split
from geounet.types import Rect
from tests.support.training import one_side, source

RNG = np.random.default_rng(9)
RANGES = Ranges((100.0,) * 3, (50.0,) * 3, (0.0,) * 3, (255.0,) * 3, clipped=True)


def noise(rows: int = 300, cols: int = 280) -> Any:
    return RNG.integers(0, 256, (3, rows, cols)).astype(np.uint8)


def samples(sources: list[Source], seed: int = 0, balance: float = 0.5, shares: Any = None, **augment: Any) -> Samples:
    sides = [one_side(s.shape) for s in sources]
    sections = sorted({s.data for s in sources})
    places = [
        Places([s for s in sources if s.data == k], [survey(s) for s in sources if s.data == k], balance)
        for k in sections
    ]
    shares = shares or [1 / len(sections)] * len(sections)
    spec = Augment.model_validate(augment)
    return Samples(Scenes(sources, sides, RANGES, 0.0), places, shares, Sampling(size=64, batch=4),
                   [spec] * len(sections), seed)  # fmt: skip


def test_cells_count_every_labelled_pixel() -> None:
    labels = RNG.integers(0, 3, (200, 150)).astype(np.uint8)
    labels[:100, :100] = IGNORED
    labels[150:, 130:] = partial(1)
    found = survey(source(noise(200, 150), labels))
    counts = np.bincount(labels.ravel(), minlength=256)
    counts[IGNORED] = 0
    np.testing.assert_array_equal(found.totals(), counts)
    assert found.labels.tolist() == [0, 1, 2, partial(1)]
    assert (0, 0) not in {tuple(c) for c in found.corner.tolist()}
    for rect, count in zip(found.rects((200, 150)).tolist(), found.counts, strict=True):
        here = np.bincount(labels[Rect(*rect).slices_in(Rect(0, 0, 200, 150))].ravel(), minlength=256)
        np.testing.assert_array_equal(count, here[found.labels])
        assert count.sum() == here[:IGNORED].sum()


class Endless:
    """A scene that is made while it is read: one label, and one pixel of another."""

    name, shape, kept = "large", (21_000, 20_500), False

    def __init__(self, labelled: Rect | None = None) -> None:
        self.labelled = labelled or Rect(0, 0, *self.shape)
        self.read = 0

    def meets(self, rect: Rect) -> bool:
        return not rect.intersection(self.labelled).empty

    def labels(self, rect: Rect) -> Any:
        self.read += rect.rows * rect.cols
        found = np.ones(rect.shape, dtype=np.uint8)
        if rect.y0 <= 12_345 < rect.y1 and rect.x0 <= 20_321 < rect.x1:
            found[12_345 - rect.y0, 20_321 - rect.x0] = 2
        return found


def test_where_no_labels_lie_none_are_read() -> None:
    scene: Any = Endless(Rect(600, 600, 700, 700))
    assert survey(scene).totals()[1] == scene.read == 512 * 512


def test_of_large_scenes_every_pixel_is_counted() -> None:
    scene: Any = Endless()
    told: list[int] = []
    found = survey(scene, told.append)
    pixels = scene.shape[0] * scene.shape[1]
    assert pixels > 400 * 2**20
    assert sum(told) == scene.read == pixels
    assert found.totals()[:4].tolist() == [0, pixels - 1, 1, 0]
    assert (found.corner.nbytes + found.counts.nbytes) / len(found.corner) == 12, "bytes a cell"
    places, rng = Places([scene], [found], 1.0), np.random.default_rng(0)
    drawn = [places.draw(rng)[1:] for _ in range(20)]
    assert any(12_288 <= y < 12_352 and 20_288 <= x < 20_352 for y, x in drawn), "the cell of the one pixel"
    # cells by the hundred thousand, blocks by the thousand: no loop over one within the other
    frame = Frame(scene.name, scene.shape, (1.0, 0, 0, 0, 1.0, 0), None, None)
    spec = Split.model_validate({"validation": 0.2, "test": 0.1, "block": 640})
    (sides,) = split(spec, [Candidate("large", "large", frame)], [found.rects(scene.shape)])
    share = [(sides.table == side).mean() for side in Side]
    np.testing.assert_allclose(share, [0.7, 0.2, 0.1], atol=1e-3)
    ours = on_sides(found, scene, sides)
    assert sum(int(cells.totals().sum()) for cells in ours.values()) == pixels


def test_sides_share_the_pixels_of_cells() -> None:
    labels = RNG.integers(0, 3, (300, 280)).astype(np.uint8)
    here = source(noise(), labels)
    sides = Sides(np.array([0, 150, 300]), np.array([0, 140, 280]), np.array([[0, 1], [2, 0]], dtype=np.uint8))
    cells = survey(here)
    for side in Side:
        expected = np.bincount(labels[sides.mask(Rect(0, 0, 300, 280), side)], minlength=256)
        np.testing.assert_array_equal(on_sides(cells, here, sides)[side].totals(), expected)


@pytest.mark.parametrize(("balance", "share"), [(0.0, 0.01), (0.5, 0.0913), (1.0, 0.5)])
def test_windows_centre_on_rare_classes_as_often_as_balance_says(balance: float, share: float) -> None:
    labels = np.zeros((1000, 1000), dtype=np.uint8)
    labels[600:700, 200:300] = 1  # a hundredth of the pixels, in cells of their own or shared
    here = source(np.zeros((1, 1000, 1000), np.uint8), labels)
    places = Places([here], [survey(here)], balance)
    assert places.labels.tolist() == [0, 1]
    assert places.chances[1] == pytest.approx(share, rel=0.01)
    rng = np.random.default_rng(0)
    near = 0
    for _ in range(2000):
        owner, y, x = places.draw(rng)
        assert owner == 0
        near += 576 <= y < 704 and 192 <= x < 320  # the cells that hold it
    assert near / 2000 >= share * 0.85
    if balance == 1:
        assert near / 2000 == pytest.approx(0.5, abs=0.05)


def test_batches_are_functions_of_seed_and_step() -> None:
    sources = [source(noise(), RNG.integers(0, 3, (300, 280)), name=f"s{k}", data=k) for k in range(2)]
    keys: dict[str, Any] = {
        "scale": [0.5, 2], "rotation_deg": [-20, 20], "contrast": [0.5, 2], "noise": [0, 0.1], "blur_px": [0, 1],
        "elastic": {"amplitude_px": [0, 2]}, "mixing": [0, 0.3], "dropout": 0.1,
    }  # fmt: skip
    first = samples(sources, **keys)
    expected = [first.batch(k) for k in range(6)]
    assert expected[0].images.shape == (4, 3, 64, 64)
    assert expected[0].images.dtype == np.float32
    assert expected[0].labels.shape == (4, 64, 64)
    assert expected[0].labels.dtype == np.uint8
    assert len({b.images.tobytes() for b in expected}) == 6
    again = samples(sources, **keys)
    with ThreadPoolExecutor(4) as pool:
        for number, batch in zip((5, 3, 0, 4, 1, 2), pool.map(again.batch, (5, 3, 0, 4, 1, 2)), strict=True):
            np.testing.assert_array_equal(batch.images, expected[number].images)
            np.testing.assert_array_equal(batch.labels, expected[number].labels)
            assert batch.windows == expected[number].windows
    other = samples(sources, seed=1, **keys)
    assert (other.batch(0).images != expected[0].images).any()


def test_sections_are_drawn_by_their_shares() -> None:
    sources = [source(noise(), name=f"s{k}", data=k) for k in range(3)]
    found = samples(sources, shares=[0.7, 0.2, 0.1])
    names = [found.window(k)[2].scene for k in range(600)]
    for k, share in enumerate((0.7, 0.2, 0.1)):
        assert names.count(f"s{k}") / 600 == pytest.approx(share, abs=0.06)


def test_images_and_labels_stay_together() -> None:
    """Labels are a function of the image; they still are after all that moves pixels."""
    picture = (np.indices((400, 400)).sum(axis=0) // 40 % 5).astype(np.uint8)
    here = source((picture * 50)[None].repeat(3, axis=0), picture)
    found = samples([here], scale=[0.7, 2], rotation_deg=[-180, 180], elastic={"amplitude_px": [0, 3]})
    for k in range(12):
        image, labels, _ = found.window(k)
        value = (image[0] * 50 + 100) / 50
        known = labels != IGNORED
        assert known.mean() > 0.3
        assert (np.abs(value - labels)[known] < 0.6).mean() > 0.85


def test_pasted_rectangles_carry_image_and_label_of_another_window() -> None:
    sources = [source(noise(), np.full((300, 280), k, dtype=np.uint8), data=0) for k in range(4)]
    plain, pasted = samples(sources), samples(sources, paste={"range": [0.2, 0.4], "chance": 0.5})
    areas, count = [], 20
    for step in range(count):
        before, after = plain.batch(step), pasted.batch(step)
        assert after.windows == before.windows
        for k, (image, labels) in enumerate(zip(after.images, after.labels, strict=True)):
            changed = (image != before.images[k]).any(axis=0)
            if not changed.any():
                np.testing.assert_array_equal(labels, before.labels[k])
                continue
            rows, cols = np.nonzero(changed.any(axis=1))[0], np.nonzero(changed.any(axis=0))[0]
            patch = (slice(rows[0], rows[-1] + 1), slice(cols[0], cols[-1] + 1))
            areas.append(labels[patch].size / labels.size)
            froms = [
                (image[:, *patch] == before.images[j][:, *patch]).all()
                and (labels[patch] == before.labels[j][patch]).all()
                for j in range(4)
                if j != k
            ]
            assert froms.count(True) == 1
            outside = np.ones(labels.shape, dtype=bool)
            outside[patch] = False
            np.testing.assert_array_equal(labels[outside], before.labels[k][outside])
            np.testing.assert_array_equal(image[:, outside], before.images[k][:, outside])
    assert 0.3 < len(areas) / (4 * count) < 0.7
    assert 0.18 < min(areas) < max(areas) < 0.42


def test_tiles_show_every_held_out_pixel_once() -> None:
    labels = RNG.integers(0, 3, (300, 280)).astype(np.uint8)
    labels[100:120] = IGNORED
    cells = np.arange(300 * 280).reshape(300, 280)
    sides = Sides(np.array([0, 110, 300]), np.array([0, 140, 280]), np.array([[0, 1], [1, 0]], dtype=np.uint8))
    # the image says where a pixel comes from
    values = np.stack([cells // 280, cells % 280, labels]).astype(np.int16)
    plain = Ranges((0.0,) * 3, (1.0,) * 3, (0.0,) * 3, (300.0,) * 3, clipped=False)
    for kept in (True, False):
        tiles = Tiles(Scenes([source(values, labels, kept=kept)], [sides], plain, -1.0), Side.validation, 64, 4)
        seen = np.zeros((300, 280), dtype=int)
        for k in range(len(tiles)):
            batch = tiles.batch(k)
            assert batch.images.shape == (4, 3, 64, 64)
            known = batch.labels != IGNORED
            rows, cols = (batch.images[:, c][known].astype(int) for c in (0, 1))
            np.add.at(seen, (rows, cols), 1)
            np.testing.assert_array_equal(batch.images[:, 2][known], batch.labels[known])
        expected = sides.mask(Rect(0, 0, 300, 280), Side.validation) & (labels != IGNORED)
        np.testing.assert_array_equal(seen, expected)
        assert tiles.count <= 4 * len(tiles) < tiles.count + 4


def test_tiles_of_coarser_pixels_cover_the_scene() -> None:
    labels = np.ones((301, 283), dtype=np.uint8)
    tiles = Tiles(Scenes([source(noise(301, 283), labels, zoom=2.5)], [one_side((301, 283))], RANGES, 0.0),
                  Side.train, 32, 2)  # fmt: skip
    seen = sum(int((tiles.batch(k).labels == 1).sum()) for k in range(len(tiles)))
    assert seen == pytest.approx(301 * 283 / 2.5**2, rel=0.02)


def test_statistics_are_those_of_the_valid_pixels() -> None:
    values = np.stack([RNG.normal(m, s, (400, 400)) for m, s in ((1000, 200), (-5, 0.5))]).astype(np.float32)
    valid = np.ones((400, 400), dtype=bool)
    valid[:, :150] = False
    values[:, ~valid] = 1e9
    found = measured(samples([source(values, valid=valid)]), 60, "float32")
    np.testing.assert_allclose(found.mean, (1000, -5), rtol=0.01)
    np.testing.assert_allclose(found.stddev, (200, 0.5), rtol=0.02)
    assert 300 < found.low[0] < 500 < 1500 < found.high[0] < 1700
    assert not found.clipped
    flat = measured(samples([source(np.full((3, 300, 300), 7, np.uint8))]), 5, "uint8")
    assert flat.mean == (7.0,) * 3
    assert min(flat.stddev) > 0
    assert (flat.low[0], flat.high[0], flat.clipped) == (0, 255, True)


def test_prefetch_keeps_the_order_and_does_not_run_far_ahead() -> None:
    started: list[int] = []
    lock = threading.Lock()

    def work(k: int) -> int:
        with lock:
            started.append(k)
        time.sleep(0.002 * (k % 3))
        return k * k

    ahead = Prefetch(work, 3, 40, threads=3, ahead=2)
    for k, found in enumerate(ahead, start=3):
        assert found == k * k
        assert max(started) <= k + 3 + 2
    assert k == 39
    assert ahead.waited > 0
    assert list(Prefetch(work, 5, 5, 1, 1)) == []


def test_prefetch_raises_what_a_thread_raises_and_can_be_left() -> None:
    def work(k: int) -> int:
        if k == 2:
            raise ValueError("batch two")
        return k

    found = iter(Prefetch(work, 0, 100, 2, 2))
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(ValueError, match="batch two"):
        next(found)
    before = threading.active_count()
    left = iter(Prefetch(lambda k: k, 0, 10**9, 2, 2))
    assert next(left) == 0
    left.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_cells_are_what_the_constant_says() -> None:
    found = survey(source(noise(130, 70)))
    assert isinstance(found, Cells)
    assert {tuple(c) for c in found.corner.tolist()} == {(y, x) for y in (0, CELL, 2 * CELL) for x in (0, CELL)}


def test_a_thread_holds_few_scenes_open() -> None:
    sources = [source(noise(64, 64), kept=False, name=f"s{k}") for k in range(50)]
    for _ in range(2):
        for here in sources:
            assert here.labels(Rect(0, 0, 9, 9)).shape == (9, 9)
    readers: list[Any] = [here.opener for here in sources]
    # opened twice fifty times, because each comes again after more others than may be open
    assert sum(reader.closed for reader in readers) == 2 * 50 - 32
    kept = source(noise(64, 64))
    opener: Any = kept.opener
    assert opener.closed == 1
