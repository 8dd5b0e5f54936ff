"""What goes in: a scene with the bands that the model takes, and whether it is still the scene that was planned."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from geounet.config.card import Card
from geounet.config.job import Job
from geounet.engine.plan import Plan, check_bands, check_data_type, choose_bands
from geounet.errors import SceneError
from geounet.raster.members import choose_members
from geounet.raster.products import read_product
from geounet.raster.scene import SceneInfo, SceneSpec, describe

logger = logging.getLogger(__name__)


def with_members(job: Job, card: Card, spec: SceneSpec) -> SceneSpec:
    """Return a scene that is a product with those of the product's files that a model takes.

    What is wrong with it is told when it is opened. Other scenes are returned as they are.
    """
    if spec.product is None:
        return spec
    path = Path(spec.product)
    wanted = card.input.bands if job.bands == "auto" else job.bands
    try:
        members = choose_members(read_product(path), wanted, card.input.data_type, chosen=job.bands != "auto")
    except SceneError as error:
        return replace(spec, fault=str(error))
    logger.debug("%s: %s", path, ", ".join(members.files))
    return replace(
        spec,
        files=tuple(str(Path(file).absolute()) for file in members.files),
        bands=members.bands,
        labels=members.labels,
        nodata=members.nodata if spec.nodata is None else spec.nodata,
    )


def describe_input(job: Job, card: Card, spec: SceneSpec) -> tuple[SceneSpec, SceneInfo]:
    """Describe a scene with the bands that a model takes, and check them.

    Raises
    ------
    SceneError
        If it cannot be read or does not fit the card.
    """
    info = describe(spec)
    if job.bands == "auto":
        chosen = choose_bands(info, card)
        if chosen is not None and chosen != info.band_names:
            spec = replace(spec, bands=chosen)
            info = describe(spec)
        elif chosen is None and len(info.band_names) == 1 < len(card.input.bands):
            spec, info = _expanded(card, spec, info)
    check_bands(info, card, chosen=job.bands != "auto")
    check_data_type(info, card, job)
    return spec, info


def _expanded(card: Card, spec: SceneSpec, info: SceneInfo) -> tuple[SceneSpec, SceneInfo]:
    """Return a single band with a colour table as the colours that the card names, if it is one."""
    named = replace(spec, bands=tuple(card.input.bands))
    try:
        return named, describe(named)
    except SceneError:
        return spec, info


def check_unchanged(plan: Plan) -> None:
    """Check that a scene whose pixels are all read is still the one that was planned.

    Raises
    ------
    SceneError
        If it was replaced, written to or removed meanwhile: what was read of it may be of both.
    """
    try:
        found = describe(plan.recipe.scene).fingerprint
    except SceneError as error:
        raise SceneError(f"{plan.info.files[0]}: changed while it was run ({error}); run again") from None
    if found != plan.info.fingerprint:
        raise SceneError(f"{plan.info.files[0]}: changed while it was run; run again")
