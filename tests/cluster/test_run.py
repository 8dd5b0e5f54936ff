"""The main job on a real local cluster of processes: blocks, workers, kills and restarts change nothing."""

from __future__ import annotations

import json
import os
import platform
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import rasterio

from geounet.batch.lock import HIDDEN, locked_output
from geounet.models.bundle import Bundle
from tests.support.local import write_scene
from tests.support.models import small_unet

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return small_unet(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene with structure, and a hole without data."""
    rng = np.random.default_rng(1)
    coarse = rng.integers(20, 255, (3, 18, 21)).repeat(22, axis=1).repeat(22, axis=2)
    values = np.clip(coarse + rng.normal(0, 12, coarse.shape), 1, 255).astype(np.uint8)
    values[:, 150:330, 100:250] = 0
    return write_scene(
        tmp_path_factory.mktemp("scenes") / "town.tif", values, nodata=0, tiled=True, blockxsize=256, blockysize=256
    )


KILLS = int(os.environ.get("GEOUNET_KILLS", "3"))
"""How often workers and runs are killed; each takes seconds."""

PATIENCE = 1200.0
"""Seconds after which what a test waits for counts as hanging: much, since processors may be shared."""

SETTINGS = (
    "predict.device=cpu",
    "predict.precision=fp32",
    "tiling.tile=64",
    "tiling.overlap=16",
    "outputs.probability=true",
)
"""Small tiles make many blocks of a small scene."""


def command(scene: Path | list[Path], bundle: Bundle, out: Path, *settings: str) -> list[str]:
    arguments = [
        sys.executable,
        "-m",
        "geounet",
        "-q",
        "run",
        *map(str, scene if isinstance(scene, list) else [scene]),
        "--model",
        str(bundle.folder),
        "--out",
        str(out),
    ]
    for setting in (*SETTINGS, *settings):
        arguments += ["--set", setting]
    return arguments


def run(scene: Path | list[Path], bundle: Bundle, out: Path, *settings: str, expect: int = 0) -> dict[str, Any]:
    done = subprocess.run(
        command(scene, bundle, out, *settings), capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == expect, done.stderr
    return json.loads((out / "manifest.json").read_text()) if (out / "manifest.json").exists() else {}


def pixels(out: Path, name: str = "town") -> tuple[bytes, bytes]:
    with rasterio.open(out / name / f"{name}_mask.tif") as mask, rasterio.open(out / name / f"{name}_prob.tif") as prob:
        return mask.read().tobytes(), prob.read().tobytes()


def features(out: Path, name: str = "town") -> dict[str, list[Any]]:
    import geopandas
    import pyogrio

    path = out / name / f"{name}.gpkg"
    layers = {}
    for layer in sorted(str(row[0]) for row in pyogrio.list_layers(path)):
        if layer == "layer_styles":
            continue
        frame = geopandas.read_file(path, layer=layer, fid_as_index=True)
        table = frame.drop(columns="geometry").reset_index().to_json(orient="records")
        layers[layer] = [table, [shape.wkb_hex for shape in frame.geometry]]
    return layers


@pytest.fixture(scope="module")
def reference(scene: Path, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reference") / "out"
    run(scene, bundle, out, "tiling.block=scene", "cluster.workers=1", "vector.cell=4096")
    return out


def test_files_of_the_contract(reference: Path, scene: Path) -> None:
    folder = reference / "town"
    names = {
        "town_mask.tif",
        "town_prob.tif",
        "town.gpkg",
        "town_preview.png",
        "town_mask.qml",
        "town_mask.tif.aux.xml",
    }
    assert {p.name for p in folder.iterdir()} == {*names, "town.json", "manifest.json"}
    assert {p.name for p in reference.iterdir()} == {".geounet", "town", "manifest.json", "report.html"}
    with rasterio.open(scene) as source, rasterio.open(folder / "town_mask.tif") as mask:
        assert (mask.crs, mask.transform, mask.shape) == (source.crs, source.transform, source.shape)
        hole = source.read_masks(1) == 0
        values = mask.read(1)
    assert (values[hole] == 255).all()
    assert (values[~hole] < 4).all()
    assert len(np.unique(values[~hole])) > 1, "a constant mask would prove nothing"


@pytest.mark.parametrize(("block", "workers"), [("1", 2), ("2", 1), ("5", 2)])
def test_blocks_and_workers_change_nothing(
    scene: Path, bundle: Bundle, reference: Path, tmp_path: Path, block: str, workers: int
) -> None:
    manifest = run(scene, bundle, tmp_path, f"tiling.block={block}", f"cluster.workers={workers}", "vector.cell=100")
    assert pixels(tmp_path) == pixels(reference)
    assert features(tmp_path) == features(reference)
    (entry,) = manifest["scenes"]
    with rasterio.open(scene) as source:
        valid = source.read_masks(1) > 0
    grid = entry["grid"]
    starts = [range(0, max(1, n - grid["overlap"]), grid["stride"]) for n in valid.shape]
    expected = sum(valid[y : y + grid["tile"], x : x + grid["tile"]].any() for y in starts[0] for x in starts[1])
    assert entry["tiles"]["inferred"] == expected


@pytest.fixture(scope="module")
def resampled(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Path]:
    bundle = small_unet(tmp_path_factory.mktemp("models") / "small", gsd=0.4)
    out = tmp_path_factory.mktemp("reference") / "out"
    run(scene, bundle, out, "resample=auto", "tiling.block=scene", "cluster.workers=1")
    return bundle, out


def test_blocks_and_workers_change_nothing_resampled(
    scene: Path, resampled: tuple[Bundle, Path], tmp_path: Path
) -> None:
    bundle, reference = resampled
    manifest = run(scene, bundle, tmp_path, "resample=auto", "tiling.block=2", "cluster.workers=2", "vector.cell=200")
    assert manifest["scenes"][0]["grid"]["resampled"]
    assert pixels(tmp_path) == pixels(reference)
    assert features(tmp_path) == features(reference)


MARK = "GEOUNET_TEST_RUN"
"""Variable that all processes of a started run inherit: its output folder."""


def workers_of(process: psutil.Process) -> Iterator[psutil.Process]:
    for child in process.children(recursive=True):
        try:
            if "spawn_main" in " ".join(child.cmdline()):
                yield child
        except psutil.Error:
            continue


def start(scene: Path | list[Path], bundle: Bundle, out: Path, *settings: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(scene, bundle, out, *settings),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background has its children ignore interrupts.
        process_group=0,
        env=os.environ | {MARK: str(out)},
    )


def interrupt(process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str]:
    """Signal a run and its workers, as terminals and service managers do; return exit code and what it said."""
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors.strip()


def await_receipts(out: Path, at_least: int, process: subprocess.Popen[str], name: str = "*") -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        if len(list(out.glob(f".geounet/scenes/{name}/*/receipts/infer/*.json"))) >= at_least:
            return
        time.sleep(0.02)


def test_killed_workers_change_nothing(scene: Path, bundle: Bundle, reference: Path, tmp_path: Path) -> None:
    """SIGKILL of a worker at random moments of one run."""
    process = start(scene, bundle, tmp_path, "tiling.block=2", "cluster.workers=2")
    killed = 0
    rng = random.Random(4)
    await_receipts(tmp_path, 1, process)
    while process.poll() is None and killed < KILLS:
        victims = list(workers_of(psutil.Process(process.pid)))
        if victims:
            rng.choice(victims).send_signal(signal.SIGKILL)
            killed += 1
        time.sleep(rng.uniform(1, 5))
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    assert killed >= 1
    assert pixels(tmp_path) == pixels(reference)
    assert features(tmp_path) == features(reference)
    (entry,) = json.loads((tmp_path / "manifest.json").read_text())["scenes"]
    assert entry["worker_deaths"] >= 1


def test_killed_runs_continue(scene: Path, bundle: Bundle, reference: Path, tmp_path: Path) -> None:
    """SIGKILL of the whole run at growing progress; each start continues the last."""
    settings = ("tiling.block=1", "cluster.workers=2")
    seen = 0
    for receipts in np.linspace(2, 40, KILLS).astype(int):
        process = start(scene, bundle, tmp_path, *settings)
        await_receipts(tmp_path, int(receipts), process)
        assert len(processes_of(tmp_path)) > 2, "workers bear the mark of their run"
        process.kill()
        process.communicate()
        done = len(list(tmp_path.glob(".geounet/scenes/*/*/receipts/infer/*.json")))
        assert done >= seen, "a start loses nothing that was done"
        seen = done
    assert seen >= 40
    assert not (tmp_path / "town" / "manifest.json").exists()
    wait_for_orphans(tmp_path)
    run(scene, bundle, tmp_path, *settings)
    assert pixels(tmp_path) == pixels(reference)
    assert features(tmp_path) == features(reference)


def processes_of(out: Path) -> list[psutil.Process]:
    """Return what still runs of the runs that were started for an output folder, and of no other."""
    found = psutil.process_iter(["environ"])  # None where they are somebody else's
    return [p for p in found if (p.info["environ"] or {}).get(MARK) == str(out)]


def wait_for_orphans(out: Path) -> None:
    """Workers notice within moments that their run is gone."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        orphans = processes_of(out)
        if not orphans:
            return
        time.sleep(0.5)
    raise AssertionError(f"workers outlive their killed run: {orphans}")


def test_interrupt_then_continue(scene: Path, bundle: Bundle, reference: Path, tmp_path: Path) -> None:
    process = start(scene, bundle, tmp_path, "tiling.block=1", "cluster.workers=1")
    await_receipts(tmp_path, 3, process)
    assert interrupt(process, signal.SIGINT) == (130, "geounet: interrupted")
    again = start(scene, bundle, tmp_path, "tiling.block=1", "cluster.workers=1")
    await_receipts(tmp_path, 8, again)
    code, errors = interrupt(again, signal.SIGTERM)
    assert code == 143, errors
    assert "Traceback" not in errors
    run(scene, bundle, tmp_path, "tiling.block=1", "cluster.workers=1")
    assert pixels(tmp_path) == pixels(reference)


def damaged(scene: Path, to: Path) -> Path:
    """A copy of the scene with one internal tile destroyed."""
    data = bytearray(scene.read_bytes())
    with rasterio.open(scene) as source:
        offset = int(
            source.tags(1, ns="TIFF").get("BLOCK_OFFSET_1_0") or source.get_tag_item("BLOCK_OFFSET_1_0", "TIFF", bidx=1)
        )
    data[offset : offset + 400] = b"\xff" * 400
    to.write_bytes(data)
    return to


def test_a_damaged_tile_fails_its_blocks_only(scene: Path, bundle: Bundle, reference: Path, tmp_path: Path) -> None:
    with rasterio.open(scene) as source:
        options = {"compress": "deflate", "tiled": True, "blockxsize": 256, "blockysize": 256}
        packed = write_scene(tmp_path / "packed.tif", source.read(), nodata=0, **options)
    broken = damaged(packed, tmp_path / "town.tif")
    run(broken, bundle, tmp_path / "strict", "tiling.block=2", "vector=none", expect=1)
    (entry,) = json.loads((tmp_path / "strict" / "manifest.json").read_text())["scenes"]
    assert entry["state"] == "failed"
    assert "town.tif" in entry["error"]
    assert not (tmp_path / "strict" / "town").exists(), "no output of a failed scene"
    manifest = run(broken, bundle, tmp_path / "lenient", "tiling.block=2", "max_failed_blocks=99", expect=3)
    (entry,) = manifest["scenes"]
    assert entry["blocks"]["failed"]
    whole, holed = (np.frombuffer(pixels(out)[0], np.uint8) for out in (reference, tmp_path / "lenient"))
    assert (holed == 255).sum() > (whole == 255).sum()
    assert (holed[holed != 255] == whole[holed != 255]).all(), "what is there is right"


@pytest.fixture(scope="module")
def three(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The scene, a damaged one, and another."""
    folder = tmp_path_factory.mktemp("three")
    with rasterio.open(scene) as source:
        values, options = source.read(), {"nodata": 0, "tiled": True, "blockxsize": 256, "blockysize": 256}
    packed = write_scene(folder / "packed.tif", values, compress="deflate", **options)
    other = write_scene(folder / "other.tif", np.ascontiguousarray(values[:, ::-1]), **options)
    return [scene, damaged(packed, folder / "broken.tif"), other]


@pytest.fixture(scope="module")
def other_alone(three: list[Path], bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reference") / "other"
    run(three[2], bundle, out, "tiling.block=scene", "cluster.workers=1", "vector.cell=4096")
    return out


def test_scenes_in_flight_change_nothing(
    three: list[Path], bundle: Bundle, reference: Path, other_alone: Path, tmp_path: Path
) -> None:
    """Two scenes at once, one of them failing, a worker killed meanwhile: each is as it is alone."""
    process = start(three, bundle, tmp_path, "tiling.block=2", "cluster.workers=2")
    await_receipts(tmp_path, 3, process)
    next(workers_of(psutil.Process(process.pid))).send_signal(signal.SIGKILL)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 3, errors
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert [(e["name"], e["state"]) for e in manifest["scenes"]] == [
        ("town", "done"), ("broken", "failed"), ("other", "done"),
    ]  # fmt: skip
    assert "broken.tif" in manifest["scenes"][1]["error"]
    for name, alone in (("town", reference), ("other", other_alone)):
        assert pixels(tmp_path, name) == pixels(alone, name)
        assert features(tmp_path, name) == features(alone, name)
    assert pixels(tmp_path) != pixels(tmp_path, "other")


def test_interrupt_with_two_scenes_in_flight(
    three: list[Path], bundle: Bundle, reference: Path, other_alone: Path, tmp_path: Path
) -> None:
    both, settings = [three[0], three[2]], ("tiling.block=1", "cluster.workers=2")
    process = start(both, bundle, tmp_path, *settings)
    await_receipts(tmp_path, 1, process, "other")
    assert interrupt(process, signal.SIGINT) == (130, "geounet: interrupted")
    assert list(tmp_path.glob(".geounet/scenes/other/*/receipts/infer/*.json")), "the second scene had begun"
    assert not (tmp_path / "other").exists()
    run(both, bundle, tmp_path, *settings)
    for name, alone in (("town", reference), ("other", other_alone)):
        assert pixels(tmp_path, name) == pixels(alone, name)


def test_second_run_is_locked_out_then_does_nothing(scene: Path, bundle: Bundle, tmp_path: Path) -> None:
    settings = ("vector=none", "cluster.workers=1")
    with locked_output(tmp_path, tmp_path / HIDDEN):
        refused = subprocess.run(
            command(scene, bundle, tmp_path, *settings), capture_output=True, text=True, check=False
        )
    assert refused.returncode == 75, refused.stderr
    assert f"another run (process {os.getpid()} on " in refused.stderr
    run(scene, bundle, tmp_path, *settings)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.tif")}
    third = subprocess.run(command(scene, bundle, tmp_path, *settings), capture_output=True, text=True, check=False)
    assert third.returncode == 0
    assert "already done" in third.stdout
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.tif")} == before
    other = subprocess.run(
        command(scene, bundle, tmp_path, "vector=none", "predict.tta=flips"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert other.returncode == 2
    assert "overwrite" in other.stderr
    run(scene, bundle, tmp_path, "vector=none", "predict.tta=flips", "outputs.overwrite=true")


def test_a_callers_client(scene: Path, bundle: Bundle, reference: Path, tmp_path: Path) -> None:
    from distributed import Client, LocalCluster

    import geounet
    from geounet.config.load import job_from_options

    settings = [*SETTINGS, "tiling.block=3"]
    job = job_from_options([str(scene)], str(bundle.folder), str(tmp_path), settings)
    with LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None) as cluster, Client(cluster) as client:
        result = geounet.run(job, client=client)
        assert client.status == "running"
    assert result.exit_code == 0
    assert pixels(tmp_path) == pixels(reference)


def test_a_cluster_that_starts_workers_for_tasks_alone(
    scene: Path, bundle: Bundle, reference: Path, tmp_path: Path
) -> None:
    """Adaptive: no worker is there at the start, nor while nothing is to be done."""
    from distributed import Client, LocalCluster

    import geounet
    from geounet.config.load import job_from_options

    job = job_from_options([str(scene)], str(bundle.folder), str(tmp_path), [*SETTINGS, "tiling.block=3"])
    with LocalCluster(n_workers=0, threads_per_worker=1, dashboard_address=None) as cluster:
        cluster.adapt(minimum=0, maximum=1)
        with Client(cluster) as client:
            assert client.nthreads() == {}
            result = geounet.run(job, client=client)
            deadline = time.monotonic() + PATIENCE
            while client.nthreads() and time.monotonic() < deadline:
                time.sleep(0.1)
            assert client.nthreads() == {}, "nothing of ours keeps a worker"
            assert geounet.run(job, client=client).scenes[0]["state"] == "unchanged"
    assert (result.exit_code, result.scenes[0]["worker_deaths"]) == (0, 0)
    assert pixels(tmp_path) == pixels(reference)
    assert features(tmp_path) == features(reference)


def test_an_existing_cluster_by_address(scene: Path, bundle: Bundle, reference: Path, tmp_path: Path) -> None:
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        address = cluster.scheduler_address
        run(scene, bundle, tmp_path, "cluster.kind=address", f"cluster.address={address}")
    assert pixels(tmp_path) == pixels(reference)


def apart(folder: Path) -> list[str]:
    """Return the start of a command that has a folder of its own in the place of this one; skip where none may."""
    command = [
        "unshare",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        'mount -t tmpfs none "$0" && exec "$@"',
        str(folder),
    ]
    try:
        tried = subprocess.run([*command, "true"], capture_output=True, check=False).returncode
    except FileNotFoundError:
        tried = 1
    if tried:
        pytest.skip("needs mounts of its own (unshare)")
    return command


@contextmanager
def worker(address: str, before: list[str]) -> Iterator[None]:
    command = [*before, sys.executable, "-m", "distributed.cli.dask_worker", address]
    process = subprocess.Popen([*command, "--no-nanny", "--nthreads", "1", "--no-dashboard"], stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("private", ["out", "scenes"])
def test_storage_that_a_worker_does_not_share_is_one_clear_error(
    scene: Path, bundle: Bundle, reference: Path, tmp_path: Path, private: str
) -> None:
    from distributed import LocalCluster

    out, copy = tmp_path / "out", tmp_path / "scenes" / "town.tif"
    shutil.copytree(reference / "town", out / "town")
    copy.parent.mkdir()
    shutil.copy(scene, copy)
    before = {p.name: p.read_bytes() for p in (out / "town").iterdir()}
    with LocalCluster(n_workers=0, dashboard_address=None) as cluster:
        address = cluster.scheduler_address
        settings = ("cluster.kind=address", f"cluster.address={address}", "outputs.overwrite=true")
        with worker(address, apart(tmp_path / private)):
            done = subprocess.run(
                command(copy, bundle, out, *settings), capture_output=True, text=True, timeout=PATIENCE, check=False
            )
        assert done.returncode == 1
        (line,) = done.stderr.strip().splitlines()
        where, what = (out / ".geounet", "outputs.work") if private == "out" else (copy, "scenes")
        assert line.startswith(f"geounet: error: {where}: the worker on {platform.node()} does not see")
        assert line.endswith(f"{what} must be on storage that all workers share")
        assert {p.name: p.read_bytes() for p in (out / "town").iterdir()} == before
        with worker(address, []):
            run(copy, bundle, out, *settings)
    assert pixels(out) == pixels(reference)


def test_a_worker_that_joins_later_must_share_the_storage_too(scene: Path, bundle: Bundle, tmp_path: Path) -> None:
    from distributed import LocalCluster

    out = tmp_path / "out"
    with LocalCluster(n_workers=0, dashboard_address=None) as cluster:
        address = cluster.scheduler_address
        settings = ("cluster.kind=address", f"cluster.address={address}", "tiling.block=1", "vector=none")
        out.mkdir()
        with worker(address, []):
            process = start(scene, bundle, out, *settings)
            await_receipts(out, 1, process)
            with worker(address, apart(out)):
                _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert f"record.json: the worker on {platform.node()} does not see it; outputs.work must be on storage" in errors


def test_the_driver_does_without_torch(scene: Path, bundle: Bundle, tmp_path: Path) -> None:
    """Workers alone import it: whatever they hand over must not be of its types, or unpickling costs seconds."""
    python, _, _, *arguments = command(scene, bundle, tmp_path)
    code = (
        "import sys; from geounet.cli.main import main; code = main(sys.argv[1:]); "
        "print('FOUND', *sorted({'torch', 'segmentation_models_pytorch', 'timm'} & set(sys.modules))); sys.exit(code)"
    )
    done = subprocess.run([python, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "FOUND"


def silent() -> socket.socket:
    """Return a socket that accepts connections, and never says a word: a scheduler that hangs."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    return listening


def test_a_silent_cluster_is_one_clear_error(scene: Path, bundle: Bundle, tmp_path: Path) -> None:
    with silent() as listening:
        address = f"tcp://127.0.0.1:{listening.getsockname()[1]}"
        settings = ("cluster.kind=address", f"cluster.address={address}", "cluster.wait_s=3")
        done = subprocess.run(
            command(scene, bundle, tmp_path, *settings), capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 1
    assert address in done.stderr
    assert "Traceback" not in done.stderr


def test_interrupt_while_the_cluster_is_silent(scene: Path, bundle: Bundle, tmp_path: Path) -> None:
    with silent() as listening:
        address = f"tcp://127.0.0.1:{listening.getsockname()[1]}"
        process = start(scene, bundle, tmp_path, "cluster.kind=address", f"cluster.address={address}")
        listening.settimeout(60)
        with listening.accept()[0]:
            time.sleep(1)
            began = time.monotonic()
            code, said = interrupt(process, signal.SIGINT)
    assert code == 130, said
    assert "Traceback" not in said
    assert time.monotonic() - began < 20


def test_no_cluster_is_one_clear_error(scene: Path, bundle: Bundle, tmp_path: Path) -> None:
    settings = ("cluster.kind=address", "cluster.address=tcp://127.0.0.1:9", "cluster.wait_s=2")
    done = subprocess.run(command(scene, bundle, tmp_path, *settings), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr


def test_pool_gives_up_on_a_poisonous_task_only() -> None:
    from geounet.config.job import Cluster
    from geounet.engine.cluster import connect
    from geounet.engine.pool import Pool, Task

    with connect(Cluster(workers=2), "cpu") as connection:
        pool = Pool(connection.client)
        tasks = [Task(f"t{i}", _poison if i == 3 else _square, (i,)) for i in range(12)]
        outcomes = {o.task.name: o for o in pool.run(tasks)}
    assert outcomes.pop("t3").error is not None
    assert {name: o.result for name, o in outcomes.items()} == {f"t{i}": i * i for i in range(12) if i != 3}


def _square(i: int) -> int:
    time.sleep(0.05)
    return i * i


def _poison(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_pool_waits_for_workers_then_names_the_loss() -> None:
    from geounet.config.job import Cluster
    from geounet.engine.cluster import connect
    from geounet.engine.pool import Pool, Task
    from geounet.errors import ClusterError

    with connect(Cluster(workers=1), "cpu") as connection:
        pool = Pool(connection.client, wait_s=2)
        threading.Timer(1.0, lambda: connection.client.cluster.scale(0)).start()
        with pytest.raises(ClusterError, match="no worker"):
            list(pool.run([Task("long", time.sleep, (60,))]))


def test_helpers_come_for_vectors_and_are_kept_from_the_network() -> None:
    from geounet.config.job import Cluster
    from geounet.engine.cluster import connect
    from geounet.engine.pool import Pool, PoolExecutor, Task

    with connect(Cluster(workers=1, threads=2, helpers=1), "cpu") as connection:
        pool = Pool(connection.client, helpers=connection.helpers)
        network = {o.result for o in pool.run([Task(f"n{i}", _whoami, (i,)) for i in range(6)])}
        assert (len(network), pool.threads(), pool.threads(light=True)) == (1, 1, 1)
        executor = PoolExecutor(pool)
        assert set(executor.map(_whoami, [0], "cell")) == network  # nothing waits, so nobody is called
        drawing: set[int] = set()
        deadline = time.monotonic() + 60
        while len(drawing) < 2 and time.monotonic() < deadline:
            drawing |= set(executor.map(_whoami, range(8), "cell"))
        assert drawing > network
        assert (pool.threads(), pool.share().threads(light=True)) == (1, 2)
        again = [Task(f"n{i}", _whoami, (i,)) for i in range(12)]
        assert {o.result for o in pool.run(again)} == network
        # a helper that dies is a death like any other
        (helper,) = drawing - network
        os.kill(helper, signal.SIGKILL)
        assert len(list(executor.map(_whoami, range(8), "cell"))) == 8


def _whoami(_: int) -> int:
    time.sleep(0.05)
    return os.getpid()
