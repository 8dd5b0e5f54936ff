"""The card of a model bundle (`model.json`): all that is needed to use the weights rightly.

Fields carry the names of the STAC Machine Learning Model extension (v1.5) where it has one: `name`, `architecture`,
`framework`, `total_parameters`, `input.bands`, `input.data_type`, `input.value_scaling`, `classes` as in the
classification extension.
"""

from __future__ import annotations

import json
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from geounet.config.problems import problems
from geounet.errors import ModelError

DataType = Literal["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64", "any"]

PALETTE = (
    "#1f1f1f", "#e6194b", "#f5b800", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#46f0f0", "#f032e6", "#bcf60c",
    "#fabebe", "#008080", "#e6beff", "#9a6324", "#fffac8", "#800000", "#aaffc3", "#808000", "#ffd8b1", "#000075",
)  # fmt: skip
"""Colours for classes that name none; repeats after its end."""


OWN_NETWORKS = ("Unet2015", "AttentionUnet", "ResUnet")
"""Architectures of this package, `library: geounet`; all others are classes of smp."""

ENSEMBLE = "Ensemble"
"""Architecture of a bundle that holds several models, its `members`."""

MEMBER = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
"""What a member's folder may be called."""


class Kind(StrEnum):
    """What a class is on the ground; decides which vector layers follow from it."""

    building = "building"
    road = "road"
    contact = "contact"
    background = "background"
    other = "other"


KINDS = {
    Kind.building: ("building", "buildings", "structure", "structures", "roof", "roofs", "house", "houses"),
    Kind.road: ("road", "roads", "street", "streets", "highway", "highways"),
    Kind.contact: ("contact",),
    Kind.background: ("background",),
}
"""Names of classes that say what kind they are."""


def kind_of(name: str) -> Kind:
    """Guess a class's kind from its name."""
    word = name.strip().lower()
    return next((kind for kind, names in KINDS.items() if word in names), Kind.other)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class ClassInfo(_Strict):
    """One class of the mask."""

    name: Annotated[str, Field(min_length=1, description="unique name")]
    code: Annotated[int, Field(ge=0, le=254, description="value in the mask")]
    colour: Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$", description="#rrggbb")]
    kind: Kind = Kind.other
    description: str = ""

    @property
    def rgb(self) -> tuple[int, int, int]:
        """Colour as three integers in 0..255."""
        return int(self.colour[1:3], 16), int(self.colour[3:5], 16), int(self.colour[5:7], 16)


class Scaling(_Strict):
    """Normalisation of one band: `(value - mean) / stddev`, in the units of the file."""

    type: Literal["z-score"] = "z-score"
    mean: float
    stddev: Annotated[float, Field(gt=0)]


class InputSpec(_Strict):
    """What the network takes."""

    bands: Annotated[list[str], Field(min_length=1, description="names in the order the network expects")]
    data_type: Annotated[DataType, Field(description="type of the imagery it was trained on; `any` is not checked")]
    value_scaling: Annotated[list[Scaling], Field(description="one entry a band")]
    fill: Annotated[float, Field(description="normalised value given to invalid pixels; 0 is the mean")] = 0.0

    @model_validator(mode="after")
    def _lengths(self) -> Self:
        if len(self.value_scaling) != len(self.bands):
            raise ValueError(f"value_scaling has {len(self.value_scaling)} entries for {len(self.bands)} bands")
        if len(set(self.bands)) != len(self.bands):
            raise ValueError("band names must be unique")
        return self


class TileSpec(_Strict):
    """Tile sizes that suit the network, in pixels of the model's ground sample distance."""

    size: Annotated[int, Field(ge=1, description="the size it was trained or measured with")] = 512
    overlap: Annotated[int | None, Field(ge=0, description="overlap that suits it; none: chosen by `auto`")] = None
    multiple_of: Annotated[int, Field(ge=1, description="tile and stride are multiples of it")] = 32
    fixed: Annotated[bool, Field(description="whether only `size` works")] = False


class Card(_Strict):
    """The card of a model bundle."""

    format: Literal["geounet-model/1"] = "geounet-model/1"
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    description: str = ""
    framework: Literal["pytorch"] = "pytorch"
    library: Annotated[
        Literal["smp", "geounet"],
        Field(description="smp: segmentation-models-pytorch; left out, it follows from the architecture"),
    ] = "smp"
    architecture: Annotated[str, Field(description="a name of `geounet model list --networks`, for example Unet")]
    encoder: Annotated[str, Field(description="smp encoder name; `tu-` prefix for timm encoders")] = ""
    arguments: Annotated[dict[str, Any], Field(description="further keyword arguments of the architecture")] = {}
    activation: Annotated[
        Literal["softmax", "sigmoid"],
        Field(description="softmax: one class a pixel; sigmoid: one channel is binary, several are multi-label"),
    ] = "softmax"
    output: Annotated[Literal["logits", "probabilities"], Field(description="what the network itself returns")] = (
        "logits"
    )
    input: InputSpec
    gsd: Annotated[float | None, Field(gt=0, description="ground sample distance it was trained on, metres")] = None
    gsd_range: Annotated[
        tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] | None,
        Field(description="finest and coarsest ground sample distance, where it was trained on a range; metres"),
    ] = None
    classes: Annotated[list[ClassInfo], Field(min_length=1, max_length=255)]
    members: Annotated[
        list[str], Field(description="of an ensemble: folders inside the bundle, each a bundle of its own")
    ] = []
    tile: TileSpec = TileSpec()
    total_parameters: int | None = None
    metrics: dict[str, Any] = {}
    training: Annotated[dict[str, Any], Field(description="data, attribution, how to repeat it")] = {}
    licence: Annotated[str, Field(description="SPDX identifier")] = ""

    @model_validator(mode="before")
    @classmethod
    def _default_library(cls, data: Any) -> Any:
        if isinstance(data, dict) and "library" not in data and data.get("architecture") in (*OWN_NETWORKS, ENSEMBLE):
            return {**data, "library": "geounet"}
        return data

    @field_validator("members")
    @classmethod
    def _inside(cls, members: list[str]) -> list[str]:
        for name in members:
            if not re.fullmatch(MEMBER, name):
                raise ValueError(f"found {name!r}, expected the name of a folder inside the bundle")
        twice = sorted({name for name in members if members.count(name) > 1})
        if twice:
            raise ValueError(f"member named twice: {', '.join(twice)}")
        return members

    @model_validator(mode="after")
    def _network(self) -> Self:
        if (self.architecture == ENSEMBLE) != bool(self.members):
            raise ValueError(f"`members` and architecture {ENSEMBLE} belong together, found {self.architecture} and "
                             f"{len(self.members)} members")  # fmt: skip
        own = self.architecture in (*OWN_NETWORKS, ENSEMBLE)
        if own != (self.library == "geounet"):
            raise ValueError(f"architecture {self.architecture} is of library {'geounet' if own else 'smp'}, "
                             f"found {self.library}")  # fmt: skip
        if own and self.encoder:
            raise ValueError(f"architecture {self.architecture} has no choice of encoder, found {self.encoder!r}")
        if not own and not self.encoder:
            raise ValueError("encoder: missing; expected smp encoder name, for example resnet34")
        return self

    @field_validator("classes")
    @classmethod
    def _unique(cls, classes: list[ClassInfo]) -> list[ClassInfo]:
        for what in ("name", "code"):
            values = [getattr(c, what) for c in classes]
            twice = sorted({str(v) for v in values if values.count(v) > 1})
            if twice:
                raise ValueError(f"class {what} used twice: {', '.join(twice)}")
        return classes

    @model_validator(mode="after")
    def _codes(self) -> Self:
        codes = [c.code for c in self.classes]
        if self.activation == "softmax" and codes != list(range(len(codes))):
            raise ValueError(f"with softmax the class codes are the channels 0, 1, …, found {codes}")
        if self.head == "binary" and codes != [1]:
            raise ValueError(f"with one sigmoid channel the class has code 1 (0 is the background), found {codes}")
        return self

    @model_validator(mode="after")
    def _gsds(self) -> Self:
        if self.gsd_range is not None:
            low, high = self.gsd_range
            if low > high:
                raise ValueError(f"gsd_range: the finest comes first, found {low:g}, {high:g}")
            if self.gsd is not None and not low <= self.gsd <= high:
                raise ValueError(f"gsd {self.gsd:g} lies outside of gsd_range {low:g}, {high:g}")
        return self

    @property
    def gsds(self) -> tuple[float, float] | None:
        """Finest and coarsest ground sample distance that it was trained on, metres; None where the card says none."""
        if self.gsd_range is not None:
            return self.gsd_range
        return None if self.gsd is None else (self.gsd, self.gsd)

    @property
    def resolution(self) -> str | None:
        """The ground sample distances in words."""
        if self.gsds is None:
            return None
        low, high = (f"{end:.3g}" for end in self.gsds)
        return f"{low} m" if low == high else f"{low} to {high} m"

    @property
    def head(self) -> Literal["softmax", "binary", "multilabel"]:
        """How channels become a mask."""
        if self.activation == "softmax":
            return "softmax"
        return "binary" if len(self.classes) == 1 else "multilabel"

    @property
    def channels(self) -> int:
        """Number of channels the network returns."""
        return len(self.classes)

    @property
    def network(self) -> str:
        """The network in words, for example `Unet with encoder resnet34`."""
        if self.members:
            return f"{ENSEMBLE} of {len(self.members)} models"
        return f"{self.architecture} with encoder {self.encoder}" if self.encoder else self.architecture

    def mask_classes(self) -> list[ClassInfo]:
        """Return the classes that occur in a single-band mask, in code order, background included."""
        if self.head == "binary":
            background = ClassInfo(name="background", code=0, colour=PALETTE[0], kind=Kind.background)
            return [background, *self.classes]
        return sorted(self.classes, key=lambda c: c.code)


def read_card(path: Path) -> Card:
    """Read and validate a `model.json`.

    Raises
    ------
    ModelError
        If the file is missing, is not JSON, or is not a valid card.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; a model bundle holds model.safetensors and model.json") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"{path}: not readable as JSON: {error}") from None
    try:
        return Card.model_validate(data)
    except ValidationError as error:
        sentences = [sentence for _, sentence in problems(error, Card, data)]
    more = "" if len(sentences) == 1 else f" (and {len(sentences) - 1} more)"
    raise ModelError(f"{path}: {sentences[0]}{more}")
