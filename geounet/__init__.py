"""Segment satellite and aerial scenes of any size with a U-Net on Dask.

The public names are loaded when they are first used, so that `import geounet` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geounet.batch.run import Rounds, RunResult, run
    from geounet.config.job import Job
    from geounet.config.train import TrainJob
    from geounet.errors import GeounetError
    from geounet.evaluation.compare import EvaluationSettings
    from geounet.evaluation.measure import Evaluation, evaluate
    from geounet.evaluation.specs import LabelKeys
    from geounet.models.api import Model, load_model
    from geounet.training.run import TrainResult, train
    from geounet.types import Progress

__version__ = "0.1.0"

_HOMES = {
    "Evaluation": "geounet.evaluation.measure",
    "EvaluationSettings": "geounet.evaluation.compare",
    "GeounetError": "geounet.errors",
    "Job": "geounet.config.job",
    "LabelKeys": "geounet.evaluation.specs",
    "Model": "geounet.models.api",
    "Progress": "geounet.types",
    "Rounds": "geounet.batch.run",
    "RunResult": "geounet.batch.run",
    "TrainJob": "geounet.config.train",
    "TrainResult": "geounet.training.run",
    "evaluate": "geounet.evaluation.measure",
    "load_model": "geounet.models.api",
    "run": "geounet.batch.run",
    "train": "geounet.training.run",
}

__all__ = [
    "Evaluation",
    "EvaluationSettings",
    "GeounetError",
    "Job",
    "LabelKeys",
    "Model",
    "Progress",
    "Rounds",
    "RunResult",
    "TrainJob",
    "TrainResult",
    "__version__",
    "evaluate",
    "load_model",
    "run",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'geounet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
