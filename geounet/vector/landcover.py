"""The layer `landcover`: all classes as one coverage, small polygons joined, shared borders drawn alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from geounet.config.job import Landcover
from geounet.types import Executor
from geounet.vector import sieve
from geounet.vector.attributes import Ground
from geounet.vector.borders.corners import FINE
from geounet.vector.borders.reduce import Rule
from geounet.vector.cells import CellGrid
from geounet.vector.confidence import mean
from geounet.vector.coverage import Covered, Faces, cover
from geounet.vector.features import areas, nullable, wkb
from geounet.vector.polygons import Stage
from geounet.vector.schema import LANDCOVER
from geounet.vector.source import Plane, ProbabilityPlane


@dataclass(frozen=True)
class FinishLandcover:
    """Makes features of faces; classes that were not asked for are left out.

    `names` are those of classes by their code; `values` what `class_id` says of a code, where it is not the code.
    """

    ground: Ground
    names: tuple[tuple[int, str], ...]
    confidence: bool
    values: tuple[tuple[int, int], ...] = ()

    def __call__(self, faces: Faces) -> pa.Table:
        """Return the features of faces."""
        names, values = dict(self.names), dict(self.values)
        faces = faces.some(np.flatnonzero(np.isin(faces.value, list(names))))
        coords = faces.coords / FINE
        confidence = mean(faces.total, faces.counted) if self.confidence else np.full(len(faces), np.nan)
        columns = {
            "id": pa.array(faces.first, pa.int64()),
            "geom": wkb(self.ground, coords, faces.rings, faces.shells),
            "class_id": pa.array([values.get(v, v) for v in faces.value.tolist()], pa.int32()),
            "class": pa.array([names[int(v)] for v in faces.value], pa.string()),
            "area_m2": nullable(areas(self.ground, coords, faces.rings, faces.shells), pa.float64()),
            "confidence": nullable(confidence, pa.float32()),
        }
        return pa.table([*columns.values()], schema=LANDCOVER.arrow.insert(0, pa.field("id", pa.int64())))


def unit_of(section: Landcover, ground: Ground) -> sieve.Unit:
    """Return the minimum mapping unit; without a CRS, one in square metres leaves nothing out."""
    if section.min_area_px is not None:
        return sieve.Unit(section.min_area_px)
    return sieve.Unit(section.min_area_m2, ground) if ground.known else sieve.Unit(0)


def rule_of(section: Landcover, ground: Ground) -> Rule:
    """Return how borders are drawn. Metres are those at the centre of the raster."""
    tolerance, smooth = section.tolerance_px, section.smooth_px
    if section.tolerance_m is not None:
        tolerance = section.tolerance_m / ground.gsd
    if section.smooth_m is not None:
        smooth = section.smooth_m / ground.gsd
    return Rule(tolerance, smooth)


@dataclass(frozen=True)
class Made:
    """Files of features, and what is reported of them."""

    paths: Sequence[Path]
    facts: dict[str, Any]


def landcover(
    section: Landcover,
    plane: Plane,
    probability: ProbabilityPlane | None,
    grid: CellGrid,
    folder: str,
    ground: Ground,
    names: dict[int, str],
    values: dict[int, int],
    executor: Executor,
) -> Made:
    """Make the features of the layer.

    Parameters
    ----------
    section
        The job's keys; `classes` has been applied to `names`.
    plane, probability, grid, folder
        What to read, the cells, and where parts go.
    ground
        Where pixels lie.
    names
        Classes to make features of, by their value in `plane`.
    values
        What `class_id` says of such a value, where it is another.
    """
    unit = unit_of(section, ground)
    sieved: sieve.Sieved | None = None
    if unit.least > 0:
        first = sieve.Stage(plane, grid, folder, "landcover-sieve", unit)
        sieved = sieve.sieve(first, executor)
        plane = first.result
    stage = Stage(plane, probability, grid, folder, "landcover", junctions=True)
    finish = FinishLandcover(ground, tuple(names.items()), probability is not None, tuple(values.items()))
    covered = cover(stage, rule_of(section, ground), finish, executor)
    components, held, size = covered.components, covered.driver_bytes, covered.part_bytes
    if sieved is not None:
        components, held, size = sieved.components, max(held, sieved.driver_bytes), size + sieved.part_bytes
    before = covered.pixels if sieved is None else sieved.pixels
    facts = {
        "components": components,
        "driver_bytes_per_component": round(held / max(1, components), 1),
        "part_bytes": size,
        "vertices": list(covered.vertices),
        "areas": changes(before, covered, names),
    }
    return Made(covered.paths, facts)


def changes(before: dict[int, int], covered: Covered, names: dict[int, str]) -> dict[str, dict[str, float]]:
    """Return for each class its pixels in the mask, after small polygons have joined, and the area drawn, in pixels."""
    return {
        name: {
            "mask_px": before.get(value, 0),
            "joined_px": covered.pixels.get(value, 0),
            "drawn_px": round(covered.areas.get(value, 0.0), 1),
        }
        for value, name in names.items()
        if before.get(value, 0)
    }
