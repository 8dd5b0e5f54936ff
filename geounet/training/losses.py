"""Losses of segmentation, from a table, and weighted sums of them; unlabelled and partly labelled pixels count rightly.

A pixel's label is a class, 255 (nothing is known, it counts nowhere), or "any class but k" (`geounet.labels.values`).
The last one tells that k is wrong and no more: the likelihood of that is `1 - p_k`, and in losses of overlap the pixel
counts for class k alone. smp and torch compute what they compute rightly with such masks; softmax focal and Lovász
losses are written out here, because smp's have no masks per class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from segmentation_models_pytorch.losses import TverskyLoss
from torch import Tensor
from torch.nn import functional

from geounet.errors import JobError
from geounet.labels.values import IGNORED, barred_class, is_partial

Head = Literal["softmax", "binary", "multilabel"]


@dataclass(frozen=True)
class Term:
    """One summand of a loss."""

    name: str
    weight: float = 1.0
    options: Mapping[str, float] = field(default_factory=dict)


class View:
    """Logits and labels of a batch, and what losses want to know of them, each computed once.

    Parameters
    ----------
    logits
        `(n, channels, rows, cols)`, any floating type; computed with in float32.
    labels
        uint8 `(n, rows, cols)`: class codes, 255, or partial labels.
    codes
        The class code of each channel.
    head
        As of a card: `softmax`, or `binary` and `multilabel`, whose channels are independent sigmoids.
    weights
        Weight of each channel's class, float32 `(channels,)`; None: all 1.
    partial
        Whether there may be partial labels; without them less is computed.
    """

    def __init__(
        self,
        logits: Tensor,
        labels: Tensor,
        codes: Sequence[int],
        head: Head = "softmax",
        weights: Tensor | None = None,
        partial: bool = True,
    ) -> None:
        self.logits = logits.float().contiguous()  # sums over classes of planes are quicker than of pixels
        self.labels = labels.long()
        self.codes = tuple(codes)
        self.head = head
        self.weights = weights
        self.partial = partial

    @cached_property
    def log_p(self) -> Tensor:
        """Logarithm of the probabilities of a softmax head."""
        return self.logits.log_softmax(dim=1)

    @cached_property
    def p(self) -> Tensor:
        """Probabilities."""
        return self.log_p.exp() if self.head == "softmax" else self.logits.sigmoid()

    @cached_property
    def known(self) -> Tensor:
        """Where the class is known, bool `(n, rows, cols)`."""
        known = self.labels != IGNORED
        return known & ~is_partial(self.labels) if self.partial else known

    @cached_property
    def barred(self) -> Tensor:
        """Channel that is known to be wrong, bool `(n, channels, rows, cols)`: true there in partly labelled pixels."""
        wrong = torch.where(is_partial(self.labels), barred_class(self.labels), -1)
        return self._planes(wrong)

    @cached_property
    def truth(self) -> Tensor:
        """1 where the channel's class is the label, else 0, float32 `(n, channels, rows, cols)`."""
        return self._planes(self.labels).float()

    @cached_property
    def valid(self) -> Tensor:
        """Where `truth` is known, bool `(n, channels or 1, rows, cols)`."""
        valid = self.known.unsqueeze(1)
        return valid | self.barred if self.partial else valid

    @cached_property
    def log_not(self) -> Tensor:
        """`log(1 - p_k)` of the class k that a partly labelled pixel is not, else 0; `(n, rows, cols)`, softmax."""
        # The sum over the others, not 1 - p: exact also where p is nearly 1.
        return self.log_p.masked_fill(self.barred, -torch.inf).logsumexp(dim=1)

    @cached_property
    def not_k(self) -> Tensor:
        """Where the label is partial, and names one of our classes, bool `(n, rows, cols)`."""
        return self.barred.any(dim=1)

    def _planes(self, labels: Tensor) -> Tensor:
        return torch.stack([labels == code for code in self.codes], dim=1)


def cross_entropy(view: View, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy, the weighted mean over labelled pixels as torch defines it; partial ones add `-log(1 - p_k)`."""
    labels = view.labels if not view.partial else view.labels.masked_fill(~view.known, IGNORED)
    total = functional.nll_loss(view.log_p, labels, weight=view.weights, ignore_index=IGNORED, reduction="sum")
    if smoothing:  # as torch's cross_entropy, whose logarithms cannot be shared with other terms
        weighted = view.log_p if view.weights is None else view.log_p * view.weights.view(1, -1, 1, 1)
        total = (1 - smoothing) * total - smoothing / len(view.codes) * (weighted.sum(dim=1) * view.known).sum()
    if view.weights is None:
        count = view.known.sum()
    else:
        count = (view.weights[labels.clamp(max=len(view.codes) - 1)] * view.known).sum()
    if view.partial:
        total = total - (view.log_not * view.not_k).sum()
        count = count + view.not_k.sum()
    return _mean(total, count)


def binary_cross_entropy(view: View, smoothing: float = 0.0) -> Tensor:
    """Binary cross-entropy, the mean over channels and pixels that are known; `smoothing` draws labels to 1/2."""
    truth = view.truth * (1 - smoothing) + smoothing / 2 if smoothing else view.truth
    each = functional.binary_cross_entropy_with_logits(view.logits, truth, reduction="none")
    mask = view.valid.expand_as(each).float()
    if view.weights is not None:
        mask = mask * view.weights.view(1, -1, 1, 1)
    return _mean((each * mask).sum(), mask.sum())


def focal(view: View, gamma: float = 2.0) -> Tensor:
    """Focal loss `(1 - p_t)^gamma * -log p_t`, mean over known pixels (Lin et al. 2017, arXiv 1708.02002, eq. 4)."""
    if view.head != "softmax":
        log_p = functional.logsigmoid(torch.where(view.truth > 0, view.logits, -view.logits))
        mask = view.valid.expand_as(log_p).float()
        if view.weights is not None:
            mask = mask * view.weights.view(1, -1, 1, 1)
    else:
        labels = view.labels.masked_fill(~view.known, 0)
        log_p = view.log_p.gather(1, labels.unsqueeze(1)).squeeze(1)
        mask = view.known.float()
        if view.weights is not None:
            mask = mask * view.weights[labels]
        if view.partial:
            log_p = torch.where(view.not_k, view.log_not, log_p)
            mask = mask + view.not_k
    rest = -torch.expm1(log_p)  # 1 - p_t; clamped, because the slope of a power of 0 is infinite below gamma 1
    each = -log_p * rest.clamp_min(1e-8) ** gamma
    return _mean((each * mask).sum(), mask.sum())


def tversky(view: View, alpha: float = 0.5, beta: float = 0.5, smooth: float = 0.0) -> Tensor:
    """`1 - TP / (TP + alpha FP + beta FN)` of each class over the batch, averaged (Salehi et al. 2017, 1706.05721).

    Classes that the batch does not hold add 0. smp's loss, in its multi-label form: it has a mask for each class.
    """
    loss = TverskyLoss(
        "multilabel", from_logits=False, alpha=alpha, beta=beta, smooth=smooth, ignore_index=IGNORED,
        class_weights=None if view.weights is None else view.weights,
    )  # fmt: skip
    value: Tensor = loss(view.p, view.truth.masked_fill(~view.valid, IGNORED))
    return value


def dice(view: View, smooth: float = 0.0) -> Tensor:
    """Soft Dice loss over the batch (Milletari et al. 2016, arXiv 1606.04797)."""
    return tversky(view, 0.5, 0.5, smooth)


def jaccard(view: View, smooth: float = 0.0) -> Tensor:
    """Soft Jaccard loss over the batch (Rahman and Wang 2016)."""
    return tversky(view, 1.0, 1.0, smooth)


def lovasz(view: View) -> Tensor:
    """Lovász-softmax (classes present in the batch), or Lovász hinge (Berman et al. 2018, arXiv 1705.08790, alg. 1).

    Pixels that are not known are errors of 0, which sort last and change no other pixel's weight.
    """
    channels = len(view.codes)
    truth = (view.truth * view.valid).transpose(0, 1).reshape(channels, -1)
    if view.head == "softmax":
        errors = (view.truth - view.p).abs()
    else:
        errors = functional.relu(1 - view.logits * (2 * view.truth - 1))
    errors = (errors * view.valid).transpose(0, 1).reshape(channels, -1)
    errors, order = errors.sort(dim=1, descending=True)
    truth = truth.gather(1, order)
    count = truth.sum(dim=1, keepdim=True)
    both = count - truth.cumsum(dim=1)
    either = count + (1 - truth).cumsum(dim=1)
    index = 1 - both / either
    slope = torch.cat([index[:, :1], index[:, 1:] - index[:, :-1]], dim=1)
    each = (errors * slope).sum(dim=1)
    counted = (count[:, 0] > 0).float() if view.head == "softmax" else torch.ones_like(each)
    if view.weights is not None:
        counted = counted * view.weights
    return _mean((each * counted).sum(), counted.sum())


LOSSES: dict[str, Callable[..., Tensor]] = {
    "cross-entropy": cross_entropy,
    "binary-cross-entropy": binary_cross_entropy,
    "dice": dice,
    "jaccard": jaccard,
    "tversky": tversky,
    "focal": focal,
    "lovasz": lovasz,
}
"""Every loss by the name it has in a job file."""

_ONLY = {"cross-entropy": "softmax", "binary-cross-entropy": "sigmoid"}


def build(
    terms: Sequence[Term], codes: Sequence[int], head: Head, weights: Sequence[float] | None = None
) -> Callable[[Tensor, Tensor, bool], Tensor]:
    """Return the weighted sum of terms as a function of logits, labels, and whether labels may be partial.

    Raises
    ------
    JobError
        If a term does not go with the head.
    """
    for term in terms:
        needed = _ONLY.get(term.name)
        if needed is not None and needed != ("softmax" if head == "softmax" else "sigmoid"):
            other = "binary-cross-entropy" if needed == "softmax" else "cross-entropy"
            raise JobError(f"loss {term.name}: is for activation {needed}; use {other}, or change the activation")

    on_device: dict[torch.device, Tensor | None] = {}

    def loss(logits: Tensor, labels: Tensor, partial: bool = True) -> Tensor:
        if logits.device not in on_device:  # copied once: each copy to a GPU waits for it
            moved = None if weights is None else torch.tensor(weights, dtype=torch.float32, device=logits.device)
            on_device[logits.device] = moved
        view = View(logits, labels, codes, head, on_device[logits.device], partial)
        total = logits.new_zeros((), dtype=torch.float32)
        for term in terms:
            total = total + term.weight * LOSSES[term.name](view, **term.options)
        return total

    return loss


def _mean(total: Tensor, count: Tensor) -> Tensor:
    """Return a mean that is 0 where nothing is counted."""
    return total / count.float().clamp_min(1e-6)
