"""The vectors of a scene: what is asked for, and what of it one worker does at a stretch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geounet.engine.ledger import Ledger, fingerprint
from geounet.engine.plan import Plan
from geounet.grid.blocks import BlockId
from geounet.predict.stitch import probability_mosaic

if TYPE_CHECKING:
    from geounet.config.job import Job
    from geounet.vector.request import VectorRequest

FEW_CELLS = 4
"""Scenes of so few vector cells are drawn by one worker each where there are several: handing out their stages one by
one takes longer than the stages do."""


def cells(plan: Plan) -> int:
    """Return how many vector cells a scene has; 0 where no vectors are asked for."""
    if plan.layers is None:
        return 0
    from geounet.vector.cells import CellGrid

    return CellGrid(plan.info.height, plan.info.width, _cell(plan)).count


def _cell(plan: Plan) -> int:
    from geounet.vector.request import DEFAULT_CELL

    assert plan.layers is not None
    return plan.layers.cell if isinstance(plan.layers.cell, int) else DEFAULT_CELL


def vector_request(
    job: Job, plan: Plan, ledger: Ledger, folder: Path, tags: dict[str, str], failed: Iterable[BlockId]
) -> VectorRequest:
    """Return the request for the vectors of a stitched scene.

    Parameters
    ----------
    job, plan, ledger
        Of the scene; its rasters lie in `final` of the ledger's folder.
    folder
        Where the finished files will lie.
    tags
        For the metadata of the files.
    failed
        Blocks that are nodata.
    """
    from geounet.vector import backdrop
    from geounet.vector.request import VectorRequest

    assert plan.layers is not None
    card, name, staging = plan.card, plan.info.name, ledger.folder / "final"
    multilabel = card.head == "multilabel"
    classes = tuple(card.classes if multilabel else card.mask_classes())
    below = backdrop.masks(str(folder / f"{name}_mask.tif"), classes, multilabel=multilabel)
    if job.probability:
        bands = [(info, band) for band, info in enumerate(card.classes, start=1)]
        below += backdrop.probabilities(str(folder / f"{name}_prob.tif"), bands)
    single = len(plan.info.files) == 1
    for file in plan.info.files:
        title = name if single else Path(file).stem
        below.append(backdrop.scene(file, title, plan.info.band_names if single else ()))
    return VectorRequest(
        mask=str(staging / f"{name}_mask.tif"),
        probability=str(probability_mosaic(plan.recipe)),
        classes=classes,
        channels={c.code: channel for channel, c in enumerate(card.classes, start=1)},
        layers=plan.layers,
        cell=_cell(plan),
        out=staging / f"{name}.gpkg",
        work=ledger.folder / "vectors",
        metadata=tags,
        multilabel=multilabel,
        # Which blocks failed decides the mask, too.
        identity=fingerprint(plan.recipe.stamp, [str(block) for block in sorted(failed)]),
        formats=tuple(plan.layers.formats),
        backdrops=tuple(below),
        home=folder,
    )


def draw_whole(request: VectorRequest) -> dict[str, Any]:
    """Make the vectors of a scene in one go; see `geounet.vector.build.geopackage`."""
    from geounet.vector.build import SerialExecutor, geopackage

    return geopackage(request, SerialExecutor())
