"""The job file: what a run does. Every key has a default but `scenes` and `model`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Auto = Literal["auto"]
Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values are not changed after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class BandSet(Section):
    """A scene whose bands lie in several files."""

    name: Annotated[str, Field(description="name of the scene", pattern=r"^[^/\\]+$")]
    files: Annotated[list[str], Field(min_length=1, description="files in band order; all their bands are taken")]


class Tiling(Section):
    """How a scene is cut."""

    tile: Annotated[Positive | Auto, Field(description="side of the network's input, px")] = "auto"
    overlap: Annotated[int | Auto, Field(description="overlap of neighbouring tiles, px; at most half a tile")] = "auto"
    block: Annotated[Positive | Auto | Literal["scene"], Field(description="tiles per side of a block")] = "auto"


class Predict(Section):
    """How the network is run."""

    device: Annotated[str, Field(description="auto, cpu, cuda or cuda:N", pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    precision: Annotated[Literal["auto", "fp32", "bf16", "fp16"], Field(description="of the network's arithmetic")] = (
        "auto"
    )
    batch: Annotated[Positive | Auto, Field(description="tiles per forward pass")] = "auto"
    tta: Annotated[Literal["none", "flips", "d4"], Field(description="test-time augmentation")] = "none"


class Outputs(Section):
    """Where results go."""

    folder: Annotated[str, Field(description="output folder")] = "out"
    probability: Annotated[bool, Field(description="also write the probability COG")] = False
    work: Annotated[str, Field(description="ledger, lock and parts; auto: .geounet in the output folder")] = "auto"
    overwrite: Annotated[bool, Field(description="replace finished output of another job")] = False


class Buildings(Section):
    """The layer `buildings`."""

    class_: Annotated[str | Auto, Field(alias="class", description="class name; auto: the class of kind building")] = (
        "auto"
    )
    min_area_m2: Annotated[NonNegative, Field(description="smaller ones are left out")] = 10.0
    min_hole_m2: Annotated[NonNegative, Field(description="smaller holes are filled")] = 4.0
    tolerance_px: Annotated[NonNegative, Field(description="largest deviation of an outline, px")] = 1.5

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Roads(Section):
    """The layers `road_edges` and `road_nodes`."""

    class_: Annotated[str | Auto, Field(alias="class", description="class name; auto: the class of kind road")] = "auto"
    min_length_m: Annotated[NonNegative, Field(description="shorter dead ends and loose pieces are left out")] = 10.0
    tolerance_px: Annotated[NonNegative, Field(description="largest deviation of a simplified line, px")] = 1.0

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Landcover(Section):
    """The layer `landcover`."""

    classes: Annotated[list[str] | None, Field(description="class names; none: all")] = None
    min_area_m2: Annotated[NonNegative, Field(description="smaller polygons join a neighbour")] = 50.0
    tolerance_px: Annotated[NonNegative, Field(description="simplification of shared borders, px; 0: none")] = 1.5


class Vector(Section):
    """Layers of the GeoPackage. A layer that is left out is made if the card has its class; `false` leaves it out."""

    cell: Annotated[Positive | Auto, Field(description="side of a vector cell, px")] = "auto"
    buildings: Buildings | bool | None = None
    roads: Roads | bool | None = None
    landcover: Landcover | bool | None = None


class Cluster(Section):
    """Where the work runs."""

    kind: Annotated[Literal["local", "address"], Field(description="local: processes on this machine")] = "local"
    workers: Annotated[Positive | Auto, Field(description="processes of a local cluster")] = "auto"
    threads: Annotated[Positive | Auto, Field(description="threads of the network per worker")] = "auto"
    address: Annotated[str | None, Field(description="scheduler address, for kind address")] = None
    wait_s: Annotated[int, Field(gt=0, description="how long to wait for the first worker")] = 120

    @model_validator(mode="after")
    def _address(self) -> Self:
        if (self.kind == "address") != (self.address is not None):
            raise ValueError("`address` goes with kind: address, and only with it")
        return self


class Job(Section):
    """A job file."""

    name: Annotated[str, Field(description="shown in reports", min_length=1)] = "geounet"
    scenes: Annotated[list[str | BandSet], Field(min_length=1, description="files, globs, folders, or {name, files}")]
    model: Annotated[str | None, Field(description="a bundled model's name, or the path of a bundle (with a slash)")] = (
        None
    )
    models: Annotated[list[str] | None, Field(min_length=1, description="several models, instead of `model`")] = None
    bands: Annotated[
        Auto | list[int | str], Field(description="auto: as the card says; else names or 1-based indexes")
    ] = "auto"
    nodata: Annotated[
        Auto | float | list[float], Field(description="value of undeclared fill (all bands), or one value a band")
    ] = "auto"
    aoi: Annotated[str | None, Field(description="vector file: only pixels whose centre lies inside are valid")] = None
    bbox: Annotated[
        list[float] | None,
        Field(min_length=4, max_length=4, description="only this window: xmin, ymin, xmax, ymax in the scene's CRS"),
    ] = None
    resample: Annotated[
        Literal["refuse", "auto", "never"],
        Field(description="when ground sample distances of scene and model differ by over 20 %"),
    ] = "refuse"
    data_type: Annotated[
        Literal["refuse", "ignore"], Field(description="when the scene's data type is not the model's")
    ] = "refuse"
    tiling: Tiling = Tiling()
    predict: Predict = Predict()
    outputs: Outputs = Outputs()
    vector: Annotated[Vector | Literal["none"], Field(description="layers; none: no GeoPackage")] = Vector()
    max_failed_blocks: Annotated[int, Field(ge=0, description="blocks of a scene that may fail and become nodata")] = 0
    cluster: Cluster = Cluster()

    @field_validator("bands", "bbox", mode="before")
    @classmethod
    def _comma_list(cls, value: Any) -> Any:
        # On the command line lists are written 1,2,3.
        if isinstance(value, str) and value != "auto":
            return [int(v) if v.strip().lstrip("-").isdigit() else v.strip() for v in value.split(",")]
        return value

    @model_validator(mode="after")
    def _one_model(self) -> Self:
        if (self.model is None) == (self.models is None):
            raise ValueError("exactly one of `model` and `models` is needed")
        return self

    def model_names(self) -> list[str]:
        """Return the models to run, in order."""
        return self.models if self.models is not None else [str(self.model)]
