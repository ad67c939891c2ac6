"""Ranges are sets of integers: every operation agrees with Python's own sets."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from skinvae.storage.ranges import Ranges

ordinals = st.integers(0, 30)
pairs = st.tuples(ordinals, ordinals)
pair_lists = st.lists(pairs, max_size=8)


def integers(ranges: Ranges) -> set[int]:
    return {i for start, stop in ranges for i in range(start, stop)}


def union_of(spans: list[tuple[int, int]]) -> set[int]:
    return {i for start, stop in spans for i in range(start, stop)}


@settings(deadline=None)
@given(spans=pair_lists)
def test_holds_the_union_of_its_pairs_sorted_and_disjoint(spans: list[tuple[int, int]]) -> None:
    ranges = Ranges(spans)
    assert integers(ranges) == union_of(spans)
    assert len(ranges) == len(union_of(spans))
    assert all(start < stop for start, stop in ranges)
    assert all(before[1] < after[0] for before, after in pairwise(ranges))  # touching ranges are one


@settings(deadline=None)
@given(one=pair_lists, other=pair_lists)
def test_equal_sets_are_equal_ranges_however_they_were_cut(
    one: list[tuple[int, int]], other: list[tuple[int, int]]
) -> None:
    assert (Ranges(one) == Ranges(other)) == (union_of(one) == union_of(other))
    rebuilt = Ranges([(i, i + 1) for i in union_of(one)])
    assert rebuilt == Ranges(one)
    assert hash(rebuilt) == hash(Ranges(one))


@settings(deadline=None)
@given(one=pair_lists, other=pair_lists)
def test_union(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> None:
    assert integers(Ranges(one).union(Ranges(other))) == union_of(one) | union_of(other)


@settings(deadline=None)
@given(spans=pair_lists, span=pairs)
def test_gaps_and_the_covered_part_make_up_the_span(spans: list[tuple[int, int]], span: tuple[int, int]) -> None:
    assert integers(Ranges(spans).gaps(*span)) == set(range(*span)) - union_of(spans)


@settings(deadline=None)
@given(spans=pair_lists, span=pairs)
def test_intersects_if_and_only_if_an_integer_is_shared(spans: list[tuple[int, int]], span: tuple[int, int]) -> None:
    assert Ranges(spans).intersects(*span) == bool(set(range(*span)) & union_of(spans))


@settings(deadline=None)
@given(spans=pair_lists, span=pairs)
def test_within_is_what_a_span_holds_of_the_set(spans: list[tuple[int, int]], span: tuple[int, int]) -> None:
    inside = Ranges(spans).within(*span)
    assert [i for start, stop in inside for i in range(start, stop)] == sorted(set(range(*span)) & union_of(spans))


@given(spans=pair_lists)
def test_stop_lies_behind_the_largest(spans: list[tuple[int, int]]) -> None:
    assert Ranges(spans).stop == max(union_of(spans), default=-1) + 1
