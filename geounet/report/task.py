"""What a run needs of this package; light to import, so that plotting is loaded when there is time for it."""

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


def load() -> None:
    """Import what pictures and pages take: for a moment in which the caller waits for something else."""
    import geounet.report.html
    import geounet.report.preview
    import geounet.report.stac  # noqa: F401 - the imports are the work
