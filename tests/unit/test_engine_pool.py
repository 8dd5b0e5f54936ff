"""The pool on clusters that are made up: who may pass, who dies, what is lost."""

from __future__ import annotations

import errno
import random
import threading
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from distributed import CancelledError
from distributed.client import FutureCancelledError
from distributed.comm import CommClosedError
from hypothesis import given
from hypothesis import strategies as st

from geounet.engine import pool as module
from geounet.engine.gate import ALONE, Gate
from geounet.engine.guard import Raised, guarded
from geounet.engine.pool import DEATHS, Outcome, Pool, Task
from geounet.engine.storage import check_receipt, check_work
from geounet.errors import ClusterError, GeounetError, JobError, ModelError, UnknownModelError, ValuesError


def test_a_suspect_is_alone_on_the_cluster() -> None:
    gate = Gate()
    innocent, other = Task("a", print, ()), Task("b", print, ())
    suspects = [Task(name, print, (), deaths=ALONE) for name in "cd"]
    assert gate.enter(innocent)
    assert not gate.enter(suspects[0]), "somebody is there"
    assert not gate.enter(other), "a suspect waits"
    gate.leave(innocent)
    assert gate.enter(suspects[0])
    assert not gate.enter(other)
    assert not gate.enter(suspects[1])
    gate.leave(suspects[0])
    gate.withdraw(suspects[1])
    assert gate.enter(other)


class Answer:
    """Stands for a future that is done, lost, slow or done again."""

    def __init__(self, *lives: str) -> None:
        self.lives, self.key, self.looks = list(lives), "key", 0
        self.callbacks: list[Any] = []

    @property
    def status(self) -> str:
        return "finished" if self.lives[0] != "lost" else "lost"

    def done(self) -> bool:
        return self.lives[0] != "lost"

    def add_done_callback(self, call: Any) -> None:
        if self.looks and self.lives[0] == "lost":
            self.lives.pop(0)  # the task is done again
        self.looks += 1
        call(self)

    def result(self, timeout: float) -> str:
        if self.lives[0] == "slow":
            self.lives.pop(0)
            raise TimeoutError
        return "receipt"

    def release(self) -> None:
        """Nothing to do."""


class Client:
    """Gives the same future for every task."""

    status = "running"

    def __init__(self, answer: Answer) -> None:
        self.answer, self.submitted = answer, 0

    def nthreads(self) -> dict[str, int]:
        return {"worker": 1}

    def submit(self, *_: Any, **__: Any) -> Answer:
        self.submitted += 1
        return self.answer

    def cancel(self, *_: Any, **__: Any) -> None:
        """Nothing to do."""


@pytest.mark.parametrize("lives", [("done",), ("lost", "done"), ("slow", "slow", "done"), ("lost", "slow", "done")])
def test_a_receipt_that_is_lost_or_slow_is_awaited_and_no_death(lives: tuple[str, ...]) -> None:
    client = Client(Answer(*lives))
    pool = Pool(client)
    (outcome,) = pool.run([Task("a", print, ())])
    assert outcome.result == "receipt"
    assert (pool.deaths, client.submitted) == (0, 1)


def test_a_closed_pool_waits_for_nothing() -> None:
    class Never(Answer):
        def add_done_callback(self, call: Any) -> None:
            """Nothing will come."""

    pool = Pool(Client(Never("done")))
    other = pool.share()
    threading.Timer(0.2, pool.close).start()
    with pytest.raises(ClusterError, match="given up"):
        list(other.run([Task("a", print, ())]))
    assert other.gate.enter(Task("b", print, (), deaths=ALONE)), "nothing is left at the gate"


class Future:
    """Stands for a task at a `Cluster`."""

    def __init__(self, name: str) -> None:
        self.name = self.key = name
        self.status = "pending"

    def done(self) -> bool:
        return self.status != "pending"

    def add_done_callback(self, call: Any) -> None:
        self.call = call

    def end(self, status: str) -> None:
        self.status = status
        self.call(self)

    def result(self, timeout: float) -> str:
        return self.name

    def exception(self, timeout: float) -> Exception:
        return CancelledError(self.name)

    def release(self) -> None:
        """Nothing to do."""


class Cluster:
    """A client whose tasks end when somebody waits for one, in random order; some lose their worker first."""

    status = "running"

    def __init__(self, deaths: dict[str, int], seed: int) -> None:
        self.left = dict(deaths)
        self.died: dict[str, int] = {}
        self.random = random.Random(seed)
        self.there: list[Future] = []
        self.waits = 0

    def nthreads(self) -> dict[str, int]:
        return {"worker": 2}

    def submit(self, _guarded: Any, _function: Any, args: tuple[str], **_: Any) -> Future:
        self.waits = 0
        suspects = [f.name for f in self.there if self.died.get(f.name, 0) >= ALONE]
        assert not suspects, "nothing comes to a suspect"
        assert self.died.get(args[0], 0) < ALONE or not self.there, "a suspect comes to nothing"
        self.there.append(Future(args[0]))
        return self.there[-1]

    def end_one(self) -> None:
        if not self.there:
            self.waits += 1
            assert self.waits < 3, "nothing is at the cluster, and nothing comes"
            return
        future = self.there.pop(self.random.randrange(len(self.there)))
        dies = self.left.get(future.name, 0) > 0
        if dies:
            self.left[future.name] -= 1
            self.died[future.name] = self.died.get(future.name, 0) + 1
        future.end("cancelled" if dies else "finished")

    def cancel(self, *_: Any, **__: Any) -> None:
        raise AssertionError("nothing is left at the cluster")


def run_at(cluster: Cluster, tasks: Iterable[Task], follow: Any) -> list[Outcome]:
    """Run tasks with a queue that has a task end when it is waited for: no threads, no time."""

    class Ending(module.queue.SimpleQueue[Any]):
        def get(self, block: bool = True, timeout: float | None = None) -> Any:
            if self.empty():
                cluster.end_one()
            return super().get(block=False)

    with mock.patch.object(module, "queue", SimpleNamespace(SimpleQueue=Ending, Empty=module.queue.Empty)):
        return list(Pool(cluster).run(tasks, follow))


@given(
    st.lists(st.tuples(st.integers(0, DEATHS + 1), st.sampled_from([None, "follows", "urgent"])), max_size=12),
    st.integers(0, 2**16),
)
def test_deaths_hold_up_nothing(plans: list[tuple[int, str | None]], seed: int) -> None:
    """Whatever dies how often, and whatever it unlocks: every task ends once, and suspects run alone."""
    deaths = {f"{i}{more}": count for i, (count, _) in enumerate(plans) for more in ("", "+")}
    unlocks = {str(i): follows for i, (_, follows) in enumerate(plans) if follows}

    def task(name: str, urgent: bool = False) -> Task:
        return Task(name, print, (name,), urgent=urgent)

    def follow(outcome: Outcome) -> list[Task]:
        kind = unlocks.get(outcome.task.name)
        return [task(f"{outcome.task.name}+", kind == "urgent")] if kind else []

    outcomes = run_at(Cluster(deaths, seed), [task(str(i)) for i in range(len(plans))], follow)
    assert sorted(o.task.name for o in outcomes) == sorted([*map(str, range(len(plans))), *(f"{i}+" for i in unlocks)])
    assert {o.task.name for o in outcomes if o.error} == {
        o.task.name for o in outcomes if deaths[o.task.name] >= DEATHS
    }


class Ends(Answer):
    """Stands for a future that ends with something else than a receipt."""

    def __init__(self, *ends: Any) -> None:
        super().__init__("done")
        self.ends = list(ends)

    @property
    def status(self) -> str:
        return "error" if isinstance(self.ends[0], Exception) else "finished"

    def result(self, timeout: float) -> Any:
        return self.ends.pop(0)

    def exception(self, timeout: float) -> Any:
        return self.ends.pop(0)


@pytest.mark.parametrize("error", [OSError("Timed out trying to connect"), CommClosedError("closed")])
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_scheduler_that_does_not_answer_is_lost(monkeypatch: pytest.MonkeyPatch, error: Exception, when: str) -> None:
    class Lost(Client):
        asked = 0

        def nthreads(self) -> dict[str, int]:
            self.asked += 1
            if when == "before" or self.asked > 1:
                self.status = "connecting"
                raise error
            return {"worker": 1}

    class Never(Answer):
        def add_done_callback(self, call: Any) -> None:
            """Nothing will come."""

    monkeypatch.setattr(module, "TICK", 0.01)
    with pytest.raises(ClusterError, match="connection to the Dask scheduler is lost; run again"):
        list(Pool(Lost(Never("done"))).run([Task("a", print, ())]))


def test_a_connection_that_comes_back_is_no_death() -> None:
    lost = FutureCancelledError("key", "scheduler-connection-lost")
    client = Client(Ends(*[lost] * (DEATHS + 1), "receipt"))
    pool = Pool(client)
    (outcome,) = pool.run([Task("a", print, ())])
    assert (outcome.result, pool.deaths, client.submitted) == ("receipt", 0, DEATHS + 2)


@pytest.mark.parametrize(
    "error", [AttributeError("'NoneType' object has no attribute 'ncores'"), RuntimeError("closed")]
)
def test_a_client_that_has_closed_meanwhile_is_a_lost_cluster(error: Exception) -> None:
    """As where the scheduler went while the driver was at work by itself."""

    class Gone(Client):
        status = "closed"

        def nthreads(self) -> dict[str, int]:
            raise error

        def run(self, *_: Any, **__: Any) -> dict[str, Any]:
            raise error

    pool = Pool(Gone(Answer("done")))
    for ask in (pool.threads, pool.window, lambda: list(pool.run([Task("a", print, ())])),
                lambda: pool.everywhere(print, ())):  # fmt: skip
        with pytest.raises(ClusterError, match="is lost"):
            ask()
    Gone.status = "running"  # a mistake of ours stays one
    with pytest.raises(type(error)):
        pool.everywhere(print, ())


def test_a_client_that_is_closed_takes_no_task() -> None:
    class Closed(Client):
        def submit(self, *_: Any, **__: Any) -> Answer:
            self.status = "closed"
            raise RuntimeError("Client is closed. Can't send update-graph message.")

    with pytest.raises(ClusterError, match="is lost"):
        list(Pool(Closed(Answer("done"))).run([Task("a", print, ())]))


def test_errors_of_dask_itself_are_those_of_the_cluster() -> None:
    missing = ModuleNotFoundError("No module named 'geounet'")
    with pytest.raises(ClusterError, match=r"a: Dask cannot have it done \(ModuleNotFoundError: No .*same geounet"):
        list(Pool(Client(Ends(missing))).run([Task("a", print, ())]))


def test_workers_are_asked_for_their_cores_once_for_all_pools() -> None:
    class Leaving(Client):
        asked = 0
        here: dict[str, tuple[str, int]] = {}  # noqa: RUF012 - replaced below

        def run(self, *_: Any, on_error: str) -> dict[str, tuple[str, int]]:
            assert on_error == "ignore", "one that leaves at that moment must not end the run"
            self.asked += 1
            return self.here

        def nthreads(self) -> dict[str, int]:
            return {"a": 1, "b": 3, "gone": 5}

    client = Leaving(Answer("done"))
    pool = Pool(client)
    assert pool.cores_per_thread() == 1, "all have just left"
    assert client.submitted == 1, "an adaptive cluster starts workers for tasks alone"
    client.here = {"a": ("one", 4), "b": ("two", 16)}
    assert pool.cores_per_thread() == 4
    assert [pool.share().cores_per_thread(), pool.share().cores_per_thread()] == [4, 4]
    assert client.asked == 3
    client.run = mock.Mock(side_effect=CommClosedError("closed"))  # type: ignore[method-assign]
    with pytest.raises(ClusterError, match="is lost"):
        Pool(client).cores_per_thread()


def fails(error: Exception) -> None:
    raise error


def test_a_full_disk_ends_the_run_however_it_is_told() -> None:
    wrapped = ValueError("Write failed. See previous exception for details.")
    wrapped.__cause__ = OSError(errno.EDQUOT, "Disk quota exceeded", "parts")
    for error in (OSError(errno.ENOSPC, "No space left on device"), wrapped, RuntimeError("database or disk is full")):
        raised = guarded(fails, (error,))
        assert raised.kind == "disk"
        with pytest.raises(ClusterError, match=r"disk full: .*; free space and run again to continue"):
            list(Pool(Client(Ends(raised))).run([Task("a", print, ())]))
    assert guarded(fails, (OSError(errno.EIO, "Input/output error"),)).kind == "defect"


@pytest.mark.parametrize(
    ("raised", "stops"), [(ModelError, ModelError), (UnknownModelError, ModelError), (JobError, JobError)]
)
def test_what_no_other_scene_would_fare_better_with_ends_the_run(
    raised: type[GeounetError], stops: type[GeounetError]
) -> None:
    with pytest.raises(stops, match="no class named 'lake'"):
        list(Pool(Client(Ends(guarded(fails, (raised("no class named 'lake'"),))))).run([Task("a", print, ())]))


def test_values_that_a_model_has_no_answer_to_are_the_fault_of_the_scene() -> None:
    raised = guarded(fails, (ValuesError("no finite answer"),))
    client = Client(Ends(raised, raised))
    [outcome] = Pool(client).run([Task("a", print, ())])
    assert outcome.error == "no finite answer"


def test_what_a_worker_cannot_do_is_no_fault_of_the_scene() -> None:
    raised = guarded(fails, (ClusterError("/work: the worker cannot write there"),))
    assert raised == Raised("ClusterError", "/work: the worker cannot write there")
    with pytest.raises(ClusterError, match="/work: the worker cannot write there"):
        list(Pool(Client(Ends(raised))).run([Task("probe", print, ())]))


@pytest.mark.parametrize("seen_here", [True, False])
def test_a_file_that_only_the_worker_does_not_see_ends_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, seen_here: bool
) -> None:
    monkeypatch.setattr("geounet.predict.probe.LAG_S", 0)
    monkeypatch.setattr("platform.node", lambda: "node7")
    record, scene = tmp_path / "record.json", tmp_path / "a.tif"
    record.touch()
    needs = {str(record): "outputs.work", str(scene): "scenes"}
    raised = guarded(print, (), needs)
    scene.touch()
    assert guarded(len, ("abc",), needs) == 3
    if not seen_here:
        scene.unlink()
    pool = Pool(Client(Ends(raised, raised)))
    pool.needs = needs
    assert pool.share().needs == {}, "another scene has files of its own"
    if seen_here:
        with pytest.raises(
            ClusterError, match=r"a\.tif: the worker on node7 does not see it; scenes must be on storage"
        ):
            list(pool.run([Task("a", print, ())]))
    else:
        [outcome] = pool.run([Task("a", print, ())])
        assert outcome.error == f"{scene}: is gone"


class Asked(Client):
    """Answers for its workers, each in its own work folder."""

    def __init__(self, work: Path, **folders: Path) -> None:
        super().__init__(Answer("done"))
        self.work, self.folders, self.asked = work, folders, 0

    def run(self, function: Any, *args: Any, on_error: str) -> dict[str, Any]:
        assert on_error == "ignore", "one that leaves at that moment must not end the run"
        self.asked += 1
        answers = {}
        for name, folder in self.folders.items():
            call, (question,) = args
            with mock.patch("platform.node", lambda name=name: name):
                answers[name] = function(call, (question.replace(str(self.work), str(folder)),))
        return answers


def test_all_workers_share_the_work_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("geounet.predict.probe.LAG_S", 0)
    work, link, elsewhere = tmp_path / "work", tmp_path / "link", tmp_path / "elsewhere"
    elsewhere.mkdir()
    link.symlink_to(work)
    client = Asked(work, one=work, two=link)
    pool = Pool(client)
    check_work(pool, work)
    check_work(pool.share(), work)
    assert client.asked == 1, "once a run"
    assert list(work.iterdir()) == [], "nothing is left"
    nobody = Asked(work)
    for _ in range(2):
        check_work(Pool(nobody, gate=(gate := Gate())), work)
        assert not any(gate.answers.values()), "who comes is asked then"
    with pytest.raises(ClusterError, match=r"elsewhere: the worker on two does not see what .*outputs\.work must be"):
        check_work(Pool(Asked(work, one=work, two=elsewhere)), work)
    assert list(work.iterdir()) == list(elsewhere.iterdir()) == []


def test_what_a_worker_writes_must_be_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It may see what is written here, and have its own files laid over it."""
    monkeypatch.setattr("geounet.predict.probe.LAG_S", 0)

    class Over(Asked):
        def run(self, function: Any, *args: Any, on_error: str) -> dict[str, Any]:
            (question,) = args[1]
            (self.folders["two"] / Path(question).name).write_text(Path(question).read_text())
            return super().run(function, *args, on_error=on_error)

    (tmp_path / "over").mkdir()
    with pytest.raises(
        ClusterError, match=r"work: what the worker on two writes there is not seen here; outputs\.work"
    ):
        check_work(Pool(Over(tmp_path / "work", two=tmp_path / "over")), tmp_path / "work")
    with pytest.raises(ClusterError, match=r"r\.json: a worker has written it, but it is not seen here; outputs\.work"):
        check_receipt(tmp_path / "r.json")


def test_a_full_disk_of_the_work_folder_ends_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Path, "write_text", mock.Mock(side_effect=OSError(errno.EDQUOT, "Disk quota exceeded")))
    with pytest.raises(ClusterError, match=r"disk full: .*work: Disk quota exceeded; free space and run again"):
        check_work(Pool(Asked(tmp_path / "work")), tmp_path / "work")


def test_a_worker_that_hangs_is_not_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = threading.Event()

    class Hangs(Client):
        def run(self, *_: Any, on_error: str) -> dict[str, Any]:
            ends.wait(60)
            return {}

    monkeypatch.setattr(module, "ASK_S", 0.1)
    assert Pool(Hangs(Answer("done"))).everywhere(print, ()) == {}
    ends.set()


@pytest.mark.parametrize(
    ("raised", "words"),
    [
        (CommClosedError("closed"), "is lost"),
        (Raised("disk", "/work"), "disk full: /work"),
        (Raised("ModelError", "no"), "no"),
    ],
)
def test_what_all_are_asked_ends_the_run_as_a_task_does(raised: Any, words: str) -> None:
    client = Client(Answer("done"))
    given = {"side_effect": raised} if isinstance(raised, Exception) else {"return_value": {"a": raised}}
    client.run = mock.Mock(**given)  # type: ignore[attr-defined]
    with pytest.raises((ClusterError, ModelError), match=words):
        Pool(client).everywhere(print, ())
