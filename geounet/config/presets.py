"""Presets of the vector layers: values that suit a purpose, below those that a job names itself."""

from __future__ import annotations

from typing import Any, TypeVar

from geounet.config.job import Buildings, Landcover, Roads

S = TypeVar("S", Buildings, Roads, Landcover)

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "standard": {"buildings": {}, "roads": {}, "landcover": {}},
    "raw": {
        "buildings": {"min_area_m2": 0, "min_hole_m2": 0, "tolerance_px": 0},
        "roads": {
            **dict.fromkeys(("min_area_m2", "min_hole_m2", "min_length_m", "bridge_m", "bridge_blind_m"), 0),
            **dict.fromkeys(("spur_widths", "junction_widths", "smooth_widths", "tolerance_px"), 0),
        },
        "landcover": {"min_area_m2": 0, "tolerance_px": 0},
    },
    "detail": {
        "buildings": {"min_area_m2": 4, "min_hole_m2": 2, "tolerance_px": 1},
        "roads": {"min_area_m2": 10, "min_hole_m2": 15, "min_length_m": 5, "tolerance_px": 0.75},
        "landcover": {"min_area_m2": 10, "tolerance_px": 1},
    },
    "map": {
        "buildings": {"min_area_m2": 25, "min_hole_m2": 10, "tolerance_px": 2},
        "roads": {"min_area_m2": 50, "min_hole_m2": 100, "min_length_m": 25, "smooth_widths": 1, "tolerance_px": 2},
        "landcover": {"min_area_m2": 400, "tolerance_px": 3},
    },
}
"""What each preset sets, by layer.

`standard` is what the keys' defaults are; `raw` follows the pixels and leaves nothing out, for counting and checking;
`detail` keeps what is small; `map` is for maps at 1:10 000 and smaller.
"""


def with_preset(preset: str, layer: str, kind: type[S], given: S | None) -> S:
    """Return a layer's section: what the job says, else what the preset says, else the default.

    `model_fields_set` of the result holds only what the job says.

    Parameters
    ----------
    preset
        Of `PRESETS`.
    layer
        Name of the section.
    kind
        Its model.
    given
        The job's section; none: all from the preset.
    """
    own = {} if given is None else {name: getattr(given, name) for name in given.model_fields_set}
    values = dict(kind.model_validate(PRESETS[preset][layer])) | own
    return kind.model_construct(_fields_set=set(own), **values)
