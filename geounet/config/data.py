"""The sections of a training job that say what is learnt from: scenes, labels, splits, sampling, augmentation."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from geounet.config.job import BandSet, Number, PathText, Positive, Section, Whole

Finite = Annotated[Number, Field(allow_inf_nan=False)]
NonNegative = Annotated[Finite, Field(ge=0)]
Share = Annotated[Finite, Field(ge=0, le=1)]


def _listed(value: Any) -> Any:
    """Return one text as a list of one."""
    return value if value is None or isinstance(value, (list, tuple)) else [value]


def _texts(value: Any) -> Any:
    """Return a mapping with text for keys: YAML reads `5:` as a number, but classes are looked up by text."""
    if not isinstance(value, dict):
        return value
    return {str(k).lower() if isinstance(k, bool) else str(k): v for k, v in value.items()}


Paths = Annotated[
    list[PathText],
    BeforeValidator(_listed, json_schema_input_type=Annotated[list[str], Field(min_length=1)] | str),
    Field(min_length=1),
]


Scenes = Annotated[
    list[BandSet | PathText],
    BeforeValidator(
        _listed, json_schema_input_type=Annotated[list[BandSet | str], Field(min_length=1)] | BandSet | str
    ),
    Field(min_length=1),
]
"""Files and patterns; scenes whose bands lie in several files."""


class Not(Section):
    """A label that only rules a class out: any class but this one."""

    not_: Annotated[str, Field(alias="not", min_length=1, description="class that these pixels are not")]


Meaning = Not | Annotated[str, Field(min_length=1)]
"""What pixels are: a class's name, `ignored` (nothing is known), or `{not: class}`."""

Table = Annotated[dict[str, Meaning], BeforeValidator(_texts), Field(min_length=1)]


class Contact(Section):
    """Ground between buildings that nearly touch, made from polygons, so that a model learns to keep them apart."""

    class_: Annotated[
        Meaning, Field(alias="class", description="a class of kind contact, or {not: building}, which needs none")
    ] = "contact"
    distance_m: Annotated[NonNegative | None, Field(description="pixels this near to two buildings, metres")] = None
    distance_px: Annotated[NonNegative | None, Field(description="the same in pixels of the scene")] = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.distance_m is None) == (self.distance_px is None):
            raise ValueError("expected one of distance_m and distance_px")
        return self


class Labels(Section):
    """One layer of labels: class rasters, or a vector layer."""

    files: Annotated[
        Paths,
        Field(
            description="rasters or vector files, globs allowed. Those that lie somewhere on Earth label what they "
            "cover; other rasters belong to the scene of the same file name and size"
        ),
    ]
    values: Annotated[
        Table | None,
        Field(description="raster value, or value of `column`: class. Left out: a raster's values are class codes"),
    ] = None
    colours: Annotated[Table | None, Field(description="'#rrggbb' of a colour-coded or paletted raster: class")] = None
    class_: Annotated[
        Meaning | None, Field(alias="class", description="class of all features, or of all raster values but 0")
    ] = None
    column: Annotated[str | None, Field(description="attribute that tells a feature's class", min_length=1)] = None
    layer: Annotated[str | None, Field(description="layer of the vector file; left out: the first")] = None
    others: Annotated[
        Literal["refuse", "skip"] | Meaning,
        Field(description="values not listed: refuse them, skip them (a later layer may know), or a class"),
    ] = "refuse"
    width_m: Annotated[
        Annotated[Finite, Field(gt=0)] | str | None,
        Field(description="lines and points become areas of this width on the ground: metres, or a column of metres"),
    ] = None
    border_m: Annotated[NonNegative, Field(description="pixels this near to an outline are ignored, metres")] = 0.0
    contact: Annotated[Contact | None, Field(description="mark the ground between features that nearly touch")] = None
    band: Annotated[Positive, Field(description="band of a class raster")] = 1

    @field_validator("colours")
    @classmethod
    def _colours(cls, table: dict[str, Any] | None) -> dict[str, Any] | None:
        for text in table or ():
            if not re.fullmatch(r"#[0-9a-fA-F]{6}", text):
                raise ValueError(f"found {text}, expected a colour as '#3C1098' (with quotes: # starts a comment)")
        return {text.lower(): meaning for text, meaning in table.items()} if table else table

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        given = [n for n, v in (("values", self.values), ("colours", self.colours), ("class", self.class_)) if v]
        if len(given) > 1:
            raise ValueError(f"found {' and '.join(given)}, expected one of them")
        if self.column is not None and self.values is None:
            raise ValueError(f"column {self.column} needs values: {{value of the attribute: class}}")
        return self


class Complete(Section):
    """Where everything has been labelled, so that the rest is known as well."""

    area: Annotated[
        Literal["scene"]
        | PathText
        | Annotated[list[Finite], Field(min_length=4, max_length=4, description="xmin, ymin, xmax, ymax")],
        Field(description="scene: all of it; a vector file with polygons; or xmin, ymin, xmax, ymax in `crs`"),
    ] = "scene"
    crs: Annotated[str | None, Field(description="CRS of the four numbers; left out: the scene's")] = None
    rest: Annotated[Meaning, Field(description="what pixels are that no layer labels: a class, or {not: class}")]


class Generated(Section):
    """Scenes that the package makes itself, with their labels."""

    seeds: Annotated[list[Whole], Field(min_length=2, max_length=2, description="first and last world")]
    size: Annotated[Annotated[Whole, Field(ge=64)], Field(description="side of a scene, px")] = 1024
    gsd: Annotated[Annotated[Finite, Field(ge=0.1, le=2)], Field(description="ground sample distance, metres")] = 0.3
    bands: Annotated[Literal[1, 3, 4], Field(description="1 grey, 3 colours, 4 with near infrared")] = 3
    values: Annotated[Table | None, Field(description="land, building, road, vegetation, water: class of the job")] = (
        None
    )

    @field_validator("seeds")
    @classmethod
    def _ordered(cls, seeds: list[int]) -> list[int]:
        if not 0 <= seeds[0] <= seeds[1]:
            raise ValueError(f"found {seeds[0]} to {seeds[1]}, expected a first and a last seed, from 0")
        return seeds


class Chance(Section):
    """A range, and how often it applies."""

    range: Annotated[list[Finite], Field(min_length=2, max_length=2, description="lowest and highest value")]
    chance: Annotated[Share, Field(description="share of windows that it applies to")] = 1.0


def _range(value: Any) -> Any:
    return {"range": value} if isinstance(value, (list, tuple)) else value


_Pair = Annotated[list[Finite], Field(min_length=2, max_length=2)]
Ranged = Annotated[Chance | None, BeforeValidator(_range, json_schema_input_type=Chance | _Pair | None)]
"""`[lowest, highest]`, or with a chance."""


class Data(Section):
    """Scenes that are labelled in one way."""

    name: Annotated[str | None, Field(description="shown in tables; left out: from the files", min_length=1)] = None
    scenes: Annotated[
        Scenes | None, Field(description="raster files or patterns; {name, files} where bands lie in several files")
    ] = None
    generated: Annotated[Generated | None, Field(description="made-up scenes, instead of `scenes`")] = None
    labels: Annotated[
        list[Labels] | None, Field(min_length=1, description="layers; the first that knows a pixel decides")
    ] = None
    complete: Annotated[Complete | None, Field(description="where everything is labelled, and what the rest is")] = None
    bands: Annotated[
        list[Annotated[Whole, Field(ge=1)] | str] | None,
        Field(min_length=1, description="numbers or names of bands, in the order of the job's `bands`"),
    ] = None
    nodata: Annotated[
        Number | list[Number] | None, Field(description="value of undeclared fill (all bands), or one value a band")
    ] = None
    aoi: Annotated[PathText | None, Field(description="polygons: only pixels inside are used", min_length=1)] = None
    gsd: Annotated[
        Annotated[Finite, Field(gt=0)] | None,
        Field(description="ground sample distance of scenes that do not tell it, metres"),
    ] = None
    share: Annotated[
        Annotated[Finite, Field(gt=0, le=1)] | None,
        Field(description="share of training windows from here; left out: by labelled area"),
    ] = None
    scale: Annotated[Ranged, Field(description="enlargement of windows from here, instead of augment.scale")] = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.scenes is None) == (self.generated is None):
            raise ValueError("expected one of scenes and generated")
        if self.scenes is not None and self.labels is None:
            raise ValueError("labels: missing; expected a list of layers with `files`")
        if self.scale is not None and not 0 < self.scale.range[0] <= self.scale.range[1]:
            raise ValueError(f"scale: found {self.scale.range}, expected a lowest and a highest, above 0")
        if self.generated is not None and (self.labels is not None or self.complete is not None):
            raise ValueError("generated scenes bring their own labels; leave out labels and complete")
        if self.generated is not None:
            ours = [key for key in ("bands", "nodata", "aoi", "gsd") if getattr(self, key) is not None]
            if ours:
                raise ValueError(
                    f"{', '.join(ours)}: for files; generated scenes have `generated.bands` and `generated.gsd`"
                )
        return self


class Split(Section):
    """Which pixels train, which validate (they choose the best weights), and which only test."""

    validation: Annotated[
        Annotated[list[str], Field(min_length=1)] | Annotated[Finite, Field(gt=0, lt=1)] | None,
        Field(description="patterns of scenes (paths or data names), or a share of all blocks"),
    ] = None
    test: Annotated[
        Annotated[list[str], Field(min_length=1)] | Annotated[Finite, Field(gt=0, lt=1)] | None,
        Field(description="the same, for pixels that nothing learns from or chooses by"),
    ] = None
    block: Annotated[Annotated[Whole, Field(ge=64)], Field(description="side of a block, px of the scene")] = 1024
    margin: Annotated[Annotated[Whole, Field(ge=0)], Field(description="px around held-out ground not trained on")] = 0
    folds: Annotated[Annotated[Whole, Field(ge=2)] | None, Field(description="k of k-fold cross-validation")] = None
    fold: Annotated[Annotated[Whole, Field(ge=0)], Field(description="which fold validates, from 0")] = 0
    seed: Annotated[Annotated[Whole, Field(ge=0)], Field(description="which blocks are held out")] = 0

    @model_validator(mode="after")
    def _folds(self) -> Self:
        if self.folds is not None and self.validation is not None:
            raise ValueError("found validation and folds, expected one of them: with folds, each fold validates once")
        if self.folds is not None and self.fold >= self.folds:
            raise ValueError(f"fold {self.fold}: expected 0 to {self.folds - 1}, for {self.folds} folds")
        return self


class Sampling(Section):
    """How windows are drawn."""

    size: Annotated[Annotated[Whole, Field(ge=32)], Field(description="side of a training window, px")] = 256
    batch: Annotated[Positive, Field(description="windows a step (of one process)")] = 8
    balance: Annotated[
        Share,
        Field(
            description="how much rare classes are preferred: windows centre on a class in proportion to its share to "
            "the power of 1 − balance; 0: as the pixels are, 1: every class equally often"
        ),
    ] = 0.5
    validation_size: Annotated[
        Annotated[Whole, Field(ge=32)] | None, Field(description="side of a validation window, px; left out: `size`")
    ] = None
    statistics: Annotated[Positive, Field(description="windows that normalisation is computed from")] = 256
    cache_mb: Annotated[Whole, Field(ge=0, description="memory for decoded scenes, MiB; larger ones stay on disk")] = (
        2048
    )
    threads: Annotated[Positive, Field(description="threads that prepare windows")] = 1
    ahead: Annotated[Positive, Field(description="batches prepared ahead")] = 4


class Elastic(Section):
    """Smooth random displacement of pixels."""

    amplitude_px: Annotated[list[NonNegative], Field(min_length=2, max_length=2, description="standard deviation, px")]
    spacing_px: Annotated[Finite, Field(ge=8, description="distance of the random displacements, px")] = 48.0
    chance: Annotated[Share, Field(description="share of windows that it applies to")] = 1.0

    @model_validator(mode="after")
    def _no_folds(self) -> Self:
        if 4 * max(self.amplitude_px) > self.spacing_px:
            raise ValueError(f"amplitude_px up to {max(self.amplitude_px):g}: over a quarter of spacing_px "
                             f"({self.spacing_px:g}), which folds the picture")  # fmt: skip
        return self


class Augment(Section):
    """How windows are changed at random, each within its range. What is left out does not happen.

    Colours change in units of the band's usual range (of uint8: 0 to 255, else from the data), which counts as 0 to 1.
    """

    symmetries: Annotated[
        Literal["none", "flips", "d4"], Field(description="none, the flips, or the eight symmetries of the square")
    ] = "d4"
    scale: Annotated[Ranged, Field(description="enlargement; below 1 the window shows more ground")] = None
    rotation_deg: Annotated[Ranged, Field(description="rotation, degrees, besides the symmetries")] = None
    elastic: Annotated[Elastic | None, Field(description="smooth displacement of pixels")] = None
    brightness: Annotated[Ranged, Field(description="added to all bands")] = None
    contrast: Annotated[Ranged, Field(description="factor of all bands about the window's mean")] = None
    gamma: Annotated[Ranged, Field(description="exponent of all bands")] = None
    band_brightness: Annotated[Ranged, Field(description="added to each band on its own")] = None
    band_contrast: Annotated[Ranged, Field(description="factor of each band about its mean")] = None
    band_gamma: Annotated[Ranged, Field(description="exponent of each band")] = None
    saturation: Annotated[Ranged, Field(description="factor of the bands' differences from their mean; 0: grey")] = None
    mixing: Annotated[Ranged, Field(description="share of each band replaced by a random mixture of all")] = None
    noise: Annotated[Ranged, Field(description="standard deviation of noise")] = None
    blur_px: Annotated[Ranged, Field(description="standard deviation of a Gaussian blur, px")] = None
    dropout: Annotated[Share, Field(description="chance of a band to be missing; at least one stays")] = 0.0
    paste: Annotated[
        Ranged, Field(description="share of the window that a rectangle of another one of its batch covers")
    ] = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        lowest = {"scale": 1e-2, "contrast": 0.0, "gamma": 1e-2, "band_contrast": 0.0, "band_gamma": 1e-2}
        lowest |= {"saturation": 0.0, "mixing": 0.0, "noise": 0.0, "blur_px": 0.0}
        lowest |= {"paste": 0.0}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, Elastic):
                found = value.amplitude_px
            elif isinstance(value, Chance):
                found = value.range
            else:
                continue
            if found[0] > found[1] or found[0] < lowest.get(name, float("-inf")):
                least = f", of at least {lowest[name]:g}" if name in lowest else ""
                raise ValueError(f"{name}: found {found[0]:g} to {found[1]:g}, expected a lowest and a highest{least}")
        if self.paste is not None and self.paste.range[1] > 1:
            raise ValueError(f"paste: found {self.paste.range[1]:g}, expected a share of the window of at most 1")
        return self
