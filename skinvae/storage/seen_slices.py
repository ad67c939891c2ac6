"""What the snapshots of a table cover: from one to the next only the files that are new are looked at.

A driver commits for hours beside others. With 100,000 slices, to look at all of them takes a second, and to look at
those that came in since takes none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from skinvae.storage.ranges import Ranges
from skinvae.storage.slice_ids import Coverage, Offsets, SliceId, covered_ranges, stream_offsets


class SeenSlices:
    """The slices of one version, as ranges."""

    def __init__(self) -> None:
        self.version = -1
        """None was seen yet."""
        self._forget()

    def _forget(self) -> None:
        self._paths = pa.array([], pa.string())
        self.covered: Coverage = {}
        self.offsets: Offsets = {}

    def move_on(self, version: int, paths: pa.Array, slices_in: Callable[[Sequence[str]], Iterable[SliceId]]) -> None:
        """To a version whose files are `paths`; `slices_in` says which slices some files hold."""
        new = paths.filter(pc.invert(pc.is_in(paths, value_set=self._paths)))
        if len(self._paths) + len(new) != len(paths):
            # Files have left, as slices do when large files take their place.
            self._forget()
            new = paths
        self.add(version, new, slices_in(new.to_pylist()))

    def add(self, version: int, paths: pa.Array, slices: Iterable[SliceId]) -> None:
        """To a version that has these files more, with these slices."""
        slices = list(slices)
        # Dictionaries that were handed out stay as they are.
        self.covered = self.covered | {
            key: self.covered.get(key, Ranges()).union(ranges) for key, ranges in covered_ranges(slices).items()
        }
        self.offsets = self.offsets | {
            key: self.offsets.get(key, {}) | offsets for key, offsets in stream_offsets(slices).items()
        }
        self._paths = pa.concat_arrays([self._paths, paths])
        self.version = version
