"""Which vector layers follow from a job and a model's card."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TypeVar

from geounet.config.card import Card, Kind
from geounet.config.job import Buildings, Job, Landcover, Roads, Vector
from geounet.config.presets import with_preset
from geounet.errors import JobError

S = TypeVar("S", Buildings, Roads)


def resolve_layers(job: Job, card: Card) -> Vector | None:
    """Return the layers to make, each resolved to its section (`class` named) or `False`; None: no GeoPackage.

    A layer that the job leaves out is made if the card has a class of its kind; land cover if the classes exclude each
    other.

    Raises
    ------
    JobError
        If a layer is asked for that the model cannot give: it has no such class, or its classes overlap.
    """
    if job.vector == "none":
        return None
    asked = job.vector
    return Vector.model_construct(
        cell=asked.cell,
        preset=asked.preset,
        formats=asked.formats,
        mosaic=asked.mosaic,
        buildings=_one_class("buildings", asked.buildings, Buildings, Kind.building, card, asked.preset),
        roads=_one_class("roads", asked.roads, Roads, Kind.road, card, asked.preset),
        landcover=_landcover(asked.landcover, card, asked.preset),
    )


METRES = ("min_area_m2", "min_hole_m2", "min_length_m", "bridge_m", "bridge_blind_m", "tolerance_m", "smooth_m")

WITHOUT_METRES = "leave it out or set it to 0, or give the raster its CRS (gdal_edit.py -a_srs EPSG:… FILE)"
"""What to do about an option in metres for a raster without a CRS."""


def metres_asked(layers: Vector) -> list[str]:
    """Return the options in metres that the user set, as `vector.buildings.min_area_m2`."""
    found = []
    for name in ("buildings", "roads", "landcover"):
        section = getattr(layers, name)
        if section is None or isinstance(section, bool):
            continue
        given = [key for key in METRES if key in section.model_fields_set and (getattr(section, key) or 0) > 0]
        found += [f"vector.{name}.{key}" for key in given]
    return found


def _one_class(layer: str, asked: S | bool | None, model: type[S], kind: Kind, card: Card, preset: str) -> S | bool:
    of_kind = [c.name for c in card.classes if c.kind == kind]
    if asked is False or (asked is None and not of_kind):
        return False
    section = with_preset(preset, layer, model, None if asked is None or isinstance(asked, bool) else asked)
    if section.class_ == "auto":
        if not of_kind:
            raise JobError(
                f"vector.{layer}: the model {card.name} has no class of kind {kind}; leave the layer out, or name "
                f"one of its classes ({', '.join(c.name for c in card.classes)}) with vector.{layer}.class"
            )
        return section.model_copy(update={"class_": of_kind[0]})
    _check_class(f"vector.{layer}.class", section.class_, [c.name for c in card.classes], card)
    return section


def _landcover(asked: Landcover | bool | None, card: Card, preset: str) -> Landcover | bool:
    if asked is False or (asked is None and card.head == "multilabel"):
        return False
    if card.head == "multilabel":
        raise JobError(
            f"vector.landcover: the classes of the model {card.name} may overlap (multi-label), so they are no "
            "coverage; leave the layer out"
        )
    section = with_preset(preset, "landcover", Landcover, asked if isinstance(asked, Landcover) else None)
    for name in section.classes or ():
        _check_class("vector.landcover.classes", name, [c.name for c in card.mask_classes()], card)
    return section


def _check_class(key: str, name: str, known: Iterable[str], card: Card) -> None:
    names = list(known)
    if name in names:
        return
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise JobError(f"{key}: the model {card.name} has no class {name!r}; {hint}it has {', '.join(names)}")
