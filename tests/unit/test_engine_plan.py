"""A job resolved for one scene: what does not fit is told as the user sees it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from geounet.engine.plan import check_bands
from geounet.errors import SceneError
from tests.support.local import card


def test_bands_that_were_chosen_are_not_all_of_the_file() -> None:
    info: Any = SimpleNamespace(files=("a.tif",), band_names=("red", "green"))
    with pytest.raises(SceneError, match=r"^a\.tif: has 2 bands \(red, green\), the model local takes 3"):
        check_bands(info, card())
    with pytest.raises(SceneError, match=r"^a\.tif: bands: 2 chosen \(red, green\), the model local takes 3"):
        check_bands(info, card(), chosen=True)
