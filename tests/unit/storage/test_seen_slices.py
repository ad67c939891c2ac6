"""What a table covers is followed from version to version, and only what is new is looked at."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from skinvae.storage.ranges import Ranges
from skinvae.storage.seen_slices import SeenSlices
from skinvae.storage.slice_ids import SliceId

STREAM = [SliceId("tttt", "cccc", 0, 5, (0, 500)), SliceId("tttt", "cccc", 5, 7, (500, 740))]
ZIP = [SliceId("aaaa", "cccc", start, start + 10) for start in (0, 10, 30)]


class Looking:
    """Notes which files it was asked about; 'part' holds all of ZIP."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, paths: Sequence[str]) -> list[SliceId]:
        self.asked += paths
        return [one for path in paths for one in (ZIP if path == "part" else [SliceId.from_path(path)])]


def move_on(seen: SeenSlices, version: int, paths: list[str]) -> list[str]:
    looking = Looking()
    seen.move_on(version, pa.array(paths, pa.string()), looking)
    assert seen.version == version
    return looking.asked


def test_only_new_files_are_looked_at() -> None:
    seen, paths = SeenSlices(), [one.path for one in (*ZIP, *STREAM)]
    assert move_on(seen, 0, paths[:2]) == paths[:2]
    before = seen.covered
    assert move_on(seen, 3, [paths[4], *paths[:4]]) == [paths[4], *paths[2:4]]
    assert seen.covered == {
        ("aaaa", "cccc"): Ranges([(0, 20), (30, 40)]),
        ("tttt", "cccc"): Ranges([(0, 7)]),
    }
    assert seen.offsets == {("tttt", "cccc"): {0: 0, 5: 500, 7: 740}}
    assert before == {("aaaa", "cccc"): Ranges([(0, 20)])}, "what was handed out stays"


def test_once_files_have_left_all_are_looked_at_again() -> None:
    seen, paths = SeenSlices(), [one.path for one in (*ZIP, *STREAM)]
    move_on(seen, 0, paths)
    everything = seen.covered, seen.offsets
    assert move_on(seen, 1, ["part", *paths[3:]]) == ["part", *paths[3:]]
    assert (seen.covered, seen.offsets) == everything
    assert move_on(seen, 2, paths[3:]) == paths[3:]
    assert seen.covered == {("tttt", "cccc"): Ranges([(0, 7)])}, "what no file holds is not covered"


def test_what_a_driver_added_itself_is_not_looked_at() -> None:
    seen = SeenSlices()
    paths = [one.path for one in ZIP]
    seen.add(1, pa.array(paths[:2], pa.string()), ZIP[:2])
    assert move_on(seen, 2, paths) == paths[2:]
    assert seen.covered == {("aaaa", "cccc"): Ranges([(0, 20), (30, 40)])}
