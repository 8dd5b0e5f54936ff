"""`geounet doctor`."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

import click

from geounet.cli.errors import EXIT_FAILED
from geounet.cli.options import json_option
from geounet.errors import first_line

State = Literal["ok", "warning", "broken"]

_DRIVERS = {
    "GTiff": "nothing can be read or written without it",
    "COG": "masks are written with it",
    "GPKG": "vectors are written with it",
    "VRT": "parts are put together with it",
}
_OPTIONAL_DRIVERS = {"JP2OpenJPEG": "JPEG 2000 scenes cannot be read", "PNG": "PNG scenes cannot be read"}
_LOW_MEMORY_GB = 4.0
_LOW_DISK_GB = 5.0


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    name: str
    state: State
    value: str
    advice: str = ""
    """What to do, unless it is well."""


@click.command()
@click.argument("work", required=False, metavar="[FOLDER]", type=click.Path(path_type=Path))
@click.option("--quick", is_flag=True, help="Do not start a Dask worker.")
@json_option
def doctor(work: Path | None, quick: bool, as_json: bool) -> int:
    """Check the environment: what is installed, and what a run would use.

    FOLDER is where results would go (default: here); its disk is looked at. Exit code 1 if something essential is
    broken; what to do about it is told.

    \b
        $ geounet doctor --json out/
    """
    checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("python", _python),
        ("packages", _packages),
        ("gdal", _gdal),
        ("torch", _torch),
        ("machine", lambda: _machine(work or Path())),
        ("models", _models),
    ]
    if not quick:
        checks.append(("cluster", _cluster))
    findings: list[Finding] = []
    for name, check in checks:
        # A broken installation raises anything; here it is the finding, not a defect.
        try:
            for finding in check():
                findings.append(finding)
                if not as_json:
                    _show(finding)
        except Exception as error:
            findings.append(Finding(name, "broken", f"{type(error).__name__}: {first_line(error)}", _ADVICE[name]))
            if not as_json:
                _show(findings[-1])
    broken = [finding for finding in findings if finding.state == "broken"]
    if as_json:
        result = {"ok": not broken, "findings": [asdict(finding) for finding in findings]}
        click.echo(json.dumps(result, indent=2, ensure_ascii=False))
    else:
        click.echo("everything essential works" if not broken else f"broken: {', '.join(f.name for f in broken)}")
    return EXIT_FAILED if broken else 0


_REINSTALL = "install again from requirements.lock, in a fresh virtual environment"
_ADVICE = {
    "python": _REINSTALL,
    "packages": _REINSTALL,
    "gdal": "rasterio or pyogrio cannot be loaded; on a bare Linux image the system library libexpat1 may be missing",
    "torch": "install torch and torchvision together, in one command: they come as a pair",
    "machine": "choose a folder that exists on this machine",
    "models": "the bundled models are damaged: " + _REINSTALL,
    "cluster": "a firewall may block connections to 127.0.0.1; `distributed` must be able to start processes",
}


def _show(finding: Finding) -> None:
    mark = {"ok": "ok     ", "warning": "warning", "broken": "BROKEN "}[finding.state]
    click.echo(f"{mark}  {finding.name:<28} {finding.value}")
    if finding.advice:
        click.echo(f"{'':<38}→ {finding.advice}")


def _python() -> Iterator[Finding]:
    found = f"{platform.python_version()} ({platform.python_implementation()}, {platform.machine()}, {sys.prefix})"
    enough = sys.version_info >= (3, 11)
    yield Finding("python", "ok" if enough else "broken", found, "" if enough else "Python 3.11 or newer is needed")


def _packages() -> Iterator[Finding]:
    """Compare what is installed with the requirements of the package's own metadata."""
    from packaging.requirements import Requirement

    try:
        ours = version("geounet")
    except PackageNotFoundError:
        yield Finding("geounet", "broken", "not installed", "pip install .")
        return
    yield Finding("geounet", "ok", ours)
    for text in requires("geounet") or ():
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            yield Finding(requirement.name, "broken", "not installed", f"pip install '{requirement}'")
            continue
        fits = requirement.specifier.contains(found, prereleases=True)
        advice = "" if fits else f"{requirement.specifier} is needed: {_REINSTALL}"
        yield Finding(requirement.name, "ok" if fits else "broken", found, advice)


def _gdal() -> Iterator[Finding]:
    import pyogrio
    import pyproj
    import rasterio

    yield Finding("GDAL (rasterio)", "ok", rasterio.__gdal_version__)
    yield Finding("GDAL (pyogrio)", "ok", pyogrio.__gdal_version_string__)
    yield Finding("PROJ (rasterio)", "ok", str(getattr(rasterio, "__proj_version__", "unknown")))
    yield Finding("PROJ (pyproj)", "ok", pyproj.proj_version_str)
    # Data files of another GDAL or PROJ in the environment break coordinates in ways that are hard to see.
    foreign = [name for name in ("GDAL_DATA", "PROJ_LIB", "PROJ_DATA", "GDAL_DRIVER_PATH") if os.environ.get(name)]
    if foreign:
        advice = f"unset {' '.join(foreign)} unless you know why: rasterio and pyogrio bring their own data files"
        yield Finding("GDAL environment", "warning", ", ".join(f"{n}={os.environ[n]}" for n in foreign), advice)
    with rasterio.Env() as environment:
        raster = set(environment.drivers())
    vector = pyogrio.list_drivers(write=True)
    for name, purpose in _DRIVERS.items():
        present = name in vector if name == "GPKG" else name in raster
        yield Finding(
            f"driver {name}",
            "ok" if present else "broken",
            "present" if present else "missing",
            "" if present else f"{purpose}: {_REINSTALL}",
        )
    for name, loss in _OPTIONAL_DRIVERS.items():
        present = name in raster
        yield Finding(
            f"driver {name}",
            "ok" if present else "warning",
            "present" if present else "missing",
            "" if present else loss,
        )


def _torch() -> Iterator[Finding]:
    import torch

    yield Finding("torch", "ok", f"{torch.__version__} (CUDA {torch.version.cuda or 'none'})")
    try:
        import torchvision
        from torchvision.ops import nms

        # A pair that does not match imports at times, and fails when an operator is called.
        nms(torch.zeros(1, 4), torch.ones(1), 0.5)
        yield Finding("torchvision", "ok", f"{torchvision.__version__}, works with this torch")
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        advice = f"torch {torch.__version__} and torchvision do not match: {_ADVICE['torch']}"
        yield Finding("torchvision", "broken", first_line(error), advice)
        return
    import segmentation_models_pytorch as smp

    yield Finding("networks (smp)", "ok", smp.__version__)
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        yield Finding(f"cuda:{index}", "ok", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")

    from geounet.models.device import resolve

    device, precision = resolve("auto", "auto")
    yield Finding("device", "ok", f"auto → {device}, precision auto → {precision}")


def _machine(folder: Path) -> Iterator[Finding]:
    import psutil

    from geounet.machine import cores, memory_limit

    yield Finding("cores", "ok", f"{cores()} of {os.cpu_count()} usable")
    limit = memory_limit()
    usable, available = limit / 1e9, min(limit, psutil.virtual_memory().available) / 1e9
    low = usable < _LOW_MEMORY_GB
    value = f"{usable:.1f} GB, {available:.1f} GB available"
    yield Finding(
        "memory", "warning" if low else "ok", value, "a run needs about 2 GB a worker; use --workers 1" if low else ""
    )
    asked = place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free / 1e9
    low = free < _LOW_DISK_GB
    advice = "`geounet plan` tells what a run needs" if low else ""
    yield Finding("disk", "warning" if low else "ok", f"{free:.1f} GB free in {place}", advice)
    problem = ""
    if not place.is_dir():
        problem = f"{place} is no folder"
    elif not os.access(place, os.W_OK):
        problem = f"{place} cannot be written"
    yield Finding(
        "output folder",
        "warning" if problem else "ok",
        problem or (str(asked) if asked == place else f"{asked}, to be made"),
        "give another folder with --out" if problem else "",
    )


def _models() -> Iterator[Finding]:
    from geounet.models.bundle import list_bundles

    for bundle in list_bundles():
        yield Finding(
            f"model {bundle.card.name}", "ok", f"{bundle.card.architecture}, {len(bundle.card.classes)} classes"
        )


def _cluster() -> Iterator[Finding]:
    import time

    from geounet.config.job import Cluster
    from geounet.engine.cluster import connect

    start = time.monotonic()
    with connect(Cluster(workers=1, threads=1, wait_s=60), "cpu") as connection:
        answer = connection.client.submit(os.getpid, pure=False).result(timeout=60)
    value = f"a worker (process {answer}) started and answered in {time.monotonic() - start:.1f} s"
    yield Finding("cluster", "ok", value)
