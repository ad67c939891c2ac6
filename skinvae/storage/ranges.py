"""Sets of member ordinals as sorted, disjoint half-open ranges."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class Ranges:
    """An immutable set of integers, stored as ranges [start, stop)."""

    def __init__(self, pairs: Iterable[tuple[int, int]] = ()) -> None:
        merged: list[tuple[int, int]] = []
        for start, stop in sorted(pair for pair in pairs if pair[0] < pair[1]):
            if merged and start <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(merged[-1][1], stop))
            else:
                merged.append((start, stop))
        self._pairs = merged
        self._starts = [start for start, _ in merged]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self._pairs)

    def __len__(self) -> int:
        """How many integers the set holds."""
        return sum(stop - start for start, stop in self._pairs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ranges) and self._pairs == other._pairs

    def __hash__(self) -> int:
        return hash(tuple(self._pairs))

    def __repr__(self) -> str:
        return f"Ranges({self._pairs})"

    @property
    def stop(self) -> int:
        """Behind the largest integer of the set; 0 for the empty one."""
        return self._pairs[-1][1] if self._pairs else 0

    def intersects(self, start: int, stop: int) -> bool:
        """Whether any integer of [start, stop) is in the set."""
        before = bisect_right(self._starts, start) - 1
        if before >= 0 and self._pairs[before][1] > start:
            return start < stop
        return before + 1 < len(self._pairs) and self._pairs[before + 1][0] < stop

    def within(self, start: int, stop: int) -> list[tuple[int, int]]:
        """The set's ranges, cut to [start, stop)."""
        near = self._pairs[max(0, bisect_right(self._starts, start) - 1) : bisect_left(self._starts, stop)]
        cut = ((max(start, first), min(stop, behind)) for first, behind in near)
        return [pair for pair in cut if pair[0] < pair[1]]

    def union(self, other: Ranges) -> Ranges:
        return Ranges([*self._pairs, *other._pairs])

    def minus(self, other: Ranges) -> Ranges:
        """What is in this set and not in the other."""
        return Ranges(pair for start, stop in self._pairs for pair in other.gaps(start, stop))

    def bridged(self, gap: int) -> Ranges:
        """The set with all gaps of at most so many integers filled."""
        widened = Ranges((start, stop + gap) for start, stop in self._pairs)
        return Ranges((start, stop - gap) for start, stop in widened)

    def gaps(self, start: int, stop: int) -> Ranges:
        """What [start, stop) holds beyond the set."""
        missing, position = [], start
        for covered_start, covered_stop in self._pairs:
            missing.append((position, min(covered_start, stop)))
            position = max(position, covered_stop)
        missing.append((position, stop))
        return Ranges(missing)
