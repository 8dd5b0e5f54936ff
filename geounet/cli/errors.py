"""What ends a command: exceptions to one line on stderr and an exit code of the contract."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import click

from geounet.errors import GeounetError

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143

# What the machine refuses is no defect of ours, wherever it surfaces.
_ENVIRONMENT = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOTDIR,
    errno.EEXIST, errno.ENAMETOOLONG,
)  # fmt: skip


class Terminated(BaseException):
    """SIGTERM or SIGHUP arrived: like `KeyboardInterrupt`, it unwinds the stack so that work is put down in order."""


def guarded(call: Callable[[], Any]) -> int:
    """Call a click command (not in standalone mode) and return the exit code.

    A whole number that the command returns is its exit code. A `GeounetError` is told in one line; an exception that
    is none of ours or click's keeps its traceback, because it is a defect of this program.
    """
    _print_anything()
    with _termination_raises():
        try:
            result = call()
            sys.stdout.flush()
        except GeounetError as error:
            say_error(str(error))
            return error.exit_code
        except click.exceptions.Abort:
            say("interrupted")
            return EXIT_INTERRUPTED
        except click.ClickException as error:
            if _writes_json():
                say_error(error.format_message())
            else:
                error.show()
            return EXIT_USAGE if isinstance(error, click.UsageError) else EXIT_FAILED
        except KeyboardInterrupt:
            say("interrupted")
            return EXIT_INTERRUPTED
        except Terminated:
            say("terminated")
            return EXIT_TERMINATED
        except OSError as error:
            if _reader_left(error):
                return EXIT_FAILED
            if error.errno not in _ENVIRONMENT:
                return _defect()
            where = f"{error.filename}: " if error.filename else ""
            say_error(f"{where}{error.strerror}")
            return EXIT_FAILED
        except Exception:
            return _defect()
    return result if isinstance(result, int) and not isinstance(result, bool) else 0


def say_error(message: str) -> None:
    """Tell an error in one line on stderr."""
    say(f"error: {' '.join(message.split())}", level="ERROR")


def say(message: str, level: str = "INFO") -> None:
    """Tell one line on stderr, whatever the verbosity."""
    if _writes_json():
        print(sys.modules["geounet.cli.logs"].json_line(level, "geounet.cli", message), file=sys.stderr)
    else:
        print(f"geounet: {message}", file=sys.stderr)


def _writes_json() -> bool:
    logs = sys.modules.get("geounet.cli.logs")
    return logs is not None and bool(logs.writes_json())


def _defect() -> int:
    import platform
    import traceback
    from importlib.metadata import PackageNotFoundError, version

    if _writes_json():
        logging = sys.modules["logging"]
        logging.getLogger("geounet.cli").error("a defect", exc_info=True)
    else:
        traceback.print_exc()
    try:
        ours = version("geounet")
    except PackageNotFoundError:
        ours = "(not installed)"
    say_error(
        f"this is a defect of geounet {ours} (Python {platform.python_version()}, {platform.system()}): "
        "please report it with the lines above and the output of `geounet doctor`"
    )
    return EXIT_FAILED


def _reader_left(error: OSError) -> bool:
    """Whether stdout is a pipe that nobody reads any more (`geounet schema | head -1`); it is silenced then.

    Other broken pipes, to a process of a cluster for example, are none of the reader's doing.
    """
    if not isinstance(error, BrokenPipeError) or not hasattr(select, "poll"):
        return False
    try:
        number = sys.stdout.fileno()
    except (OSError, ValueError):  # replaced by something that is no file
        return False
    poll = select.poll()
    poll.register(number, 0)
    if not any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
        return False
    # The interpreter flushes once more at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    return True


def _print_anything() -> None:
    """Never fail on a character that the terminal's encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def _termination_raises() -> Iterator[None]:
    def raise_terminated(number: int, frame: FrameType | None) -> None:
        raise Terminated

    before = {}
    for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
        number = getattr(signal, name, None)
        # What the parent ignores (nohup) or somebody handles stays as it is. Only the main thread may set handlers.
        with contextlib.suppress(ValueError):
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, raise_terminated)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
