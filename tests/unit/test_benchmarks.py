"""The measurements run: each once, very small, in this process and without other programs."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import (
    alone,
    buildings,
    cells,
    harness,
    landcover,
    material,
    memory,
    network,
    overhead,
    peers,
    precision,
    quick,
    reference,
    roads,
    scenes,
    seams,
    speed,
    tiles,
    training,
    vectors,
)
from geounet.config.data import Generated


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("benchmarks")


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in this process, and without a cluster, what would be processes."""
    from geounet.batch import run as batch
    from geounet.cli.main import main
    from geounet.engine.cluster import Connection, Layout
    from geounet.engine.pool import InlinePool

    @contextlib.contextmanager
    def connect(*_: Any, **__: Any) -> Iterator[Any]:
        yield Connection(None, Layout(1, 1))

    def launch(given: Sequence[str], **_: Any) -> harness.Ended:
        module, arguments = given[2], list(given[3:])
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            if module == "geounet":
                assert main(arguments) == 0
            else:
                {m.__name__: m for m in (alone, overhead, landcover)}[module].main(arguments)
        return harness.Ended(2.0, 1.0, 100.0, said.getvalue())

    def watched(given: Sequence[str], folder: Path | None = None, **_: Any) -> harness.Watched:
        return harness.Watched(launch(given), {"driver": 50.0, "worker": 100.0}, 1000)

    monkeypatch.setattr(batch, "connect", connect)
    monkeypatch.setattr(batch, "Pool", lambda *_, **__: InlinePool())
    for module in (speed, tiles, memory, harness, buildings, landcover, scenes):
        monkeypatch.setattr(module, "launch", launch)
    for module in (memory, vectors):
        monkeypatch.setattr(module, "watched", watched)
    monkeypatch.setattr(peers, "install", lambda _: "no other programs in tests")
    monkeypatch.setattr(speed, "TILE", 64)
    monkeypatch.setattr(speed, "OVERLAP", 32)
    monkeypatch.setattr(memory, "SAME", ("vector=none", "tiling.tile=64", "tiling.overlap=32"))
    monkeypatch.setattr(memory, "CASES", (("tiny", ("vector=none", "outputs.probability=true")),))
    monkeypatch.setattr(seams, "SETTINGS", ((64, 32), None))
    monkeypatch.setattr(reference, "CROP", 64)
    for module in (material, seams, precision, reference):
        monkeypatch.setattr(module, "shared", lambda: None)
    for module in (speed, tiles, memory):
        monkeypatch.setattr(module, "random_model", lambda work, kind="tiny": material.random_model(work, "tiny"))
    monkeypatch.setattr(reference, "card", lambda *of, **how: material.card(*of, **how, **material.TINY, tile=64))


def test_a_process_is_timed_and_its_failure_told(tmp_path: Path) -> None:
    busy = "import json; x = bytearray(80 << 20); sum(range(3_000_000)); print('hello'); print(json.dumps({'a': 1}))"
    ended = harness.launch(harness.python("-c", busy), threads=1)
    assert ended.said == {"a": 1}
    assert 0 < ended.cpu < 60
    assert 80 < ended.peak_mib < 400
    assert ended.wall > 0
    with pytest.raises(RuntimeError, match="ended with 3"):
        harness.launch(harness.python("-c", "raise SystemExit(3)"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads the kernel's high-water mark")
def test_a_tree_of_processes_is_watched(tmp_path: Path) -> None:
    child = "x = bytearray(150 << 20); import time; time.sleep(0.4)"
    parent = (
        f"import subprocess, sys, pathlib; pathlib.Path(r'{tmp_path}', 'f').write_bytes(b'0' * 5000); "
        f"subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    )
    seen = harness.watched(harness.python("-c", parent), tmp_path)
    assert 150 < seen.peaks_mib["worker"] < 300
    assert 0 < seen.peaks_mib["driver"] < 100
    assert seen.folder_peak == 5000


def test_contenders_take_turns() -> None:
    order: list[str] = []

    def contender(name: str) -> Any:
        def go() -> harness.Ended:
            order.append(name)
            return harness.Ended(float(len(order)), 1.0, 10.0, "")

        return go

    results = harness.interleaved({"a": contender("a"), "b": contender("b")}, 3)
    assert order == ["a", "b"] * 3
    assert harness.summary("a", results["a"])["wall s"] == 3


def test_tables_align() -> None:
    lines = harness.table([{"what": "a", "s": 1.23456}, {"what": "long name", "more": None}]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert "1.235" in lines[2]
    assert "–" in lines[3]


def test_the_loop_blends_to_what_a_local_network_says() -> None:
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(0).normal(size=(2, 50, 71)).astype(np.float32)
    blended = peers.hann_loop(
        lambda y, x: np.ascontiguousarray(values[:, y : y + 32, x : x + 32]), lambda t: 3 * t, 2, (50, 71), 32, 8
    )
    direct = (3 * torch.from_numpy(values)).softmax(dim=0).numpy()
    np.testing.assert_allclose(blended, direct, atol=1e-5)
    assert peers.starts(71, 32, 8) == [0, 24, 39]
    assert peers.starts(32, 32, 8) == [0]


def test_differences_are_sorted_by_distance_from_tile_edges() -> None:
    truth = np.zeros((100, 100), np.uint8)
    mask = truth.copy()
    mask[50:60, 40:60] = 1  # around the edges at 48 and 52 of the columns, and one at 48 of the rows
    row = seams.compared(mask, truth, ([0, 48], [0, 48]), 52)
    near = np.zeros((100, 100), bool)
    near[32:68] = near[:, 32:68] = True
    assert row["differs %"] == 2.0
    assert row["within 16 px of tile edges %"] == round(100 * 200 / near.sum(), 3)
    assert row["elsewhere %"] == 0
    assert row["outer 8 px %"] == 0


def test_scenes_over_4096_px_repeat_a_small_one(work: Path) -> None:
    import rasterio

    source = material.made_up(work, 96)
    material._repeat(source, work / "repeated.tif", 200)
    with rasterio.open(source) as small, rasterio.open(work / "repeated.tif") as large:
        np.testing.assert_array_equal(large.read()[:, 96:192, 96:192], small.read())
        assert large.shape == (200, 200)
        assert large.crs == small.crs


@pytest.mark.usefixtures("inline")
def test_speed(work: Path) -> None:
    result = speed.run(work, work / "speed.json", size=128, repeats=1, others=False, precisions=("fp32",))
    (a,) = [rows for title, rows in result["tables"].items() if title.startswith("(a)")]
    assert [row["settings"].split(",")[-1].strip() for row in a] == [result["settings"]["precision"], "fp32"]
    assert all(row["ratio"] == 1.0 for row in a)
    assert json.loads((work / "speed.json").read_text(encoding="utf-8"))["tables"] == result["tables"]


@pytest.mark.usefixtures("inline")
def test_memory(work: Path) -> None:
    result = memory.run(work, None, sizes=(64, 96))
    growing, cases = result["tables"].values()
    assert [row["scene px"] for row in growing] == [64, 96]
    assert [row["growth %"] for row in growing] == [0, 0]
    assert [row["settings"] for row in cases] == ["outputs.probability=true"]
    assert all(row["planned MiB"] > 100 for row in [*growing, *cases])


@pytest.mark.usefixtures("inline")
def test_reference_seams_and_precision(work: Path) -> None:
    (scores,) = reference.run(work, None, steps=1, batch=1, threads=1)["tables"].values()
    assert 0 <= scores[0]["building IoU"] <= 1
    square, odd = seams.run(work, None, size=96, threads=1, others=False)["tables"].values()
    assert [row["tile/overlap"] for row in square] == ["64/32", "96/32"]
    # One tile that holds the scene is the whole scene: what differs is how near-ties are quantised.
    assert square[1]["differs %"] < 0.1
    assert {row["what"] for row in odd} == {"geounet", "geounet, auto"}
    (rows,) = precision.run(work, None, size=96, threads=1)["tables"].values()
    assert rows[0]["model"] == "reference"
    assert 0 <= rows[0]["pixels that change class %"] < 50


@pytest.mark.usefixtures("inline")
def test_tiles(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "BATCHES", ((64, 2),))
    result = tiles.run(work, None, size=96, repeats=1, sides=(64,), seconds=0)
    throughput, runs = result["tables"].values()
    assert [(row["tile"], row["batch"]) for row in throughput] == [(64, 1), (64, 2)]
    assert len(runs) >= 1


@pytest.mark.usefixtures("inline")
def test_overhead(work: Path) -> None:
    said = overhead.traced(
        str(material.made_up(work, 96)),
        str(material.random_model(work, "tiny")),
        str(work / "traced"),
        ["cluster.threads=1"],
    )
    steps = dict(said["steps"])
    assert {"probe", "blocks", "stitch", "preview", "published"} <= set(steps)
    assert said["all"] == pytest.approx(sum(steps.values()), abs=0.1)
    assert said["blocks"]["total"] > 0
    assert set(overhead.imported(["json", "numpy"])) == {"json", "numpy"}


@pytest.mark.usefixtures("inline")
def test_scenes(work: Path, tmp_path: Path) -> None:
    given = work / "scenes"
    result = scenes.run(work, tmp_path / "scenes.json", size=64, count=3)
    (rows,) = result["tables"].values()
    assert [row["settings"] for row in rows] == ["defaults", "vectors off", "two workers"]
    assert [row["each further one s"] for row in rows] == [0, 0, 0], "each takes two seconds here"
    import rasterio

    with rasterio.open(work / "scene_128.tif") as whole, rasterio.open(given / "s02.tif") as part:
        np.testing.assert_array_equal(part.read(), whole.read()[:, 64:, :64])
        assert part.bounds.left == whole.bounds.left
        assert part.bounds.top == pytest.approx((whole.bounds.top + whole.bounds.bottom) / 2)


def small_training(folder: Path) -> Path:
    job = folder / "small.yaml"
    job.write_text(
        "classes: [land, building]\n"
        "data: [{generated: {seeds: [0, 1], size: 128, values: {land: land, building: building}}}]\n"
        "sampling: {size: 64, batch: 2, statistics: 4}\n"
        "model: {encoder: tu-mobilenetv3_small_050, arguments: {encoder_depth: 3, decoder_channels: [16, 8, 8]}}\n"
    )
    return job


def test_training_is_measured_from_scenes_and_from_memory(tmp_path: Path) -> None:
    job = small_training(tmp_path)
    row = training.measured(job, steps=2, repeats=1, threads=1)
    assert row["job"] == "small"
    assert row["from memory, windows/s"] > 0
    assert row["from scenes, windows/s"] > 0
    assert 0 < row["preparing % of both"] < 100
    assert 0 <= row["waiting for data %"] <= 100


def test_networks_are_timed_in_the_steps_that_make_them_ready(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "TILE", 64)
    monkeypatch.setattr(network, "random_model", lambda work: material.random_model(work, "tiny"))
    tables = network.run(work, None, repeats=1, steps=1, job=small_training(tmp_path))["tables"]
    for rows in tables.values():
        assert any("fp32" in str(row) for row in rows)
        assert all(value > 0 for row in rows for name, value in row.items() if name.endswith(", s"))


def test_colours_alone_are_learnt_and_measured_on_other_scenes() -> None:
    learnt, unseen = (Generated(seeds=seeds, size=256, gsd=0.3) for seeds in ([0, 1], [10000, 10000]))
    assert quick.by_colour(learnt, learnt) > quick.by_colour(learnt, unseen) > 0.1
    # what is one colour everywhere, and has it for itself, is known by it
    truth = np.repeat(np.arange(5, dtype=np.uint8), 10)
    assert quick._miou(truth, truth) == 1
    assert quick._miou(np.zeros(50, np.int64), truth) == pytest.approx(0.2 / 5)


@pytest.mark.usefixtures("inline")
def test_buildings_are_nearest_to_the_true_ones(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buildings, "NOISE", ("medium",))
    monkeypatch.setattr(buildings, "TOLERANCES_PX", (1.5,))
    outlines, runs = buildings.run(work, None, size=768)["tables"].values()
    rows = {row["outlines"]: row for row in outlines}
    ours = rows.pop("geounet, 1.5 px")
    assert ours["overlapping pairs"] == ours["invalid"] == 0
    assert len(rows) == 5
    for row in rows.values():
        assert ours["C-IoU"] > row["C-IoU"]
        assert ours["IoU"] > row["IoU"]
        assert ours["PoLiS m"] < row["PoLiS m"]
        assert abs(ours["vertex ratio"] - 1) < abs(row["vertex ratio"] - 1)
    assert [row["workers"] for row in runs] == [1, 2, 2]
    assert len({row["buildings"] for row in runs}) == 1


@pytest.mark.usefixtures("inline")
def test_land_cover_neither_overlaps_nor_gapes(work: Path) -> None:
    runs, ways, _, others = landcover.run(work, None, size=320)["tables"].values()
    assert [row["workers"] for row in runs] == [1, 2, 2]
    assert all(row["valid coverage"] for row in runs)
    assert runs[2]["features"] > runs[0]["features"], "without a least area there are more"
    rows = {row["borders"]: row for row in ways}
    ours = next(row for name, row in rows.items() if name.startswith("geounet"))
    simplified = next(row for name, row in rows.items() if name.startswith("Douglas-Peucker"))
    assert ours["covered twice m²"] == 0 < simplified["covered twice m²"]
    assert not simplified["valid coverage"]
    assert others[0]["features"] > 100


@pytest.mark.usefixtures("inline")
def test_roads_are_the_true_network(work: Path) -> None:
    networks, runs = roads.run(work, None, size=640)["tables"].values()
    standard = next(row for row in networks if row["preset"] == "standard")
    assert standard["APLS"] > 0.9
    assert [row["workers"] for row in runs] == [1, 2]
    assert len({row["edges"] for row in runs}) == 1


@pytest.mark.usefixtures("inline")
def test_vectors_are_the_same_for_all_cells(work: Path) -> None:
    result = cells.run(work, None, size=640)
    (rows,) = result["tables"].values()
    assert {row["layer"] for row in rows} == {"buildings", "road_edges and road_nodes", "landcover"}
    assert {row["cell px"] for row in rows} == {"whole", 256, 1000}
    assert all(row["features"] > 10 and row["equal"] for row in rows)
    assert result["settings"]["all equal"]


def test_every_name_has_a_measurement() -> None:
    assert {p.stem for p in Path(command.__file__).parent.glob("*.py")} >= set(command.NAMES)
    with pytest.raises(SystemExit) as ended:
        command.main(["nonsense"])
    assert ended.value.code == 2
