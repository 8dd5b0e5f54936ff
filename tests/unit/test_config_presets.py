"""Presets of the vector layers: valid, in order, and below what a job says itself."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from geounet.config.job import Buildings, Job, Landcover, Roads, Vector
from geounet.config.layers import resolve_layers
from geounet.config.presets import PRESETS, with_preset
from tests.support.local import card

SECTIONS: dict[str, Any] = {"buildings": Buildings, "roads": Roads, "landcover": Landcover}


def test_the_job_file_knows_every_preset() -> None:
    assert get_args(Vector.model_fields["preset"].annotation) == tuple(PRESETS)
    for preset in PRESETS.values():
        assert list(preset) == list(SECTIONS)
        for name, values in preset.items():
            assert set(values) <= set(SECTIONS[name].model_fields)
            SECTIONS[name].model_validate(values)


@pytest.mark.parametrize("name", list(SECTIONS))
def test_presets_are_in_order(name: str) -> None:
    made = [with_preset(preset, name, SECTIONS[name], None) for preset in ("raw", "detail", "standard", "map")]
    for key in PRESETS["raw"][name]:
        values = [getattr(section, key) for section in made]
        assert values == sorted(values)
        assert values[0] == 0 < values[-1]
    assert made[2] == SECTIONS[name]()


def test_what_the_job_says_counts_most() -> None:
    given = Buildings(min_area_m2=3, class_="house")
    made = with_preset("map", "buildings", Buildings, given)
    assert (made.min_area_m2, made.class_, made.min_hole_m2) == (3, "house", 10)
    # Only what the user said is held against a raster without metres.
    assert made.model_fields_set == {"min_area_m2", "class_"}
    assert with_preset("raw", "buildings", Buildings, Buildings(tolerance_px=2)).tolerance_px == 2


def test_layers_of_a_job_follow_its_preset() -> None:
    job = Job.model_validate(
        {"scenes": ["a.tif"], "model": "demo", "vector": {"preset": "map", "roads": {"tolerance_px": 0.5}}}
    )
    made = resolve_layers(job, card())
    assert made is not None
    assert isinstance(made.buildings, Buildings)
    assert isinstance(made.roads, Roads)
    assert isinstance(made.landcover, Landcover)
    assert (made.buildings.min_area_m2, made.buildings.class_) == (25, "building")
    assert (made.roads.min_length_m, made.roads.tolerance_px) == (25, 0.5)
    assert made.landcover.min_area_m2 == 400
    assert made.formats == ["gpkg"]
