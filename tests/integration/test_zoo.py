"""Every real raster is read or refused with one clear line; `docs/inputs.md` is what this test found.

To write the page anew: `GEOUNET_WRITE_DOCS=1 pytest tests/integration/test_zoo.py`.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from geounet.errors import SceneError
from geounet.raster.scene import SceneInfo, SceneSpec, describe, open_scene
from geounet.types import Rect

PAGE = Path(__file__).resolve().parents[2] / "docs" / "inputs.md"

RASTERS = (".tif", ".tiff", ".vrt", ".jp2")

HEAD = """# Inputs

What the program makes of real files, and of files that are none. This page is written by
`tests/integration/test_zoo.py`, which compares it with what it finds: every file is described, and its corners and
centre are read.

A scene is anything that GDAL reads as pixels from local files: GeoTIFF, COG, JPEG 2000, PNG and JPEG with a world
file, virtual rasters of local files. Complex values, and files that only ground control points or RPCs georeference,
are refused with what to do. Which pixels are valid: [decision 3](decisions/0003-validity.md).

With `bands: auto` the model's bands are looked for among the descriptions of the bands, then among their colours; what
has neither is taken in order, if it has as many bands as the model.

Scale and offset of a band are applied. Such values are none of the stored type: a model that was trained on integers
does not take them, unless the job says `data_type: ignore`.

Virtual rasters that warp or filter their sources are read in fixed squares of 512 px: GDAL computes the same pixel
otherwise in another window. A changed file anywhere below a virtual raster makes it another scene.

A scene may be a STAC item (`scenes: [items/*.json]`) or a folder of Sentinel-2 (`….SAFE`, which folders are searched
for, too); the files must be on this machine: an asset on a server counts as the file of its name beside the item. Its
imagery is every raster asset that is no thumbnail, overview or mask; of a folder each band at its finest resolution,
and `TCI`. A band answers to its own name (`B04`), its common one (`red`), and `asset:name`; an asset of one band also
to its key. With `bands: auto` the model's bands are looked for by these names. Where several fit, files that are there
go first, then those of the model's data type, then an asset whose key it is, then one that has all the bands, then that
with the fewest; if these are still different bands, the scene is refused with the choices. Where the item says what
value is no data, and the job does not, that counts; in Sentinel-2 it is 0. Values are those of the files: what an item
says of scale and offset, and Sentinel-2 of its offset of -1000 since 2022, is not applied. The results' own item
carries date and platform on. Why so: [decision 14](decisions/0014-products.md).

Columns: size, stored type and bands; ground sample distance in metres (`?` without a CRS, `pixels` without any
georeference); what validity is read from; what is worth knowing.
"""

TAIL = """
A file that is cut short or damaged inside is read as far as it goes; the block that cannot be read fails with the
file's name and the rows and columns.
"""


def windows(rows: int, cols: int, side: int = 96) -> list[Rect]:
    """Return the corners and the centre of a grid."""
    ys = sorted({0, max(0, rows - side), max(0, rows // 2 - side // 2)})
    xs = sorted({0, max(0, cols - side), max(0, cols // 2 - side // 2)})
    return [Rect(y, x, min(rows, y + side), min(cols, x + side)) for y in ys for x in xs]


def look(path: Path) -> SceneInfo:
    """Describe a file and read some of it."""
    with open_scene(SceneSpec(path.stem, (str(path),))) as scene:
        info = scene.info
        for rect in windows(*info.shape):
            values, valid = scene.read(rect)
            assert values.dtype == np.float32
            assert values.shape == (len(info.band_names), *rect.shape)
            assert np.isfinite(values).all()
            assert (values[:, ~valid] == 0).all()
            np.testing.assert_array_equal(scene.read_validity(rect), valid)
            if not info.validity:
                assert valid.all()
        # A window is the crop of a larger one.
        big = windows(*info.shape, side=160)[0]
        small = Rect(big.y0 + big.rows // 3, big.x0 + big.cols // 4, big.y1, big.x1)
        values, valid = scene.read(big)
        part, known = scene.read(small)
        np.testing.assert_array_equal(part, values[(slice(None), *small.slices_in(big))])
        np.testing.assert_array_equal(known, valid[small.slices_in(big)])
    return info


def number(value: float) -> str:
    """Return three significant digits without an exponent."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def row(name: str, path: Path) -> str:
    """Return the line of the table for one file."""
    try:
        info = look(path)
    except SceneError as error:
        message = str(error)
        assert "\n" not in message
        assert str(path) in message
        message = message.removeprefix(f"{path}: ").replace(f"{path.parent}{os.sep}", "")
        return f"| `{name}` | refused: {message} | | | |"
    gsd = number(info.gsd) if info.gsd is not None else "?" if info.georeferenced else "pixels"
    about = f"{info.width} × {info.height}, {info.dtype}, {len(info.band_names)}"
    return f"| `{name}` | {about} | {gsd} | {', '.join(info.validity) or '–'} | {'; '.join(info.warnings)} |"


def no_rasters(folder: Path) -> str:
    """Return the table of files that are no rasters."""
    (folder / "empty.tif").touch()
    (folder / "text.tif").write_text("Dear reader, this is no image.\n")
    (folder / "folder.tif").mkdir()
    (folder / "server.xml").write_text("<GDAL_WMS><Service name='TMS'/></GDAL_WMS>")
    lines = []
    for what, name in [
        ("missing", "missing.tif"),
        ("a folder", "folder.tif"),
        ("empty", "empty.tif"),
        ("a text file", "text.tif"),
        ("the description of a server", "server.xml"),
    ]:
        with pytest.raises(SceneError) as caught:
            describe(SceneSpec("x", (str(folder / name),)))
        lines.append(f"| {what} | {str(caught.value).replace(str(folder) + os.sep, '')} |")
    with pytest.raises(SceneError) as caught:
        describe(SceneSpec("x", ("https://example.org/scene.tif",)))
    lines.append(f"| a URL | {caught.value} |")
    return "\n".join(["| file | message |", "| --- | --- |", *lines])


@pytest.fixture(scope="module")
def zoo(shared_data):
    folders = [shared_data / "geotiff_zoo", shared_data / "derived"]
    paths = [p for folder in folders for p in sorted(folder.rglob("*")) if p.suffix.lower() in RASTERS]
    assert len(paths) >= 40
    return {p.relative_to(shared_data).as_posix(): p for p in paths}


def test_every_raster_is_read_or_refused_with_one_line(zoo, tmp_path, capfd):
    table = [row(name, path) for name, path in zoo.items()]
    page = "\n".join(
        [
            HEAD,
            "## Real files\n",
            "| file | size, type, bands | m | validity | remarks |",
            "| --- | --- | --- | --- | --- |",
            *table,
            "",
            "## Files that are no rasters\n",
            no_rasters(tmp_path),
            TAIL,
        ]
    )
    assert capfd.readouterr() == ("", "")
    if os.environ.get("GEOUNET_WRITE_DOCS"):
        PAGE.write_text(page, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page


def test_who_is_refused(zoo):
    refused = set()
    for path in zoo.values():
        try:
            look(path)
        except SceneError:
            refused.add(path.name)
    assert refused == {"RGB.byte.gcp.vrt", "cog_gcps.tif", "corrupt.tif", "sar_vv.tif"}


def test_bands_of_one_scene_in_four_files(shared_data):
    folder = shared_data / "geotiff_zoo" / "xarray-spatial"
    files = tuple(str(p) for p in sorted(folder.glob("*_B?.tiff")))
    with open_scene(SceneSpec("landsat", files)) as scene:
        assert len(scene.info.band_names) == 4
        assert scene.info.band_names[0].endswith("_B2")
        values, valid = scene.read(Rect(500, 600, 560, 700))
    assert valid.all()
    for i, file in enumerate(files):
        with open_scene(SceneSpec("one", (file,))) as one:
            np.testing.assert_array_equal(one.read(Rect(500, 600, 560, 700))[0][0], values[i])


def test_panchromatic_and_multispectral_on_one_grid(shared_data):
    folder = shared_data / "geotiff_zoo" / "solaris"
    with open_scene(SceneSpec("wv", (str(folder / "ms1.tif"), str(folder / "pan1.tif")))) as scene:
        info = scene.info
        values, valid = scene.read(Rect(0, 0, *info.shape))
    assert info.shape == (600, 600)
    assert len(info.band_names) == 5
    assert valid.all()
    # The panchromatic band sees what the mean of the others sees.
    assert np.corrcoef(values[:4].mean(axis=0).ravel(), values[4].ravel())[0, 1] > 0.8


def test_alpha_that_is_asked_for_is_a_band(shared_data):
    path = next((shared_data / "spacenet_samples").glob("SN4*.tif"))
    with open_scene(SceneSpec("sn4", (str(path),), bands=(1, 2, 3, 4))) as scene:
        values, valid = scene.read(Rect(0, 0, *scene.info.shape))
        assert scene.info.validity == ()
    assert valid.all()
    assert (values[3] == 255).all()


def test_rotated_scene_is_valid_where_it_is_opaque(shared_data):
    with open_scene(SceneSpec("rot", (str(shared_data / "derived" / "banepa_rot30_rgba_utm45n.tif"),))) as scene:
        info = scene.info
        valid = scene.read_validity(Rect(0, 0, *info.shape))
    assert info.gsd == pytest.approx(0.15, rel=1e-3)
    assert 0.9 < valid.mean() < 0.97
