"""What a worker says of files that it must share with the driver."""

from __future__ import annotations

import errno
import platform
from pathlib import Path

import pytest

from geounet.errors import ClusterError
from geounet.predict import probe as module
from geounet.predict.probe import answer, first_unseen


def test_a_worker_writes_what_it_reads(tmp_path: Path) -> None:
    (tmp_path / "question").write_text("word")
    host, name = answer(str(tmp_path / "question"))
    assert host == platform.node()
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"question": "word", name: "word"}


@pytest.mark.parametrize(("number", "expected"), [(errno.EACCES, ClusterError), (errno.ENOSPC, OSError)])
def test_a_full_disk_is_not_a_folder_that_is_not_shared(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int, expected: type[Exception]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, "no")

    (tmp_path / "question").write_text("word")
    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(expected, match="storage that all workers share" if expected is ClusterError else "no"):
        answer(str(tmp_path / "question"))


def test_a_folder_of_the_same_name_is_not_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "LAG_S", 0)
    monkeypatch.setattr(platform, "node", lambda: "node7")
    with pytest.raises(
        ClusterError, match=r"work: the worker on node7 does not see .*; outputs\.work must be on storage"
    ):
        answer(str(tmp_path / "work" / "question"))
    assert list(tmp_path.iterdir()) == [], "nothing is made there"


def test_files_that_come_late_are_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    there, late = tmp_path / "there", tmp_path / "late"
    there.touch()
    monkeypatch.setattr("time.sleep", lambda _: late.touch())
    assert first_unseen([str(there), str(late)]) is None
    monkeypatch.setattr(module, "LAG_S", 0)
    assert first_unseen([str(there), str(tmp_path / "never")]) == str(tmp_path / "never")
