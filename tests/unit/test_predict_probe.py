"""What a worker says of the work folder."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from geounet.errors import ClusterError
from geounet.predict.probe import _check_writable


def test_the_work_folder_is_left_as_it_was(tmp_path: Path) -> None:
    _check_writable(tmp_path / "work")
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize(("number", "expected"), [(errno.EACCES, ClusterError), (errno.ENOSPC, OSError)])
def test_a_full_disk_is_not_a_folder_that_is_not_shared(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int, expected: type[Exception]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(expected, match="storage that all workers share" if expected is ClusterError else "no"):
        _check_writable(tmp_path)
