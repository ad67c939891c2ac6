"""A few of the histories that `make chaos` plays by the hundred, on smaller tables."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.outcome import Outcome
from tests.chaos.scenarios import play
from tests.chaos.world import World, open_world


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with open_world(num_images=120, slice_size=4, seconds_per_image=0.005) as made:
        yield made


def assert_right(outcome: Outcome) -> None:
    assert outcome.num_faults
    assert outcome.is_right, outcome


@pytest.mark.slow
def test_unsure_commits_lose_and_double_nothing(world: World) -> None:
    assert_right(play(world, "answers-lost", 1))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["driver-killed", "two-drivers", "everything", "unreliable-s3", "access-lost", "stopped"]
)
def test_other_histories(world: World, name: str) -> None:
    assert_right(play(world, name, 1))


def test_what_a_history_did_is_counted(world: World) -> None:
    """The comparison itself finds what is lost, doubled or altered."""
    rows = world.expected
    outcome = Outcome("none", 0)
    outcome.compare(rows, rows)
    assert outcome.is_right
    for found, counts in (
        (rows.iloc[1:], (1, 0, 0)),
        (rows.loc[[*rows.index, rows.index[3]]], (0, 1, 0)),
        (rows.assign(iwae=rows["iwae"].where(rows.index != rows.index[2], rows["iwae"] + 1e-15)), (0, 0, 1)),
        (rows.assign(status=rows["status"].where(rows.index != rows.index[2], "crashed")), (0, 0, 1)),
        (rows.rename(index={rows.index[5]: "another"}), (1, 0, 1)),
    ):
        outcome.compare(found, rows)
        assert (outcome.num_lost, outcome.num_duplicated, outcome.num_altered) == counts
        assert not outcome.is_right
