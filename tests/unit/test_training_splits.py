"""Sides of scenes and blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyproj
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio import CRS
from scipy.ndimage import distance_transform_cdt

from geounet.config.data import Split
from geounet.errors import JobError
from geounet.labels.frames import Frame
from geounet.training.ground import meeting
from geounet.training.splits import Candidate, Side, Sides, split
from geounet.types import Rect

UTM = CRS.from_epsg(32633).to_wkt()


def scenes(*names: str, shape: tuple[int, int] = (400, 600)) -> list[Candidate]:
    return [Candidate(n, n.split("/")[0], Frame(n, shape, (1.0, 0, 0, 0, 1.0, 0), None, None)) for n in names]


def dealt(spec: dict[str, Any], found: list[Candidate]) -> list[Sides]:
    return split(Split.model_validate(spec), found, [np.array([[0, 0, *s.frame.shape]]) for s in found])


def test_without_a_split_all_pixels_train() -> None:
    (sides,) = dealt({}, scenes("a"))
    assert sides.only(Rect(-5, -5, 900, 900)) == Side.train
    assert sides.mask(Rect(0, 0, 400, 600), Side.train).all()


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [("dubai/tile6/*", "tile6"), ("tile6/*", "tile6"), ("dubai/tile6/images/1.jpg", "tile6"), ("nepal", "nepal")],
)
def test_scenes_are_named_by_path_or_section(pattern: str, expected: str) -> None:
    found = scenes("dubai/tile4/images/1.jpg", "dubai/tile6/images/1.jpg", "nepal/x.tif")
    sides = dealt({"validation": [pattern]}, found)
    held = [s.name for s, side in zip(found, sides, strict=True) if side.only(Rect(0, 0, 9, 9)) == Side.validation]
    assert len(held) == 1
    assert expected in held[0]


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ({"validation": ["c*"]}, JobError, r"split.validation: c\* fits no scene; they are a, b"),
        ({"validation": ["a"], "test": ["a"]}, JobError, "a is for validation and for test"),
        ({"validation": ["a"], "test": ["b"]}, JobError, "none is left to train on"),
        (
            {"validation": 0.5, "block": 4096, "test": ["b"]},
            JobError,
            r"1 labelled block.s. of about 4096 px are too few",
        ),
    ],
)
def test_splits_that_cannot_be_are_refused(spec: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        dealt(spec, scenes("a", "b"))


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_each_block_validates_in_one_fold(folds: int) -> None:
    found = scenes("a", "b", "c", shape=(700, 512))
    counts = [np.zeros(s.frame.shape, dtype=int) for s in found]
    blocks = []
    for fold in range(folds):
        sides = dealt({"folds": folds, "fold": fold, "block": 128}, found)
        for count, side in zip(counts, sides, strict=True):
            count += side.mask(Rect(0, 0, *count.shape), Side.validation)
        blocks.append(sum(int((s.table == Side.validation).sum()) for s in sides))
    assert all((count == 1).all() for count in counts)
    assert max(blocks) - min(blocks) <= 1


def test_shares_of_blocks_do_not_depend_on_other_scenes_order() -> None:
    found = scenes("a", "b", "c")
    spec = {"validation": 0.25, "test": 0.125, "block": 100, "seed": 3}
    sides = dealt(spec, found)
    tables = np.concatenate([s.table.ravel() for s in sides])
    assert (tables == Side.validation).mean() == 0.25
    assert (tables == Side.test).mean() == pytest.approx(0.125, abs=0.01)
    again = dealt(spec, found[::-1])[::-1]
    assert all((one.table == other.table).all() for one, other in zip(sides, again, strict=True))
    other = dealt({**spec, "seed": 4}, found)
    assert any((one.table != two.table).any() for one, two in zip(sides, other, strict=True))


def test_blocks_without_labels_are_not_dealt_out() -> None:
    (scene,) = scenes("a", shape=(1000, 1000))
    (sides,) = split(Split(validation=0.5, block=100), [scene], [np.array([[0, 0, 100, 400]])])
    assert (sides.table[1:] == Side.train).all()
    assert sorted(sides.table[0, :4].tolist()) == [0, 0, 1, 1]


def test_blocks_that_rectangles_meet() -> None:
    (sides,) = dealt({"validation": 0.3, "block": 64}, scenes("a", shape=(300, 260)))
    rng = np.random.default_rng(5)
    first = rng.integers(0, (299, 259), (6, 2))
    rects = np.hstack((first, first + 1 + rng.integers(0, (300, 260) - first)))
    inside = np.zeros((300, 260), dtype=bool)
    for rect in rects.tolist():
        inside[Rect(*rect).slices_in(Rect(0, 0, 300, 260))] = True
    for i, j in np.ndindex(sides.table.shape):
        block = inside[sides.rows[i] : sides.rows[i + 1], sides.cols[j] : sides.cols[j + 1]]
        assert sides.meeting(rects)[i, j] == block.any()


@given(st.data())
def test_only_and_mask_agree(data: st.DataObject) -> None:
    spec = {"validation": 0.3, "test": 0.1, "block": 64, "margin": data.draw(st.sampled_from([0, 7, 64]))}
    (sides,) = dealt(spec, scenes("a", shape=(300, 260)))
    y, x = data.draw(st.integers(0, 299)), data.draw(st.integers(0, 259))
    rect = Rect(y, x, data.draw(st.integers(y + 1, 300)), data.draw(st.integers(x + 1, 260)))
    masks = {side: sides.mask(rect, side) for side in Side}
    assert (sum(m.astype(int) for m in masks.values()) <= 1).all()
    only = sides.only(rect)
    if only is not None:
        assert masks[only].all()
    assert sides.sole(np.array([rect])).tolist() == [-1 if only is None else only]
    # what trains keeps the margin: every held-out pixel is further away than that
    held = sides.mask(Rect(0, 0, 300, 260), Side.validation) | sides.mask(Rect(0, 0, 300, 260), Side.test)
    m = spec["margin"]
    assert isinstance(m, int)
    for row, col in np.argwhere(masks[Side.train])[:20].tolist():
        y0, x0 = max(0, rect.y0 + row - m), max(0, rect.x0 + col - m)
        assert not held[y0 : rect.y0 + row + m + 1, x0 : rect.x0 + col + m + 1].any()


def placed(name: str, x: float, crs: str = UTM) -> Candidate:
    return Candidate(name, name, Frame(name, (400, 600), (0.5, 0, x, 0, -0.5, 5800000.0), crs, 0.5))


def painted(found: list[Candidate], sides: list[Sides], side: Side) -> Any:
    """Ground of a side in half metres, of north-up scenes."""
    out = np.zeros((1600, 2000), dtype=bool)
    for scene, own in zip(found, sides, strict=True):
        x, y = round((scene.frame.transform[2] - 400000) / 0.5), round((5800000 - scene.frame.transform[5]) / 0.5)
        rows, cols = scene.frame.shape
        out[y : y + rows, x : x + cols] |= own.mask(Rect(0, 0, rows, cols), side)
    return out


def sheets(overlap: int) -> list[Candidate]:
    step = (512 - overlap) * 0.5
    return [
        Candidate(f"sheet{i}{j}.tif", "s",
                  Frame("s", (512, 512), (0.5, 0, 400000 + j * step, 0, -0.5, 5800000.0 - i * step), UTM, 0.5))
        for i in range(3) for j in range(3)
    ]  # fmt: skip


@pytest.mark.parametrize("margin", [0, 20])
@pytest.mark.parametrize(
    "spec", [{"validation": 0.2, "test": 0.1}, {"folds": 3, "fold": 1}, {"validation": ["sheet22.tif"]}]
)
def test_sheets_that_overlap_can_be_split(spec: dict[str, Any], margin: int) -> None:
    """What one sheet holds out trains in no other, to the pixel."""
    found = sheets(16)
    sides = dealt({"block": 256, "margin": margin, **spec}, found)
    train, validation, test = (painted(found, sides, side) for side in Side)
    assert not (train & (validation | test)).any()
    assert not (validation & test).any()
    assert validation.sum() >= 0.1 * 1504**2
    assert train.sum() >= 0.35 * 1504**2
    if margin == 0:  # all that is not held out trains
        assert (train | validation | test)[:1504, :1504].all()
    for own in sides:
        cells = np.array([[y, x, y + 64, x + 64] for y in range(0, 512, 64) for x in range(0, 512, 64)])
        assert own.sole(cells).tolist() == [-1 if (o := own.only(Rect(*c))) is None else o for c in cells.tolist()]
        for cell, side in zip(cells.tolist(), own.sole(cells).tolist(), strict=True):
            assert side < 0 or own.mask(Rect(*cell), Side(side)).all()


def test_the_margin_is_kept_far_north() -> None:
    """Where degrees of longitude are short."""
    for east, north in ((95, 0), (0, 95)):
        near = [Frame("a", (400, 400), (1.0, 0, 500000 + x, 0, -1.0, 7200000.0 + y), UTM, 1.0)
                for x, y in ((0, 0), (east and 400 + east, north and 400 + north))]  # fmt: skip
        assert meeting(near, 100) == [(0, 1)]
        assert meeting(near) == []


@pytest.mark.parametrize("spec", [{"validation": ["b"]}, {"validation": 0.3, "block": 100}])
@pytest.mark.parametrize("apart", [-100, 0, 25])
def test_the_margin_is_kept_on_the_ground(spec: dict[str, Any], apart: int) -> None:
    """Also around whole scenes, and from those that lie side by side."""
    found = [placed("a", 400000), placed("b", 400000 + (600 + apart) / 2)]
    sides = dealt({"margin": 40, **spec}, found)
    train, held = painted(found, sides, Side.train), painted(found, sides, Side.validation)
    near = distance_transform_cdt(~held, "chessboard")
    assert near[train].min() == 41
    cells = np.array([[y, x, y + 50, x + 50] for y in range(0, 400, 50) for x in range(0, 600, 50)])
    for own in sides:
        for cell, side in zip(cells.tolist(), own.sole(cells).tolist(), strict=True):
            assert (None if side < 0 else side) == own.only(Rect(*cell))
            assert side < 0 or own.mask(Rect(*cell), Side(side)).all()


def test_a_strip_of_a_few_pixels_is_no_overlap() -> None:
    for spec in ({"validation": ["sheet22.tif"]}, {"validation": 0.3, "block": 256}):
        assert all(len(own.others) == 0 for own in dealt(spec, sheets(3)))


@pytest.mark.parametrize("folds", [None, 4])
def test_one_ground_at_several_dates_is_dealt_out_once(folds: int | None) -> None:
    found = [placed(f"{year}.tif", 400000) for year in range(2014, 2024)]
    spec = {"validation": 0.25} if folds is None else {"folds": folds}
    sides = dealt({"block": 100, **spec}, found)
    assert all((own.table == sides[0].table).all() for own in sides)
    assert (sides[0].table == Side.validation).mean() == 0.25
    train = np.kron(sides[0].table == Side.train, np.ones((100, 100))) > 0
    assert all((own.mask(Rect(0, 0, 400, 600), Side.train) == train).all() for own in sides)


def test_photographs_in_a_row_are_not_one_block() -> None:
    found = [placed(f"p{k}", 400000 + 20 * k) for k in range(12)]  # by two fifths of a block
    sides = dealt({"validation": 0.2, "block": 100}, found)
    train, validation = painted(found, sides, Side.train), painted(found, sides, Side.validation)
    assert not (train & validation).any()
    assert 0.1 < validation.sum() / (400 * 1040) < 0.5
    assert train.sum() > 0.3 * 400 * 1040


@pytest.mark.parametrize("angle", [0.0, 0.3])
@pytest.mark.parametrize("epsg", [32633, 32634, 4326])
def test_ground_is_found_in_another_projection(angle: float, epsg: int) -> None:
    here = placed("b", 400000)
    move = pyproj.Transformer.from_crs(32633, epsg, always_xy=True)
    x, y = move.transform(400080.0, 5799960.0)
    unit = 0.7 if epsg != 4326 else 0.7 / 111_000
    turned = Affine.translation(x, y) @ Affine.rotation(np.degrees(angle)) @ Affine.scale(unit, -unit)
    a, b, c, d, e, f = tuple(turned)[:6]
    other = Candidate("a", "a", Frame("a", (300, 420), (a, b, c, d, e, f), CRS.from_epsg(epsg).to_wkt(), 0.7))
    _, own = dealt({"validation": ["b"]}, [here, other])
    mask = own.mask(Rect(0, 0, 300, 420), Side.train)
    rows, cols = np.indices(mask.shape) + 0.5
    back = pyproj.Transformer.from_crs(epsg, 32633, always_xy=True)
    points = back.transform((a * cols + b * rows + c).ravel(), (d * cols + e * rows + f).ravel())
    px = here.frame.to_pixels(np.column_stack(points))
    inside = ((px >= 0) & (px < (600, 400))).all(axis=1).reshape(mask.shape)
    assert not (mask & inside).any()
    assert 0.1 < inside.mean() < 0.9
    assert (~mask & ~inside).mean() < 0.04, "little is lost that lies elsewhere"


def test_where_most_of_a_scene_is_held_out_by_others_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    found = [placed("a", 400000), placed("b", 400200), placed("c", 400600)]
    whole = Rect(0, 0, 400, 600)
    a, b, _ = dealt({"validation": ["b"]}, found)
    assert "a: 34 % of it shows ground that other scenes hold out, and is left out; to keep it, put " in caplog.text
    assert a.mask(whole, Side.train).sum() == 400 * 400
    assert b.mask(whole, Side.validation).all()
    # what tests is not chosen by, either
    _, b, _ = dealt({"validation": ["b"], "test": ["a"]}, found)
    assert b.mask(whole, Side.validation).sum() == 400 * 400
    # a small scene inside of a large one, whichever is named first
    large = Candidate("large", "large", Frame("large", (9000, 9000), (0.5, 0, 400000, 0, -0.5, 5800000.0), UTM, 0.5))
    small = Candidate("small", "small", Frame("small", (256, 256), (0.2, 0, 401000, 0, -0.2, 5799000.0), UTM, 0.2))
    for pair in ([large, small], [small, large]):
        own = dealt({"validation": ["small"]}, pair)[pair.index(large)]
        assert (~own.mask(Rect(0, 0, 9000, 9000), Side.train)).sum() == 103 * 103
    # neighbours that share an edge show different ground
    assert all(len(s.others) == 0 for s in dealt({"validation": ["b"]}, [placed("a", 400000), placed("b", 400300)]))
