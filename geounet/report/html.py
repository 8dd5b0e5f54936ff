"""The HTML report of a run: one file that opens anywhere, without scripts and without requests."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import yaml
from PIL import Image, UnidentifiedImageError

from geounet.atomic import write_text

_BEGINNING = b"content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\""
"""Stands in the first lines of every report, also of older versions."""

_PREVIEW_WIDTH = 1600
"""Previews are reduced to this width, px."""

_INLINE_BYTES = 24_000_000
"""Together the inlined previews stay below this; further ones are linked, so that a browser still opens the report."""

_STATES = ("done", "partly", "failed", "unchanged")
"""States of a scene; `partly`: done, with failed blocks."""

_EXITS = {
    0: ("done", "Finished: all scenes are done."),
    1: ("failed", "Failed."),
    2: ("failed", "Not run: invalid job."),
    3: ("partly", "Finished, but some scenes or blocks failed."),
    75: ("failed", "Not run: another run held the lock."),
    130: ("failed", "Interrupted; a later run continues."),
    143: ("failed", "Terminated; a later run continues."),
}

_NODATA = "nodata"
"""Entry of `area` that is no class: its pixels count in no share."""

_FILES = {
    "mask": "mask (COG)",
    "probability": "probabilities (COG)",
    "vectors": "vector layers (GeoPackage)",
    "preview": "preview",
    "style": "QGIS style",
    "aux": "class names for GDAL",
    "probability_aux": "CRS for GDAL",
    "item": "STAC item",
    "manifest": "manifest",
}
"""Names of known keys of a scene's `files`; others are shown as they are."""


def is_report(path: Path) -> bool:
    """Return whether a file is a report of a run, by what those of all versions begin with."""
    try:
        return _BEGINNING in path.read_bytes()[:1000]
    except OSError:
        return False


def write_report(dest: Path, manifest: dict[str, Any]) -> None:
    """Write the report of a run.

    Parameters
    ----------
    dest
        The report, `OUT/report.html`. Links in it are relative to its folder; previews found there are inlined.
    manifest
        The manifest of the run (`geounet-manifest/1`). Absent keys leave out their part of the report.

    Raises
    ------
    OSError
        If the report cannot be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template("report.html.j2").render(_view(manifest, dest.resolve().parent))
    write_text(dest, html)


def _view(manifest: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Return what the template shows: every key is there, every value is text or ready to be shown."""
    job = _mapping(manifest.get("job"))
    budget = _INLINE_BYTES
    scenes: list[dict[str, Any]] = []
    for scene in manifest.get("scenes") or []:
        view = _scene(_mapping(scene), out, budget)
        view["anchor"] = f"scene-{len(scenes) + 1}"
        budget -= len(view["preview"] or "")
        scenes.append(view)
    state, sentence = _EXITS.get(manifest.get("exit_code", -1), ("", ""))
    counts = {s: sum(v["state"] == s for v in scenes) for s in _STATES}
    facts = [
        ("Scenes", ", ".join(f"{n} {s}" for s, n in counts.items() if n)),
        ("Models", ", ".join(dict.fromkeys(v["model"] for v in scenes if v["model"]))),
        ("Begun", _moment(manifest.get("started"))),
        ("Finished", _moment(manifest.get("finished"))),
        ("Duration", _duration(manifest.get("seconds"))),
        ("Exit code", _text(manifest.get("exit_code"))),
        ("Input", _megapixels(sum(v["pixels"] for v in scenes if v["state"] != "failed"))),
        ("Mosaic", "; ".join(_mosaic(_mapping(entry)) for entry in manifest.get("mosaics") or [])),
    ]
    return {
        "title": _text(job.get("name")) or "geounet",
        "state": state,
        "sentence": sentence,
        "facts": [(k, v) for k, v in facts if v],
        "versions": [(k, _text(v)) for k, v in _mapping(manifest.get("versions")).items()],
        "job": yaml.safe_dump(dict(job), sort_keys=False, allow_unicode=True) if job else "",
        "scenes": scenes,
        "failures": [v for v in scenes if v["state"] == "failed" or v["failed_blocks"]],
        "warned": sum(len(v["warnings"]) for v in scenes),
        "manifest": (out / "manifest.json").is_file(),
    }


def _mosaic(mosaic: Mapping[str, Any]) -> str:
    """Return what became of all scenes as one, in a line."""
    if mosaic.get("state") == "failed":
        return f"{_text(mosaic.get('name'))} failed: {_text(mosaic.get('error'))}"
    files = ", ".join(_text(name) for name in _mapping(mosaic.get("files")).values())
    counts = ", ".join(f"{_text(count)} {layer}" for layer, count in _mapping(mosaic.get("features")).items())
    return f"{files}: {counts}; of {len(mosaic.get('scenes') or [])} scenes"


def _scene(scene: Mapping[str, Any], out: Path, budget: int) -> dict[str, Any]:
    name = _text(scene.get("name")) or "unnamed"
    folder = Path(_text(scene.get("folder")) or name)
    folder = _found(folder, out, Path(), kind=Path.is_dir)
    model = _mapping(scene.get("model"))
    info = _mapping(scene.get("input"))
    tiles = _mapping(scene.get("tiles"))
    blocks = _mapping(scene.get("blocks"))
    grid = _mapping(scene.get("grid"))
    timings = {k: v for k, v in _mapping(scene.get("timings")).items() if isinstance(v, (int, float))}
    files = {k: v for k, v in _mapping(scene.get("files")).items() if isinstance(v, str)}
    pixels = _integer(info.get("width")) * _integer(info.get("height"))
    reasons: dict[str, str] = {}
    for failure in map(_mapping, scene.get("failures") or []):
        reasons.setdefault(_text(failure.get("block")), _text(failure.get("error")))
    failed_blocks = [_text(b) for b in blocks.get("failed") or reasons]
    state = _text(scene.get("state"))
    if state == "done" and failed_blocks:
        state = "partly"
    warnings = [_text(w) for w in [*(info.get("warnings") or []), *(scene.get("warnings") or [])]]
    if scene.get("batch_halved"):
        warnings.append(
            "a batch was halved for want of memory: results may differ in the last bit from an undisturbed run"
        )
    preview, full = _preview(
        _found(Path(files.get("preview", f"{name}_preview.png")), folder, out, Path()), out, budget
    )
    return {
        "name": name,
        "state": state,
        "error": _text(scene.get("error")),
        "model": _text(model.get("name")),
        "pixels": pixels,
        "facts": [
            (k, v)
            for k, v in (
                ("Model", " ".join(filter(None, [_text(model.get("name")), _text(model.get("sha256"))[:12]]))),
                ("Input", _size(info)),
                ("Coordinates", _crs(info)),
                ("Bands", ", ".join(_text(b) for b in info.get("band_names") or [])),
                ("Valid pixels from", ", ".join(_text(v) for v in info.get("validity") or [])),
                ("Device", " · ".join(filter(None, (_text(scene.get(k)) for k in ("device", "precision"))))),
                ("Batch", _text(scene.get("batch"))),
                ("Tiling", _tiling(grid)),
                ("Model grid", _pair(grid.get("model_grid"))),
                ("Tiles", _tiles(tiles)),
                ("Blocks", _blocks(blocks)),
                ("Workers lost", _text(scene.get("worker_deaths") or None)),
            )
            if v
        ],
        "failed_blocks": [f"{b}: {reasons[b]}" if reasons.get(b) else b for b in failed_blocks],
        "warnings": list(dict.fromkeys(warnings)),
        "timings": _timings(timings, pixels),
        "areas": _areas(scene),
        "features": [(_text(k), f"{_integer(v):,}") for k, v in _mapping(scene.get("features")).items()],
        "files": [_file(key, _found(Path(value), folder, out, Path()), out) for key, value in files.items()],
        "preview": preview,
        "preview_link": full,
    }


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113 - False where one may not look


def _found(path: Path, *bases: Path, kind: Callable[[Path], bool] = _is_file) -> Path:
    """Return `path` below the first of `bases` where it is, or below the first base where it is nowhere."""
    return next((base / path for base in bases if kind(base / path)), bases[0] / path)


def _preview(path: Path, out: Path, budget: int) -> tuple[str | None, str | None]:
    """Return the preview as a data URL (none where it is missing or the budget is used up) and a link to the file."""
    if not _is_file(path):
        return None, None
    link = _href(path, out)
    try:
        with Image.open(path) as image:
            reduced = image.convert("RGB")
            reduced.thumbnail((_PREVIEW_WIDTH, 4 * _PREVIEW_WIDTH), Image.Resampling.LANCZOS)
    except (UnidentifiedImageError, OSError, ValueError):
        return None, link
    buffer = io.BytesIO()
    reduced.save(buffer, format="JPEG", quality=85, optimize=True, progressive=True)
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return (f"data:image/jpeg;base64,{encoded}" if len(encoded) <= budget else None), link


def _timings(timings: Mapping[str, float], pixels: int) -> list[dict[str, Any]]:
    """Return a row per stage: seconds, share of the longest in percent, megapixels of input per second."""
    longest = max([*timings.values(), 0.0])
    rows = []
    for stage, seconds in timings.items():
        rate = pixels / 1e6 / seconds if pixels and seconds > 0.0 else None
        rows.append(
            {
                "stage": _text(stage),
                "seconds": f"{seconds:,.1f}",
                "width": f"{100.0 * seconds / longest:.1f}" if longest > 0.0 else "0",
                "rate": "" if rate is None else f"{rate:,.2f}" if rate < 100.0 else f"{rate:,.0f}",
            }
        )
    return rows


def _areas(scene: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row per class: pixels, area and share of the valid pixels."""
    area = {_text(k): _mapping(v) for k, v in _mapping(scene.get("area")).items()}
    colours = {
        _text(c.get("name")): _text(c.get("colour")) for c in map(_mapping, scene.get("classes") or []) if c.get("name")
    }
    counted = {k: _integer(v.get("pixels")) for k, v in area.items()}
    # Classes of a multi-label mask overlap: their sum says nothing, only the count of valid pixels does.
    multilabel = _mapping(scene.get("model")).get("head") == "multilabel"
    total = _integer(scene.get("valid_pixels"))
    if not total and not multilabel:
        total = sum(n for name, n in counted.items() if name != _NODATA)
    sizes = [float(v["m2"]) for v in area.values() if isinstance(v.get("m2"), (int, float))]
    unit, scale, digits = ("km²", 1e6, 3) if max(sizes, default=0.0) >= 1e7 else ("m²", 1.0, 0)
    rows = []
    for name, entry in area.items():
        m2 = entry.get("m2")
        share = 100.0 * counted[name] / total if total and name != _NODATA else None
        colour = colours.get(name, "")
        rows.append(
            {
                "name": name,
                "pixels": f"{counted[name]:,}",
                "area": f"{m2 / scale:,.{digits}f} {unit}" if isinstance(m2, (int, float)) else "",
                "share": "" if share is None else f"{share:.2f}",
                "width": "0" if share is None else f"{min(share, 100.0):.2f}",
                # Only a colour of the card's form reaches the style sheet.
                "colour": colour if len(colour) == 7 and colour[0] == "#" and colour[1:].isalnum() else "",
            }
        )
    return rows


def _file(key: str, path: Path, out: Path) -> dict[str, str]:
    exists = _is_file(path)
    return {
        "label": _FILES.get(key, key),
        "name": path.name,
        "href": _href(path, out) if exists else "",
        "size": _bytes(path.stat().st_size) if exists else "missing",
    }


def _href(path: Path, out: Path) -> str:
    """Return a URL reference to a file, relative where it lies below `out`. Never a script: `./` or `file:`."""
    resolved = path.resolve()
    if resolved.is_relative_to(out):
        return "./" + quote(resolved.relative_to(out).as_posix())
    return resolved.as_uri()


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _integer(value: Any) -> int:
    return int(value) if isinstance(value, (int, float)) else 0


def _text(value: Any) -> str:
    """Return a value as text: nothing for none, `row 1, col 2` for mappings, comma lists for lists."""
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_text(v)}" for k, v in value.items() if v is not None)
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(v) for v in value)
    return str(value)


def _moment(value: Any) -> str:
    # 2026-01-31T12:00:00.123456+00:00 -> 2026-01-31 12:00:00 UTC
    text = _text(value)
    day, t, clock = text.partition("T")
    if not t:
        return text
    zone = " UTC" if clock.endswith(("Z", "+00:00")) else clock[8:].lstrip("0123456789.")
    return f"{day} {clock[:8]}{zone}"


def _duration(seconds: Any) -> str:
    if not isinstance(seconds, (int, float)):
        return ""
    if seconds < 60.0:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def _megapixels(pixels: int) -> str:
    return f"{pixels / 1e6:,.1f} megapixels" if pixels else ""


def _bytes(size: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:,.1f} {unit}"
    return f"{size} B"


def _size(info: Mapping[str, Any]) -> str:
    if not info.get("width"):
        return ""
    parts = [f"{_integer(info.get('width')):,} × {_integer(info.get('height')):,} px", _text(info.get("dtype"))]
    if isinstance(gsd := info.get("gsd"), (int, float)):
        parts.append(f"{gsd:.3g} m per pixel" if gsd < 1000.0 else f"{gsd:,.0f} m per pixel")
    return ", ".join(p for p in parts if p)


def _crs(info: Mapping[str, Any]) -> str:
    wkt = _text(info.get("crs_wkt"))
    if not wkt:
        return "none: lengths and areas on the ground are unknown" if info else ""
    # The name is the first quoted text of any WKT.
    return wkt.split('"')[1] if wkt.count('"') >= 2 else wkt


def _pair(value: Any) -> str:
    if isinstance(value, (list, tuple)) and len(value) == 2:
        return f"{_integer(value[1]):,} × {_integer(value[0]):,} px"
    return ""


def _tiling(grid: Mapping[str, Any]) -> str:
    parts = [("tile", "px"), ("overlap", "px"), ("block", "tiles a side")]
    return ", ".join(f"{k} {_text(grid[k])} {unit}" for k, unit in parts if grid.get(k) is not None)


def _tiles(tiles: Mapping[str, Any]) -> str:
    words = {"grid": "in the grid", "valid": "with valid pixels", "inferred": "through the network"}
    return ", ".join(f"{_integer(tiles[k]):,} {w}" for k, w in words.items() if tiles.get(k) is not None)


def _blocks(blocks: Mapping[str, Any]) -> str:
    if blocks.get("total") is None:
        return ""
    text = f"{_integer(blocks.get('done')):,} of {_integer(blocks['total']):,}"
    failed = len(blocks.get("failed") or [])
    return f"{text}, {failed:,} failed" if failed else text
