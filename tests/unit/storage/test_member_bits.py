"""A MemberBits is a set of ordinals, whatever is put in and in which pieces."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skinvae.storage.member_bits import MemberBits
from skinvae.storage.ranges import Ranges

ordinals = st.lists(st.integers(0, 100), max_size=30)


def bits(members: set[int]) -> MemberBits:
    made = MemberBits()
    made.add(sorted(members))
    return made


def members(of: MemberBits) -> set[int]:
    return set(of.first(1000))


@given(pieces=st.lists(ordinals, max_size=5))
def test_what_is_put_in_again_is_told(pieces: list[list[int]]) -> None:
    made, expected = MemberBits(), set[int]()
    for piece in pieces:
        again = []
        for one in sorted(piece):
            if one in expected:
                again.append(one)
            expected.add(one)
        assert made.add(np.array(piece, np.int64)).tolist() == again
    assert members(made) == expected
    assert len(made) == len(expected)
    assert bool(made) == bool(expected)


@given(one=st.sets(st.integers(0, 70)), two=st.sets(st.integers(0, 40)))
def test_intersection_and_difference_are_those_of_sets(one: set[int], two: set[int]) -> None:
    assert members(bits(one) & bits(two)) == one & two
    assert members(bits(one) - bits(two)) == one - two
    assert members(bits(two) - bits(one)) == two - one
    assert members(bits(one)) == one, "neither is changed by it"


@given(pairs=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=5))
def test_ranges_become_their_members(pairs: list[tuple[int, int]]) -> None:
    ranges = Ranges(pairs)
    assert members(MemberBits.of(ranges)) == {one for start, stop in ranges for one in range(start, stop)}


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 100])
def test_the_first_are_the_smallest(count: int) -> None:
    assert bits({3, 8, 9, 64, 1000}).first(count) == [3, 8, 9, 64, 1000][:count]


def test_it_takes_a_bit_a_member() -> None:
    made = MemberBits.of(Ranges([(0, 100_000_000)]))
    assert made._bits.nbytes == 12_500_000
    assert len(made) == 100_000_000
