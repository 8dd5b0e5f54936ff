"""Draws the pictures of docs/qgis.md: layers of the demo's GeoPackage beside the scene, as QGIS draws them.

    geounet demo /tmp/demo
    QT_QPA_PLATFORM=offscreen /usr/bin/python3 docs/pictures/draw.py /tmp/demo/*/demo_*.gpkg docs/pictures

Needs QGIS with its Python bindings, and Pillow.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from PIL import Image
from qgis.core import (
    QgsApplication,
    QgsExpressionContext,
    QgsExpressionContextUtils,
    QgsMapRendererParallelJob,
    QgsMapSettings,
    QgsProject,
    QgsRectangle,
)
from qgis.PyQt.QtCore import QSize

SIDE, GAP, DPI, COLOURS = 372, 8, 120, 48
SHOWN = {  # picture: scale (none: all), layers over the scene
    "project": (None, ("Road nodes", "Roads", "Buildings", "Land cover")),
    "buildings": (1600, ("Buildings",)),
    "roads": (2400, ("Road nodes", "Roads")),
    "landcover": (2400, ("Land cover",)),
}


def draw(project, layers, scale, path):
    """Draw layers around the project's centre."""
    extent = project.viewSettings().defaultViewExtent()
    if scale is not None:
        half = SIDE / DPI * 0.0254 * scale / 2
        centre = extent.center()
        extent = QgsRectangle(centre.x() - half, centre.y() - half, centre.x() + half, centre.y() + half)
    settings = QgsMapSettings()
    settings.setLayers(layers)
    settings.setOutputSize(QSize(SIDE, SIDE))
    settings.setOutputDpi(DPI)
    settings.setExtent(extent)
    settings.setDestinationCrs(project.crs())
    settings.setEllipsoid(project.ellipsoid())
    context = QgsExpressionContext(QgsExpressionContextUtils.globalProjectLayerScopes(None))
    context.appendScope(QgsExpressionContextUtils.mapSettingsScope(settings))
    settings.setExpressionContext(context)
    job = QgsMapRendererParallelJob(settings)
    job.start()
    job.waitForFinished()
    job.renderedImage().save(str(path))
    return Image.open(path).convert("RGB")


def side_by_side(left, right):
    """Join two pictures, each with a few colours of its own without dithering: a quarter of the bytes."""
    halves = [half.quantize(COLOURS, dither=Image.Dither.NONE) for half in (left, right)]
    both = Image.new("P", (2 * SIDE + GAP, SIDE), 2 * COLOURS)
    both.putpalette([v for half in halves for v in half.getpalette()[: 3 * COLOURS]] + [255, 255, 255])
    both.paste(halves[0], (0, 0))
    both.paste(halves[1].point(lambda index: index + COLOURS), (SIDE + GAP, 0))
    return both


def main(gpkg: Path, folder: Path) -> None:
    """Write one picture for each entry of `SHOWN`: the scene on the left, the layers on the right."""
    QgsApplication.setPrefixPath("/usr", True)
    application = QgsApplication([], False)
    application.initQgis()
    project = QgsProject.instance()
    assert project.read(f"geopackage:{gpkg}?projectName={gpkg.stem}")
    layers = {layer.name(): layer for layer in project.layerTreeRoot().layerOrder()}
    scene = layers[gpkg.stem]
    scratch = folder / ".part.png"
    for name, (scale, shown) in SHOWN.items():
        left = draw(project, [scene], scale, scratch)
        right = draw(project, [*(layers[title] for title in shown), scene], scale, scratch)
        side_by_side(left, right).save(folder / f"qgis_{name}.png", optimize=True)
    scratch.unlink()
    sys.stdout.flush()
    os._exit(0)  # QGIS does not always end well by itself


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
