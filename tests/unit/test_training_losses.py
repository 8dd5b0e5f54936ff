"""Losses against formulas written out pixel by pixel, and against smp and torch where they compute the same."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from geounet.errors import JobError
from geounet.labels.values import partial as any_but
from geounet.training.losses import LOSSES, Term, View, build

CLASSES, ROWS, COLS = 4, 6, 7
CODES = range(CLASSES)


def case(seed: int, *, ignored: float = 0.2, partial: float = 0.2) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (2, 4, 6, 7) in double precision, and labels with some pixels ignored and some partly known."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, (2, ROWS, COLS)).astype(np.uint8)
    kind = rng.random(labels.shape)
    labels[kind < partial] = any_but(0) - labels[kind < partial]
    labels[kind > 1 - ignored] = 255
    return torch.from_numpy(rng.normal(0, 2, (2, CLASSES, ROWS, COLS))).float(), torch.from_numpy(labels)


def pixels(logits: torch.Tensor, labels: torch.Tensor) -> list[tuple[NDArray[np.float64], int]]:
    """Logits and label of each pixel, one after the other."""
    planes = logits.double().numpy().transpose(0, 2, 3, 1).reshape(-1, logits.shape[1])
    return list(zip(planes, labels.numpy().ravel().tolist(), strict=True))


def softmax(z: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.exp(z - z.max()) / np.exp(z - z.max()).sum()


def sigmoid(z: Any) -> Any:
    return 1 / (1 + np.exp(-z))


def value(name: str, logits: torch.Tensor, labels: torch.Tensor, **options: Any) -> float:
    head = options.pop("head", "softmax")
    weights = options.pop("weights", None)
    codes = options.pop("codes", CODES)
    return float(build([Term(name, 1.0, options)], codes, head, weights)(logits, labels, True))


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.1]), st.booleans())
@settings(max_examples=25, deadline=None)
def test_cross_entropy_is_the_sum_over_pixels(seed: int, smoothing: float, weighted: bool) -> None:
    logits, labels = case(seed)
    weights = [0.5, 2.0, 1.0, 0.25] if weighted else None
    w = np.array(weights or [1.0] * CLASSES)
    above = below = 0.0
    for z, label in pixels(logits, labels):
        p = softmax(z)
        if label == 255:
            continue
        if label >= CLASSES:
            above += -math.log(1 - p[254 - label])
            below += 1
        else:
            above += (1 - smoothing) * w[label] * -math.log(p[label])
            above += smoothing / CLASSES * float((w * -np.log(p)).sum())
            below += w[label]
    assert value("cross-entropy", logits, labels, smoothing=smoothing, weights=weights) == pytest.approx(
        above / below, rel=1e-5
    )


@given(st.integers(0, 10_000), st.sampled_from([0.5, 1.0, 2.0]))
@settings(max_examples=25, deadline=None)
def test_focal_is_the_sum_over_pixels(seed: int, gamma: float) -> None:
    logits, labels = case(seed)
    terms = []
    for z, label in pixels(logits, labels):
        if label != 255:
            p = softmax(z)
            right = 1 - p[254 - label] if label >= CLASSES else p[label]
            terms.append((1 - right) ** gamma * -math.log(right))
    assert value("focal", logits, labels, gamma=gamma) == pytest.approx(np.mean(terms), rel=1e-4)


def test_focal_with_gamma_0_is_cross_entropy() -> None:
    logits, labels = case(3)
    assert value("focal", logits, labels, gamma=0.0) == pytest.approx(value("cross-entropy", logits, labels), rel=1e-6)


def sums(logits: torch.Tensor, labels: torch.Tensor) -> list[tuple[float, float, float]]:
    """True positives, false positives and false negatives of each class, soft; partly known pixels are "not k"."""
    found = [[0.0, 0.0, 0.0] for _ in CODES]
    for z, label in pixels(logits, labels):
        p = softmax(z)
        for k in CODES:
            if label < CLASSES:
                found[k][0 if label == k else 1] += p[k]
                found[k][2] += (label == k) * (1 - p[k])
            elif label == any_but(k):
                found[k][1] += p[k]
    return [(a, b, c) for a, b, c in found]


@pytest.mark.parametrize(
    ("name", "options", "alpha", "beta"),
    [("dice", {}, 0.5, 0.5), ("jaccard", {}, 1.0, 1.0), ("tversky", {"alpha": 0.3, "beta": 0.7}, 0.3, 0.7)],
)
@given(seed=st.integers(0, 10_000), smooth=st.sampled_from([0.0, 1.0]))
@settings(max_examples=15, deadline=None)
def test_overlap_losses_from_soft_counts(
    name: str, options: dict[str, float], alpha: float, beta: float, seed: int, smooth: float
) -> None:
    logits, labels = case(seed)
    present = [bool((labels == k).any()) for k in CODES]
    expected = np.mean([
        here * (1 - (tp + smooth) / (tp + alpha * fp + beta * fn + smooth))
        for here, (tp, fp, fn) in zip(present, sums(logits, labels), strict=True)
    ])  # fmt: skip
    assert value(name, logits, labels, smooth=smooth, **options) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("ignored", [0.0, 0.3])
def test_known_labels_give_what_smp_gives(ignored: float) -> None:
    logits, labels = case(5, ignored=ignored, partial=0)
    target = labels.long()
    ignore = {"ignore_index": 255}
    assert value("dice", logits, labels) == pytest.approx(
        float(smp.losses.DiceLoss("multiclass", **ignore)(logits, target)), rel=1e-5
    )
    assert value("lovasz", logits, labels) == pytest.approx(
        float(smp.losses.LovaszLoss("multiclass", **ignore)(logits, target)), rel=1e-5
    )
    binary = torch.where(labels == 255, 255, (labels > 1).byte())
    given = {"head": "binary", "codes": [1]}
    assert value("lovasz", logits[:, :1], binary, **given) == pytest.approx(
        float(smp.losses.LovaszLoss("binary", **ignore)(logits[:, :1], binary.long())), rel=1e-5
    )
    assert value("focal", logits[:, :1], binary, **given) == pytest.approx(
        float(smp.losses.FocalLoss("binary", gamma=2.0, **ignore)(logits[:, :1], binary.float())), rel=1e-4
    )


def lovasz_by_definition(errors: NDArray[np.float64], truth: NDArray[np.bool_]) -> float:
    """The Lovász extension as a sum over growing sets of mistakes, each set's Jaccard loss counted anew."""
    order = np.argsort(-errors, kind="stable")
    total, last = 0.0, 0.0
    for n in range(1, len(order) + 1):
        wrong = np.zeros(len(order), bool)
        wrong[order[:n]] = True
        loss = wrong.sum() / (truth | wrong).sum()  # of a prediction that is wrong in just these pixels
        total += errors[order[n - 1]] * (loss - last)
        last = loss
    return total


@given(st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_lovasz_by_its_definition(seed: int) -> None:
    logits, labels = case(seed)
    each = []
    for k in CODES:
        errors, truth = [], []
        for z, label in pixels(logits, labels):
            if label < CLASSES or label == any_but(k):
                truth.append(label == k)
                errors.append(abs((label == k) - softmax(z)[k]))
        if any(truth):
            each.append(lovasz_by_definition(np.array(errors), np.array(truth)))
    assert value("lovasz", logits, labels) == pytest.approx(np.mean(each), rel=1e-4)


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.2]))
@settings(max_examples=15, deadline=None)
def test_binary_cross_entropy_of_several_labels(seed: int, smoothing: float) -> None:
    """Codes 1 to 3 have a channel each, 0 has none."""
    logits, labels = case(seed)
    terms = []
    for z, label in pixels(logits[:, 1:], labels):
        for channel, code in enumerate((1, 2, 3)):
            p = sigmoid(z[channel])
            if label < CLASSES or label == any_but(code):
                truth = (label == code) * (1 - smoothing) + smoothing / 2
                terms.append(-truth * math.log(p) - (1 - truth) * math.log(1 - p))
    found = value(
        "binary-cross-entropy", logits[:, 1:], labels, head="multilabel", codes=[1, 2, 3], smoothing=smoothing
    )
    assert found == pytest.approx(np.mean(terms), rel=1e-4)


ALL = [(n, "softmax") for n in LOSSES if n != "binary-cross-entropy"] + [
    (n, "binary") for n in LOSSES if n != "cross-entropy"
]


@pytest.mark.parametrize(("name", "head"), ALL)
def test_pixels_without_label_have_no_gradient_and_the_rest_has(name: str, head: str) -> None:
    logits, labels = case(7)
    codes = list(CODES)
    if head == "binary":
        logits, codes = logits[:, :1], [1]
    logits.requires_grad_(True)
    loss = build([Term(name)], codes, head, None)(logits, labels, True)  # type: ignore[arg-type]
    loss.backward()
    assert logits.grad is not None
    nothing = (labels == 255).unsqueeze(1).expand_as(logits)
    assert logits.grad[nothing].abs().max() == 0
    assert logits.grad[~nothing].abs().max() > 0
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize(("name", "head"), ALL)
@pytest.mark.parametrize("content", [255, 0, 1, any_but(1)])
def test_one_kind_of_label_only(name: str, head: str, content: int) -> None:
    """Nothing labelled is a loss of 0; extreme logits stay finite."""
    codes = [1] if head == "binary" else list(CODES)
    logits = torch.full((1, len(codes), 3, 3), -90.0)
    logits[:, 0] = 90.0
    logits.requires_grad_(True)
    labels = torch.full((1, 3, 3), content, dtype=torch.uint8)
    loss = build([Term(name)], codes, head, None)(logits, labels, True)  # type: ignore[arg-type]
    loss.backward()
    assert math.isfinite(float(loss.detach()))
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    if content == 255:
        assert float(loss.detach()) == 0


def test_weights_are_those_of_the_classes() -> None:
    logits, labels = case(2, partial=0)
    weights = [1.0, 3.0, 0.5, 1.0]
    expected = float(smp.losses.DiceLoss("multiclass", ignore_index=255, class_weights=weights)(logits, labels.long()))
    assert value("dice", logits, labels, weights=weights) == pytest.approx(expected, rel=1e-5)
    only = [0.0, 1.0, 0.0, 0.0]  # then the focal loss is that of the pixels of class 1
    where = labels == 1
    p = logits.double().softmax(1)[:, 1][where]
    assert value("focal", logits, labels, weights=only) == pytest.approx(float(((1 - p) ** 2 * -p.log()).mean()), 1e-4)


def test_a_sum_of_terms() -> None:
    logits, labels = case(4)
    both = build([Term("cross-entropy", 0.7, {"smoothing": 0.1}), Term("dice", 0.3)], CODES, "softmax", None)
    expected = 0.7 * value("cross-entropy", logits, labels, smoothing=0.1) + 0.3 * value("dice", logits, labels)
    assert float(both(logits, labels, True)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("name", "head"), ALL)
def test_without_partial_labels_less_is_computed_to_the_same(name: str, head: str) -> None:
    logits, labels = case(6, partial=0)
    codes = list(CODES)
    if head == "binary":
        logits, codes = logits[:, :1], [1]
    loss = build([Term(name)], codes, head, None)  # type: ignore[arg-type]
    assert float(loss(logits, labels, False)) == pytest.approx(float(loss(logits, labels, True)), rel=1e-6)


def test_half_precision_logits_are_computed_with_in_full() -> None:
    logits, labels = case(1)
    narrow = logits.bfloat16()
    for name, head in ALL:
        if head == "softmax":
            assert value(name, narrow, labels) == value(name, narrow.float(), labels)


def test_a_loss_that_does_not_go_with_the_activation() -> None:
    with pytest.raises(JobError, match="use binary-cross-entropy"):
        build([Term("cross-entropy")], [1], "binary")
    with pytest.raises(JobError, match="use cross-entropy"):
        build([Term("binary-cross-entropy")], CODES, "softmax")


def test_a_view_knows_what_is_known() -> None:
    labels = torch.tensor([[[0, 1, 255, any_but(1)]]], dtype=torch.uint8)
    view = View(torch.zeros(1, 2, 1, 4), labels, [0, 1])
    assert view.known.flatten().tolist() == [True, True, False, False]
    assert view.not_k.flatten().tolist() == [False, False, False, True]
    assert view.valid[0, :, 0].tolist() == [[True, True, False, False], [True, True, False, True]]
    assert view.truth[0, :, 0].tolist() == [[1, 0, 0, 0], [0, 1, 0, 0]]
