"""A job resolved for one scene: what does not fit is told as the user sees it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from geounet.config.card import DataType, InputSpec
from geounet.config.job import Job
from geounet.engine.plan import check_bands, check_data_type, choose_bands
from geounet.errors import SceneError
from tests.support.local import card


def test_bands_that_were_chosen_are_not_all_of_the_file() -> None:
    info: Any = SimpleNamespace(files=("a.tif",), band_names=("red", "green"), colours=())
    with pytest.raises(SceneError, match=r"^a\.tif: has 2 bands \(red, green\), the model local takes 3"):
        check_bands(info, card())
    with pytest.raises(SceneError, match=r"^a\.tif: bands: 2 chosen \(red, green\), the model local takes 3"):
        check_bands(info, card(), chosen=True)


@pytest.mark.parametrize(
    ("names", "colours", "chosen"),
    [
        (("B02", "B03", "B04"), ("blue", "green", "red"), ("red", "green", "blue")),
        (("B02", "B03", "B04", "B08"), ("blue", "green", "red", "undefined"), ("red", "green", "blue")),
        (("B04", "B03", "B02"), ("red", "green", "blue"), ("B04", "B03", "B02")),
        # A description says more than a colour.
        (("Blue", "Green", "Red"), ("red", "green", "blue"), ("Red", "Green", "Blue")),
        (("red", "B03", "B02", "x"), ("blue", "green", "undefined", "blue"), None),
        (("B02", "B03", "B04"), ("blue", "green", "undefined"), None),
        (("B02", "B03", "B04", "B05"), ("blue", "green", "red", "red"), None),
        (("red", "B03", "x"), ("green", "red", "blue"), None),
        (("B02", "B03", "B04"), (), None),
    ],
)
def test_bands_are_chosen_by_name_then_by_colour(
    names: tuple[str, ...], colours: tuple[str, ...], chosen: tuple[str, ...] | None
) -> None:
    info: Any = SimpleNamespace(files=("a.tif",), band_names=names, colours=colours)
    assert choose_bands(info, card()) == chosen


def test_an_example_names_the_bands_that_are_known() -> None:
    names, colours = ("B02", "B03", "B04", "B05", "B08"), ("blue", "green", "red", "undefined", "undefined")
    info: Any = SimpleNamespace(files=("a.tif",), band_names=names, colours=colours)
    with pytest.raises(SceneError, match=r"--set bands=red,green,blue,4$"):
        check_bands(info, card(bands=4))
    info.colours = ()
    with pytest.raises(SceneError, match=r"--set bands=1,2,3,4$"):
        check_bands(info, card(bands=4))
    # Only bands that there are.
    for names, words in (("grey",), "has 1 band .*bands=1,1,1$"), (("grey", "mask"), "has 2 bands .*bands=1,2,2$"):
        info = SimpleNamespace(files=("a.tif",), band_names=names, colours=())
        with pytest.raises(SceneError, match=words):
            check_bands(info, card())


@pytest.mark.parametrize(
    ("stored", "scaled", "wanted", "words"),
    [
        ("uint8", False, "uint8", None),
        ("uint16", False, "uint8", r"^a\.tif: holds uint16, the model local was trained on uint8: "),
        (
            "uint8",
            True,
            "uint8",
            r"^a\.tif: its uint8 has a scale or an offset, .* stored uint8: .*data_type: ignore",
        ),
        ("uint16", True, "uint8", "has a scale or an offset"),
        # Scaled values are no integers, whatever is stored.
        ("uint16", True, "float32", None),
        ("uint16", False, "float32", "holds uint16"),
        ("uint16", True, "any", None),
    ],
)
def test_scaled_values_are_not_of_the_stored_type(
    stored: str, scaled: bool, wanted: DataType, words: str | None
) -> None:
    info: Any = SimpleNamespace(files=("a.tif",), dtype=stored, scaled=scaled)
    spec = card().input.model_dump() | {"data_type": wanted}
    of = card(input=InputSpec(**spec))
    if words is None:
        check_data_type(info, of, Job(scenes=["a.tif"], model="m"))
    else:
        with pytest.raises(SceneError, match=words):
            check_data_type(info, of, Job(scenes=["a.tif"], model="m"))
    check_data_type(info, of, Job(scenes=["a.tif"], model="m", data_type="ignore"))
