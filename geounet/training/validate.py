"""Validation: the network over held-out windows, counted pixel by pixel."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from geounet.evaluation.confusion import Confusion, mean, number
from geounet.labels.values import IGNORED, barred_class, is_partial
from geounet.training.gallery import Shown

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from geounet.config.card import Card
    from geounet.training.loop import Batch
    from geounet.training.stop import Stop


class Tally(NamedTuple):
    """Counts of a validation.

    Attributes
    ----------
    counts
        int64 `(classes + 1, classes)`: label (row) and prediction (column) by mask code. The last row holds
        pixels of which it is only known that they are not what was predicted.
    """

    names: tuple[str, ...]
    counts: NDArray[np.int64]

    @property
    def confusion(self) -> Confusion:
        """The pixels whose class is known."""
        return Confusion(self.names, self.counts[:-1])

    def scores(self) -> dict[str, Any]:
        """Return `miou`, `accuracy`, `iou`, `precision` and `recall` by class, to four places; undefined: None.

        Partly known pixels that were found as the class that they are not are false positives of it. They count in
        IoU and precision; accuracy is that of known pixels. Where there are such pixels, classes that no pixel is
        labelled as have no scores: which of what was found as them is wrong is not known.
        """
        size = len(self.names)
        square = np.zeros((size + 1, size + 1), dtype=np.int64)
        square[:, :size] = self.counts
        whole = Confusion((*self.names, ""), square)
        unknown = (self.counts[:-1].sum(axis=1) == 0) & self.counts[-1].any()

        def by_class(values: NDArray[np.float64]) -> dict[str, float | None]:
            known = np.where(unknown, np.nan, values[:size])
            return {name: _rounded(value) for name, value in zip(self.names, known, strict=True)}

        return {
            "miou": _rounded(mean(whole.iou[:size][~unknown])),
            "accuracy": _rounded(self.confusion.accuracy),
            "iou": by_class(whole.iou),
            "precision": by_class(whole.precision),
            "recall": by_class(whole.recall),
            "pixels": self.confusion.total,
        }


def measure(
    network: torch.nn.Module,
    batches: Iterable[tuple[Sequence[int], Batch]],
    card: Card,
    device: torch.device,
    autocast: AbstractContextManager[object],
    shown: Collection[int] = (),
    stop: Stop | None = None,
) -> tuple[Tally, dict[int, Shown]] | None:
    """Run a network over windows and count.

    Parameters
    ----------
    network
        In evaluation mode.
    batches
        The windows' numbers, and the windows.
    card
        Its classes.
    device, autocast
        Where and how the network computes.
    shown
        Numbers of windows to return.
    stop
        Asked after each batch.

    Returns
    -------
    tuple or None
        Counts, and the windows to show by their number; None if it was stopped.
    """
    names = class_names(card)
    tally = Tally(names, np.zeros((len(names) + 1, len(names)), dtype=np.int64))
    pictures: dict[int, Shown] = {}
    was_training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            for numbers, batch in batches:
                images = torch.from_numpy(batch.images).to(device).contiguous(memory_format=torch.channels_last)
                with autocast:
                    logits = network(images)
                found = codes(logits, card).cpu().numpy()
                count(tally.counts, batch.labels, found)
                for k, index in enumerate(numbers):
                    if index in shown:
                        label = np.where(is_partial(batch.labels[k]), IGNORED, batch.labels[k]).astype(np.uint8)
                        pictures[index] = Shown(batch.images[k].copy(), label, found[k])
                if stop:
                    return None
    finally:
        network.train(was_training)
    return tally, pictures


def codes(logits: torch.Tensor, card: Card) -> torch.Tensor:
    """Return the mask code of each pixel, uint8 `(n, rows, cols)`, from logits `(n, channels, rows, cols)`.

    Of classes that may overlap, the likeliest one above one half, because labels name one.
    """
    best, channel = logits.max(dim=1)
    if card.activation == "softmax":
        return channel.to(torch.uint8)
    table = torch.tensor([c.code for c in card.classes], dtype=torch.uint8, device=logits.device)
    return torch.where(best > 0, table[channel], 0).to(torch.uint8)


def count(counts: NDArray[np.int64], labels: NDArray[np.uint8], found: NDArray[np.uint8]) -> None:
    """Add pixels to the counts of a `Tally`."""
    size = counts.shape[1]
    table = np.full(256, 255, dtype=np.uint8)
    table[:size] = np.arange(size)
    if (labels >= size).any():
        barred = is_partial(labels) & (barred_class(labels) == found)
        labels = np.where(barred, np.uint8(size), table[labels])
    pairs = labels.astype(np.int32) * size + found
    counts += np.bincount(pairs.ravel(), minlength=256 * size)[: counts.size].reshape(counts.shape)


def class_names(card: Card) -> tuple[str, ...]:
    """Return the names of label values from 0 on; with sigmoid, 0 is the background."""
    names = tuple(c.name for c in card.classes)
    return names if card.activation == "softmax" else ("background", *names)


def _rounded(value: float) -> float | None:
    known = number(float(value))
    return None if known is None else round(known, 4)
