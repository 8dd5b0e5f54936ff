"""The manifest of a scene, and publishing its files: everything is complete before anything gets its final name."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from geounet.atomic import remove_leftovers, remove_temporary, temporary_beside, write_text
from geounet.config.job import Job
from geounet.engine.ledger import Ledger
from geounet.engine.plan import Plan, versions
from geounet.engine.storage import full_disk_named
from geounet.errors import ClusterError, JobError, OutputExistsError, SceneError
from geounet.grid.blocks import BlockId
from geounet.models.bundle import Bundle
from geounet.predict.decide import add_counts
from geounet.predict.probe import SHARED
from geounet.raster.products import acquired
from geounet.raster.scene import SceneInfo, SceneSpec
from geounet.types import NODATA

logger = logging.getLogger(__name__)

FORMAT = "geounet-manifest/1"
_ANY_VERSION = FORMAT.partition("/")[0] + "/"

PUBLISH = "publish"
"""What the journal of a scene says before its files get their names."""

_ENDINGS = ("_mask.tif", "_prob.tif", ".gpkg", "_preview.png", ".json")
"""What users would miss most."""

Counts = list[dict[str, int]]
"""For each band of a mask, how many pixels have each value."""


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of finished output in a folder; None where there is none or it is not readable.

    Other programs have manifests of this name, too: see `is_ours`.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) else None


def is_ours(manifest: object) -> bool:
    """Return whether a run wrote this, be it one of another version."""
    return isinstance(manifest, dict) and str(manifest.get("format")).startswith(_ANY_VERSION)


def manifest_of_run(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of a run in a folder, or None; what those of other programs name is not ours to remove."""
    found = read_manifest(folder)
    return found if is_ours(found) else None


def finished_output(
    folder: Path, key: str, *, overwrite: bool, mend: bool, changed: Callable[[dict[str, Any]], str] = lambda _: ""
) -> dict[str, Any] | None:
    """Return the manifest of finished output, as `unchanged`, or None if there is work to do.

    Parameters
    ----------
    folder
        Of a scene.
    key
        What the output is to be known by: job, model and input.
    overwrite
        Whether other output may be replaced.
    mend
        Whether, where `overwrite` is set, output with failed blocks is made anew.
    changed
        Returns how that of a manifest differs, in words.

    Raises
    ------
    OutputExistsError
        If the output is of another key and may not be replaced.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        return None
    blocks = manifest.get("blocks")
    holes = mend and isinstance(blocks, dict) and blocks.get("failed")
    if overwrite and (manifest.get("key") != key or holes):
        told = changed(manifest)
        logger.info("%s: made anew%s", folder, f": {told}" if told else "")
        return None
    if manifest.get("key") == key and manifest.get("state") == "done":
        missing = [f for f in manifest.get("files", {}).values() if not (folder / f).exists()]
        if not missing:
            return {**manifest, "state": "unchanged"}
        logger.warning("%s: %s is gone from the finished output; it is made anew", folder, missing[0])
        return None
    told = changed(manifest)
    raise OutputExistsError(
        f"{folder}: holds finished output of another job, model, input or software{f' ({told})' if told else ''}; set "
        "outputs.overwrite: true (--overwrite) to replace it, or choose another output folder"
    )


def check_apart(folder: Path, spec: SceneSpec) -> None:
    """Check that a scene's results would not replace what they are made of.

    Raises
    ------
    JobError
        If they would: a STAC item lies in a folder of its own name, and that is in the output folder.
    """
    made = {f"{spec.name}{ending}" for ending in _ENDINGS}
    for file in (*spec.files, spec.product):
        if file is None or (name := Path(file).name) not in made:
            continue
        if os.path.realpath(file) == os.path.realpath(folder / name):
            raise JobError(
                f"{file}: is the scene itself, and its results would replace it; choose another output folder"
            )


def check_unclaimed(folder: Path, name: str, ledger: Ledger) -> None:
    """Check that a scene's results would replace none but those of runs.

    Raises
    ------
    OutputExistsError
        If a file with the name of one is in the folder, but nothing says that a run has made it.
    """
    if is_ours(read_manifest(folder)):
        return  # whose output that is, is another question
    files = [folder / "manifest.json", *(folder / f"{name}{ending}" for ending in _ENDINGS)]
    there = [path for path in files if path.exists()]
    if there and not ledger.noted(PUBLISH):  # a run that was killed while it published leaves them without a manifest
        missing = "no manifest.json beside it says that a run has made it"
        says = "is not that of a run" if there[0] == files[0] else missing
        raise OutputExistsError(
            f"{there[0]}: is there, and {says}; set outputs.overwrite: true (--overwrite) to replace it, or choose "
            "another output folder"
        )


def check_ours(folder: Path) -> None:
    """Check that a manifest that is there is one of a run: a batch replaces results, not other people's files.

    Raises
    ------
    SceneError
        If it is not.
    """
    found = read_manifest(folder)
    if found is not None and not is_ours(found):
        raise SceneError(f"{folder / 'manifest.json'}: is not that of a run; move it, or choose another output folder")


def remove_parts(ledger: Ledger) -> None:
    """Remove the parts of a scene that cannot be published, but not what is known of a run that was killed."""
    told = [name for event in ledger.noted(PUBLISH) for name in event.get("files", [])]
    ledger.remove_parts()
    if told:
        ledger.note(PUBLISH, files=[*dict.fromkeys(told)])


def scene_manifest(
    *,
    plan: Plan,
    bundle: Bundle,
    job: Job,
    key: str,
    started: datetime,
    timings: Mapping[str, float],
    infer: Mapping[str, Mapping[str, Any]],
    counts: list[dict[str, int]],
    features: Mapping[str, Any],
    failures: list[dict[str, Any]],
    warnings: list[str],
    files: Mapping[str, str],
    deaths: int,
) -> dict[str, Any]:
    """Return the manifest of a scene whose files are ready."""
    recipe, info = plan.recipe, plan.info
    tiles = sum(int(receipt["tiles"]) for receipt in infer.values())
    processors = sorted({str(receipt["processor"]) for receipt in infer.values() if receipt.get("processor")})
    failed = sorted({str(f["block"]) for f in failures})
    valid = _valid(plan, counts)
    return {
        "format": FORMAT,
        "name": info.name,
        "state": "done",
        "key": key,
        "job": job.model_dump(mode="json", by_alias=True),
        "versions": versions(),
        "model": {"name": bundle.card.name, "sha256": bundle.sha256, "head": plan.card.head},
        "classes": [
            {"name": c.name, "code": c.code, "colour": c.colour, "kind": c.kind.value} for c in plan.card.mask_classes()
        ],
        "valid_pixels": valid,
        "input": info.to_dict(),
        "grid": plan.grid_summary,
        "device": recipe.device,
        "precision": recipe.precision,
        "batch": recipe.batch,
        "tta": recipe.tta,
        "tiles": {"grid": recipe.tiles.count, "valid": tiles, "inferred": tiles},
        "blocks": {"total": recipe.blocks.count, "done": len(set(infer) - set(failed)), "failed": failed},
        "worker_deaths": deaths,
        "processors": processors,
        "batch_halved": any(bool(receipt.get("halved")) for receipt in infer.values()),
        "started": started.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "timings": dict(timings),
        "area": _areas(plan, counts),
        "features": dict(features.get("layers", {})),
        "vectors": dict(features),
        "failures": failures,
        "warnings": [
            *info.warnings,
            *warnings,
            *_mixed(processors),
            *_empty(valid, info),
            *(f"block {name} failed: its pixels are nodata" for name in failed),
        ],
        "files": dict(files),
    }


def _mixed(processors: list[str]) -> list[str]:
    """Say that different processors were at work, which void the promise that results are the same every time."""
    if len(processors) < 2:
        return []
    return [f"inferred on different processors ({'; '.join(processors)}): pixels may differ in the last bit"]


def _empty(valid: int, info: SceneInfo) -> list[str]:
    if valid:
        return []
    known = ", ".join(info.validity)
    return [f"no pixel is valid{f' (by {known})' if known else ''}: the mask holds nothing but nodata"]


def count_pixels(plan: Plan, receipts: Iterable[tuple[str, Mapping[str, Any]]], failed: Iterable[BlockId]) -> Counts:
    """Return for each mask band how many pixels have each value.

    Parameters
    ----------
    plan
        Of a scene that is not resampled.
    receipts
        Of inferred and sealed blocks, with the blocks' names.
    failed
        Blocks that are nodata as a whole, whatever their receipts count.
    """
    lost = {str(block): plan.recipe.blocks.block(block).owned for block in failed}
    counts: Counts = []
    for name, receipt in receipts:
        if name not in lost:
            counts = add_counts(counts, receipt["counts"])
    if lost:
        bands = plan.card.channels if plan.card.head == "multilabel" else 1
        hole = sum(owned.rows * owned.cols for owned in lost.values())
        counts = add_counts(counts, [{str(NODATA): hole}] * bands)
    return counts


def _areas(plan: Plan, counts: list[dict[str, int]]) -> dict[str, Any]:
    """Return pixels and, where the ground sample distance is known, square metres per class."""
    card = plan.card
    pixel = None if plan.info.gsd is None else plan.info.gsd**2

    def area(pixels: int) -> dict[str, Any]:
        return {"pixels": pixels, "m2": None if pixel is None else round(pixels * pixel, 2)}

    if card.head == "multilabel":
        return {c.name: area(band.get("1", 0)) for c, band in zip(card.classes, counts, strict=False)}
    band = counts[0] if counts else {}
    areas = {c.name: area(band.get(str(c.code), 0)) for c in card.mask_classes()}
    return {**areas, "nodata": area(band.get("255", 0))}


def _valid(plan: Plan, counts: list[dict[str, int]]) -> int:
    total = plan.info.width * plan.info.height
    return total - (counts[0].get("255", 0) if counts else total)


def announce(folder: Path, ledger: Ledger, files: Mapping[str, str]) -> list[str]:
    """Note in the journal which files will be there and which go, before any does; return what killed runs noted.

    Without a manifest, that is: with one, it tells of all files.

    Parameters
    ----------
    folder
        Where the finished files go.
    ledger
        Of the scene.
    files
        Names of the new ones, by key.
    """
    before, left = manifest_of_run(folder), list[str]()
    if before is None:
        left = [str(name) for event in ledger.noted(PUBLISH) for name in event.get("files", [])]
    ledger.note(PUBLISH, files=[*dict.fromkeys([*_named(before), *left, *files.values()])])
    return left


def publish(
    manifest: dict[str, Any], plan: Plan, staging: Path, folder: Path, started: datetime, left: Iterable[str] = ()
) -> None:
    """Give the files of a scene their final names, the manifest last.

    First all of them lie whole in the folder, under temporary names, the STAC item and the manifest too: what fails
    until then leaves older output as it is. Then names change, and nothing is written any more. Until the manifest has
    its own the output does not count as finished, and the next run makes it again. What finished output that it
    replaces had besides, vectors that are no longer asked for say, goes in between, as does what is `left` of runs that
    were killed there: who is killed later leaves none that nobody knows of.

    Raises
    ------
    ClusterError
        If a file that a worker made is not there, or the disk is full.
    """
    files = dict(manifest["files"])
    for name in files.values():
        if not (staging / name).exists():
            raise ClusterError(f"{staging / name}: a worker has written it, but it is not seen here; "
                               f"outputs.work {SHARED}")  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder, plan.info.name, "manifest")
    before = manifest_of_run(folder)
    ready: dict[Path, Path] = {}
    try:
        with full_disk_named(folder):
            for name in files.values():
                _bring(staging / name, _ready(folder / name, ready))
            item = folder / f"{plan.info.name}.json"
            _write_item(item, manifest, plan, ready, started)
            manifest["files"] = files = {**files, "item": item.name}
            text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
            write_text(_ready(folder / "manifest.json", ready), text)
        (folder / "manifest.json").unlink(missing_ok=True)
        remove_replaced(folder, {"files": dict(enumerate([*_named(before), *left]))}, files)
        for path, temporary in ready.items():
            temporary.replace(path)
    finally:
        for temporary in ready.values():
            remove_temporary(temporary)


def _ready(path: Path, ready: dict[Path, Path]) -> Path:
    """Return where a file lies until all are ready."""
    ready[path] = temporary_beside(path)
    return ready[path]


def _write_item(item: Path, manifest: dict[str, Any], plan: Plan, ready: dict[Path, Path], started: datetime) -> None:
    from geounet.report.stac import write_item

    product = plan.info.product
    assets = {key: item.with_name(name) for key, name in manifest["files"].items()}
    lying = {key: ready[path] for key, path in assets.items()}
    write_item(
        _ready(item, ready),
        info=plan.info,
        card=plan.card,
        assets=assets,
        started=started,
        finished=datetime.now(UTC),
        software=versions(),
        source_files=plan.info.files if product is None else [product],
        extra={} if product is None else acquired(Path(product)),
        lying=lying,
    )


def _bring(source: Path, temporary: Path) -> None:
    """Rename, or copy where the work folder is on another file system."""
    try:
        source.replace(temporary)
    except OSError:
        shutil.copyfile(source, temporary)
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())


def remove_replaced(folder: Path, before: Mapping[str, Any] | None, files: Mapping[str, str]) -> None:
    """Remove the files of older output that newer output in the same folder lacks: they would pass for newer ones.

    Parameters
    ----------
    folder
        Where both lie.
    before
        What named the older files; its `files` may say anything, so only plain names of files are followed.
    files
        Names of the newer ones, by key.
    """
    # Some file systems take names that differ in case for one.
    kept = {name.casefold() for name in (*files.values(), "manifest.json")}
    for name in _named(before):
        if name.casefold() in kept or "\\" in name or Path(name).name != name:
            continue
        path = folder / name
        try:
            if path.is_file():
                path.unlink()
        except OSError as error:  # opened in Windows; the new output is whole all the same
            logger.warning("%s: of older output, cannot be removed: %s", path, error.strerror)


def _named(manifest: Mapping[str, Any] | None) -> list[str]:
    """Return the names of files in a manifest, which may say anything."""
    files = (manifest or {}).get("files")
    return [name for name in files.values() if isinstance(name, str)] if isinstance(files, dict) else []


def sweep(out: Path) -> None:
    """Remove temporary files that killed runs left in an output folder and in those of its scenes."""
    remove_leftovers(out)
    for scene in out.glob("*/"):
        for folder in (scene, *scene.glob("*/")):  # of several models each has one
            remove_leftovers(folder, scene.name, "manifest")
