"""A model for arrays in memory: `geounet.load_model`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geounet.errors import ModelError
from geounet.models.bundle import Bundle, load_bundle
from geounet.types import NODATA

if TYPE_CHECKING:
    from geounet.config.card import Card


class Model:
    """A model that segments whole arrays, for those that fit in memory; `geounet.run` tiles scenes of any size.

    The network sees the whole array at once, padded by reflection to a multiple of its stride. A network of fixed
    input size takes arrays of exactly that size.
    """

    def __init__(self, bundle: Bundle, *, device: str = "auto", precision: str = "auto", tta: str = "none") -> None:
        from geounet.models.device import resolve
        from geounet.models.members import stride_of
        from geounet.models.predictor import Predictor

        self.bundle = bundle
        resolved, chosen = resolve(device, precision, "device='cpu'")
        self._stride = stride_of(bundle)
        self._predictor = Predictor(
            bundle, device=resolved, precision=chosen, tta=tta, tile=bundle.card.tile.size, batch=1
        )

    @property
    def card(self) -> Card:
        """What the model takes and returns."""
        return self.bundle.card

    def predict(self, array: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
        """Return the mask of an array.

        Parameters
        ----------
        array
            `(bands, rows, cols)`, values as in the files that the model was trained on, bands in the card's order.
        valid
            bool `(rows, cols)`; none: where all bands are finite. What a masked array masks is never valid.

        Returns
        -------
        numpy.ndarray
            uint8 `(rows, cols)`: the most probable class's code (with one sigmoid channel, 1 from a probability of
            0.5); for multi-label models `(classes, rows, cols)` of 0 and 1. 255 where not valid.

        Raises
        ------
        ModelError
            If the array has another number of bands, or the network does not take its size.
        """
        array, valid = self._taken(array, valid)
        p = self.probabilities(array, valid)
        if self.card.head == "softmax":
            mask = p.argmax(axis=0).astype(np.uint8)
        else:
            mask = (p >= np.float32(0.5)).astype(np.uint8)
            if self.card.head == "binary":
                mask = mask[0]
        mask[..., ~valid] = NODATA
        return np.asarray(mask)

    def probabilities(self, array: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
        """Return the probabilities of an array's pixels.

        Parameters
        ----------
        array, valid
            As for `predict`. Pixels that are not valid are given the card's fill.

        Returns
        -------
        numpy.ndarray
            float32 `(classes, rows, cols)` in 0..1, also where not valid.

        Raises
        ------
        ModelError
            As `predict`.
        """
        array, valid = self._taken(array, valid)
        given = self.bundle.reading
        mean = np.array([s.mean for s in given.value_scaling], dtype=np.float32)[:, None, None]
        stddev = np.array([s.stddev for s in given.value_scaling], dtype=np.float32)[:, None, None]
        values = (array - mean) / stddev
        values[:, ~valid] = np.float32(given.fill)
        rows, cols = valid.shape
        tile = self.card.tile
        if tile.fixed and (rows, cols) != (tile.size, tile.size):
            raise ModelError(
                f"{self.card.name}: takes {tile.size} x {tile.size} px only, found {rows} x {cols}; "
                "geounet.run tiles scenes of any size"
            )
        beside = self._predictor.margin
        after = (0, 0) if tile.fixed else (-rows % self._stride, -cols % self._stride)
        values = np.pad(values, ((0, 0), *((beside, beside + k) for k in after)), mode="reflect")
        p = self._predictor.probabilities(values[None])[0, :, :rows, :cols]
        return np.ascontiguousarray(p)

    def _taken(self, array: np.ndarray, valid: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Return values as float32, and which pixels are valid."""
        bands = self.card.input.bands
        if array.ndim != 3 or len(array) != len(bands) or 0 in array.shape:
            raise ModelError(
                f"{self.card.name}: takes an array (bands, rows, cols) with {len(bands)} bands "
                f"({', '.join(bands)}), found shape {array.shape}"
            )
        with np.errstate(over="ignore"):  # what is beyond float32 is no value
            values = np.ma.getdata(array).astype(np.float32)
        there = ~np.ma.getmaskarray(array).any(axis=0)
        if valid is None:
            return values, np.asarray(there & np.isfinite(values).all(axis=0))
        if valid.shape != array.shape[1:] or valid.dtype != np.bool_:
            raise ModelError(f"valid is {valid.dtype} {valid.shape}, expected bool {array.shape[1:]}")
        valid = valid & there
        if not np.isfinite(values[:, valid]).all():
            raise ModelError("the array holds values that are not finite where `valid` is true")
        return values, valid


def load_model(name: str | Path, *, device: str = "auto", precision: str = "auto", tta: str = "none") -> Model:
    """Load a model for arrays in memory.

    Parameters
    ----------
    name
        A bundled model's name, or the path of a bundle (with a slash).
    device
        `auto`, `cpu`, `cuda` or `cuda:N`.
    precision
        `auto`, `fp32`, `bf16` or `fp16`.
    tta
        Test-time augmentation: `none`, `flips` or `d4` (square arrays only).

    Raises
    ------
    ModelError
        If there is no such model or device, or the model is damaged.
    """
    return Model(load_bundle(name), device=device, precision=precision, tta=tta)
