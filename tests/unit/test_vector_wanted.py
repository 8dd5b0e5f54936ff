"""Which names a word means."""

from __future__ import annotations

import pytest

from geounet.vector.wanted import matching, number_of, title_of

NAMES = ("land", "Building", "roof", "Road", "p(x)")


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("Building", [1]),
        ("building", [1]),  # alike but for capitals comes before of its kind
        ("house", [1, 2]),
        (" ROAD ", [3]),
        ("street", [3]),
        ("p(x)", [4]),
        ("raod", []),
        ("lan", []),
        ("", []),
        ("1", []),
    ],
)
def test_words_mean_names(word: str, found: list[int]) -> None:
    assert matching(NAMES, word) == found


def test_titles_and_numbers() -> None:
    assert [title_of(t) for t in ("p(house)", " house ", "p()", None)] == ["house", "house", "p()", ""]
    assert [number_of(w) for w in ("12", " -3 ", "1.0", "one", "²", "")] == [12, -3, None, None, None, None]
