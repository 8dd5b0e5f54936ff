"""The command itself: help, its cost, exit codes, signals, logs."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from geounet.cli import logs
from geounet.cli.errors import guarded
from geounet.cli.main import COMMANDS, cli, main
from geounet.errors import GeounetError, JobError, LockedError, OutputExistsError, SceneError

CODES = {0, 1, 2, 3, 75, 130, 143}


@pytest.fixture(autouse=True)
def _quiet_logging() -> Any:
    """Take away the handler that a test's `main` attaches to the root logger."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)
    logging.getLogger("geounet").setLevel(logging.NOTSET)


def python(code: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        **options,
    )


def geounet(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "geounet", *arguments],
        capture_output=True, text=True, encoding="utf-8", check=False, **options,
    )  # fmt: skip


def test_help_lists_every_command_in_one_line() -> None:
    result = geounet("--help")
    assert result.returncode == 0
    assert result.stderr == ""
    for name, text in COMMANDS.items():
        assert any(line.split(maxsplit=1) == [name, text] for line in result.stdout.splitlines()), name
    for code in CODES:
        assert f" {code}  " in result.stdout


def test_every_command_exists_and_has_help() -> None:
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        assert command.name == name
        assert command.help


HEAVY = (
    "torch",
    "torchvision",
    "rasterio",
    "geopandas",
    "pyogrio",
    "pandas",
    "pyproj",
    "shapely",
    "dask",
    "distributed",
)


@pytest.mark.parametrize(
    ("arguments", "more"),
    [
        (["--help"], ("pydantic", "yaml", "numpy", "rich", "logging")),
        (["--version"], ("pydantic", "yaml", "numpy", "rich")),
        (["schema"], ("numpy", "rich")),
        (["schema", "--help"], ("pydantic", "numpy")),
        (["check", "nothing.yaml"], ("numpy", "rich")),
        (["run", "--help"], ("numpy",)),
        (["plan", "--help"], ("numpy",)),
    ],
)
def test_quick_commands_import_nothing_heavy(arguments: list[str], more: tuple[str, ...]) -> None:
    code = (
        "import sys; from geounet.cli.main import main; main(sys.argv[1:]); "
        "print('MODULES', *sorted({m.partition('.')[0] for m in sys.modules}))"
    )
    result = python(code, *arguments)
    modules = result.stdout[result.stdout.rindex("MODULES") :].split()
    assert "click" in modules
    assert set(modules) & {*HEAVY, *more} == set()


def test_help_takes_at_most_twice_as_long_as_importing_click() -> None:
    def seconds(*arguments: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
        return time.perf_counter() - start

    ratios = []
    for _ in range(4):  # other work on the machine may disturb one round, not all
        pairs = [(seconds("-m", "geounet", "--help"), seconds("-c", "import click")) for _ in range(7)]
        ratios.append(statistics.median(h for h, _ in pairs) / statistics.median(c for _, c in pairs))
        if ratios[-1] <= 2:
            break
    assert min(ratios) <= 2, ratios


def test_version() -> None:
    from importlib.metadata import version

    assert geounet("--version").stdout == f"geounet {version('geounet')}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["scheme"], "No such command 'scheme'. Did you mean 'schema'?"),
        (["xyz"], "No such command 'xyz'. Commands: demo, run"),
        (["--colour"], "No such option"),
        (["check"], "Missing argument 'JOB.yaml'"),
        (["check", "a.yaml", "--jsn"], "No such option"),
        ([], "Usage: geounet"),
    ],
)
def test_usage_errors_are_2(arguments: list[str], words: str) -> None:
    result = geounet(*arguments)
    assert result.returncode == 2
    assert words in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


def raising(error: BaseException) -> Callable[[], None]:
    def call() -> None:
        raise error

    return call


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (GeounetError("no\nway"), 1, "geounet: error: no way\n"),
        (SceneError("a.tif: empty"), 1, "geounet: error: a.tif: empty\n"),
        (JobError("tile: found x"), 2, "geounet: error: tile: found x\n"),
        (OutputExistsError("out: in the way"), 2, "geounet: error: out: in the way\n"),
        (LockedError("out: locked"), 75, "geounet: error: out: locked\n"),
        (KeyboardInterrupt(), 130, "geounet: interrupted\n"),
        (click.exceptions.Abort(), 130, "geounet: interrupted\n"),
        (click.ClickException("no"), 1, "Error: no\n"),
        (click.UsageError("no"), 2, "Error: no\n"),
        (PermissionError(errno.EACCES, "Permission denied", "/out"), 1, "geounet: error: /out: Permission denied\n"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "/s.tif/x"), 1,
         "geounet: error: /s.tif/x: Not a directory\n"),
        (FileExistsError(errno.EEXIST, "File exists", "/s.tif"), 1, "geounet: error: /s.tif: File exists\n"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "geounet: error: No space left on device\n"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "a…b"), 1, "geounet: error: a…b: File name too long\n"),
    ],
)  # fmt: skip
def test_exceptions_become_one_line_and_a_code(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert guarded(raising(error)) == code
    assert code in CODES
    captured = capsys.readouterr()
    assert captured.err == line
    assert captured.out == ""


@pytest.mark.parametrize(
    "error", [ValueError("odd"), FileNotFoundError(errno.ENOENT, "No such file", "x"), BrokenPipeError()]
)
def test_a_defect_keeps_its_traceback(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(raising(error)) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-2].startswith(type(error).__name__)
    assert lines[-1].startswith("geounet: error: this is a defect of geounet")


@pytest.mark.parametrize(("value", "code"), [(None, 0), (0, 0), (3, 3), (True, 0), ("text", 0)])
def test_a_whole_number_is_the_exit_code(value: Any, code: int) -> None:
    assert guarded(lambda: value) == code


SLEEP = """
import sys, time
from geounet.cli.errors import guarded
def work():
    try:
        print("ready", flush=True)
        for _ in range(600):
            time.sleep(0.1)  # a signal that comes just before a sleep begins is seen when it ends
    finally:
        print("put down", flush=True)
sys.exit(guarded(work))
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot send these signals to one process")
@pytest.mark.parametrize(
    ("number", "code", "line"),
    [
        (signal.SIGTERM, 143, "geounet: terminated\n"),
        (signal.SIGINT, 130, "geounet: interrupted\n"),
        (signal.Signals["SIGHUP"] if os.name != "nt" else signal.SIGTERM, 143, "geounet: terminated\n"),
    ],
)
def test_signals_unwind_and_have_their_codes(number: signal.Signals, code: int, line: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SLEEP],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (code, "put down\n", line)


def test_signal_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    inside = []
    guarded(lambda: inside.append(signal.getsignal(signal.SIGTERM)))
    assert inside != [before]
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX pipe")
def test_a_reader_that_leaves_is_no_defect() -> None:
    code = """
import sys
from geounet.cli.errors import guarded
def work():
    for _ in range(100000):
        print("a line of some length to fill the pipe")
sys.exit(guarded(work))
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=30) == 1


def test_any_character_can_be_printed(tmp_path: Path) -> None:
    code = "import sys; from geounet.cli.errors import guarded; sys.exit(guarded(lambda: print('5 Mpx · 3 m² → ok')))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=False, env={**os.environ, "PYTHONIOENCODING": "ascii"}
    )
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.decode() == "5 Mpx \\xb7 3 m\\xb2 \\u2192 ok" + os.linesep


FOLDERS = """
import os, subprocess, sys
from geounet.cli import logs
logs.configure(-1)
logs.configure(-1)
code = "import matplotlib; print(matplotlib.get_cachedir(), matplotlib.get_configdir(), sep=chr(10))"
print(subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True).stdout)
print(os.environ.get("MPLCONFIGDIR"))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="homes of POSIX")
def test_a_user_without_a_home_is_not_warned_of_it(tmp_path: Path) -> None:
    no_home = tmp_path / "file"
    no_home.touch()
    names = ("MPLCONFIGDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    found = python(FOLDERS, env=environment | {"HOME": str(no_home), "TMPDIR": str(tmp_path)})
    assert (found.returncode, found.stderr) == (0, "")
    cache, config, set_to = found.stdout.split()
    assert cache == config == set_to
    assert Path(cache).parent == tmp_path
    assert list(tmp_path.iterdir()) == [no_home], "the folder is gone with the command"
    home = tmp_path / "home"
    home.mkdir()
    usual = python(FOLDERS, env=environment | {"HOME": str(home)})
    assert usual.stdout.split()[-1] == "None"
    assert all(Path(line).is_relative_to(home) for line in usual.stdout.split()[:2])


def test_a_broken_job_file_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("scenes: [a.tif]\nmodel: x\ntilling: {}\n")
    result = geounet("check", str(file))
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"geounet: error: {file}:3: tilling: unknown key; did you mean tiling?\n"


def test_json_logs_are_json_to_the_last_line(tmp_path: Path) -> None:
    result = geounet("--log-json", "check", str(tmp_path / "none.yaml"))
    assert result.returncode == 2
    (line,) = [json.loads(line) for line in result.stderr.splitlines()]
    assert line["level"] == "ERROR"
    assert line["message"].endswith("none.yaml: no such file; expected a job file (YAML)")


def test_mistakes_of_use_are_json_where_logs_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--log-json", "run", "--nonsense"]) == 2
    (line,) = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert line["level"] == "ERROR"
    assert line["message"].startswith("error: No such option")


def test_defects_are_json_where_logs_are(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("geounet.batch.status.read_status", broken)
    assert main(["--log-json", "status", "."]) == 1
    traced, told = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert "ZeroDivisionError: by zero" in traced["exception"]
    assert "this is a defect of geounet" in told["message"]


def levels() -> tuple[set[str], set[str]]:
    """What of our and of other loggers is shown."""
    names = ("DEBUG", "INFO", "WARNING", "ERROR")
    handler = next(h for h in logging.getLogger().handlers if type(h).__module__ == logs.__name__)

    def shown(name: str) -> set[str]:
        logger = logging.getLogger(name)
        records = (logging.LogRecord(name, logging.getLevelNamesMapping()[n], "", 0, "", (), None) for n in names)
        return {r.levelname for r in records if logger.isEnabledFor(r.levelno) and handler.filter(r)}

    return shown("geounet.engine.plan"), shown("distributed.worker")


@pytest.mark.parametrize(
    ("before", "after", "ours", "others"),
    [
        ([], [], "IWE", "WE"),
        (["-v"], [], "DIWE", "WE"),
        ([], ["-v"], "DIWE", "WE"),
        (["-v"], ["-v"], "DIWE", "IWE"),
        (["-vvvv"], [], "DIWE", "IWE"),
        (["-q"], [], "WE", "WE"),
        ([], ["-qq"], "E", "E"),
        (["-q"], ["-v"], "IWE", "WE"),
    ],
)
def test_verbosity_on_either_side(
    before: list[str], after: list[str], ours: str, others: str, capsys: pytest.CaptureFixture[str]
) -> None:
    noisy = logging.getLogger("distributed")
    level = noisy.level
    noisy.setLevel(logging.INFO)  # as distributed does when it is imported
    try:
        assert main([*before, "schema", *after]) == 0
        found = levels()
    finally:
        noisy.setLevel(level)
    assert found == tuple({n for n in ("DEBUG", "INFO", "WARNING", "ERROR") if n[0] in word} for word in (ours, others))


def test_logs_go_to_the_stderr_of_the_moment(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    logging.getLogger("geounet.x").info("told")
    logs.configure(json_lines=True)
    try:
        raise ValueError("inner")
    except ValueError:
        logging.getLogger("other").exception("failed %s", "here")
    text, line = capsys.readouterr().err.splitlines()
    assert text.endswith(" INFO geounet.x: told")
    entry = json.loads(line)
    assert (entry["level"], entry["logger"], entry["message"]) == ("ERROR", "other", "failed here")
    assert entry["exception"].endswith("ValueError: inner")
    assert len([h for h in logging.getLogger().handlers if type(h).__module__ == logs.__name__]) == 1


def test_the_process_ends_with_its_exit_code_and_all_its_output() -> None:
    code = (
        "import atexit, sys; from geounet.cli import main; "
        "main.main = lambda: (atexit.register(print, 'cleaned up'), print('done'))[1] or {code}; main.script()"
    )
    for number in (0, 3):
        ended = subprocess.run(
            [sys.executable, "-c", code.replace("{code}", str(number))], capture_output=True, text=True
        )
        assert (ended.returncode, ended.stdout, ended.stderr) == (number, "done\ncleaned up\n", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_output_that_nobody_can_take_is_no_success() -> None:
    command = [sys.executable, "-m", "geounet", "schema"]
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode != 0


@pytest.mark.skipif(os.name == "nt", reason="Windows has other words for it")
@pytest.mark.parametrize(
    "arguments",
    [
        ["demo", "{file}/x"],
        ["vectorize", "{file}", "--kind", "roads", "--class", "1", "--out", "{file}/x.gpkg"],
        ["vectorize", "{file}", "--kind", "roads", "--class", "1", "--out", "{file}/x/y.gpkg"],
        ["evaluate", "--pred", "{file}", "--truth", "{file}", "--out", "{file}/x"],
        ["model", "export", "demo", "{file}/x.pt2"],
    ],
)
def test_an_output_path_through_a_file_is_one_line(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "s.tif"
    file.write_bytes(b"")
    assert main([word.format(file=file) for word in arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"geounet: error: {file}")
    assert line.endswith(": cannot be written (Not a directory); choose another output folder")


def test_an_output_folder_that_is_a_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "s.tif"
    file.write_bytes(b"")
    assert main(["evaluate", "--pred", str(file), "--truth", str(file), "--out", str(file)]) == 2
    assert "is a file" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/null").exists(), reason="Windows has another one")
def test_a_device_is_no_output_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "/dev/null"]) == 1
    assert capsys.readouterr().err.endswith("cannot be written (Not a directory); choose another output folder\n")


@pytest.mark.parametrize("imported", ["before", "after"])
def test_the_hubs_client_is_silent(imported: str) -> None:
    code = """
import logging, sys
from geounet.cli import logs
if sys.argv[1] == "before":
    import huggingface_hub.utils
logs.configure()
import huggingface_hub.utils
logging.getLogger("huggingface_hub.utils._http").warning("retrying")
logging.getLogger("geounet.x").warning("told")
"""
    environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_VERBOSITY"}
    lines = python(code, imported, env=environment).stderr.splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == ["WARNING geounet.x: told"]


@pytest.mark.parametrize("command", ["status", "report", "clean"])
@pytest.mark.parametrize("text", ['{"scenes": ["a.tif", "b.tif"]}', '{"scenes": 3}', '["x"]', '{"name": "my web app"}'])
def test_a_manifest_of_another_program(
    command: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "manifest.json").write_text(text)
    code = main([command, str(tmp_path)])
    captured = capsys.readouterr()
    if command == "report" or "scenes" in text:
        assert code == 2
        expected = f"{tmp_path / 'manifest.json'}: is not of a run of geounet; give the output folder of one"
        assert captured.err == f"geounet: error: {expected}\n"
    assert "Traceback" not in captured.err
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


@pytest.mark.parametrize("command", ["status", "report", "clean"])
def test_a_scenes_folder_is_no_output_folder(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in (tmp_path / "results" / "banepa", tmp_path / "results" / "zanzi" / "aerial"):
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(json.dumps({"name": "banepa", "state": "done", "files": {}}))
    (tmp_path / "results" / "manifest.json").write_text(json.dumps({"scenes": []}))
    for name in ("banepa", "zanzi/aerial"):
        folder = tmp_path / "results" / name
        assert main([command, str(folder)]) == 2
        captured = capsys.readouterr()
        assert captured.err == f"geounet: error: {folder}: a scene's folder; give {tmp_path / 'results'}\n"
        assert captured.out == ""
        assert [path.name for path in folder.iterdir()] == ["manifest.json"]
