"""The prepared archive: a table of resized pixels, one row per image member, that stands in for the originals.

What is read from it keeps source and member of the original, so that scoring from either gives the same rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from skinvae.errors import InputError, TableError, UsageError
from skinvae.images.archives import Member, Missing, Part, RawMember, SliceEnd
from skinvae.images.archives.parquet.rows import ParquetRows, RowRange
from skinvae.images.decode import DecodeSettings
from skinvae.records import PIXEL_SCHEMA, Status
from skinvae.storage.commit_protocol import LiveFile
from skinvae.storage.filesystem import Location
from skinvae.storage.ranges import Ranges
from skinvae.storage.slice_ids import SliceId
from skinvae.storage.slice_table import SliceTable
from skinvae.storage.slices import contents_of_part, read_metadata
from skinvae.storage.sources import Source

_PREPARATION = "_skinvae/preparation.json"
_SOURCES = "_skinvae/sources"
_NUM_REQUESTS_AT_ONCE = 16
_MEMBER_COLUMNS = ["member", "member_index", "num_bytes"]
_IMAGE_COLUMNS = ["pixels", *_MEMBER_COLUMNS, "width", "height", "status", "error"]
"""The first is read ahead."""


class Preparation(BaseModel):
    """How the originals were decoded and resized: all that the pixels depend on beside them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_size: int
    preprocessing_version: str
    decode: DecodeSettings

    @property
    def digest(self) -> str:
        """16 hex digits: the preparation_id of the rows."""
        return hashlib.blake2b(self.model_dump_json().encode(), digest_size=8).hexdigest()

    @field_validator("decode")
    @classmethod
    def _policy_only(cls, decode: DecodeSettings) -> DecodeSettings:
        return decode.policy


class PixelTable(SliceTable):
    """Rows of PIXEL_SCHEMA."""

    schema = PIXEL_SCHEMA
    noun = "prepared archive"
    command = "prepare"
    description = "Dermoscopy images, decoded and resized, one row per image; written by skinvae"


@dataclass(frozen=True)
class PreparedMember(RawMember):
    """An image whose pixels, row by row RGB, are its `data`; `data` is None where it was rejected."""

    width: int | None
    height: int | None


@dataclass(frozen=True)
class PreparedPart(Part):
    """Whole row groups of one file, and the slices that begin in them."""

    table: Location
    path: str
    row_groups: tuple[int, int]
    """The first, and behind the last."""
    slices: tuple[SliceId, ...]
    missing: Ranges
    slice_size: int

    def cut(self, slice_id: SliceId) -> list[tuple[int, int]]:
        """What is missing of one prepared slice, in slices of at most `slice_size` members."""
        missing = self.missing.within(slice_id.start, slice_id.stop)
        if slice_id.byte_range is not None:
            return missing
        step = self.slice_size
        return [(first, min(first + step, stop)) for start, stop in missing for first in range(start, stop, step)]


@dataclass(frozen=True)
class _Stretch:
    """Slices of one archive that lie together in a file, and the row groups that hold exactly them and others'."""

    path: str
    row_groups: tuple[int, int]
    slices: tuple[SliceId, ...]


@dataclass(frozen=True)
class PreparedSource:
    """One original, and what a prepared archive holds of it."""

    source: Source
    archive: PreparedArchive
    lack: InputError | None
    """What is to be said if that is not all."""


class PreparedArchive:
    """One original archive as a prepared archive holds it. To read parts, nothing but `table` is needed."""

    def __init__(self, table: Location, stretches: Sequence[_Stretch] = ()) -> None:
        self.location = table
        self._stretches = sorted(stretches, key=lambda one: one.slices[0].start)

    @property
    def num_members(self) -> int:
        return max((one.stop for stretch in self._stretches for one in stretch.slices), default=0)

    def members(self) -> Iterator[Member]:
        """Its images; of other entries the prepared archive knows nothing."""
        for part in self.parts(Missing(((0, self.num_members),)), slice_size=1):
            for row in self._rows(part, columns=_MEMBER_COLUMNS):
                yield Member(row["member_index"], row["member"], row["num_bytes"])

    def parts(self, missing: Missing, *, slice_size: int) -> list[Part]:
        """One part per stretch of a file. The slices of a stream stay whole: only so their place in it is known."""
        wanted = Ranges([(start, self.num_members if stop is None else stop) for start, stop in missing.ranges])
        parts: list[Part] = []
        for one in self._stretches:
            slices = tuple(slice_id for slice_id in one.slices if wanted.intersects(slice_id.start, slice_id.stop))
            if slices:
                parts.append(
                    PreparedPart(
                        start=slices[0].start,
                        stop=slices[-1].stop,
                        table=self.location,
                        path=one.path,
                        row_groups=one.row_groups,
                        slices=slices,
                        missing=Ranges([pair for its in slices for pair in wanted.within(its.start, its.stop)]),
                        slice_size=slice_size,
                    )
                )
        return parts

    def read(self, part: Part, *, wanted: Callable[[Member], bool] | None = None) -> Iterator[RawMember | SliceEnd]:
        assert isinstance(part, PreparedPart)
        rows = self._rows(part, columns=_IMAGE_COLUMNS)
        row = next(rows, None)
        for slice_id in part.slices:
            for start, stop in part.cut(slice_id):
                while row is not None and row["member_index"] < stop:
                    member = Member(row["member_index"], row["member"], row["num_bytes"])
                    if member.index >= start and (wanted is None or wanted(member)):
                        yield _prepared_member(row)
                    row = next(rows, None)
                yield SliceEnd(start, stop, _byte_range(slice_id, start, stop))

    def _rows(self, part: Part, *, columns: list[str]) -> Iterator[dict[str, Any]]:
        assert isinstance(part, PreparedPart)
        first, stop = part.row_groups
        if first == stop:
            return
        file = self.location / part.path
        info = file.info()
        assert info is not None, "a file of a table is no folder"
        rows = ParquetRows(file.open_range_reader(info))
        borders = [0, *accumulate(rows.group_rows)]
        everything = RowRange(part.row_groups, borders[first], ((borders[first], borders[stop]),))
        source_id = part.slices[0].source_id
        for _, batch in rows.batches(everything, [*columns, "source_id"]):
            yield from (row for row in batch.to_pylist() if row["source_id"] == source_id)


def _byte_range(slice_id: SliceId, start: int, stop: int) -> tuple[int, int] | None:
    """Where [start, stop) of a prepared slice lies in the original stream, as far as that is known.

    Of the slice's tail only its end is, and it must not be lost: that of the last slice says where the stream ends.
    """
    if slice_id.byte_range is None or stop < slice_id.stop:
        return None
    first, end = slice_id.byte_range
    return (first if start == slice_id.start else end), end


def is_prepared(location: Location) -> bool:
    """Whether `prepare` wrote to this place. Only a folder is looked into: others may forbid to ask for its files."""
    try:
        return location.info() is None and (location / _PREPARATION).exists()
    except InputError:
        return False  # opening it says better what is wrong


def write_preparation(location: Location, preparation: Preparation) -> None:
    """Say how the pixels of a prepared archive are made. Raises UsageError if it was begun with other settings."""
    if not (location / _PREPARATION).create_bytes(preparation.model_dump_json().encode()):
        require_same_preparation(location, preparation)


def require_same_preparation(location: Location, preparation: Preparation) -> None:
    """Raises UsageError if the pixels there are made in another way."""
    existing = read_preparation(location)
    for name in ("image_size", "preprocessing_version", "decode"):
        theirs, ours = getattr(existing, name), getattr(preparation, name)
        if theirs != ours:
            raise UsageError(
                f"'{location}' was prepared with {name} {_words(theirs)} where {_words(ours)} is asked for: "
                "prepare the originals anew, to another place"
            )


def _words(setting: object) -> str:
    return setting.model_dump_json() if isinstance(setting, BaseModel) else str(setting)


def read_preparation(location: Location) -> Preparation:
    """Raises TableError if it cannot be read."""
    try:
        return Preparation.model_validate_json((location / _PREPARATION).read_bytes())
    except ValidationError as error:
        raise TableError(f"'{location / _PREPARATION}' is damaged: prepare anew, elsewhere") from error


def write_sources(location: Location, opened: Iterable[tuple[Source, int | None]]) -> None:
    """Note the originals and their numbers of members, so that what is prepared of one can be told from all of it."""

    def write(one: tuple[Source, int | None]) -> None:
        source, num_members = one
        described = {
            "uri": source.uri,
            "source_id": source.source_id,
            "version": source.version,
            "num_bytes": source.num_bytes,
            "num_members": num_members,
        }
        (location / _SOURCES / f"{source.source_id}.json").create_bytes(json.dumps(described).encode())

    with ThreadPoolExecutor(max_workers=_NUM_REQUESTS_AT_ONCE) as pool:
        list(pool.map(write, opened))


def open_prepared(location: Location) -> list[PreparedSource]:
    """Every original that the prepared archive holds, whole or in part. Raises InputError if there is none.

    What was begun of an archive and never finished, because another version took its place, is left out.
    """
    table = PixelTable.open(location)
    stretches = _stretches_by_source(table)
    names = [entry.name for entry in (location / _SOURCES).list_objects()]
    with ThreadPoolExecutor(max_workers=_NUM_REQUESTS_AT_ONCE) as pool:
        described = list(pool.map(lambda name: json.loads((location / _SOURCES / name).read_bytes()), names))
    opened = []
    for about in described:
        original = Location(about["uri"], location.settings)
        source = Source(original, about["source_id"], about["version"], about["num_bytes"])
        of_source = stretches.get(source.source_id, [])
        lack = _lack(location, source, of_source, num_members=about["num_members"])
        opened.append(PreparedSource(source, PreparedArchive(location, of_source), lack))
    if not opened:
        raise InputError(f"'{location}' holds no prepared image: run `skinvae prepare` again")
    whole = {one.source.uri for one in opened if one.lack is None}
    return [one for one in opened if one.lack is None or one.source.uri not in whole]


def _lack(
    location: Location, source: Source, stretches: Sequence[_Stretch], *, num_members: int | None
) -> InputError | None:
    slices = [slice_id for stretch in stretches for slice_id in stretch.slices]
    covered = Ranges((one.start, one.stop) for one in slices)
    if num_members is None:
        ends = (one.stop for one in slices if one.byte_range is not None and one.byte_range[1] == source.num_bytes)
        num_members = next(ends, None)
    if num_members is not None and len(covered) == num_members:
        return None
    return InputError(
        f"'{location}' holds {len(covered):,} members of '{source.uri}', which are not all: run the same "
        "`skinvae prepare` again to complete it"
    )


def _stretches_by_source(table: PixelTable) -> dict[str, list[_Stretch]]:
    found: dict[str, list[_Stretch]] = {}
    for file in table.live_files():
        for stretch in _stretches(table, file):
            found.setdefault(stretch.slices[0].source_id, []).append(stretch)
    return found


def _stretches(table: PixelTable, file: LiveFile) -> Iterator[_Stretch]:
    """Cut a file into the shortest runs of row groups that hold whole slices, one stretch per archive in each."""
    footer = read_metadata(table.location / file.path)
    sizes = counts_by_slice(table, file)
    slice_stops = list(accumulate(sizes.values()))
    group_stops = list(accumulate(footer.row_group(index).num_rows for index in range(footer.num_row_groups)))
    borders = [0, *(index + 1 for index, stop in enumerate(group_stops) if stop in set(slice_stops))]
    first_slice = 0
    slice_ids = list(sizes)
    for first, behind in pairwise(borders):
        last_row = group_stops[behind - 1]
        stop = max(index for index, rows in enumerate(slice_stops) if rows <= last_row) + 1
        chosen = slice_ids[first_slice:stop]
        for source_id in dict.fromkeys(one.source_id for one in chosen):
            yield _Stretch(file.path, (first, behind), tuple(one for one in chosen if one.source_id == source_id))
        first_slice = stop
    for left in slice_ids[first_slice:]:
        # A file without any row: its slices hold no image.
        yield _Stretch(file.path, (0, 0), (left,))


def counts_by_slice(table: PixelTable, file: LiveFile) -> dict[SliceId, int]:
    """Rows of each slice of the file, in the file's order."""
    if file.is_slice:
        return {SliceId.from_path(file.path): file.num_rows}
    return {slice_id: its.num_rows for slice_id, its in contents_of_part(table.location / file.path).items()}


def _prepared_member(row: dict[str, Any]) -> PreparedMember:
    return PreparedMember(
        index=row["member_index"],
        name=row["member"],
        num_bytes=row["num_bytes"],
        data=row["pixels"],
        status=Status(row["status"]),
        error=row["error"],
        width=row["width"],
        height=row["height"],
    )
