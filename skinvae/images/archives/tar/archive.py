"""Tar archives, compressed or not: one sequential stream, cut into slices on the way, never extracted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from skinvae.errors import ArchiveError
from skinvae.images.archives.base import Member, Missing, Part, RangeReader, RawMember, SliceEnd, read_exactly
from skinvae.images.archives.range_stream import RangeStream
from skinvae.images.archives.tar.compression import InflatedStream, compression_of, inflate_head
from skinvae.images.archives.tar.headers import BLOCK_BYTES, TarDamage, is_tar, walk_entries
from skinvae.images.archives.tar.member import raw_member

_COMPRESSED_HEAD_BYTES = 1 << 20
"""Holds a whole first block of any compression: bzip2's are the largest, 900 KB inflated."""


MAX_SLICE_BYTES = 64 << 20
"""Of images in one slice, which waits in memory until it is decoded; few slices of photographs ever reach it."""


@dataclass(frozen=True)
class TarPart(Part):
    """The stream from the header of member `start` on, one part: only reading a tar tells where its slices lie."""

    is_stream = True

    offset: int  # of that header in the object; 0 where it is compressed
    ranges: tuple[tuple[int, int | None], ...]  # what is missing, as in Missing
    slice_size: int
    compression: str | None


def open_tar(reader: RangeReader, *, max_bytes: int, looked_at: RangeReader | None = None) -> TarArchive | None:
    """The tar that the object is, compressed or not; None where it is none. Reads 1.1 MB at most, from its start.

    `looked_at`: another reader of the object, for that look only.
    """
    looked_at = looked_at or reader
    head = read_exactly(looked_at, 0, min(BLOCK_BYTES, reader.size))
    compression = compression_of(head)
    if compression is not None:
        compressed = read_exactly(looked_at, 0, min(_COMPRESSED_HEAD_BYTES, reader.size))
        head = inflate_head(compressed, compression=compression, num_bytes=BLOCK_BYTES)
    return TarArchive(reader, max_bytes=max_bytes, compression=compression) if is_tar(head) else None


class TarArchive:
    """A tar of any format: v7, ustar, GNU, PAX. The constructor reads nothing."""

    def __init__(self, reader: RangeReader, *, max_bytes: int, compression: str | None = None) -> None:
        self._reader = reader
        self._max_bytes = max_bytes
        self._compression = compression

    @property
    def num_members(self) -> None:
        return None

    def members(self) -> Iterator[Member]:
        with self._stream(0) as stream:
            try:
                for index, entry in enumerate(walk_entries(stream)):
                    yield Member(index, entry.name, entry.num_bytes)
            except TarDamage as damage:
                raise self._error(damage) from None

    def parts(self, missing: Missing, *, slice_size: int) -> list[Part]:
        _check_ranges(missing)
        if not missing.ranges:
            return []
        first, stop = missing.ranges[0][0], missing.ranges[-1][1]
        known = {0: 0}
        if self._compression is None:
            known |= {member: offset for member, offset in missing.offsets.items() if self._is_border(offset)}
        start = max(ordinal for ordinal in known if ordinal <= first)
        return [
            TarPart(
                start=start,
                stop=stop,
                offset=known[start],
                ranges=missing.ranges,
                slice_size=slice_size,
                compression=self._compression,
            )
        ]

    def read(self, part: Part, *, wanted: Callable[[Member], bool] | None = None) -> Iterator[RawMember | SliceEnd]:
        assert isinstance(part, TarPart)
        assert part.compression == self._compression
        ranges = iter(part.ranges)
        start, range_stop = next(ranges)
        begin, stop, end, num_bytes = 0, part.start, self._reader.size, 0
        damage: TarDamage | None = None
        with self._stream(part.offset) as stream:
            try:
                for index, entry in enumerate(walk_entries(stream), start=part.start):
                    mark = self._mark(stream, entry.start)
                    is_full = index - start == part.slice_size or num_bytes >= MAX_SLICE_BYTES
                    if index == range_stop or is_full:
                        # Only now, for the slice behind which the archive ends has to say so.
                        yield SliceEnd(start, index, (begin, mark))
                        start, num_bytes = index, 0
                    if index == range_stop:
                        following = next(ranges, None)
                        if following is None:
                            return
                        start, range_stop = following
                    stop = index + 1
                    if index == start:
                        begin = mark
                    if index >= start:
                        raw = raw_member(stream, entry, index, max_bytes=self._max_bytes, wanted=wanted)
                        if raw is not None:
                            num_bytes += len(raw.data or b"")
                            yield raw
            except TarDamage as error:
                damage, end = error, self._mark(stream, error.offset)
        if stop > start:
            yield SliceEnd(start, stop, (begin, end))
        if damage is not None:
            raise self._error(damage)
        num_expected = part.ranges[-1][0] + 1 if part.stop is None else part.stop
        if stop < num_expected:
            raise ArchiveError(
                f"{self._reader.uri} holds {stop or 'no'} members where at least {num_expected} must be."
            )

    @contextmanager
    def _stream(self, offset: int) -> Iterator[RangeStream | InflatedStream]:
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="tar-read") as executor:
            stream = RangeStream(self._reader, start=offset, executor=executor)
            if self._compression is None:
                yield stream
            else:
                yield InflatedStream(stream, compression=self._compression)

    def _mark(self, stream: RangeStream | InflatedStream, offset: int) -> int:
        """Where in the object a slice begins or ends that is not its last: never the object's size."""
        progress = stream.compressed_position if isinstance(stream, InflatedStream) else offset
        return min(progress, self._reader.size - 1)

    def _is_border(self, offset: int) -> bool:
        """Whether a header may lie there. At the end of a tar that is cut off there is none, only what `_mark` made.

        From the border before, a later run finds the same damage and says the same.
        """
        return offset % BLOCK_BYTES == 0 and offset + BLOCK_BYTES <= self._reader.size

    def _error(self, damage: TarDamage) -> ArchiveError:
        place = f"byte {damage.offset}" + (" of its inflated contents" if self._compression else "")
        return ArchiveError(f"{self._reader.uri} is damaged at {place}: {damage.reason}; {damage.advice}.")


def _check_ranges(missing: Missing) -> None:
    previous = 0
    for position, (start, stop) in enumerate(missing.ranges, start=1):
        is_open_last = stop is None and position == len(missing.ranges)
        if not (previous <= start and (is_open_last or (stop is not None and start < stop))):
            raise ValueError(f"range [{start}, {stop}) must begin at {previous} or behind, and only the last be open")
        previous = stop or 0
