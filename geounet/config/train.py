"""The file of `geounet train`: what is learnt, from what, and how. Scenes and labels: `geounet.config.data`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, Strict, ValidationError, field_validator, model_validator

from geounet.config.card import PALETTE, ClassInfo, Kind, kind_of
from geounet.config.data import Augment, Data, Finite, NonNegative, Not, Sampling, Share, Split
from geounet.config.document import read
from geounet.config.job import Auto, PathText, Positive, Section, Whole
from geounet.config.load import InvalidJobError, job_text, nearest_origin, resolved
from geounet.config.override import merge, nested, parse_override
from geounet.config.problems import problems
from geounet.errors import JobError

MOST_CLASSES = 100
"""Of a job: codes above stand for partial labels (`geounet.labels.values`)."""


class Class(Section):
    """A class to learn."""

    name: Annotated[str, Field(min_length=1, description="unique name")]
    colour: Annotated[str | None, Field(pattern=r"^#[0-9a-fA-F]{6}$", description="#rrggbb")] = None
    kind: Annotated[Kind | None, Field(description="what it is on the ground; left out: from its name")] = None
    description: Annotated[str, Field(description="for the card")] = ""


def _class(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class Model(Section):
    """The network."""

    architecture: Annotated[str, Field(description="name in the table of networks: Unet, FPN, …", min_length=1)] = (
        "Unet"
    )
    encoder: Annotated[str, Field(description="smp or timm (tu-…) encoder, for networks that have one")] = "resnet18"
    arguments: dict[str, Any] = Field(default_factory=dict, description="further arguments of the network")
    activation: Annotated[
        Literal["softmax", "sigmoid"],
        Field(description="softmax: one class a pixel; sigmoid: one class against background, or classes that overlap"),
    ] = "softmax"
    encoder_weights: Annotated[
        PathText | None,
        Field(description="pretrained encoder: a file (path with a slash), or a name that is downloaded", min_length=1),
    ] = None
    start: Annotated[
        PathText | None,
        Field(
            description="weights to start from: a bundled model's name, or the path (with a slash) of a bundle or file"
        ),
    ] = None
    dropout: Annotated[
        Share | None,
        Field(description="rate of the network's dropout layers, 0: none; left out: the network's own"),
    ] = None
    fill: Annotated[Finite, Field(description="normalised value of invalid pixels; 0 is the mean")] = 0.0


class Term(Section):
    """One summand of the loss."""

    name: Annotated[
        Literal["cross-entropy", "binary-cross-entropy", "dice", "jaccard", "tversky", "focal", "lovasz"],
        Field(description="which loss"),
    ]
    weight: Annotated[Finite, Field(gt=0, description="factor of this summand")] = 1.0
    smoothing: Annotated[
        Annotated[Finite, Field(ge=0, lt=1)] | None, Field(description="label smoothing, of the cross-entropies")
    ] = None
    gamma: Annotated[NonNegative | None, Field(description="exponent of focal")] = None
    alpha: Annotated[NonNegative | None, Field(description="weight of false positives in tversky")] = None
    beta: Annotated[NonNegative | None, Field(description="weight of false negatives in tversky")] = None
    smooth: Annotated[NonNegative | None, Field(description="added above and below, in dice, jaccard and tversky")] = (
        None
    )

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        for key in self.options():
            if key not in _OPTIONS[self.name]:
                known = ", ".join(_OPTIONS[self.name]) or "none"
                raise ValueError(f"{key} is no option of {self.name}, which has: {known}")
        return self

    def options(self) -> dict[str, float]:
        """Return what is given beside name and weight."""
        given = {key: getattr(self, key) for key in ("smoothing", "gamma", "alpha", "beta", "smooth")}
        return {key: float(value) for key, value in given.items() if value is not None}


_OPTIONS = {
    "cross-entropy": ("smoothing",),
    "binary-cross-entropy": ("smoothing",),
    "dice": ("smooth",),
    "jaccard": ("smooth",),
    "tversky": ("alpha", "beta", "smooth"),
    "focal": ("gamma",),
    "lovasz": (),
}


class Loss(Section):
    """What is minimised: a weighted sum."""

    terms: Annotated[
        list[Term] | None, Field(min_length=1, description="summands; left out: cross-entropy and dice")
    ] = None
    class_weights: Annotated[
        Literal["none", "balanced"] | dict[str, NonNegative],
        Field(description="none; balanced: by the classes' shares of training pixels; or a weight a class"),
    ] = "none"


class Optimiser(Section):
    """How weights move."""

    name: Annotated[Literal["adamw", "adam", "sgd"], Field(description="which optimiser")] = "adamw"
    rate: Annotated[Finite, Field(gt=0, description="highest learning rate")] = 1e-3
    decay: Annotated[NonNegative, Field(description="weight decay")] = 1e-2
    momentum: Annotated[Finite, Field(ge=0, lt=1, description="momentum of sgd, first beta of adam")] = 0.9
    encoder: Annotated[NonNegative, Field(description="factor of the encoder's learning rate")] = 1.0
    clip: Annotated[
        Annotated[Finite, Field(gt=0)] | None, Field(description="largest norm of the gradient; null: any")
    ] = 1.0
    average: Annotated[
        Annotated[Finite, Field(gt=0, lt=1)] | None,
        Field(description="decay of the moving average of weights (EMA) that is validated and kept"),
    ] = None
    accumulate: Annotated[Positive, Field(description="batches a step")] = 1


class Schedule(Section):
    """How the learning rate changes."""

    name: Annotated[Literal["one-cycle", "cosine", "poly", "constant"], Field(description="which schedule")] = (
        "one-cycle"
    )
    warmup: Annotated[Annotated[Finite, Field(ge=0, lt=1)], Field(description="share of steps that the rate rises")] = (
        0.1
    )


class Run(Section):
    """How long, where, and what is written."""

    steps: Annotated[Positive, Field(description="steps of the optimiser")] = 2000
    epoch: Annotated[Positive, Field(description="steps between two validations")] = 100
    patience: Annotated[Positive | None, Field(description="validations without a better one before it stops")] = None
    device: Annotated[str, Field(description="auto, cpu, cuda or cuda:N", pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    precision: Annotated[Literal["auto", "fp32", "bf16", "fp16"], Field(description="of the network's arithmetic")] = (
        "auto"
    )
    threads: Annotated[Positive | Auto, Field(description="threads of the network's arithmetic on a CPU")] = "auto"
    seed: Annotated[Annotated[Whole, Field(ge=0)], Field(description="of weights, windows and augmentation")] = 0
    pictures: Annotated[Annotated[Whole, Field(ge=0)], Field(description="sample predictions drawn a validation")] = 4
    tensorboard: Annotated[bool, Strict(), Field(description="also write TensorBoard events")] = False
    overwrite: Annotated[bool, Strict(), Field(description="replace a finished training of another job")] = False


class TrainJob(Section):
    """A training job."""

    name: Annotated[
        str, Field(description="name of the model", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", min_length=1)
    ] = "model"
    out: Annotated[PathText, Field(description="output folder", min_length=1)] = "out"
    root: Annotated[PathText, Field(description="folder that the paths below `data` start from", min_length=1)] = "."
    description: Annotated[str, Field(description="for the card")] = ""
    licence: Annotated[str, Field(description="SPDX identifier of the model, for the card")] = ""
    attribution: list[str] = Field(default_factory=list, description="whose data it is, for the card")
    classes: Annotated[
        list[Annotated[Class, BeforeValidator(_class, json_schema_input_type=Class | str)]],
        Field(min_length=1, max_length=MOST_CLASSES, description="names, or sections, in the order of their codes"),
    ]
    bands: Annotated[
        list[Annotated[str, Field(min_length=1)]] | None,
        Field(min_length=1, description="names of the model's bands; left out: those of the first scene"),
    ] = None
    gsd: Annotated[
        Annotated[Finite, Field(gt=0)] | None,
        Field(description="ground sample distance that all scenes are brought to, metres; left out: each its own"),
    ] = None
    data: Annotated[list[Data], Field(min_length=1, description="scenes and their labels")]
    split: Annotated[Split, Field(description="what trains, validates, tests")] = Split()
    sampling: Annotated[Sampling, Field(description="how windows are drawn")] = Sampling()
    augment: Annotated[Augment, Field(description="how windows are changed at random")] = Augment()
    model: Annotated[Model, Field(description="the network")] = Model()
    loss: Annotated[Loss, Field(description="what is minimised")] = Loss()
    optimiser: Annotated[Optimiser, Field(description="how weights move")] = Optimiser()
    schedule: Annotated[Schedule, Field(description="how the learning rate changes")] = Schedule()
    run: Annotated[Run, Field(description="how long, where, and what is written")] = Run()

    @field_validator("classes")
    @classmethod
    def _unique(cls, classes: list[Class]) -> list[Class]:
        names = [c.name for c in classes]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"class name used twice: {', '.join(twice)}")
        if "ignored" in names:
            raise ValueError("no class can be named ignored: that word marks pixels of which nothing is known")
        return classes

    @model_validator(mode="after")
    def _known_classes(self) -> Self:
        known = self.codes()
        for index, data in enumerate(self.data):
            for key, meaning in _meanings(data):
                name = meaning.not_ if isinstance(meaning, Not) else meaning
                if name not in known and not (name == "ignored" and isinstance(meaning, str)):
                    words = [*known, "ignored"]
                    raise ValueError(f"data[{index}].{key}: {name!r} is no class; known are {', '.join(words)}")
        weights = self.loss.class_weights
        if isinstance(weights, dict):
            for name in weights:
                if name not in [c.name for c in self.classes]:
                    names = ", ".join(c.name for c in self.classes)
                    raise ValueError(f"loss.class_weights: {name!r} is no class; known are {names}")
        if weights != "none" and self.model.activation == "sigmoid" and len(self.classes) == 1:
            raise ValueError(
                "loss.class_weights: one class and activation sigmoid leave nothing to weigh; leave it out, or take a "
                "loss that favours one side (tversky: alpha, beta)"
            )
        if self.bands is not None:
            twice = sorted({name for name in self.bands if self.bands.count(name) > 1})
            if twice:
                raise ValueError(f"bands: {', '.join(map(str, twice))} is named twice; each band is taken once")
            for index, data in enumerate(self.data):
                if data.bands is not None and len(data.bands) != len(self.bands):
                    raise ValueError(f"data[{index}].bands: {len(data.bands)} bands for the job's {len(self.bands)}")
        if self.model.activation == "softmax" and len(self.classes) < 2:
            raise ValueError("classes: one class and activation softmax; add a background, or take activation sigmoid")
        return self

    def infos(self) -> list[ClassInfo]:
        """Return the classes as they stand on a card, in channel order.

        With softmax, code = channel. With sigmoid, codes start at 1, and 0 is the background: none of the classes.
        """
        first = 0 if self.model.activation == "softmax" else 1
        return [
            ClassInfo(
                name=c.name,
                code=first + k,
                colour=c.colour or PALETTE[(first + k) % len(PALETTE)],
                kind=c.kind or kind_of(c.name),
                description=c.description,
            )
            for k, c in enumerate(self.classes)
        ]

    def codes(self) -> dict[str, int]:
        """Return the value in label arrays of each class; with sigmoid also of `background`."""
        codes = {info.name: info.code for info in self.infos()}
        return codes if self.model.activation == "softmax" else {"background": 0, **codes}

    def terms(self) -> list[Term]:
        """Return the summands of the loss, the default where none are given."""
        entropy: Any = "cross-entropy" if self.model.activation == "softmax" else "binary-cross-entropy"
        return self.loss.terms if self.loss.terms is not None else [Term(name=entropy), Term(name="dice")]

    @classmethod
    def from_yaml(cls, path: str | Path, overrides: Sequence[str] = ()) -> TrainJob:
        """Read a training job; see `load_train`."""
        return load_train(path, overrides)


def _meanings(data: Data) -> list[tuple[str, Not | str]]:
    """Return what the labels of a data section mean, each with its key."""
    found: list[tuple[str, Not | str]] = []
    for k, layer in enumerate(data.labels or ()):
        for key, table in (("values", layer.values), ("colours", layer.colours)):
            found += [(f"labels[{k}].{key}.{value}", meaning) for value, meaning in (table or {}).items()]
        if layer.class_ is not None:
            found.append((f"labels[{k}].class", layer.class_))
        if layer.others not in ("refuse", "skip"):
            found.append((f"labels[{k}].others", layer.others))
        if layer.contact is not None:
            found.append((f"labels[{k}].contact.class", layer.contact.class_))
    if data.complete is not None:
        found.append(("complete.rest", data.complete.rest))
    if data.generated is not None:
        found += [(f"generated.values.{value}", m) for value, m in (data.generated.values or {}).items()]
    return found


def is_training(path: str | Path) -> bool:
    """Whether a file holds a training job rather than a job, as far as it can be read."""
    keys = _keys(path)
    return "data" in keys or ("classes" in keys and "scenes" not in keys)


def is_segmentation(path: str | Path) -> bool:
    """Whether a file holds a job for `run` rather than a training job, as far as it can be read."""
    return "scenes" in _keys(path) and not is_training(path)


def _keys(path: str | Path) -> Collection[str]:
    try:
        return read(job_text(Path(path)), str(path), numbers=True).data.keys()
    except JobError:
        return ()


def load_train(path: str | Path, overrides: Sequence[str] = ()) -> TrainJob:
    """Read a training job.

    `out`, `root` and paths of weights start from the file's folder (in `overrides`: from the current directory), what
    stands below `data` starts from `root`.

    Parameters
    ----------
    path
        YAML file.
    overrides
        `key.sub=value` each; the last one wins.

    Raises
    ------
    JobError
        If the file cannot be read, or the job is invalid: `file:line: key: found …, expected …`.
    """
    file = Path(path)
    document = read(job_text(file, "training job"), str(path), needs="`classes:` and `data:`", numbers=True)
    origins = {key: f"{path}:{line}" for key, line in document.lines.items()}
    base = file.absolute().parent
    given = {key: value for key, value in document.data.items() if key not in ("out", "root") or value is not None}
    data = anchored({"out": "out", "root": ".", **given}, base)
    for text in overrides:
        keys, value = parse_override(text, TrainJob)
        data = merge(data, anchored(nested(keys, value), Path.cwd()))
        origins = {key: origin for key, origin in origins.items() if key[: len(keys)] != keys}
        origins[keys] = f"--set {text}"
    return parse_train(data, str(path), origins)


def parse_train(
    data: Mapping[str, Any], source: str, origins: Mapping[tuple[str | int, ...], str] | None = None
) -> TrainJob:
    """Validate plain values as a training job; paths are taken as they are.

    Raises
    ------
    InvalidJobError
        Whose `lines` hold one line a problem.
    """
    try:
        return TrainJob.model_validate(data)
    except ValidationError as error:
        found = problems(error, TrainJob, data)
    raise InvalidJobError([f"{nearest_origin(path, origins or {}, source)}: {text}" for path, text in found])


def anchored(data: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """Return the raw values of a training job with the paths that start from `base` made absolute."""
    result = dict(data)
    for key in ("out", "root"):
        if key in result:
            result[key] = resolved(result[key], base)
    model = result.get("model")
    if isinstance(model, dict):
        # A bare name is a bundled model, or weights of a hub, whatever lies in the folder.
        paths = {k: v for k, v in model.items() if k in ("encoder_weights", "start") and isinstance(v, str)}
        result["model"] = {**model, **{k: resolved(v, base) for k, v in paths.items() if "/" in v or "\\" in v}}
    return result
