"""What a worker does for the report; light to import, so that the driver loads no plotting library."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from geounet.config.card import ClassInfo
from geounet.raster.scene import SceneInfo, SceneSpec


def make_preview(
    dest: Path, scene: SceneSpec, info: SceneInfo, mask: Path, classes: Sequence[ClassInfo], gpkg: Path | None
) -> None:
    """Write the preview of a scene; see `geounet.report.preview.write_preview`."""
    from geounet.report.preview import write_preview

    write_preview(dest, scene, info, mask, classes, gpkg)
