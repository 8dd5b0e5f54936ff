"""Two scenes in flight: order, bounds, failures and the end of a run, with scenes that only wait for each other."""

from __future__ import annotations

import errno
import re
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from geounet.batch.overlap import IN_FLIGHT, SMALL_PIXELS, most_in_flight, run_all
from geounet.batch.tally import Tally
from geounet.engine.gate import Gate
from geounet.engine.pool import InlinePool
from geounet.errors import ClusterError, GeounetError, SceneError, VectorError
from geounet.types import Silent

PATIENCE = 20.0
"""Seconds after which a test that waits has failed."""


@dataclass
class World:
    """What the scenes of a test have in common."""

    log: list[str] = field(default_factory=list)
    started: dict[str, threading.Event] = field(default_factory=dict)
    drawing: dict[str, threading.Event] = field(default_factory=dict)
    flying: set[str] = field(default_factory=set)
    most: int = 0


class Named:
    def __init__(self, name: str) -> None:
        self.name, self.files = name, (f"{name}.tif",)


class Made(str):
    """Stands for what is made of a scene with more vector cells than one worker draws at a stretch."""

    __slots__ = ()
    plan = SimpleNamespace(layers=SimpleNamespace(cell=64), info=SimpleNamespace(height=640, width=640))


class Scene:
    """Stands for a SceneRun whose steps wait for the next scene's to begin."""

    def __init__(self, world: World, name: str, *, awaits: str = "", fails: str = "", error: Any = None) -> None:
        self.world, self.awaits, self.fails = world, awaits, fails
        self.pixels: int | None = None
        self.planned: Any = None
        self.error = error or SceneError(f"{name}: no")
        self.spec, self.bundle = Named(name), type("Bundle", (), {"card": Named("model")})
        world.started[name], world.drawing[name] = threading.Event(), threading.Event()

    def infer(self) -> str:
        name = self.spec.name
        self.world.flying.add(name)
        self.world.most = max(self.world.most, len(self.world.flying))
        self.world.started[name].set()
        if self.fails == "infer":
            raise self.error
        return Made(name)

    def draw(self, inferred: str, *, aside: bool = False) -> str:
        assert inferred == self.spec.name
        assert not aside
        assert threading.current_thread() is threading.main_thread(), "interrupts reach what takes long"
        self.world.drawing[inferred].set()
        if self.awaits:
            assert self.world.started[self.awaits].wait(PATIENCE), "the next scene is inferred meanwhile"
        if self.fails == "draw":
            raise self.error
        return inferred

    def publish(self, drawn: str) -> dict[str, Any]:
        if self.awaits:
            assert self.world.drawing[self.awaits].wait(PATIENCE), "the next scene is drawn meanwhile"
        self.world.log.append(drawn)
        self.world.flying.discard(drawn)
        if self.fails == "publish":
            raise self.error
        return {"name": drawn}


def names(results: Any) -> list[str]:
    return [f"{run.spec.name}: {'failed' if isinstance(end, GeounetError) else end['name']}" for run, end in results]


def test_the_next_scene_is_inferred_and_drawn_while_one_is_finished() -> None:
    world = World()
    scenes: list[Any] = [Scene(world, f"s{i}", awaits=f"s{i + 1}" if i < 5 else "") for i in range(6)]
    assert names(run_all(scenes, InlinePool(), None, Silent())) == [f"s{i}: s{i}" for i in range(6)]
    assert world.log == [f"s{i}" for i in range(6)]
    assert world.most == IN_FLIGHT == 2


class Cell(str):
    __slots__ = ()
    plan = SimpleNamespace(layers=True, info=None)


class Small(Scene):
    """A scene of one block and one vector cell, which is inferred once a crowd of them is there."""

    def __init__(self, world: World, name: str, crowd: threading.Barrier | None = None) -> None:
        super().__init__(world, name)
        self.pixels, self.crowd = SMALL_PIXELS, crowd

    def infer(self) -> str:
        super().infer()
        self.planned(1)
        if self.crowd is not None:
            self.crowd.wait(PATIENCE)
        return Cell(self.spec.name)

    def draw(self, inferred: str, *, aside: bool = False) -> str:
        assert aside
        assert threading.current_thread() is not threading.main_thread()
        return inferred


class Many(InlinePool):
    helped = 0

    def threads(self, *, light: bool = False) -> int:
        return 6 if light else 4

    def help(self) -> None:
        self.helped += 1


@pytest.fixture
def _one_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geounet.batch.overlap.cells", lambda plan: 1 if plan.info is None else 100)


@pytest.mark.usefixtures("_one_cell")
def test_small_scenes_fill_the_cluster() -> None:
    world, pool = World(), Many()
    # Two tasks for each of the four threads that the network has; fewer would wait here until the test fails.
    together = threading.Barrier(8)
    scenes: list[Any] = [Small(world, f"s{i:02d}", together) for i in range(32)]
    assert names(run_all(scenes, pool, None, Silent())) == [f"s{i:02d}: s{i:02d}" for i in range(32)]
    assert world.log == [f"s{i:02d}" for i in range(32)]
    assert 8 <= world.most <= most_in_flight(6) == 14
    assert pool.helped


@pytest.mark.usefixtures("_one_cell")
def test_small_scenes_wait_for_a_large_one() -> None:
    world = World()

    class Large(Scene):
        def infer(self) -> str:
            name = super().infer()
            self.planned(1)
            return name

    scenes: list[Any] = [Large(world, "a"), *(Small(world, name) for name in "bcdef"), Large(world, "g")]
    assert names(run_all(scenes, Many(), None, Silent())) == [f"{name}: {name}" for name in "abcdefg"]
    before = World()
    list(run_all([Large(before, name) for name in "abcdef"], Many(), None, Silent()))  # type: ignore[list-item]
    assert before.most == IN_FLIGHT


@pytest.mark.parametrize("half", ["infer", "draw", "publish"])
def test_a_scene_that_fails_stops_no_other(half: str) -> None:
    world = World()
    scenes: list[Any] = [Scene(world, name, fails=half if name == "b" else "") for name in "abc"]
    assert names(run_all(scenes, InlinePool(), None, Silent())) == ["a: a", "b: failed", "c: c"]


def in_folder(folder: Path, scene: Any) -> Any:
    scene.job, scene.work = SimpleNamespace(outputs=SimpleNamespace(folder=str(folder))), folder / "work"
    scene.work.mkdir(exist_ok=True)
    return scene


@pytest.mark.parametrize("half", ["infer", "draw", "publish"])
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/out/b"), r"b\.tif: /out/b: Permission denied"),
        (OSError(errno.EIO, "Input/output error"), r"b\.tif: Input/output error"),
        (KeyError("band"), r"b\.tif: KeyError: 'band'; this is a defect of geounet: please report it"),
    ],
)
def test_what_the_machine_refuses_one_scene_stops_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, half: str, error: Exception, told: str
) -> None:
    world = World()
    scenes = [in_folder(tmp_path, Scene(world, n, fails=half if n == "b" else "", error=error)) for n in "abc"]
    ended = list(run_all(scenes, InlinePool(), None, Silent()))
    assert names(ended) == ["a: a", "b: failed", "c: c"]
    assert re.match(told, str(ended[1][1]))
    assert ("Traceback" in caplog.text) == isinstance(error, KeyError), "of what nobody foresaw"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "/out/b"),
        VectorError("b.gpkg: cannot be written (database or disk is full)"),
    ],
)
def test_a_full_disk_stops_all(tmp_path: Path, error: Exception) -> None:
    world = World()
    scenes = [in_folder(tmp_path, Scene(world, n, fails="draw" if n == "b" else "", error=error)) for n in "abcdef"]
    with pytest.raises(ClusterError, match=r"disk full: .*; free space and run again"):
        list(run_all(scenes, InlinePool(), None, Silent()))
    assert world.log == ["a"]
    assert not world.started["e"].is_set()


@pytest.mark.parametrize("folder", ["", "work"])
def test_a_lost_output_folder_stops_all(tmp_path: Path, folder: str) -> None:
    world, lost = World(), tmp_path / folder

    class Loses(Scene):
        def draw(self, inferred: str, *, aside: bool = False) -> str:
            lost.rename(tmp_path.parent / f"{tmp_path.name}.away")
            raise OSError(errno.ESTALE, "Stale file handle")

    scenes = [in_folder(tmp_path, (Loses if n == "b" else Scene)(world, n)) for n in "abcdef"]
    with pytest.raises(ClusterError, match=f"{lost}: is no longer there; run again"):
        list(run_all(scenes, InlinePool(), None, Silent()))
    assert world.log == ["a"]


def test_the_models_of_a_scene_fail_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where they were to be read together."""

    def fails(_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("geounet.batch.overlap.infer_all", fails)
    world = World()
    scenes = [in_folder(tmp_path, Scene(world, n, fails="infer" if i == 1 else "")) for i, n in enumerate("aab")]
    assert names(run_all(scenes, InlinePool(), None, Silent())) == ["a: a", "a: failed", "b: b"]


def test_scenes_are_told_when_they_begin() -> None:
    world, begun = World(), []
    scenes: list[Any] = [Scene(world, name) for name in "abc"]
    list(run_all(scenes, InlinePool(), None, Silent(), lambda run: begun.append(run.spec.name)))
    assert begun == ["a", "b", "c"]


@pytest.mark.parametrize("half", ["infer", "draw"])
def test_a_lost_cluster_stops_all(half: str) -> None:
    class Closes(InlinePool):
        closed = False

        def close(self) -> None:
            self.closed = True

    world, pool = World(), Closes()
    scenes: list[Any] = [
        Scene(world, name, fails=half if name == "b" else "", error=ClusterError("lost")) for name in "abcdef"
    ]
    told = []
    with pytest.raises(ClusterError, match="lost"):
        told.extend(run.spec.name for run, _ in run_all(scenes, pool, None, Silent()))
    assert world.log == told == ["a"], "what was published is told"
    assert pool.closed, "nobody waits for tasks any more"
    assert not world.started["e"].is_set()


def test_an_interrupt_ends_what_waits_in_threads() -> None:
    world = World()
    gate = Gate()

    class Waits(Scene):
        def infer(self) -> str:
            super().infer()
            assert gate.closed.wait(PATIENCE), "told to stop"
            raise ClusterError("the run was given up")

    class Interrupted(Scene):
        def draw(self, inferred: str, *, aside: bool = False) -> str:
            assert self.world.started["b"].wait(PATIENCE)
            raise KeyboardInterrupt

    pool = InlinePool()
    pool.close = gate.closed.set  # type: ignore[method-assign]
    scenes: list[Any] = [Interrupted(world, "a"), Waits(world, "b"), Scene(world, "c")]
    with pytest.raises(KeyboardInterrupt):
        list(run_all(scenes, pool, None, Silent()))
    assert not world.started["c"].is_set()


def test_progress_of_several_scenes_is_one() -> None:
    told: list[tuple[str, int, int, int]] = []

    class Listens:
        def update(self, stage: str, done: int, total: int, extra: str = "", pixels: int = 0) -> None:
            told.append((stage, done, total, pixels))

    tally = Tally(Listens(), 2)
    first, second = tally.part(), tally.part()
    first.update("blocks", 1, 4, pixels=10)
    second.update("blocks", 0, 3)
    first.update("blocks", 4, 4, pixels=40)
    second.update("blocks", 3, 3, pixels=30)
    tally.scene_done()
    assert told == [
        ("scenes", 0, 2, 0), ("blocks", 1, 4, 10), ("blocks", 1, 7, 10), ("blocks", 4, 7, 40), ("blocks", 7, 7, 70),
        ("scenes", 1, 2, 0),
    ]  # fmt: skip


def test_stages_begin_anew_with_the_next_scene() -> None:
    told: list[tuple[str, int, int]] = []

    class Listens:
        def update(self, stage: str, done: int, total: int, extra: str = "", pixels: int = 0) -> None:
            told.append((stage, done, total))

    tally = Tally(Listens(), 1)
    first, second, third = tally.part(), tally.part(), tally.part()
    for part in (first, second):
        part.update("outlines", 0, 2)
        part.update("outlines", 2, 2)
    first.update("outlines", 0, 1)  # twice in one scene, beside the next one
    third.update("outlines", 0, 4)
    assert [t[1:] for t in told] == [(0, 2), (2, 2), (0, 2), (2, 2), (0, 1), (0, 5)]
