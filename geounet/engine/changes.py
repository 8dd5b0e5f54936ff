"""What sets finished output apart from what a job asks for, in words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from geounet.config.job import Job
from geounet.engine.plan import versions
from geounet.models.bundle import Bundle
from geounet.raster.scene import SceneInfo

_KEYS = ("resample", "data_type", "tiling", "predict", "nodata", "bands", "bbox", "aoi", "probability", "vector",
         "max_failed_blocks")  # fmt: skip
"""Of a job: what results depend on."""

_MOST = 4
_NONE = "nothing"


def changes(before: Mapping[str, Any], job: Job, bundle: Bundle, info: SceneInfo) -> str:
    """Return how a manifest's output differs from what is asked for now: `vector.cell: "auto" → 512; …`, or nothing.

    Parameters
    ----------
    before
        The manifest; one of another version may say anything.
    job, bundle, info
        What is asked for.
    """
    found = list(_all(before, job, bundle, info))
    more = len(found) - _MOST
    return "; ".join(found[:_MOST]) + (f"; and {more} more" if more > 0 else "")


def _all(before: Mapping[str, Any], job: Job, bundle: Bundle, info: SceneInfo) -> Iterator[str]:
    was, asked = _flat(_of(before, "job")), _flat(job.model_dump(mode="json", by_alias=True))
    for key in sorted({*was, *asked}):
        if key.split(".")[0] in _KEYS and was.get(key, _NONE) != asked.get(key, _NONE):
            yield f"{key}: {was.get(key, _NONE)} → {asked.get(key, _NONE)}"
    model = _of(before, "model")
    if model.get("sha256") != bundle.sha256:
        yield f"model: {model.get('name')} → {bundle.card.name}" + (
            " of other content" if model.get("name") == bundle.card.name else ""
        )
    scene, now = _of(before, "input"), json.loads(json.dumps(info.to_dict()))
    if scene.get("files") != now["files"]:
        yield f"scene: {_listed(scene.get('files'))} → {_listed(now['files'])}"
    elif scene.get("fingerprint") != now["fingerprint"]:
        yield "scene: changed since"
    installed = versions()
    for name, old in sorted(_of(before, "versions").items()):
        if installed.get(name) != old:
            yield f"{name}: {old} → {installed.get(name, _NONE)}"


def _of(manifest: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = manifest.get(key)
    return found if isinstance(found, dict) else {}


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """Return nested settings by dotted keys, values as JSON."""
    found: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{above}{key}.")
        else:
            found[above + key] = json.dumps(value, ensure_ascii=False)
    return found


def _listed(files: Any) -> str:
    return ", ".join(map(str, files)) if isinstance(files, list) else str(files)
