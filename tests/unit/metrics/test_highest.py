"""The highest of many scores are the same in one batch and in many, with all ties of the last place."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skinvae.metrics.highest import Highest, num_highest

batches = st.lists(st.lists(st.integers(0, 9).map(float), max_size=20), min_size=1, max_size=8)


@given(batches=batches, count=st.integers(1, 30))
def test_they_are_those_of_all_scores_sorted(batches: list[list[float]], count: int) -> None:
    highest = Highest(count)
    for number, scores in enumerate(batches):
        highest.add(pd.DataFrame({"score": scores, "row": range(100 * number, 100 * number + len(scores))}))
    rows = highest.rows()
    every = [(score, 100 * number + row) for number, its in enumerate(batches) for row, score in enumerate(its)]
    ordered = sorted((score for score, _ in every), reverse=True)
    expected = [(score, row) for score, row in every if len(every) <= count or score >= ordered[count - 1]]
    assert list(zip(rows["score"], rows["row"], strict=True)) == expected


def test_memory_is_for_the_highest_and_one_batch() -> None:
    highest = Highest(10)
    most = 0
    for start in range(0, 100_000, 100):
        highest.add(pd.DataFrame({"score": [float(start + index) for index in range(100)]}))
        most = max(most, sum(map(len, highest._kept)))
    assert most <= 3 * 10
    assert list(highest.rows()["score"]) == [float(score) for score in range(99_990, 100_000)]


@pytest.mark.parametrize(
    ("num_rows", "percent", "expected"),
    [
        (1000, 1.0, 10),
        (1001, 1.0, 11),
        (1000, 1.1, 11),
        (3, 1.0, 1),
        (0, 1.0, 0),
        (7, 100.0, 7),
        (10_000_000, 0.3, 30_000),
    ],
)
def test_a_share_is_rounded_up(num_rows: int, percent: float, expected: int) -> None:
    assert num_highest(num_rows, percent=percent) == expected
