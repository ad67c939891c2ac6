"""What is missing of an archive follows from what is done, for archives with a directory and for streams alike."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from skinvae.images.archives import Member, Missing, Part
from skinvae.images.archives.base import cut_ranges
from skinvae.pipelines.completing import Expectation
from skinvae.pipelines.slice_job import WorkPlan
from skinvae.pipelines.slicing import Done, OpenedArchive, missing_parts
from skinvae.storage.filesystem import Location
from skinvae.storage.ranges import Ranges
from skinvae.storage.slice_ids import SliceFile, SliceId
from skinvae.storage.sources import Source


@dataclass(frozen=True)
class Entries:
    """Of an archive only its number of members."""

    num_members: int | None


@dataclass(frozen=True)
class Cut(Entries):
    """Cut as archives with a directory are."""

    def parts(self, missing: Missing, *, slice_size: int) -> list[Part]:
        assert self.num_members is not None
        ranges = cut_ranges(missing, slice_size=slice_size, num_members=self.num_members)
        return [Part(start, stop) for start, stop in ranges]


def opened(num_members: int | None, *, num_bytes: int = 1000) -> OpenedArchive:
    source = Source(Location.parse("/archive"), "aaaa", "v", num_bytes)
    return OpenedArchive(source, Entries(num_members))  # type: ignore[arg-type]


@given(spans=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=5))
def test_of_an_archive_with_a_directory_the_gaps_are_missing(spans: list[tuple[int, int]]) -> None:
    done = Ranges(spans)
    missing = opened(40).missing(Done(done))
    assert missing == Missing(tuple(done.gaps(0, 40)))


def test_a_stream_is_open_until_a_slice_says_that_it_reached_its_end() -> None:
    stream = opened(None)
    assert stream.missing(Done()) == Missing(((0, None),))
    assert (stream.num_members(Done()), stream.num_bytes_unread(Done())) == (None, 1000)

    half = Done(Ranges([(0, 10), (20, 30)]), {0: 0, 10: 100, 20: 250, 30: 400})
    assert stream.missing(half) == Missing(((10, 20), (30, None)), half.offsets)
    assert (stream.num_members(half), stream.num_bytes_unread(half)) == (None, 600)

    ended = Done(Ranges([(0, 10), (20, 30)]), {0: 0, 10: 100, 20: 250, 30: 1000})
    assert stream.missing(ended) == Missing(((10, 20),), ended.offsets)
    assert (stream.num_members(ended), stream.num_bytes_unread(ended)) == (30, 0)
    assert stream.missing(Done(Ranges([(0, 30)]), {0: 0, 30: 1000})).ranges == ()
    # The tail of a prepared slice, of which only the end is known.
    assert stream.num_members(Done(Ranges([(0, 30)]), {0: 0, 10: 100, 20: 1000, 30: 1000})) == 30


def test_how_much_a_round_will_do_is_known_or_guessed_by_bytes() -> None:
    assert Expectation(WorkPlan([], [], num_members=70, num_stream_bytes=0))() == 70
    expected = Expectation(WorkPlan([], [], num_members=70, num_stream_bytes=1000))
    assert expected() is None
    expected.add(SliceFile(SliceId("aaaa", "cccc", 0, 5, (0, 250)), 1, 5, {"ok": 5}))
    assert expected() == 70 + 20
    expected.add(SliceFile(SliceId("bbbb", "cccc", 0, 50), 1, 50, {"ok": 50}))
    assert expected() == 70 + 20
    expected.add(SliceFile(SliceId("aaaa", "cccc", 5, 30, (250, 1000)), 1, 25, {"ok": 25}))
    assert expected() == 70 + 30


def test_of_wanted_members_each_part_knows_its_own() -> None:
    """The slices cover what lies between them, too."""
    one = dataclasses.replace(
        opened(100), archive=Cut(100), only=Ranges([(3, 95)]), wanted=Ranges([(3, 4), (40, 42), (94, 95)])
    )
    parts = missing_parts([one], slice_size=38, done={"aaaa": Done(Ranges([(0, 5)]))})
    assert [(part.part.start, part.part.stop) for part in parts] == [(5, 43), (43, 81), (81, 95)]
    wanted = [{index for index in range(100) if part.wanted and part.wanted(Member(index, "", None))} for part in parts]
    assert wanted == [{40, 41}, set(), {94}]
    (everything,) = missing_parts([dataclasses.replace(one, only=None, wanted=None)], slice_size=100)
    assert everything.wanted is None
