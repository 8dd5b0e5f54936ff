"""The layer `landcover`: all classes as one coverage, small polygons joined, shared borders drawn alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from geounet.vector.attributes import Ground
from geounet.vector.borders.corners import FINE
from geounet.vector.confidence import mean
from geounet.vector.coverage import Faces
from geounet.vector.features import areas, nullable, wkb
from geounet.vector.schema import LANDCOVER


@dataclass(frozen=True)
class FinishLandcover:
    """Makes features of faces; classes that were not asked for are left out."""

    ground: Ground
    names: tuple[tuple[int, str], ...]
    confidence: bool

    def __call__(self, faces: Faces) -> pa.Table:
        """Return the features of faces."""
        names = dict(self.names)
        faces = faces.some(np.flatnonzero(np.isin(faces.value, list(names))))
        coords = faces.coords / FINE
        confidence = mean(faces.total, faces.counted) if self.confidence else np.full(len(faces), np.nan)
        columns = {
            "id": pa.array(faces.first, pa.int64()),
            "geom": wkb(self.ground, coords, faces.rings, faces.shells),
            "class_id": pa.array(faces.value, pa.int32()),
            "class": pa.array([names[int(v)] for v in faces.value], pa.string()),
            "area_m2": nullable(areas(self.ground, coords, faces.rings, faces.shells), pa.float64()),
            "confidence": nullable(confidence, pa.float32()),
        }
        return pa.table([*columns.values()], schema=LANDCOVER.arrow.insert(0, pa.field("id", pa.int64())))
