"""Bisection: whoever kills, and whatever dies by chance, exactly the killers are found, with few processes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from skinvae.pipelines.bisection import Death, find_killers

SIGSEGV, OVERDUE = Death("SIGSEGV"), Death("too slow", is_overdue=True)


class Processes:
    """Dies at killers, hangs at hangers, and at the attempts whose number is in `by_chance`."""

    def __init__(self, killers: set[int], hangers: set[int], by_chance: Sequence[int] = ()) -> None:
        self.killers, self.hangers, self.by_chance = killers, hangers, set(by_chance)
        self.num_attempts = self.num_deaths = self.num_chance_deaths = 0
        self.chance_deaths_alone: Counter[int] = Counter()
        self.scored: list[int] = []

    def attempt(self, group: Sequence[int]) -> Death | None:
        assert group, "no group is empty"
        self.num_attempts += 1
        # The first image that misbehaves is the one that is seen.
        culprit = next((image for image in group if image in self.killers | self.hangers), None)
        death = None if culprit is None else OVERDUE if culprit in self.hangers else SIGSEGV
        if death is None and self.num_attempts in self.by_chance:
            death = Death("SIGKILL")
            self.num_chance_deaths += 1
            if len(group) == 1:
                self.chance_deaths_alone[group[0]] += 1
        if death is None:
            self.scored += group
        self.num_deaths += death is not None
        return death


@st.composite
def slices(draw: st.DrawFn) -> tuple[list[range], set[int], set[int]]:
    """Groups of a slice, the images that kill and those that hang."""
    num_images, step = draw(st.integers(0, 70)), draw(st.integers(1, 33))
    groups = [range(start, min(start + step, num_images)) for start in range(0, num_images, step)]
    bad = draw(st.sets(st.integers(0, num_images - 1), max_size=6)) if num_images else set()
    hangers = draw(st.sets(st.sampled_from(sorted(bad)))) if bad else set()
    return groups, bad - hangers, hangers


def images_of(groups: Sequence[range]) -> set[int]:
    return {image for group in groups for image in group}


def most_deaths(groups: Sequence[range], num_killers: int) -> int:
    largest = max(map(len, groups), default=1)
    return num_killers * (math.ceil(math.log2(largest)) + 3)


@given(slices())
def test_without_chance_exactly_the_killers_are_found_and_the_others_are_scored_once(
    made: tuple[list[range], set[int], set[int]],
) -> None:
    groups, killers, hangers = made
    processes = Processes(killers, hangers)
    found = find_killers(groups, attempt=processes.attempt)
    assert found == dict.fromkeys(killers, SIGSEGV) | dict.fromkeys(hangers, OVERDUE)
    assert sorted(processes.scored) == sorted(images_of(groups) - killers - hangers)
    assert processes.num_deaths <= most_deaths(groups, len(found))


@given(slices(), st.lists(st.integers(1, 60), max_size=12, unique=True))
def test_a_death_by_chance_condemns_nobody_unless_it_is_the_same_image_alone_each_time(
    made: tuple[list[range], set[int], set[int]], by_chance: list[int]
) -> None:
    groups, killers, hangers = made
    processes = Processes(killers, hangers, by_chance)
    found = find_killers(groups, attempt=processes.attempt)
    wronged = set(found) - killers - hangers
    assert killers | hangers <= set(found)
    assert all(processes.chance_deaths_alone[image] >= 2 for image in wronged)
    assert sorted(processes.scored) == sorted(images_of(groups) - set(found))
    assert processes.num_deaths <= most_deaths(groups, len(killers | hangers)) + processes.num_chance_deaths


@given(slices())
def test_what_hangs_costs_its_time_twice_at_most(made: tuple[list[range], set[int], set[int]]) -> None:
    groups, killers, hangers = made
    overdue: Counter[int] = Counter()
    processes = Processes(set(), killers | hangers)

    def attempt(group: Sequence[int]) -> Death | None:
        death = processes.attempt(group)
        if death is not None:
            overdue[next(image for image in group if image in processes.hangers)] += 1
        return death

    find_killers(groups, attempt=attempt)
    assert max(overdue.values(), default=0) <= 2


def test_a_lone_death_counts_only_in_a_process_that_had_scored_nothing_else() -> None:
    """The other image may have spoilt the process."""
    answers = iter([None, SIGSEGV, SIGSEGV, None])
    attempts: list[tuple[int, ...]] = []

    def attempt(group: Sequence[int]) -> Death | None:
        attempts.append(tuple(group))
        return next(answers)

    assert find_killers([[0], [1]], attempt=attempt) == {}
    assert attempts == [(0,), (1,), (1,), (1,)]
