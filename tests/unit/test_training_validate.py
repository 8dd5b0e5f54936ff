"""Counts of a validation against pixel by pixel counting."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from geounet.labels.values import IGNORED
from geounet.labels.values import partial as any_but
from geounet.training.stop import Stop
from geounet.training.validate import Tally, class_names, codes, count, measure
from tests.support.local import card


@dataclass
class Batch:
    images: NDArray[np.float32]
    labels: NDArray[np.uint8]


@given(st.integers(0, 10_000), st.integers(2, 6), st.booleans())
@settings(max_examples=40, deadline=None)
def test_counts_and_scores_pixel_by_pixel(seed: int, classes: int, clean: bool) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, 300).astype(np.uint8)
    found = rng.integers(0, classes, 300).astype(np.uint8)
    if not clean:
        labels[rng.random(300) < 0.2] = IGNORED
        partly = rng.random(300) < 0.2
        labels[partly] = any_but(0) - rng.integers(0, classes, partly.sum())
    tally = Tally(tuple("abcdef"[:classes]), np.zeros((classes + 1, classes), dtype=np.int64))
    count(tally.counts, labels[:100].reshape(10, 10), found[:100].reshape(10, 10))
    count(tally.counts, labels[100:], found[100:])

    pairs = list(zip(labels.tolist(), found.tolist(), strict=True))
    scores = tally.scores()
    right = sum(a == b for a, b in pairs)
    known = sum(a < classes for a, _ in pairs)
    assert scores["pixels"] == known
    assert scores["accuracy"] == pytest.approx(right / known, abs=1e-4)
    ious = []
    for k, name in enumerate("abcdef"[:classes]):
        hits = sum(a == b == k for a, b in pairs)
        missed = sum(a == k != b and a < classes for a, b in pairs)
        wrong = sum(b == k and (a < classes or a == any_but(k)) and a != k for a, b in pairs)
        ious.append(hits / (hits + missed + wrong))
        assert scores["iou"][name] == pytest.approx(ious[-1], abs=1e-4)
        assert scores["recall"][name] == pytest.approx(hits / (hits + missed), abs=1e-4)
        assert scores["precision"][name] == pytest.approx(hits / (hits + wrong), abs=1e-4)
    assert scores["miou"] == pytest.approx(np.mean(ious), abs=1e-4)


def test_classes_that_do_not_occur_have_no_scores() -> None:
    tally = Tally(("a", "b", "c"), np.zeros((4, 3), dtype=np.int64))
    assert tally.scores()["miou"] is None
    count(tally.counts, np.array([0, 0, 255], np.uint8), np.array([0, 1, 2], np.uint8))
    scores = tally.scores()
    assert scores["iou"] == {"a": 0.5, "b": 0.0, "c": None}
    assert scores["miou"] == 0.25
    assert scores["recall"] == {"a": 0.5, "b": None, "c": None}


def test_where_only_buildings_are_labelled_only_they_have_scores() -> None:
    tally = Tally(("building", "land", "road"), np.zeros((4, 3), dtype=np.int64))
    labels = np.array([0, 0, 0, any_but(0), any_but(0), any_but(0)], np.uint8)
    count(tally.counts, labels, np.array([0, 0, 1, 0, 1, 2], np.uint8))
    scores = tally.scores()
    assert scores["iou"] == {"building": 0.5, "land": None, "road": None}
    assert scores["precision"] == {"building": 0.6667, "land": None, "road": None}
    assert scores["miou"] == 0.5


def test_codes_of_softmax_and_sigmoid() -> None:
    logits = torch.tensor([[-1.0, 2.0], [0.5, -3.0], [0.2, 1.0]]).reshape(1, 3, 1, 2)
    assert codes(logits, card(channels=3)).tolist() == [[[1, 0]]]
    several = card(channels=3, activation="sigmoid")
    assert codes(logits, several).tolist() == [[[2, 1]]]
    assert codes(-logits.abs(), several).tolist() == [[[0, 0]]]
    one = card(channels=1, activation="sigmoid")
    assert codes(logits[:, :1], one).tolist() == [[[0, 1]]]
    assert class_names(one) == ("background", "land")


def test_a_network_over_windows() -> None:
    """The network says what the image says; windows to show come back as they went in."""
    of = card(channels=3)
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, (5, 8, 8)).astype(np.uint8)
    images = np.stack([truth == k for k in range(3)], axis=1).astype(np.float32)
    labels = truth.copy()
    labels[:, 0] = IGNORED
    labels[:, 1] = any_but(1)
    network = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Dropout(0.9)).train()
    batches = [([0, 1], Batch(images[:2], labels[:2])), ([2, 3, 4], Batch(images[2:], labels[2:]))]
    device = torch.device("cpu")
    measured = measure(network, batches, of, device, contextlib.nullcontext(), shown={3})
    assert measured is not None
    tally, pictures = measured
    assert network.training
    assert tally.confusion.accuracy == 1
    assert tally.confusion.total == 5 * 6 * 8
    assert tally.counts[3].tolist() == [0, int((truth[:, 1] == 1).sum()), 0]
    assert list(pictures) == [3]
    assert np.array_equal(pictures[3].found, truth[3])
    assert (pictures[3].label[:2] == IGNORED).all()
    stop = Stop()
    stop.number = 2
    assert measure(network, batches, of, device, contextlib.nullcontext(), stop=stop) is None
