"""Whose a failure is: a scene's own, of which the next ones are to know nothing, or that of what all scenes need."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Sequence
from pathlib import Path

from geounet.atomic import check_writable
from geounet.engine.scene import SceneRun
from geounet.errors import ClusterError, GeounetError, SceneError
from geounet.raster.env import one_line
from geounet.raster.space import disk_full

logger = logging.getLogger(__name__)


def own_fault(error: Exception, scene: SceneRun) -> GeounetError:
    """Return what ended a scene as the failure of this scene alone, to be told in one line; see `fault_of`."""
    if isinstance(error, GeounetError) and not disk_full(error):
        return error
    return fault_of(error, scene.spec.files[0], [Path(scene.job.outputs.folder).absolute(), scene.work])


def fault_of(error: Exception, what: str, folders: Sequence[Path]) -> GeounetError:
    """Return an exception as the failure of one thing alone.

    What the machine refuses (rights, storage that answers no more) is one; so is a defect of this program, which also
    logs its traceback.

    Parameters
    ----------
    error
        Of any kind.
    what
        Name of the thing.
    folders
        Output and work folder: they are there, and this run has written to them.

    Raises
    ------
    ClusterError
        If nothing else would fare better: the disk is full, or a folder cannot be written any more.
    """
    if full := disk_full(error):
        raise ClusterError(f"disk full: {full}; free space and run again to continue") from error
    if isinstance(error, GeounetError):
        return error
    if isinstance(error, OSError):
        for folder in folders:
            if lost := _lost(folder):
                raise ClusterError(f"{lost}; run again to continue") from error
        where = f"{error.filename}: " if error.filename not in (None, what) else ""
        return SceneError(f"{what}: {where}{error.strerror or one_line(error)}")
    logger.error("%s failed:\n%s", what, "".join(traceback.format_exception(error)))
    return GeounetError(
        f"{what}: {type(error).__name__}: {one_line(error)}; this is a defect of geounet: please report it with the "
        "traceback in the log and the output of `geounet doctor`"
    )


def _lost(folder: Path) -> str | None:
    """Return why a folder that this run has written to can be so no longer; None if it can."""
    try:
        if not folder.is_dir():
            return f"{folder}: is no longer there"
        check_writable(folder)
    except (GeounetError, OSError) as error:
        return str(error)
    return None
