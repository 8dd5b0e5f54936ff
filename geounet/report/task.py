"""What a run needs of this package; light to import, so that plotting is loaded when there is time for it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from geounet.config.card import ClassInfo
from geounet.raster.scene import SceneInfo, SceneSpec

if TYPE_CHECKING:
    from geounet.report.picture import InputPicture

logger = logging.getLogger(__name__)

_QUICK_PIXELS = 1 << 26
"""Scenes up to this size are read while the workers start: a second, where there are no overviews."""
_PATIENCE_S = 10.0
"""Such a second may take longer on storage that is far away, but nobody who interrupts a run waits for ever."""


class Ahead:
    """Loads what pictures and pages take, and reads a first scene, while the caller waits for something else.

    Parameters
    ----------
    first
        Describes the scene whose picture is the first to be drawn.
    vectors
        Load what making vectors takes, too.
    """

    def __init__(self, first: Callable[[], tuple[SceneSpec, SceneInfo]], *, vectors: bool = False) -> None:
        self._first, self._vectors = first, vectors
        self._seen: tuple[SceneSpec, SceneInfo, InputPicture] | None = None
        self._thread = threading.Thread(target=self._work, name="geounet-ahead", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            import geounet.report.html
            import geounet.report.preview
            import geounet.report.stac

            scene, info = self._first()
            if info.width * info.height <= _QUICK_PIXELS:
                self._seen = scene, info, geounet.report.preview.read_overview(scene, info)
            if self._vectors:
                import geounet.vector.build
        except Exception:  # whoever needs it meets it again, and says so
            logger.debug("nothing is prepared for pictures", exc_info=True)

    def overview(self, scene: SceneSpec, info: SceneInfo) -> InputPicture | None:
        """Return what was read of this scene, once: nothing if it is another, or changed meanwhile."""
        if self._seen is None or self._seen[:2] != (scene, info):
            return None
        (_, _, found), self._seen = self._seen, None
        return found

    def end(self) -> None:
        """Wait until it is done: a program must not end under a thread in GDAL."""
        self._thread.join(timeout=_PATIENCE_S)


def make_preview(
    dest: Path,
    scene: SceneSpec,
    info: SceneInfo,
    mask: Path,
    classes: Sequence[ClassInfo],
    gpkg: Path | None,
    ahead: Ahead | None = None,
) -> list[str]:
    """Write the preview of a scene, and return what is to be said of the input as it is seen there.

    See `geounet.report.preview.write_preview`.
    """
    from geounet.report.fill import undeclared_fill
    from geounet.report.preview import write_preview

    overview = ahead.overview(scene, info) if ahead else None
    shown = write_preview(dest, scene, info, mask, classes, gpkg, overview=overview)
    fill = undeclared_fill(shown, info.dtype)
    if fill is None:
        return []
    value, share = fill
    where = f"{100 * share:.0f} % of the scene, along its edges, is {value} in {', '.join(shown.names)}"
    return [f"{where}, and was segmented as imagery; if it is fill, set nodata: {value}"]
