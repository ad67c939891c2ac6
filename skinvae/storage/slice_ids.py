"""Names of slices, and which members a set of slices covers. Pure: opens nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from skinvae.storage.ranges import Ranges

SLICES_FOLDER = "_slices"
"""Plain Parquet readers ignore names that begin with an underscore; Delta readers go by the log."""

Counts = dict[str, int]
"""Rows by status code."""

Coverage = dict[tuple[str, str], Ranges]
"""Member ranges by (source_id, scoring_id)."""

Offsets = dict[tuple[str, str], dict[int, int]]
"""Byte offsets by member ordinal, by (source_id, scoring_id)."""


@dataclass(frozen=True, order=True)
class SliceId:
    """One scoring of the members [start, stop) of one archive: the unit of work, commit and resume."""

    source_id: str
    scoring_id: str
    start: int
    stop: int
    byte_range: tuple[int, int] | None = None
    """Of a stream, such as a tar: where the members' bytes begin and end, so that a later run goes on from there."""

    def __str__(self) -> str:
        numbers = (self.start, self.stop, *(self.byte_range or ()))
        return "-".join((self.source_id, self.scoring_id, *map(str, numbers)))

    @property
    def path(self) -> str:
        """The slice file's path inside the table."""
        return f"{SLICES_FOLDER}/{self}.parquet"

    @classmethod
    def parse(cls, text: str) -> SliceId:
        """The inverse of str(). Raises ValueError."""
        source_id, scoring_id, start, stop, *byte_range = text.split("-")
        if not byte_range:
            return cls(source_id, scoring_id, int(start), int(stop))
        first, behind = map(int, byte_range)
        return cls(source_id, scoring_id, int(start), int(stop), (first, behind))

    @classmethod
    def from_path(cls, path: str) -> SliceId:
        """The inverse of `path`. Raises ValueError."""
        return cls.parse(path.rsplit("/", 1)[-1].removesuffix(".parquet"))


@dataclass(frozen=True)
class SliceFile:
    """What the driver knows of a written slice."""

    slice_id: SliceId
    num_bytes: int
    num_rows: int
    counts: Counts

    @property
    def path(self) -> str:
        return self.slice_id.path


def is_slice_path(path: str) -> bool:
    """Whether a file of a table holds one slice, not many."""
    return path.startswith(f"{SLICES_FOLDER}/")


def covered_ranges(slice_ids: Iterable[SliceId]) -> Coverage:
    """Per (source_id, scoring_id) the union of the slices' member ranges."""
    spans: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for slice_id in slice_ids:
        spans[slice_id.source_id, slice_id.scoring_id].append((slice_id.start, slice_id.stop))
    return {key: Ranges(pairs) for key, pairs in spans.items()}


def stream_offsets(slice_ids: Iterable[SliceId]) -> Offsets:
    """Per (source_id, scoring_id) the byte offsets of the members at the slices' borders."""
    offsets: Offsets = defaultdict(dict)
    for one in slice_ids:
        if one.byte_range is not None:
            offsets[one.source_id, one.scoring_id] |= {one.start: one.byte_range[0], one.stop: one.byte_range[1]}
    return offsets


def without_overlap(slice_ids: Iterable[SliceId], covered: Coverage) -> list[SliceId]:
    """Those that share no member with `covered` nor with one before them, in order."""
    kept: list[SliceId] = []
    taken = dict(covered)
    for one in slice_ids:
        key = (one.source_id, one.scoring_id)
        before = taken.get(key, Ranges())
        if not before.intersects(one.start, one.stop):
            kept.append(one)
            taken[key] = before.union(Ranges([(one.start, one.stop)]))
    return kept
