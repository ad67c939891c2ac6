"""Sets of member ordinals that have many holes: one bit each, so that an archive of 100 million takes 12.5 MB."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from skinvae.storage.ranges import Ranges


class MemberBits:
    """A growing set of ordinals; what `ranges.Ranges` is for few, long runs."""

    def __init__(self) -> None:
        self._bits = np.zeros(0, np.uint8)

    @classmethod
    def of(cls, ranges: Ranges) -> MemberBits:
        """The same set."""
        made = cls()
        made._grow(ranges.stop)
        for start, stop in ranges:
            first, last = start // 8, (stop - 1) // 8
            head, tail = 0xFF & (0xFF << start % 8), 0xFF >> (7 - (stop - 1) % 8)
            if first == last:
                made._bits[first] |= head & tail
                continue
            made._bits[first] |= head
            made._bits[first + 1 : last] = 0xFF
            made._bits[last] |= tail
        return made

    def add(self, ordinals: Iterable[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        """Put ordinals in and return, ascending, those that were there before or come twice."""
        given = np.sort(np.asarray(ordinals if isinstance(ordinals, np.ndarray) else list(ordinals), np.int64))
        if not len(given):
            return given
        self._grow(int(given[-1]) + 1)
        where, masks = given >> 3, np.left_shift(1, given & 7).astype(np.uint8)
        again = (self._bits[where] & masks) != 0
        again[1:] |= given[1:] == given[:-1]
        np.bitwise_or.at(self._bits, where, masks)
        repeated: NDArray[np.int64] = given[again]
        return repeated

    def __len__(self) -> int:
        return int(np.bitwise_count(self._bits).sum())

    def __bool__(self) -> bool:
        return bool(self._bits.any())

    def __and__(self, other: MemberBits) -> MemberBits:
        made = MemberBits()
        size = min(len(self._bits), len(other._bits))
        made._bits = self._bits[:size] & other._bits[:size]
        return made

    def __sub__(self, other: MemberBits) -> MemberBits:
        made = MemberBits()
        made._bits = self._bits.copy()
        size = min(len(self._bits), len(other._bits))
        made._bits[:size] &= ~other._bits[:size]
        return made

    def first(self, count: int) -> list[int]:
        """The `count` smallest ordinals."""
        some = np.flatnonzero(self._bits)[:count]
        bits = np.unpackbits(self._bits[some], bitorder="little").reshape(-1, 8)
        byte, bit = np.nonzero(bits)
        return [int(ordinal) for ordinal in (some[byte] * 8 + bit)[:count]]

    def _grow(self, stop: int) -> None:
        needed = (stop + 7) // 8
        if needed > len(self._bits):
            grown = np.zeros(max(needed, len(self._bits) * 3 // 2), np.uint8)
            grown[: len(self._bits)] = self._bits
            self._bits = grown
