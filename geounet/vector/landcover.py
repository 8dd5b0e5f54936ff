"""The layer `landcover`: all classes as one coverage, small polygons joined, shared borders simplified alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from geounet.vector.attributes import Ground
from geounet.vector.confidence import mean
from geounet.vector.features import CornerMap, areas, chosen_rings, nullable, wkb
from geounet.vector.polygons import Polygons, Stage
from geounet.vector.schema import LANDCOVER
from geounet.vector.simplify import simplify


@dataclass(frozen=True)
class FinishLandcover:
    """Makes features: borders are simplified, classes that were not asked for left out."""

    ground: Ground
    names: tuple[tuple[int, str], ...]
    tolerance_px: float
    confidence: bool

    def __call__(self, stage: Stage, polygons: Polygons) -> pa.Table:
        """Return the features of polygons."""
        names = dict(self.names)
        wanted = np.flatnonzero(np.isin(polygons.value, list(names)))
        coords, junction, rings, shells = chosen_rings(polygons, wanted)
        keep = simplify(coords, junction, rings, self.tolerance_px, CornerMap(stage))
        kept = np.concatenate([[0], np.cumsum(keep)])
        coords, rings = coords[keep], kept[rings]
        value = polygons.value[wanted]
        confidence = mean(polygons.total, polygons.counted)[wanted]
        columns = {
            "id": pa.array(polygons.first[wanted], pa.int64()),
            "geom": wkb(self.ground, coords, rings, shells),
            "class_id": pa.array(value, pa.int32()),
            "class": pa.array([names[int(v)] for v in value], pa.string()),
            "area_m2": nullable(areas(self.ground, coords, rings, shells), pa.float64()),
            "confidence": nullable(confidence if self.confidence else np.full(len(wanted), np.nan), pa.float32()),
        }
        return pa.table([*columns.values()], schema=LANDCOVER.arrow.insert(0, pa.field("id", pa.int64())))
