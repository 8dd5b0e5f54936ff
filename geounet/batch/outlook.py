"""What a batch would do now, scene by scene, without doing it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from geounet.batch.attempts import Attempts, settled
from geounet.batch.blame import own_fault
from geounet.batch.files import Files
from geounet.batch.run import Rounds, scene_runs, work_folder
from geounet.batch.scenes import find_scenes
from geounet.config.job import Job
from geounet.engine.changes import changes
from geounet.engine.manifest import read_manifest
from geounet.engine.scene import SceneRun
from geounet.errors import JobError, OutputExistsError


def outlook(job: Job, rounds: Rounds) -> list[dict[str, Any]]:
    """Return what a batch would do now with each scene and model; writes nothing, and needs no lock.

    Each entry has `name`, `model`, `state` and `why`. States: `new`; `begun` (continued where a run was killed);
    `changed` (`why` says what; its results are replaced); `unchanged`; `waiting` (is being written); `refused`;
    `given up` (failed too often as it is).

    Raises
    ------
    JobError
        If the job cannot be run as it is.
    ModelError
        If a model cannot be used.
    GeounetError
        If a folder of scenes cannot be listed.
    """
    files = Files()
    # As it is without leave to replace, output that would be replaced says so.
    kept = job.model_copy(update={"outputs": job.outputs.model_copy(update={"overwrite": False})})
    specs = find_scenes(kept, some=False)
    waiting = {spec.name for spec in specs if not settled(spec, rounds.settle_s, files)}
    attempts = Attempts(work_folder(job), rounds.tries, dry=True)
    entries = []
    for scene in scene_runs(kept, specs):
        state, why = ("waiting", None) if scene.spec.name in waiting else _state(scene, job, attempts)
        entries.append({"name": scene.spec.name, "model": scene.bundle.card.name, "state": state, "why": why})
    return entries


def _state(scene: SceneRun, job: Job, attempts: Attempts) -> tuple[str, str | None]:
    # What a scene has failed with is remembered with the job that it failed in.
    left = attempts.given_up(replace(scene, job=job))
    try:
        if scene.finished(mend=False) is not None:
            return "unchanged", None
    except OutputExistsError as error:
        if left is None:
            return "changed", _changes(scene) or str(error)
    except JobError:
        raise
    except Exception as error:
        return ("given up", left) if left is not None else ("refused", str(own_fault(error, scene)))
    if left is not None:
        return "given up", left
    return ("begun", None) if scene.begun() else ("new", None)


def _changes(scene: SceneRun) -> str:
    manifest = read_manifest(scene.folder)
    return "" if manifest is None else changes(manifest, scene.job, scene.bundle, scene.describe()[1])
