"""A network on a device: tiles in, quantised probabilities out, the same bits for any position in a batch.

Sums of integers do not depend on their order, so blending is exact when probabilities are whole steps; they are
rounded once, after members of an ensemble and test-time augmentation were averaged.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch

from geounet.errors import ModelError, ValuesError, first_line
from geounet.grid.weights import STEPS
from geounet.models.bundle import Bundle, load_bundle
from geounet.models.device import check_present
from geounet.models.members import margin_of
from geounet.models.network import give_context, load, margin, stride
from geounet.models.networks.blocks import centre
from geounet.models.prepare import prepare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from geounet.config.card import Card, InputSpec

logger = logging.getLogger(__name__)

TTA: dict[str, tuple[tuple[int, bool], ...]] = {
    "none": ((0, False),),
    "flips": ((0, False), (0, True), (2, True), (2, False)),
    "d4": tuple((turns, mirrored) for mirrored in (False, True) for turns in range(4)),
}
"""Test-time augmentation: quarter turns, and whether the columns are mirrored before them."""

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_KEPT = 4
_OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "not enough memory", "could not create a memory")

_lock = threading.Lock()
_device_lock = threading.Lock()
_predictors: OrderedDict[tuple[object, ...], Predictor] = OrderedDict()
_ceilings: dict[tuple[object, ...], int] = {}


class Scale(NamedTuple):
    """From the values that a predictor is given to the normalisation of one of its members."""

    factor: torch.Tensor
    offset: torch.Tensor
    """float32 `(bands, 1, 1)` both."""
    fill: float
    """In place of NaN."""


class Member(NamedTuple):
    """One network of a predictor."""

    card: Card
    network: torch.nn.Module
    scale: Scale | None
    """None: the values as they are."""


class Predictor:
    """A bundle's network, or the networks of an ensemble, ready on its device.

    Parameters
    ----------
    bundle
        The model.
    device, precision
        As `geounet.models.device.resolve` returns them.
    tta
        `none`, `flips` (4 forwards) or `d4` (8): forwards of the tile's symmetries, averaged.
    tile
        Side of a tile, px. A network with valid convolutions is given `margin` px more on every side.
    batch
        Tiles per forward; every forward has exactly this many, the rest are zeros.
    threads
        Threads of torch's CPU operators; none leaves torch's setting alone.

    Raises
    ------
    ModelError
        If a bundle's weights do not fit its network, or the device is not there or has too little memory for one tile.
    """

    margin: int
    """Pixels beside a tile that the network is given on each side of it."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str = "cpu",
        precision: str = "fp32",
        tta: str = "none",
        tile: int,
        batch: int = 1,
        threads: int | None = None,
    ) -> None:
        if tta not in TTA:
            raise ModelError(f"tta {tta!r}: expected {', '.join(TTA)}")
        if precision not in _DTYPES:
            raise ModelError(f"precision {precision!r}: expected {', '.join(_DTYPES)}")
        if batch < 1:
            raise ModelError(f"batch {batch}: expected 1 or more")
        check_present(device)
        self.card = bundle.card
        self.name = bundle.card.name
        self.tile = tile
        self.device = torch.device(device)
        self.precision = precision
        self.threads = threads
        self.halved = False
        """Whether a batch was halved for lack of memory: the batch shape, and so the last bits, may have changed."""
        self._halving = threading.Lock()
        self._symmetries = TTA[tta]
        self._dtype = _DTYPES[precision]
        self.margin = margin_of(bundle)
        self._sigmoid = bundle.card.activation == "sigmoid"
        self._key = (bundle.sha256, device, precision, tta, tile)
        self.batch = batch
        self._lower(_ceilings.get(self._key, batch))
        self._use_threads()
        if self.device.type == "cuda":
            # One kernel for one shape, whatever ran before; and fp32 means fp32.
            torch.backends.cudnn.benchmark = False
            torch.backends.cudnn.deterministic = True
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cuda.matmul.allow_tf32 = False
        reading = bundle.reading
        self._members = [
            Member(part.card, self._prepared(part).to(self.device), _scale(reading, part.card.input, self.device))
            for part in bundle.parts
        ]

    def quantised(self, tiles: np.ndarray) -> np.ndarray:
        """Return the probabilities of tiles in whole steps.

        Parameters
        ----------
        tiles
            Values normalised as `Bundle.reading` says, float32 `(n, bands, side, side)`, with
            `side = tile + 2 * margin`; finite, or NaN where `reading.fill` is.

        Returns
        -------
        numpy.ndarray
            `round(p * STEPS)` as int16 `(n, classes, tile, tile)`, p in 0..1.

        Raises
        ------
        ValuesError
            If the network returns NaN or infinity for these values, and not for ordinary ones.
        ModelError
            If the network returns them for any, returns another shape than it was given, fails, or if there is too
            little memory for a single tile.
        """
        bands, side = len(self.card.input.bands), self.tile + 2 * self.margin
        if tiles.ndim != 4 or tiles.shape[1:] != (bands, side, side):
            raise ValueError(f"tiles are {tiles.shape}, expected (n, {bands}, {side}, {side})")
        out = np.empty((len(tiles), self.card.channels, self.tile, self.tile), dtype=np.int16)
        self._run(tiles, out, lambda p: p.mul_(STEPS).round_().to(torch.int16))
        return out

    def probabilities(self, arrays: np.ndarray) -> np.ndarray:
        """Return the probabilities of arrays of any one size that the network takes, not rounded.

        Parameters
        ----------
        arrays
            Values as for `quantised`, float32 `(n, bands, rows + 2 * margin, cols + 2 * margin)`; rows equal cols with
            `d4`.

        Returns
        -------
        numpy.ndarray
            float32 `(n, classes, rows, cols)`, in 0..1.

        Raises
        ------
        ModelError
            As `quantised`.
        """
        rows, cols = (size - 2 * self.margin for size in arrays.shape[2:])
        out = np.empty((len(arrays), self.card.channels, rows, cols), dtype=np.float32)
        self._run(arrays, out, lambda p: p)
        return out

    def _run(self, tiles: np.ndarray, out: np.ndarray, finish: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Fill `out` with what `finish` makes of the tiles' mean probabilities."""
        self._use_threads()
        start = 0
        while start < len(tiles):
            size = self.batch  # once for the attempt: another thread may halve it meanwhile
            part = tiles[start : start + size]
            try:
                with self._alone(), torch.inference_mode():
                    out[start : start + len(part)] = finish(self._forward(part, size)).contiguous().cpu().numpy()
            # torch's OutOfMemoryError is a RuntimeError; encoders of fixed size assert it
            except (MemoryError, RuntimeError, AssertionError, ValueError) as error:
                if not is_out_of_memory(error):
                    raise ModelError(f"{self._refusal(part.shape[2:])}: {first_line(error)}") from error
                reason = first_line(error)
            else:
                start += len(part)
                continue
            # Outside of `except`: the traceback would keep the forward's tensors alive.
            self._halve(size, reason, part.shape[2:])

    def trial(self) -> None:
        """Run one full batch of zeros, so that a batch that is too large is halved now."""
        side = self.tile + 2 * self.margin
        self.quantised(np.zeros((self.batch, len(self.card.input.bands), side, side), dtype=np.float32))

    def _prepared(self, part: Bundle) -> torch.nn.Module:
        """Return a network made ready, tried on a small input where it takes one (pyramids of pooling do not)."""
        network, card, beside = load(part), part.card, 2 * margin(part.card)
        if beside:
            give_context(network)
        small = 2 * stride(card)
        for side in [self.tile] if card.tile.fixed or small >= self.tile else [small, self.tile]:
            shape = (1, len(card.input.bands), side + beside, side + beside)
            # Noise, because zeros would hide differences.
            example = torch.randn(shape, generator=torch.Generator().manual_seed(0))
            try:
                return prepare(network, self._dtype, example, device=self.device.type)
            except (RuntimeError, AssertionError, ValueError) as error:
                if side == self.tile:
                    raise ModelError(f"{self._refusal((side, side), card)}: {first_line(error)}") from error
        raise AssertionError

    def _refusal(self, shape: tuple[int, ...], card: Card | None = None) -> str:
        network = (card or self.card).network
        return f"{self.name}: {network} fails on {shape[0]} x {shape[1]} px ({self.device}, {self.precision})"

    def _forward(self, part: np.ndarray, size: int) -> torch.Tensor:
        """Return the mean probabilities of a part, filled up to `size` tiles."""
        n = len(part)
        tiles = torch.zeros((size, *part.shape[1:]), dtype=torch.float32)
        tiles[:n] = torch.from_numpy(np.ascontiguousarray(part, dtype=np.float32))
        tiles = tiles.to(self.device)
        total: torch.Tensor | None = None
        for member in self._members:  # in the order of the card: sums of floats depend on it
            of_member = self._symmetric(self._seen(tiles, member), member, n)
            total = of_member if total is None else total.add_(of_member)
        assert total is not None
        forwards = len(self._members) * len(self._symmetries)
        return total.div_(forwards) if forwards > 1 else total

    def _symmetric(self, tiles: torch.Tensor, member: Member, n: int) -> torch.Tensor:
        """Return the sum of a member's probabilities over the symmetries, of the first `n` tiles."""
        total: torch.Tensor | None = None
        for turns, mirrored in self._symmetries:
            given = _turned(tiles, turns, mirrored).contiguous(memory_format=torch.channels_last)
            with self._autocast():
                logits = member.network(given)
            self._check(logits, n, given, member)
            logits = logits[:n].float()
            p = _unturned(logits.sigmoid() if self._sigmoid else logits.softmax(dim=1), turns, mirrored)
            total = p if total is None else total.add_(p)
        assert total is not None
        return total

    def _seen(self, tiles: torch.Tensor, member: Member) -> torch.Tensor:
        """Return the tiles in a member's own normalisation, with the margin that it takes."""
        if member.scale is not None:
            invalid = tiles.isnan()
            tiles = (tiles * member.scale.factor + member.scale.offset).masked_fill(invalid, member.scale.fill)
        surplus = 2 * (self.margin - margin(member.card))
        return centre(tiles, tiles.shape[-2] - surplus, tiles.shape[-1] - surplus) if surplus else tiles

    def _check(self, logits: torch.Tensor, n: int, given: torch.Tensor, member: Member) -> None:
        card = member.card
        beside = 2 * margin(card)
        expected = (len(given), card.channels, given.shape[2] - beside, given.shape[3] - beside)
        if not isinstance(logits, torch.Tensor) or tuple(logits.shape) != expected:
            found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            raise ModelError(
                f"{self.name}: {card.architecture} returned {found} for an input of {tuple(given.shape)}, expected "
                f"{expected}: a value for each pixel and class (which `arguments.upsampling` decides)"
            )
        wrong = _not_finite(logits[:n])
        if wrong is None:
            return
        told = f"{self.name}: the network returned {wrong} ({self.precision})"
        narrow = "float16 ends at 65504: use precision bf16 or fp32"
        # Tried with noise: whether the values are to blame decides whether other scenes fare better.
        noise = torch.randn(given.shape, generator=torch.Generator().manual_seed(0)).to(given)
        with self._autocast():
            answer = member.network(noise.contiguous(memory_format=torch.channels_last))
        if _not_finite(answer) is not None:
            raise ModelError(f"{told}; {narrow if self.precision == 'fp16' else 'its weights are damaged'}")
        hint = f"; {narrow}" if self.precision == "fp16" else ""
        raise ValuesError(f"{told}: the input is far outside of what the card's value_scaling expects{hint}")

    def _halve(self, size: int, reason: str, shape: tuple[int, ...]) -> None:
        """Go on with half the batch that there was too little memory for, unless another thread has seen to it."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if size == 1:
            raise ModelError(
                f"{self.name}: too little memory on {self.device} for {shape[0]} x {shape[1]} px; "
                f"use a smaller tile ({reason})"
            )
        with self._halving:
            if self.batch < size:
                return
            self._lower(size // 2)
        logger.warning("%s: out of memory on %s, batch is now %d (%s)", self.name, self.device, size // 2, reason)

    def _lower(self, batch: int) -> None:
        if batch < self.batch:
            self.batch = batch
            self.halved = True
            # Remembered for the process: probing free memory again would run into the same wall again.
            _ceilings[self._key] = batch

    def _use_threads(self) -> None:
        # OpenMP's setting belongs to the calling thread, and setting it empties caches: only where it differs.
        if self.threads is not None and torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)

    def _autocast(self) -> AbstractContextManager[object]:
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self._dtype)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one thread at a time use a GPU, so that its memory is needed once."""
        if self.device.type == "cpu":
            yield
        else:
            with _device_lock:
                yield


def get_predictor(
    folder: str,
    sha256: str,
    device: str,
    precision: str,
    tta: Literal["none", "flips", "d4"] | str = "none",
    tile: int = 512,
    batch: int = 1,
    threads: int | None = None,
) -> Predictor:
    """Return this process's predictor of a bundle, building it at the first call.

    Safe to call from several threads. The last few predictors are kept.

    Raises
    ------
    ModelError
        If the bundle in `folder` is not the one with this checksum.
    """
    key = (folder, sha256, device, precision, tta, tile, batch, threads)
    with _lock:
        found = _predictors.get(key)
        if found is None:
            bundle = load_bundle(folder)
            if bundle.sha256 != sha256:
                raise ModelError(
                    f"{folder}: another model (sha256 {bundle.sha256[:12]}…) than the run began with ({sha256[:12]}…)"
                )
            found = Predictor(
                bundle, device=device, precision=precision, tta=tta, tile=tile, batch=batch, threads=threads
            )
            _predictors[key] = found
            while len(_predictors) > _KEPT:
                _predictors.popitem(last=False)
        _predictors.move_to_end(key)
        return found


def _not_finite(logits: torch.Tensor) -> str | None:
    """Return what there is among logits that is no number, or None."""
    low, high = torch.aminmax(logits)
    if bool(torch.isfinite(low) & torch.isfinite(high)):
        return None
    return "NaN" if bool(torch.isnan(low)) else "infinite values"


def _scale(reading: InputSpec, wanted: InputSpec, device: torch.device) -> Scale | None:
    """Return what brings values normalised as `reading` says to another normalisation; None if it is the same."""
    if reading == wanted:
        return None
    pairs = list(zip(reading.value_scaling, wanted.value_scaling, strict=True))
    factors = [a.stddev / b.stddev for a, b in pairs]
    offsets = [(a.mean - b.mean) / b.stddev for a, b in pairs]
    factor, offset = (torch.tensor(v, dtype=torch.float32, device=device)[:, None, None] for v in (factors, offsets))
    return Scale(factor, offset, wanted.fill)


def _turned(tiles: torch.Tensor, turns: int, mirrored: bool) -> torch.Tensor:
    if mirrored:
        tiles = tiles.flip(-1)
    return tiles.rot90(turns, (-2, -1)) if turns else tiles


def _unturned(tiles: torch.Tensor, turns: int, mirrored: bool) -> torch.Tensor:
    if turns:
        tiles = tiles.rot90(-turns, (-2, -1))
    return tiles.flip(-1) if mirrored else tiles


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception means that memory was lacking, on a GPU or in the process."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return any(sign in text for sign in _OUT_OF_MEMORY)
