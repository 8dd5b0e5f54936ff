"""Many small scenes in one run: how long each takes beside the others, and what the run costs that does not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from benchmarks.harness import Row, launch, note, python, report
from benchmarks.material import fresh, made_up

COUNT = 24
SETTINGS = (("", ()), ("vectors off", ("vector=none",)), ("two workers", ("cluster.workers=2", "cluster.helpers=0")))


def cut(source: Path, folder: Path, size: int, count: int) -> list[Path]:
    """Cut `count` scenes of `size` px out of a larger one, row by row."""
    import rasterio
    from rasterio import Affine
    from rasterio.windows import Window

    folder.mkdir(parents=True)
    paths = [folder / f"s{index:02d}.tif" for index in range(count)]
    with rasterio.open(source) as raster:
        across = raster.width // size
        for index, path in enumerate(paths):
            row, col = (place * size for place in divmod(index, across))
            moved = raster.transform @ Affine.translation(col, row)
            profile = raster.profile | {"width": size, "height": size, "transform": moved}
            with rasterio.open(path, "w", **profile) as file:
                file.write(raster.read(window=Window(col, row, size, size)))
    return paths


def run(work: Path, out: Path | None, *, size: int = 512, repeats: int = 1, count: int = COUNT) -> dict[str, Any]:
    """Measure and report runs of one scene and of `count`, with the model `demo`; `size` is the side of each, px."""
    scenes = cut(made_up(work, size * math.ceil(math.sqrt(count))), fresh(work / "scenes"), size, count)
    rows: list[Row] = []
    for name, settings in SETTINGS:
        walls = {}
        for given in (scenes[:1], scenes):
            for turn in range(repeats):
                note(f"{len(given)} scenes {name}: {turn + 1} of {repeats}")
                arguments = [*map(str, given), "--model", "demo", "--out", str(fresh(work / "scenes_out"))]
                more = [part for setting in settings for part in ("--set", setting)]
                wall = launch(python("-m", "geounet", "-q", "run", *arguments, *more)).wall
                walls[len(given)] = min(wall, walls.get(len(given), wall))
        each = (walls[count] - walls[1]) / (count - 1)
        rows.append({"settings": name or "defaults", "one scene s": round(walls[1], 1),
                     f"{count} scenes s": round(walls[count], 1), "each further one s": round(each, 2)})  # fmt: skip
    fresh(work / "scenes_out")
    return report("scenes", {f"Scenes of {size}² px": rows}, out, settings={"count": count})
