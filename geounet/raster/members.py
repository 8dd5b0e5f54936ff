"""Which files of a product a model takes, and what their bands are called."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from geounet.errors import SceneError
from geounet.raster.products import Asset, Product
from geounet.raster.source import open_source


@dataclass(frozen=True)
class Members:
    """The files of a product that hold wanted bands; fields as in `geounet.raster.scene.SceneSpec`."""

    files: tuple[str, ...]
    bands: tuple[int | str, ...] | None
    labels: tuple[tuple[str, ...], ...] = ()
    nodata: tuple[float, ...] | None = None


def choose_members(product: Product, wanted: Sequence[int | str], data_type: str, *, chosen: bool) -> Members:
    """Return the files of a product that hold the wanted bands.

    A band answers to its own name, its common one, `key:name`, and the key of an asset that holds no other. Of several
    that do, those count that are here; then those of the wanted data type; those whose asset has that key; an asset
    that holds all that is wanted; that with the fewest bands. What is the same band by its name is the same band. A
    product of one file of which it says no bands is that file, with what that says itself.

    Parameters
    ----------
    product
        With at least one asset.
    wanted
        Names; numbers only where there is one asset.
    data_type
        That the model was trained on; `any`: no matter.
    chosen
        Whether the job names the bands; they are the model's otherwise.

    Raises
    ------
    SceneError
        If a band is not there, or it is not clear which one is meant.
    """
    here = [asset for asset in product.assets if asset.here]
    if not here:
        first = product.assets[0].place
        raise SceneError(f"{product.path}: none of its files is on this machine ({first}, …); copy them first")
    names = [name for name in wanted if isinstance(name, str)]
    if len(names) < len(wanted):
        if len(product.assets) > 1:
            raise SceneError(
                f"{product.path}: bands by number, but its bands lie in {len(product.assets)} files; name them: "
                f"{_listing(here)}"
            )
        return _plain(here[0], wanted)
    offers = {name: _offers(here, name, data_type) for name in names}
    lacking = [name for name in names if not offers[name]]
    if len(lacking) == len(names) and len(product.assets) == 1 and not any(band.common for band in here[0].bands):
        return _plain(here[0], wanted if chosen else None)  # the file may have names of its own
    if lacking:
        away = [asset.key for asset in product.assets if not asset.here]
        hint = f"; not on this machine: {', '.join(away)}" if away else ""
        raise SceneError(
            f"{product.path}: no band is named {', '.join(lacking)}; its bands are {_listing(here)}{hint}"
            f"; {_example(here, len(names))}"
        )
    return _members(names, [_one(product, name, offers) for name in names])


Offer = tuple[Asset, int]
"""An asset, and a band of it, from 0."""


def _plain(asset: Asset, bands: Sequence[int | str] | None) -> Members:
    fills = {band.nodata for band in asset.bands}
    fill = fills.pop() if len(fills) == 1 else None
    fill = None if fill is not None and math.isnan(fill) else fill  # files say NaN for themselves
    return Members((asset.place,), None if bands is None else tuple(bands), (), None if fill is None else (fill,))


def _offers(assets: Sequence[Asset], name: str, data_type: str) -> list[Offer]:
    found = [(asset, band) for asset in assets for band in range(len(asset.bands)) if name.lower() in asset.names(band)]
    if data_type == "any" or len(found) < 2:
        return found
    kinds = [asset.bands[band].data_type or _stored(asset.place) for asset, band in found]
    # Pictures are of 8 bits, and no measurements.
    for fits in (lambda kind: kind == data_type, lambda kind: kind is None, lambda kind: kind != "uint8"):
        if any(map(fits, kinds)):
            return [offer for offer, kind in zip(found, kinds, strict=True) if fits(kind)]
    return found


def _stored(place: str) -> str | None:
    """Return the data type of a file; none where it cannot be read, which is told by who opens it as a scene."""
    try:
        with open_source(place) as raster:
            return str(raster.dtypes[0])
    except SceneError:
        return None


def _one(product: Product, name: str, offers: Mapping[str, list[Offer]]) -> Offer:
    found = offers[name]
    whole = [asset for asset, _ in found if all(any(asset is other for other, _ in some) for some in offers.values())]
    for kept in (
        [offer for offer in found if offer[0].key.lower() == name.lower()],
        [offer for offer in found if any(offer[0] is asset for asset in whole)],
        [offer for offer in found if len(offer[0].bands) == min(len(asset.bands) for asset, _ in found)],
    ):
        if kept:
            found = kept
            break
    if len({asset.bands[band].name.lower() for asset, band in found}) > 1:
        full = ", ".join(f"{asset.key}:{asset.bands[band].name}" for asset, band in found)
        raise SceneError(f"{product.path}: {name} may be {full}; choose with `bands`")
    return found[0]


def _members(names: Sequence[str], offers: Sequence[Offer]) -> Members:
    assets: list[Asset] = []
    for asset, _ in offers:
        if not any(asset is known for known in assets):
            assets.append(asset)
    # A band may be wanted twice, by two names: it has the first.
    first = {(asset.key, band): name for name, (asset, band) in reversed(list(zip(names, offers, strict=True)))}
    labels = tuple(
        tuple(first.get((asset.key, band), f"{asset.key}:{about.name}") for band, about in enumerate(asset.bands))
        for asset in assets
    )
    bands = tuple(first[asset.key, band] for asset, band in offers)
    fills = [asset.bands[band].nodata for asset, band in offers]
    nodata = tuple(fill for fill in fills if fill is not None)
    # Files say NaN for themselves.
    declared = len(nodata) == len(fills) and not any(math.isnan(fill) for fill in nodata)
    return Members(tuple(asset.place for asset in assets), bands, labels, nodata if declared else None)


def _listing(assets: Sequence[Asset]) -> str:
    every = [
        f"{asset.key}:{band.name}" if len(asset.bands) > 1 else f"{asset.key} ({band.common})" if band.common
        else asset.key
        for asset in assets for band in asset.bands
    ]  # fmt: skip
    return ", ".join(every[:20]) + (", …" if len(every) > 20 else "")


def _example(assets: Sequence[Asset], count: int) -> str:
    """Return what to do, in words."""
    if any(not band.said for asset in assets if len(asset.bands) == 1 for band in asset.bands):
        # Such an asset may have any number of bands.
        return "choose with `bands` among them, or name a file itself as the scene"
    keys = [asset.key for asset in assets if len(asset.bands) == 1]
    keys = keys or [f"{asset.key}:{band.name}" for asset in assets for band in asset.bands]
    return f"choose with `bands`, for example --set bands={','.join((keys * count)[:count])}"
