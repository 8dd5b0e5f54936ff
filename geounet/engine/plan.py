"""Resolving a job for one scene and one model: every `auto` becomes a value, every mismatch an error."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from geounet import machine
from geounet.config.card import Card
from geounet.config.job import Job, Vector
from geounet.engine.ledger import fingerprint
from geounet.errors import JobError, ModelError, SceneError
from geounet.grid.blocks import BlockGrid
from geounet.grid.choice import (
    LARGE_OVERLAP_SHARE,
    OVERLAP_SHARE,
    choose_block,
    choose_overlap,
    choose_tile,
    round_up,
)
from geounet.grid.tiles import TileGrid
from geounet.models.bundle import Bundle
from geounet.models.network import margin
from geounet.predict.recipe import Recipe
from geounet.raster.resample import model_grid
from geounet.raster.scene import SceneInfo, SceneSpec

COMPUTE_VERSION = 3
"""Raised whenever the same job would give other pixels: parts of older versions are then not continued."""

GSD_TOLERANCE = 0.2
"""Relative difference of ground sample distances up to which a scene is taken as it is."""

ASPECT_TOLERANCE = 0.2
"""The same of the width and the height of a pixel on the ground."""

PACKAGES = ("geounet", "torch", "segmentation-models-pytorch", "timm", "rasterio", "numpy", "shapely", "dask")


def versions() -> dict[str, str]:
    """Return the versions of the packages that results depend on."""
    return machine.versions(PACKAGES)


def check_bands(info: SceneInfo, card: Card, *, chosen: bool = False) -> None:
    """Check the bands of a described scene against the card; `chosen`: the job names them, the file may have more.

    Raises
    ------
    SceneError
        If their number differs.
    """
    wanted = len(card.input.bands)
    if len(info.band_names) != wanted:
        names = ", ".join(info.band_names)
        count = len(info.band_names)
        found = f"bands: {count} chosen" if chosen else f"has {count} band{'s' if count != 1 else ''}"
        raise SceneError(
            f"{info.files[0]}: {found} ({names}), the model {card.name} "
            f"takes {wanted} ({', '.join(card.input.bands)}); choose them with `bands`, for example "
            f"--set bands={_example(info, card, chosen=chosen)}"
        )


def _example(info: SceneInfo, card: Card, *, chosen: bool) -> str:
    """Return bands to try: by the card's names where the scene knows them, the others by number.

    Where the scene has too few, its last one repeats; `chosen`: how many the file has is not known.
    """
    places = [_place(info, band) for band in card.input.bands]
    last = len(places) - 1 if chosen else len(info.band_names) - 1
    others = iter(i for i in range(len(places)) if i not in places)
    return ",".join(
        str(min(next(others), last) + 1) if place is None else band
        for band, place in zip(card.input.bands, places, strict=True)
    )


def _place(info: SceneInfo, band: str) -> int | None:
    """Return the position of the one band of this name, else of this colour, as `raster.bands.choose` finds it."""
    for known in (info.band_names, info.colours):
        places = [i for i, name in enumerate(known) if name.lower() == band.lower()]
        if places:
            return places[0] if len(places) == 1 else None
    return None


def choose_bands(info: SceneInfo, card: Card) -> tuple[int | str, ...] | None:
    """Return the bands of a scene (described with all its bands) that fit the card when the job says `auto`.

    By name where the scene has all the card's names, or else colours of these names; else all bands where their number
    is right; else, for a scene with more bands than the card takes, nothing is guessed.
    """
    names = [name.lower() for name in info.band_names]
    if all(band.lower() in names for band in card.input.bands) and len(set(names)) == len(names):
        return tuple(info.band_names[names.index(band.lower())] for band in card.input.bands)
    # Bands that are described as B02, B03, B04 may still say that they are blue, green, red.
    places = [_place(info, band) for band in card.input.bands]
    if None in places or len(set(places)) < len(places):
        return None
    return info.band_names if places == list(range(len(names))) else tuple(card.input.bands)


def check_data_type(info: SceneInfo, card: Card, job: Job) -> None:
    """Check the data type of a scene against the card; values with a scale or an offset are no integers.

    Raises
    ------
    SceneError
        If it differs and the job does not say to ignore that.
    """
    wanted = card.input.data_type
    if job.data_type == "ignore" or wanted == "any":
        return
    if info.scaled and wanted not in ("float32", "float64"):
        raise SceneError(
            f"{info.files[0]}: its {info.dtype} has a scale or an offset, which are applied, the model {card.name} was "
            f"trained on stored {wanted}: values would be out of range; unset them (gdal_edit.py -scale 1 -offset 0), "
            "or set data_type: ignore if the model does know scaled values"
        )
    if not info.scaled and info.dtype != wanted:
        raise SceneError(
            f"{info.files[0]}: holds {info.dtype}, the model {card.name} was trained on {wanted}: its values would be "
            "out of range; rescale it (gdal_translate -ot … -scale …), or set data_type: ignore if the values do match"
        )


def choose_grid(info: SceneInfo, card: Card, job: Job) -> tuple[tuple[int, int], float | None]:
    """Return the model grid `(rows, cols)` and the ratio scene GSD / model GSD (None if unknown).

    A model that was trained on a range takes what lies in it (ratio 1); the ratio of others is to the nearer end. Where
    the job says `auto`, pixels that are not square on the ground are a difference, too.

    Raises
    ------
    SceneError
        If they differ by over 20 % and the job says `refuse`.
    """
    shape = info.height, info.width
    span = card.gsds
    if span is None or info.gsd is None:
        if job.resample == "auto" and span is not None:
            raise SceneError(
                f"{info.files[0]}: its ground sample distance is unknown (no CRS), so it cannot be resampled to the "
                f"{card.resolution} of the model {card.name}; georeference it, or set resample: never"
            )
        return shape, None
    nearest = min(max(info.gsd, span[0]), span[1])
    ratio = info.gsd / nearest
    differs = abs(ratio - 1) > GSD_TOLERANCE
    if differs and job.resample == "refuse":
        raise SceneError(
            f"{info.files[0]}: ground sample distance is {info.gsd:.3g} m, the model {card.name} was trained on "
            f"{card.resolution}; set resample: auto to bring it to the model's, or resample: never to run it as it is"
        )
    if (differs or _flat(info)) and job.resample == "auto":
        return model_grid(info, nearest), ratio
    return shape, ratio


def _flat(info: SceneInfo) -> bool:
    return max(info.aspect, 1 / info.aspect) > 1 + ASPECT_TOLERANCE


def _squashed(info: SceneInfo, card: Card) -> str:
    """Say that the network sees a scene with other widths than heights, and what to do."""
    assert info.gsd is not None  # who knows the aspect knows the size
    stretch = math.sqrt(info.aspect)
    way = "set resample: auto" if card.gsds is not None else "warp it first (gdalwarp -tr)"
    return (
        f"a pixel is {info.gsd * stretch:.3g} × {info.gsd / stretch:.3g} m on the ground, but the network sees "
        f"squares; {way} to make them square"
    )


def resolve_tiling(
    shape: tuple[int, int], card: Card, job: Job, multiple: int, workers: int, threads: int
) -> tuple[int, int, int]:
    """Return tile, overlap and tiles per side of a block.

    Raises
    ------
    JobError
        If a given value does not suit the network.
    """
    rows, cols = shape
    size = card.tile.size
    given_tile, given_overlap = job.tiling.tile, job.tiling.overlap
    base = size if given_tile == "auto" else given_tile
    if isinstance(given_overlap, int):
        overlap = given_overlap
    elif card.tile.overlap is not None and given_tile == "auto":
        overlap = card.tile.overlap
    elif margin(card):
        overlap = 0  # the network sees past its tiles, so their edges do not show
    else:
        larger = given_tile == "auto" and not card.tile.fixed
        overlap = choose_overlap(base, multiple, LARGE_OVERLAP_SHARE if larger else OVERLAP_SHARE)
        if larger and max(rows, cols) <= size:  # one tile: it need not be large enough for an overlap
            overlap = min(overlap, round_up(max(rows, cols), multiple) // 2 // multiple * multiple)
    if card.tile.fixed:
        if given_tile not in ("auto", size):
            raise JobError(f"tiling.tile: the model {card.name} only takes {size} px, found {given_tile}")
        tile = size
    elif given_tile != "auto":
        tile = given_tile
    else:
        tile = choose_tile(rows, cols, size, overlap, multiple)
    if tile % multiple:
        raise JobError(
            f"tiling.tile: {tile} px is no multiple of the network's {multiple} px; use {round_up(tile, multiple)}"
        )
    if overlap < 0 or overlap > tile // 2:
        raise JobError(f"tiling.overlap: must be 0 to half a tile ({tile // 2} px), found {overlap}")
    if overlap % multiple and not card.tile.fixed:
        raise JobError(
            f"tiling.overlap: {overlap} px is no multiple of the network's {multiple} px, so tiles would start off its "
            f"stride; use {overlap // multiple * multiple} or {round_up(overlap, multiple)}"
        )
    grid = TileGrid(rows, cols, tile, overlap)
    if job.tiling.block == "auto":
        side = choose_block(grid, workers, threads)
    elif job.tiling.block == "scene":
        side = max(grid.shape)
    else:
        side = min(job.tiling.block, max(grid.shape))
    return tile, overlap, side


@dataclass(frozen=True)
class Plan:
    """A job resolved for one scene and one model."""

    recipe: Recipe
    info: SceneInfo
    card: Card
    ratio: float | None
    """Scene's ground sample distance over the model's."""
    probability: bool = False
    """Whether the probability COG is asked for."""
    layers: Vector | None = None
    """Vector layers to make; None: no GeoPackage."""

    def __post_init__(self) -> None:
        """Add to the scene's warnings what is to be said of it with this model."""
        if _flat(self.info) and not self.recipe.resampled:
            told = dict.fromkeys((*self.info.warnings, _squashed(self.info, self.card)))
            object.__setattr__(self, "info", replace(self.info, warnings=tuple(told)))

    @property
    def grid_summary(self) -> dict[str, Any]:
        """Tile, overlap, block and grids, for manifests and `plan`."""
        tiles = self.recipe.tiles
        blocks = BlockGrid(tiles, self.recipe.side)
        return {
            "tile": self.recipe.tile,
            "overlap": self.recipe.overlap,
            "stride": tiles.stride,
            "block": self.recipe.side,
            "tiles": tiles.count,
            "blocks": blocks.count,
            "model_grid": list(self.recipe.model_shape),
            "scene_grid": list(self.recipe.scene_shape),
            "resampled": self.recipe.resampled,
            "gsd_ratio": None if self.ratio is None else round(self.ratio, 4),
            "inferred_per_pixel": round(tiles.count * tiles.tile**2 / math.prod(self.recipe.model_shape), 3),
        }


_TOLD = frozenset({"labels", "product", "fault"})
"""What a scene's fingerprint tells by the names of its bands, and what decides no pixel."""


def pixel_key(job: Job, bundle: Bundle, info: SceneInfo, spec: SceneSpec) -> str:
    """Return the identity of the pixels: all that they depend on, and nothing else."""
    settings = job.model_dump(mode="json", include={"resample", "data_type", "tiling", "predict", "nodata", "bands"})
    return fingerprint(
        COMPUTE_VERSION,
        versions(),
        settings,
        {"probability": keeps_probability(job)},
        bundle.sha256,
        info.fingerprint,
        {key: value for key, value in asdict(spec).items() if key not in _TOLD},
    )


def job_key(job: Job, pixels: str) -> str:
    """Return the identity of a scene's finished output."""
    settings = job.model_dump(mode="json", include={"vector", "max_failed_blocks"}, by_alias=True)
    if isinstance(settings["vector"], dict):
        del settings["vector"]["mosaic"]  # is about all scenes; what it needs of this one is the probability
    return fingerprint(pixels, settings, job.probability)


def keeps_probability(job: Job) -> bool:
    """Return whether parts hold probabilities: for the probability COG, or for the confidence of features."""
    return job.probability or job.vector != "none"


def check_model(card: Card) -> None:
    """Check that a card can be used at all.

    Raises
    ------
    ModelError
        If the mask could not hold its classes.
    """
    if max(c.code for c in card.classes) >= 255:
        raise ModelError(f"the model {card.name} has a class code over 254; 255 is nodata")
