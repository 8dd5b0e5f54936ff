"""Ensembles: what their members must agree on, and what follows for the whole.

An ensemble's probability is the mean of its members' probabilities (not of their logits), each from its own network and
normalisation: Lakshminarayanan et al. 2017, https://arxiv.org/abs/1612.01474, section 2.4.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from geounet.config.card import ENSEMBLE, MEMBER, Card
from geounet.errors import ModelError
from geounet.models.network import margin, stride

if TYPE_CHECKING:
    from geounet.models.bundle import Bundle


_ROUNDING = 1e-6  # of ground sample distances that were written to JSON or computed another way


def check_members(card: Card, members: Mapping[str, Card], where: str) -> None:
    """Check that the members of an ensemble can be averaged, and that its card says what they say.

    Networks, normalisations and values of invalid pixels may differ; what a scene must be and what the channels mean
    may not.

    Raises
    ------
    ModelError
        Naming the member and what differs.
    """
    wanted = _common(card)
    for name, member in members.items():
        if member.members:
            raise ModelError(f"{where}: member {name} is an ensemble itself; list its members instead")
        for what, value in _common(member).items():
            if value != wanted[what]:
                raise ModelError(
                    f"{where}: member {name} has {what} {_shown(value)}, the ensemble {_shown(wanted[what])}; "
                    "members must agree on it"
                )
        if not _within(card.gsds, member.gsds):
            raise ModelError(
                f"{where}: member {name} was trained on {member.resolution}, the ensemble says "
                f"{card.resolution or 'any ground sample distance'}; it can only promise what all members know"
            )
    fixed = {member.tile.size for member in members.values() if member.tile.fixed}
    if fixed and (fixed != {card.tile.size} or not card.tile.fixed):
        sizes = ", ".join(str(size) for size in sorted(fixed))
        raise ModelError(
            f"{where}: members take tiles of {sizes} px only; the ensemble's tile must be that size and fixed"
        )


def _common(card: Card) -> dict[str, Any]:
    return {
        "activation": card.activation,
        "classes": [(c.code, c.name, c.kind.value) for c in card.classes],
        "bands": card.input.bands,
        "data_type": card.input.data_type,
    }


def _within(span: tuple[float, float] | None, known: tuple[float, float] | None) -> bool:
    """Return whether a member knows the ground sample distances of the ensemble."""
    if known is None:
        return True
    return span is not None and known[0] * (1 - _ROUNDING) <= span[0] and span[1] <= known[1] * (1 + _ROUNDING)


def _gsds(members: Mapping[str, Card]) -> dict[str, Any]:
    """Return `gsd` and `gsd_range` of an ensemble: the ground sample distances that every member knows.

    Members of a cross-validation know ranges that differ, as the scenes do that each was trained on.

    Raises
    ------
    ModelError
        If there are none.
    """
    spans = [member.gsds for member in members.values() if member.gsds is not None]
    if not spans:
        return {"gsd": None, "gsd_range": None}
    low, high = max(span[0] for span in spans), min(span[1] for span in spans)
    if low > high * (1 + _ROUNDING):
        said = ", ".join(f"{name} {member.resolution}" for name, member in members.items())
        raise ModelError(f"members were trained on different ground sample distances: {said}")
    usual = [member.gsd for member in members.values() if member.gsd is not None]
    high = max(low, high)
    gsd = min(max(statistics.median(usual), low), high) if usual else None
    return {"gsd": gsd, "gsd_range": (low, high) if low < high else None}


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(" ".join(str(part) for part in v) if isinstance(v, tuple) else str(v) for v in value)
    return str(value)


def stride_of(bundle: Bundle) -> int:
    """Return what tile sizes and distances between tiles must be a multiple of for every member, px.

    Raises
    ------
    ModelError
        As `geounet.models.network.stride`.
    """
    return math.lcm(bundle.card.tile.multiple_of, *(stride(part.card) for part in bundle.parts))


def margin_of(bundle: Bundle) -> int:
    """Return how many pixels beside a tile the predictor of a bundle takes on each side of it."""
    return max(margin(part.card) for part in bundle.parts)


def ensemble_card(name: str, members: Mapping[str, Card], more: Mapping[str, Any]) -> Card:
    """Return the card of an ensemble.

    Parameters
    ----------
    name
        Of the ensemble.
    members
        Cards by the names of the folders that they will lie in, in the order in which probabilities are added.
    more
        Further fields, for example `metrics`.

    Raises
    ------
    ModelError
        If the members cannot be averaged.
    """
    first = next(iter(members.values()))
    tiles = [member.tile for member in members.values()]
    fixed = next((tile.size for tile in tiles if tile.fixed), None)
    licences = dict.fromkeys(member.licence for member in members.values() if member.licence)
    parameters = [member.total_parameters for member in members.values()]
    fields = {
        **first.model_dump(),
        "name": name,
        "description": f"Mean of {len(members)} models: {', '.join(m.name for m in members.values())}.",
        "library": "geounet",
        "architecture": ENSEMBLE,
        "encoder": "",
        "arguments": {},
        "output": "logits",
        **_gsds(members),
        "members": list(members),
        "tile": _tile(list(members.values()), fixed),
        "total_parameters": sum(p for p in parameters if p is not None) if None not in parameters else None,
        "metrics": {},
        "training": {},
        "licence": " AND ".join(f"({text})" if " " in text else text for text in licences),
        **more,
    }
    card: Card = Card.model_validate(fields)
    check_members(card, members, name)
    return card


def _tile(members: Sequence[Card], fixed: int | None) -> dict[str, Any]:
    """Return the section `tile` of the card of an ensemble; `fixed` is the only size that a member takes."""
    size = fixed or members[0].tile.size
    multiple = math.lcm(*(member.tile.multiple_of for member in members))
    overlap = max((member.tile.overlap for member in members if member.tile.overlap is not None), default=None)
    if overlap is not None and fixed:
        overlap = min(overlap, size // 2)
    elif overlap is not None:
        overlap = -(-overlap // multiple) * multiple
        size = -(-max(size, 2 * overlap) // multiple) * multiple
    if overlap is None and all(map(margin, members)):
        overlap = 0  # all of them see past their tiles
    return {"size": size, "overlap": overlap, "multiple_of": multiple, "fixed": fixed is not None}


def folder_names(bundles: Sequence[Bundle]) -> list[str]:
    """Return a name for each member's folder: that of its own folder where all differ, else numbered."""
    names = [bundle.folder.name for bundle in bundles]
    simple = all(re.fullmatch(MEMBER, name) for name in names)
    return names if simple and len(set(names)) == len(names) else [f"member_{k}" for k in range(len(bundles))]
