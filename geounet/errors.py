"""The exceptions that users see, each with the exit code it leads to.

A message says what was found, where, what was expected and what to do; the command line prints it on one line without
a traceback. Anything that is not a `GeounetError` is a defect of this program and keeps its traceback.
"""

from __future__ import annotations


class GeounetError(Exception):
    """Base of all errors that are not defects of this program."""

    exit_code = 1


class JobError(GeounetError):
    """An invalid job file, option or combination of inputs."""

    exit_code = 2


class OutputExistsError(JobError):
    """Finished output of another job, model or input stands in the way."""


class SceneError(GeounetError):
    """A scene that cannot be read, or is refused because its result could not be trusted."""


class LabelError(GeounetError):
    """Labels that cannot be read, or do not fit their scenes or the classes of the job."""


class ModelError(GeounetError):
    """A model bundle or checkpoint that cannot be used."""


class UnknownModelError(ModelError):
    """A bundled model's name that there is none of, or a path where no folder is."""


class ValuesError(ModelError):
    """Values that a model has no answer to, though it has to ordinary ones: those of a scene are its own fault."""


class PartError(GeounetError):
    """An intermediate file that is missing, truncated or of another run."""


class ClusterError(GeounetError):
    """No cluster, no workers, or workers that cannot do the job."""


class VectorError(GeounetError):
    """Vectors that cannot be made as asked."""


class LockedError(GeounetError):
    """Another run holds the lock of this output folder."""

    exit_code = 75


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's text; its class's name where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def code_of(failed: int, count: int) -> int:
    """Return the exit code of work of which a number failed, or would: 0 none, 3 some, 1 all."""
    return 0 if not failed else 1 if failed == count else 3
