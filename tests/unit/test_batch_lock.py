"""One run at a time: who is kept out, who only looks, and file systems without locks."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from geounet.batch.lock import HIDDEN, is_locked, locked, locked_output, noted
from geounet.errors import GeounetError, LockedError

fcntl = pytest.importorskip("fcntl")


def test_one_at_a_time(tmp_path: Path) -> None:
    work = tmp_path / "out" / HIDDEN
    assert not is_locked(work)
    with locked(work):
        assert is_locked(work)
        assert (work / "lock").read_text().startswith(f"process {os.getpid()} on ")
        with pytest.raises(LockedError, match=rf"out: another run \(process {os.getpid()} on .*\) is at work here"):
            locked(work).__enter__()
    assert not is_locked(work)
    assert (work / "lock").read_text() == ""
    with locked(work):
        assert is_locked(work)


def test_a_look_does_not_keep_a_run_out(tmp_path: Path) -> None:
    """`status` holds a shared lock for an instant; a run that starts then waits for it."""
    with locked(tmp_path):
        pass
    looking = os.open(tmp_path / "lock", os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH | fcntl.LOCK_NB)
    assert not is_locked(tmp_path), "nor does one look find another"
    threading.Timer(0.05, os.close, (looking,)).start()
    with locked(tmp_path):
        assert is_locked(tmp_path)


def test_looking_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with locked(tmp_path):
        (tmp_path / "lock").chmod(stat.S_IRUSR)
        tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
        try:
            opened: list[int] = []
            original = os.open

            def noted(path: Path, flags: int, *mode: int) -> int:
                opened.append(flags)
                return original(path, flags, *mode)

            monkeypatch.setattr(os, "open", noted)
            assert is_locked(tmp_path)
            assert opened == [os.O_RDONLY]
        finally:
            tmp_path.chmod(stat.S_IRWXU)
    assert not is_locked(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_two_work_folders_of_one_output_folder(tmp_path: Path) -> None:
    out, one, two = tmp_path / "out", tmp_path / "one", tmp_path / "two"
    with locked_output(out, one):
        for work in (two, out / HIDDEN):
            with pytest.raises(LockedError, match=r"out: another run"):
                locked_output(out, work).__enter__()
        with pytest.raises(LockedError, match=r"other: another run \(.*\) is at work in its work folder .*one; try"):
            locked_output(tmp_path / "other", one).__enter__()
    with locked_output(out, out / HIDDEN), pytest.raises(LockedError, match=r"out: another run .* at work here"):
        locked_output(out, one).__enter__()
    with locked_output(out, two):
        assert is_locked(two)
    assert [p.name for p in out.iterdir()] == [HIDDEN]


def test_the_hidden_folder_by_another_name(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / HIDDEN).mkdir(parents=True)
    (tmp_path / "link").symlink_to(out / HIDDEN)
    with locked_output(out, tmp_path / "link"):
        assert is_locked(out / HIDDEN)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_a_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    out, work = tmp_path / "out", tmp_path / "work"
    lockless = [out, work]
    original = fcntl.flock

    def flock(file: int, how: int) -> None:
        if any(path.exists() and os.path.samestat(os.fstat(file), path.stat()) for path in locks()):
            raise OSError(number, os.strerror(number))
        original(file, how)

    def locks() -> list[Path]:
        return [path for folder in lockless for path in folder.rglob("lock")]

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(GeounetError, match=r"work.lock: this file system has no locks .*-o flock.*outputs\.work"):
        locked_output(out, work).__enter__()
    assert not is_locked(work)
    lockless.remove(work)
    with locked_output(out, work):
        assert is_locked(work), "only the output folder is without"
    assert f"only runs with the work folder {work} are kept apart" in caplog.text


def test_what_else_a_lock_meets_is_no_defect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(file: int, how: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(GeounetError, match="cannot be locked"):
        locked(tmp_path).__enter__()
    (tmp_path / "file").write_text("")
    with pytest.raises(GeounetError, match="cannot be written"):
        locked(tmp_path / "file").__enter__()


def fails(number: int) -> int:
    raise OSError(number, os.strerror(number))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """`geounet clean` takes the lock, too, and makes space."""

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda *_: fails(number))
        with locked(tmp_path):
            assert is_locked(tmp_path)
            with pytest.raises(LockedError, match=r"another run \(unknown\)"):
                locked(tmp_path).__enter__()
    monkeypatch.setattr(os, "write", lambda *_: fails(errno.EIO))
    with pytest.raises(GeounetError, match=r"lock: cannot be written \(Input/output error\)"):
        locked(tmp_path).__enter__()
    monkeypatch.undo()
    with locked(tmp_path):
        pass


def test_work_folders_elsewhere_are_noted(tmp_path: Path) -> None:
    out, one, two = tmp_path / "out", tmp_path / "one", tmp_path / "two words"
    assert noted(out) == []
    for work in (one, out / HIDDEN, two, one):
        with locked_output(out, work):
            pass
    assert noted(out) == [one, two]
