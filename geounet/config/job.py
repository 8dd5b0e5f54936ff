"""The job file: what a run does. Every key has a default but `scenes` and `model`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict, field_validator, model_validator

from geounet.config.keys import alternatives, is_remote

Auto = Literal["auto"]
# Strict: YAML's `yes` is no 1, and "512" is text.
Whole = Annotated[int, Strict()]
Number = Annotated[float, Strict()]
Positive = Annotated[Whole, Field(gt=0)]
NonNegative = Annotated[Number, Field(ge=0, allow_inf_nan=False)]
# Python callers may give a pathlib.Path; files hold text.
PathText = Annotated[str, BeforeValidator(lambda v: os.fspath(v) if isinstance(v, os.PathLike) else v)]


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values are not changed after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, ser_json_inf_nan="strings")

    @model_validator(mode="before")
    @classmethod
    def _empty_is_default(cls, data: Any) -> Any:
        # `vector:` with everything below it commented out is null in YAML, and means: as if it were not there.
        if not isinstance(data, dict):
            return data
        # A key that may be null and has another default is switched off by it.
        own = cls.model_fields.items()
        plain = {k: f for k, f in own if f.default is None or type(None) not in alternatives(f.annotation)}
        known = {*plain, *(field.alias for field in plain.values())}
        return {key: value for key, value in data.items() if value is not None or key not in known}


class BandSet(Section):
    """A scene whose bands lie in several files."""

    name: Annotated[str, Field(description="the scene's name, without slashes", pattern=r"^[^/\\]+$")]
    files: Annotated[list[PathText], Field(min_length=1, description="files in band order; all their bands are taken")]


class Tiling(Section):
    """How a scene is cut."""

    tile: Annotated[Positive | Auto, Field(description="side of the network's input, px")] = "auto"
    overlap: Annotated[
        Annotated[Whole, Field(ge=0)] | Auto,
        Field(description="overlap of neighbouring tiles, px; at most half a tile"),
    ] = "auto"
    block: Annotated[Positive | Auto | Literal["scene"], Field(description="tiles per side of a block")] = "auto"

    @model_validator(mode="after")
    def _half(self) -> Self:
        if isinstance(self.tile, int) and isinstance(self.overlap, int) and 2 * self.overlap > self.tile:
            raise ValueError(f"overlap {self.overlap} is over half of tile {self.tile}; at most {self.tile // 2}")
        return self


class Predict(Section):
    """How the network is run."""

    device: Annotated[str, Field(description="auto, cpu, cuda or cuda:N", pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    precision: Annotated[Literal["auto", "fp32", "bf16", "fp16"], Field(description="of the network's arithmetic")] = (
        "auto"
    )
    batch: Annotated[Positive | Auto, Field(description="tiles per forward pass")] = "auto"
    tta: Annotated[
        Literal["none", "flips", "d4"],
        Field(description="test-time augmentation: none, the flips, or the eight symmetries of the square"),
    ] = "none"


class Outputs(Section):
    """Where results go."""

    folder: Annotated[PathText, Field(description="output folder", min_length=1)] = "out"
    probability: Annotated[bool, Strict(), Field(description="also write the probability COG")] = False
    work: Annotated[
        PathText, Field(description="ledger, lock and parts; auto: .geounet in the output folder", min_length=1)
    ] = "auto"
    overwrite: Annotated[bool, Strict(), Field(description="replace finished output of another job")] = False

    @field_validator("folder", "work")
    @classmethod
    def _local(cls, folder: str) -> str:
        # As a path it would be a folder of this name in the current one.
        if is_remote(folder):
            raise ValueError(f"found {folder}, expected a folder of this file system; copy the results from there")
        return folder


class Buildings(Section):
    """The layer `buildings`."""

    class_: Annotated[str | Auto, Field(alias="class", description="class name; auto: the class of kind building")] = (
        "auto"
    )
    min_area_m2: Annotated[NonNegative, Field(description="smaller ones are left out")] = 10.0
    min_area_px: Annotated[NonNegative | None, Field(description="the same in pixels, instead of min_area_m2")] = None
    min_hole_m2: Annotated[NonNegative, Field(description="smaller holes are filled")] = 4.0
    min_hole_px: Annotated[NonNegative | None, Field(description="the same in pixels, instead of min_hole_m2")] = None
    instances: Annotated[
        Literal["auto", "components", "contact", "probability"],
        Field(
            description="one building is: a connected component; one divided along the class `contact`, or at valleys "
            "of the probability; auto: contact if there is such a class, else components (row houses are one)"
        ),
    ] = "auto"
    contact: Annotated[
        str | Auto, Field(description="class where buildings touch, part of them; auto: the class of kind contact")
    ] = "auto"
    outline: Annotated[
        Literal["regular", "simplified", "raw"],
        Field(description="regular: straight walls, right angles, circles; simplified: fewer vertices; raw: pixels"),
    ] = "regular"
    tolerance_px: Annotated[
        NonNegative, Field(description="details of outlines up to about this are left out, px; 0: raw outlines")
    ] = 1.5
    tolerance_m: Annotated[NonNegative | None, Field(description="the same in metres, instead of tolerance_px")] = None

    @model_validator(mode="after")
    def _one_unit(self) -> Self:
        for one, other in (
            ("min_area_m2", "min_area_px"),
            ("min_hole_m2", "min_hole_px"),
            ("tolerance_px", "tolerance_m"),
        ):
            if getattr(self, other) is not None and one in self.model_fields_set:
                raise ValueError(f"{one} and {other} say the same in two units; give one of them")
        return self


class Roads(Section):
    """The layers `road_edges` and `road_nodes`."""

    class_: Annotated[str | Auto, Field(alias="class", description="class name; auto: the class of kind road")] = "auto"
    min_area_m2: Annotated[NonNegative, Field(description="smaller specks of the class are left out")] = 20.0
    min_area_px: Annotated[NonNegative | None, Field(description="the same in pixels, instead of min_area_m2")] = None
    min_hole_m2: Annotated[NonNegative, Field(description="smaller holes in the class are filled")] = 30.0
    min_hole_px: Annotated[NonNegative | None, Field(description="the same in pixels, instead of min_hole_m2")] = None
    min_length_m: Annotated[NonNegative, Field(description="shorter dead ends and loose pieces are left out")] = 10.0
    min_length_px: Annotated[NonNegative | None, Field(description="the same in pixels, instead of min_length_m")] = (
        None
    )
    spur_widths: Annotated[
        NonNegative, Field(description="dead ends that stick out by less than so many widths of the road are left out")
    ] = 0.75
    junction_widths: Annotated[
        NonNegative, Field(description="junctions that are nearer to each other than so many road widths are one")
    ] = 0.9
    bridge_m: Annotated[
        NonNegative, Field(description="longest gap that is bridged where the probability supports it; 0: none")
    ] = 20.0
    bridge_px: Annotated[NonNegative | None, Field(description="the same in pixels, instead of bridge_m")] = None
    bridge_probability: Annotated[
        Number, Field(ge=0, le=1, description="least mean probability in a gap that is bridged")
    ] = 0.2
    bridge_blind_m: Annotated[
        NonNegative, Field(description="longest gap that is bridged where there is no probability; 0: none")
    ] = 8.0
    bridge_blind_px: Annotated[
        NonNegative | None, Field(description="the same in pixels, instead of bridge_blind_m")
    ] = None
    bridge_angle_deg: Annotated[
        Number, Field(ge=0, le=60, description="largest angle between a dead end and its bridge")
    ] = 25.0
    smooth_widths: Annotated[
        NonNegative, Field(description="width of the filter that smooths lines, in road widths; 0: none")
    ] = 0.5
    tolerance_px: Annotated[NonNegative, Field(description="largest deviation of a simplified line, px")] = 1.0

    @model_validator(mode="after")
    def _one_unit(self) -> Self:
        for one, other in (
            ("min_area_m2", "min_area_px"),
            ("min_hole_m2", "min_hole_px"),
            ("min_length_m", "min_length_px"),
            ("bridge_m", "bridge_px"),
            ("bridge_blind_m", "bridge_blind_px"),
        ):
            if getattr(self, other) is not None and one in self.model_fields_set:
                raise ValueError(f"{one} and {other} say the same in two units; give one of them")
        return self


class Landcover(Section):
    """The layer `landcover`."""

    classes: Annotated[list[str] | None, Field(min_length=1, description="class names; left out: all")] = None
    min_area_m2: Annotated[NonNegative, Field(description="smaller polygons join a neighbour")] = 50.0
    min_area_px: Annotated[NonNegative | None, Field(description="the same in pixels, instead of min_area_m2")] = None
    tolerance_px: Annotated[
        NonNegative, Field(description="farthest a shared border is from the mask's pixels, px; 0: as in the mask")
    ] = 1.5
    tolerance_m: Annotated[NonNegative | None, Field(description="the same in metres, instead of tolerance_px")] = None
    smooth_px: Annotated[
        NonNegative, Field(description="rounding of shared borders: how far from a corner it begins, px; 0: none")
    ] = 0.0
    smooth_m: Annotated[NonNegative | None, Field(description="the same in metres, instead of smooth_px")] = None

    @model_validator(mode="after")
    def _one_unit(self) -> Self:
        for one, other in (("min_area_m2", "min_area_px"), ("tolerance_px", "tolerance_m"), ("smooth_px", "smooth_m")):
            if getattr(self, other) is not None and one in self.model_fields_set:
                raise ValueError(f"{one} and {other} say the same in two units; give one of them")
        return self


class Vector(Section):
    """Layers of the GeoPackage. A layer that is left out is made if the card has its class; `false` leaves it out."""

    preset: Annotated[
        Literal["standard", "raw", "detail", "map"],
        Field(
            description="what the layers' keys are where they are not given: standard (the defaults), raw (every "
            "pixel), detail (small things kept), map (generalised for 1:10 000 and smaller)"
        ),
    ] = "standard"
    formats: Annotated[
        list[Literal["gpkg", "fgb", "parquet"]],
        Field(
            min_length=1,
            description="gpkg: one GeoPackage; fgb, parquet: a FlatGeobuf or GeoParquet file a layer, beside it",
            json_schema_extra={"uniqueItems": True},
        ),
    ] = ["gpkg"]
    mosaic: Annotated[
        bool,
        Strict(),
        Field(
            description="also one GeoPackage of all scenes, OUT/<name>.gpkg: nothing cut or doubled where scenes "
            "meet; an overlap belongs to the first scene that is valid there (implies outputs.probability)"
        ),
    ] = False
    cell: Annotated[Positive | Auto, Field(description="side of a vector cell, px")] = "auto"
    buildings: Annotated[
        Buildings | Annotated[bool, Strict()] | None, Field(description="building outlines; false: no such layer")
    ] = None
    roads: Annotated[
        Roads | Annotated[bool, Strict()] | None, Field(description="road network; false: no such layer")
    ] = None
    landcover: Annotated[
        Landcover | Annotated[bool, Strict()] | None,
        Field(description="all classes as a coverage; false: no such layer"),
    ] = None

    @field_validator("formats")
    @classmethod
    def _once(cls, formats: list[str]) -> list[str]:
        twice = sorted({f for f in formats if formats.count(f) > 1})
        if twice:
            raise ValueError(f"named twice: {', '.join(twice)}")
        return formats


class Cluster(Section):
    """Where the work runs."""

    kind: Annotated[
        Literal["local", "cuda", "address", "slurm", "kubernetes", "gateway"],
        Field(
            description="local: processes on this machine; cuda: likewise, and a GPU must be there; address: a running "
            "scheduler; slurm, kubernetes, gateway: a cluster that is started for the run"
        ),
    ] = "local"
    workers: Annotated[
        Positive | Auto,
        Field(
            description="processes of a local cluster, or how many are started elsewhere (of slurm: jobs); auto: one a "
            "GPU, or one per four cores, fewer where these would need more than three quarters of the memory; limits "
            "of containers, systemd and SLURM count for both; elsewhere one"
        ),
    ] = "auto"
    threads: Annotated[Positive | Auto, Field(description="forward passes side by side, a thread each")] = "auto"
    helpers: Annotated[
        Annotated[Whole, Field(ge=0)] | Auto,
        Field(
            description="more processes of a local cluster, for vectors; auto: as many as there are idle cores, and a "
            "quarter of the memory holds"
        ),
    ] = "auto"
    address: Annotated[
        str | None,
        Field(description="of the scheduler, for kind address: tcp://host:8786; of the gateway: its URL", min_length=1),
    ] = None
    options: Annotated[
        dict[str, Any],
        Field(
            description="what the class that starts the cluster takes: SLURMCluster of dask-jobqueue (cores, memory, "
            "queue, walltime, …), KubeCluster of dask-kubernetes (image, …), GatewayCluster of dask-gateway"
        ),
    ] = {}
    wait_s: Annotated[Positive, Field(description="how long to wait for the first worker, seconds")] = 120

    @model_validator(mode="after")
    def _address(self) -> Self:
        if self.kind == "address" and self.address is None:
            raise ValueError("kind: address needs the scheduler's address, for example address: tcp://host:8786")
        if self.kind not in ("address", "gateway") and self.address is not None:
            raise ValueError(f"address {self.address} goes with kind: address or gateway, found kind: {self.kind}")
        if self.options and self.kind not in ("slurm", "kubernetes", "gateway"):
            raise ValueError(f"options go with kind: slurm, kubernetes or gateway, found kind: {self.kind}")
        return self

    @property
    def here(self) -> bool:
        """Whether its processes are started on this machine."""
        return self.kind in ("local", "cuda")


class Job(Section):
    """A job file."""

    name: Annotated[str, Field(description="shown in reports", min_length=1)] = "geounet"
    scenes: Annotated[
        list[Annotated[PathText, Field(min_length=1)] | BandSet],
        Field(
            min_length=1,
            description="files, globs, folders, STAC items, folders of Sentinel-2 (.SAFE), or {name, files}",
        ),
    ]
    model: Annotated[
        PathText | None,
        Field(min_length=1, description="a bundled model's name, or the path of a bundle (with a slash)"),
    ] = None
    models: Annotated[list[PathText] | None, Field(min_length=1, description="several models, instead of `model`")] = (
        None
    )
    bands: Annotated[
        Auto | Annotated[list[Annotated[Whole, Field(ge=1)] | str], Field(min_length=1)],
        Field(description="auto: as the card says; else names or 1-based indexes"),
    ] = "auto"
    nodata: Annotated[
        Auto | Number | Annotated[list[Number], Field(min_length=1)],
        Field(description="value of undeclared fill (all bands), or one value a band"),
    ] = "auto"
    aoi: Annotated[
        PathText | None,
        Field(min_length=1, description="vector file: only pixels whose centre lies inside are valid"),
    ] = None
    bbox: Annotated[
        list[Annotated[Number, Field(allow_inf_nan=False)]] | None,
        Field(min_length=4, max_length=4, description="only this window: xmin, ymin, xmax, ymax in the scene's CRS"),
    ] = None
    resample: Annotated[
        Literal["refuse", "auto", "never"],
        Field(
            description="when ground sample distances of scene and model differ by over 20 %; auto also makes square "
            "what is not, by as much, on the ground"
        ),
    ] = "refuse"
    data_type: Annotated[
        Literal["refuse", "ignore"], Field(description="when the scene's data type is not the model's")
    ] = "refuse"
    tiling: Annotated[Tiling, Field(description="how a scene is cut")] = Tiling()
    predict: Annotated[Predict, Field(description="how the network is run")] = Predict()
    outputs: Annotated[Outputs, Field(description="where results go")] = Outputs()
    vector: Annotated[Vector | Literal["none"], Field(description="layers; none: no GeoPackage")] = Vector()
    max_failed_blocks: Annotated[
        Whole, Field(ge=0, description="blocks of a scene that may fail and become nodata")
    ] = 0
    cluster: Annotated[Cluster, Field(description="where the work runs")] = Cluster()

    @field_validator("nodata", mode="before")
    @classmethod
    def _nan_is_a_number(cls, value: Any) -> Any:
        # YAML writes it .nan, JSON cannot write it.
        if isinstance(value, list):
            return [_nan(v) for v in value]
        return _nan(value)

    @field_validator("bbox")
    @classmethod
    def _ordered(cls, box: list[float] | None) -> list[float] | None:
        if box is not None and not (box[0] < box[2] and box[1] < box[3]):
            raise ValueError(f"found {', '.join(f'{v:g}' for v in box)}, expected xmin, ymin, xmax, ymax")
        return box

    @field_validator("models")
    @classmethod
    def _different(cls, models: list[str] | None) -> list[str] | None:
        twice = sorted({m for m in models or [] if (models or []).count(m) > 1})
        if twice:
            raise ValueError(f"named twice: {', '.join(twice)}")
        return models

    @model_validator(mode="after")
    def _one_model(self) -> Self:
        if self.model is None and self.models is None:
            raise ValueError("model: missing; expected a bundled model's name or the path of a bundle (with a slash)")
        if self.model is not None and self.models is not None:
            raise ValueError("found both model and models, expected one of them")
        return self

    @model_validator(mode="after")
    def _gpu_or_not(self) -> Self:
        if self.cluster.kind == "cuda" and self.predict.device == "cpu":
            raise ValueError("cluster.kind: cuda and predict.device: cpu contradict each other")
        return self

    def model_names(self) -> list[str]:
        """Return the models to run, in order."""
        return self.models if self.models is not None else [str(self.model)]

    @property
    def probability(self) -> bool:
        """Whether the probability COG is written: asked for, or needed by the mosaic of all scenes."""
        return self.outputs.probability or (isinstance(self.vector, Vector) and self.vector.mosaic)

    @classmethod
    def from_yaml(cls, path: str | Path, overrides: Sequence[str] = ()) -> Job:
        """Read a job file; see `geounet.config.load.load_job`."""
        from geounet.config.load import load_job

        return load_job(path, overrides)


def _nan(value: Any) -> Any:
    return float("nan") if isinstance(value, str) and value.lower() in ("nan", ".nan") else value
