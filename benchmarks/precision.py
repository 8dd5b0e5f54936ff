"""Precision: how many pixels change class when the network computes in bf16 instead of fp32, on real imagery."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import reference
from benchmarks.harness import Row, note, report
from benchmarks.material import crop, made_up, shared
from benchmarks.seams import Network


def models(work: Path) -> dict[str, str]:
    """Return the bundles to measure by name: the reference, and bundled ones that take RGB."""
    from geounet.models.bundle import list_bundles

    found = {"reference": str(reference.model(work))}
    found |= {b.card.name: str(b.folder) for b in list_bundles() if len(b.card.input.bands) == 3}
    return found


def scenes(work: Path, size: int) -> list[Path]:
    """Return crops of real imagery where there is some, else a generated scene."""
    folder = shared()
    if folder is None:
        return [made_up(work, size)]
    sources = [
        (folder / "banepa_oam" / "banepa_labelled_z19_512.tif", 0, 0),
        (folder / "zanzibar_oam" / "zanzibar_a_z21.tif", 2048, 1024),
        (folder / "zanzibar_oam" / "zanzibar_b_z21.tif", 2048, 0),
    ]
    found = [crop(path, work / f"{path.stem}_{x}_{y}_{size}.tif", x, y, size, size) for path, x, y in sources
             if path.exists()]  # fmt: skip
    return found or [made_up(work, size)]


def run(work: Path, out: Path | None, *, size: int = 2048, threads: int = 2) -> dict[str, Any]:
    """Measure and report; `size` is the side of the crops, px."""
    rows: list[Row] = []
    for name, bundle in models(work).items():
        narrow, full = Network(Path(bundle), threads, "bf16"), Network(Path(bundle), threads)
        for scene in scenes(work, size):
            note(f"{name}: {scene.stem}")
            first, manifest = full.tiled(scene, work / "precision", None)
            second, _ = narrow.tiled(scene, work / "precision", None)
            wrong = first != second
            shares = [(first == c.code).mean() for c in full.card.mask_classes()]
            rows.append(
                {
                    "model": name,
                    "scene": scene.stem,
                    "tile/overlap": f"{manifest['grid']['tile']}/{manifest['grid']['overlap']}",
                    "pixels that change class %": round(100 * float(wrong.mean()), 4),
                    "largest class %": round(100 * float(np.max(shares)), 1),
                    "classes present": int(np.count_nonzero(np.array(shares) > 0.001)),
                }
            )
    return report("precision", {"bf16 against fp32": rows}, out)
