"""A table of slices: a Delta table whose commits are compare-and-swap, so that every slice is in it exactly once.

Slice files lie under `_slices/`, which plain Parquet readers ignore; see compaction.py for how they become large
top-level files. A slice is in the table if and only if the newest snapshot covers its member range.
`ScoreTable` and `PixelTable` say which rows such a table holds.
"""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Schema, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction

from skinvae.errors import TableError
from skinvae.storage.filesystem import Location
from skinvae.storage.ranges import Ranges
from skinvae.storage.slices import SLICES_FOLDER, Counts, SliceFile, SliceId, counts_of_part, counts_of_slice

Table = TypeVar("Table", bound="SliceTable")

Coverage = dict[tuple[str, str], Ranges]
"""Member ranges by (source_id, scoring_id)."""

Offsets = dict[tuple[str, str], dict[int, int]]
"""Byte offsets by member ordinal, by (source_id, scoring_id)."""

APP_ID = "skinvae"
MAX_COMMIT_ATTEMPTS = 20


@dataclass(frozen=True)
class LiveFile:
    """One Parquet file of a snapshot."""

    path: str
    num_bytes: int
    num_rows: int

    @property
    def is_slice(self) -> bool:
        return self.path.startswith(f"{SLICES_FOLDER}/")


class SliceTable:
    """One table, seen through the newest snapshot this object has loaded or committed."""

    schema: ClassVar[pa.Schema]
    noun: ClassVar[str]
    command: ClassVar[str]
    """The command that makes such a table, and the option by which others are told of it."""
    description: ClassVar[str]

    def __init__(self, location: Location, table: DeltaTable) -> None:
        self.location = location
        self._table = table
        self._counts_by_path: dict[str, dict[SliceId, Counts]] = {}
        self._coverage: tuple[int, Coverage] | None = None

    @classmethod
    def open(cls: type[Table], location: Location) -> Table:
        """Raises TableError if there is no such table."""
        try:
            return cls(location, DeltaTable(location.uri, storage_options=location.delta_options()))
        except TableNotFoundError as error:
            raise TableError(
                f"no {cls.noun} at '{location}': check the path or URI, or run `skinvae {cls.command}` first"
            ) from error
        except (OSError, DeltaError) as error:
            raise TableError(f"cannot open the {cls.noun} '{location}': {_first_line(error)}") from error

    @classmethod
    def open_if_exists(cls: type[Table], location: Location) -> Table | None:
        """The table, or None if there is none. Raises TableError if it cannot be opened."""
        try:
            return cls.open(location)
        except TableError as error:
            if isinstance(error.__cause__, TableNotFoundError):
                return None
            raise

    @classmethod
    def open_or_create(cls: type[Table], location: Location) -> Table:
        """Open the table, after creating an empty one if there is none, or only the beginnings of one."""
        table = cls.open_if_exists(location)
        if table is None:
            try:
                DeltaTable.create(
                    location.uri,
                    schema=Schema.from_arrow(cls.schema),
                    mode="ignore",
                    storage_options=location.delta_options(),
                    description=cls.description,
                )
            except (OSError, DeltaError) as error:
                raise TableError(f"cannot create a {cls.noun} at '{location}': {_first_line(error)}") from error
            table = cls.open(location)
        table._check_schema()
        return table

    @property
    def version(self) -> int:
        return self._table.version()

    def reload(self) -> None:
        """Move on to the newest snapshot."""
        try:
            self._table.update_incremental()
        except (OSError, DeltaError) as error:
            raise TableError(f"cannot read the log of '{self.location}': {_first_line(error)}; run again") from error

    def live_files(self) -> list[LiveFile]:
        """The Parquet files of the snapshot, ordered by path."""
        actions = pa.table(self._table.get_add_actions(flatten=True)).select(["path", "size_bytes", "num_records"])
        files = [LiveFile(row["path"], row["size_bytes"], row["num_records"]) for row in actions.to_pylist()]
        return sorted(files, key=lambda file: file.path)

    def live_slices(self) -> list[SliceId]:
        """Every slice of the snapshot, whether it still has its own file or is part of a larger one."""
        return [slice_id for file in self.live_files() for slice_id in self.slices_in(file)]

    def slices_in(self, file: LiveFile) -> list[SliceId]:
        """The slices whose rows the file holds. Top-level files are asked by their footers, each once."""
        if file.is_slice:
            return [SliceId.from_path(file.path)]
        return list(self._counts_in_part(file))

    def _counts_in_part(self, file: LiveFile) -> dict[SliceId, Counts]:
        if file.path not in self._counts_by_path:
            self._counts_by_path[file.path] = counts_of_part(self.location / file.path)
        return self._counts_by_path[file.path]

    def covered(self) -> Coverage:
        """Per (source_id, scoring_id) the member ranges that the snapshot has rows of."""
        if self._coverage is None or self._coverage[0] != self.version:
            self._coverage = self.version, covered_ranges(self.live_slices())
        return self._coverage[1]

    def offsets(self) -> Offsets:
        """Per (source_id, scoring_id) of a stream the byte offsets of members, as far as its slices say."""
        return stream_offsets(self.live_slices())

    def commit_slices(self, files: Iterable[SliceFile], *, provenance: dict[str, str]) -> list[SliceFile]:
        """Add slice files to the table and return those that this call added.

        A file whose range is already covered, because another driver was faster, is left out. Raises TableError if
        other writers kept winning for MAX_COMMIT_ATTEMPTS attempts.
        """
        wanted = list(files)
        added: list[SliceFile] = []
        version = -1

        before: Coverage = {}

        def actions() -> Sequence[AddAction | RemoveAction]:
            nonlocal before, version
            before, version = self.covered(), self.version
            added[:] = not_overlapping(wanted, before)
            return [add_action(file.path, file.num_bytes, file.num_rows, data_change=True) for file in added]

        self.compare_and_swap(actions, provenance=provenance)
        if self.version == version + 1:
            # Nobody else has committed: what is covered follows without reading the whole snapshot again.
            more = covered_ranges(file.slice_id for file in added)
            merged = {key: before.get(key, Ranges()).union(ranges) for key, ranges in more.items()}
            self._coverage = self.version, before | merged
        return added

    def compare_and_swap(
        self, make_actions: Callable[[], Sequence[AddAction | RemoveAction]], *, provenance: dict[str, str]
    ) -> None:
        """Commit what `make_actions` derives from the snapshot, or derive it again from a newer one and retry.

        The application transaction makes a commit fail when any other commit came first.
        """
        for attempt in range(MAX_COMMIT_ATTEMPTS):
            actions = make_actions()
            if not actions:
                return
            try:
                self._table.create_write_transaction(
                    list(actions),
                    "append",
                    Schema.from_arrow(self.schema),
                    commit_properties=CommitProperties(
                        custom_metadata=dict(provenance),
                        app_transactions=[Transaction(APP_ID, self.version + 1)],
                    ),
                )
            except CommitFailedError:
                time.sleep(min(0.05 * 2**attempt, 2.0))
                self.reload()
            except (OSError, DeltaError) as error:
                raise TableError(f"cannot commit to '{self.location}': {_first_line(error)}; run again") from error
            else:
                # create_write_transaction leaves its handle at the old snapshot.
                self.reload()
                return
        raise TableError(f"other writers won {MAX_COMMIT_ATTEMPTS} commits to '{self.location}' in a row: run again")

    def count_by_status(self, scoring_id: str, *, source_ids: Collection[str]) -> Counts:
        """Rows of these archives in one scoring, by status code: from the files' footers, without reading a row."""
        total: Counter[str] = Counter()
        for file in self.live_files():
            chosen = [
                one for one in self.slices_in(file) if one.scoring_id == scoring_id and one.source_id in source_ids
            ]
            for slice_id in chosen:
                in_file = (
                    counts_of_slice(self.location / file.path)
                    if file.is_slice
                    else self._counts_in_part(file)[slice_id]
                )
                total.update(in_file)
        return dict(total)

    def scoring_ids(self) -> list[str]:
        """The distinct scorings, or preparations, of the snapshot, ascending."""
        return sorted({slice_id.scoring_id for slice_id in self.live_slices()})

    def _check_schema(self) -> None:
        names = [field.name for field in self._table.schema().fields]
        if names != self.schema.names:
            raise TableError(
                f"'{self.location}' is a Delta table with other columns than a {self.noun}: choose another"
            )


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


def not_overlapping(files: Sequence[SliceFile], covered: Coverage) -> list[SliceFile]:
    """The files that share no member with `covered` nor with a file before them, in order."""
    kept: list[SliceFile] = []
    taken = dict(covered)
    for file in files:
        key = (file.slice_id.source_id, file.slice_id.scoring_id)
        span = (file.slice_id.start, file.slice_id.stop)
        before = taken.get(key, Ranges())
        if not before.intersects(*span):
            kept.append(file)
            taken[key] = before.union(Ranges([span]))
    return kept


def add_action(path: str, num_bytes: int, num_rows: int, *, data_change: bool) -> AddAction:
    """The Delta action that makes a Parquet file part of the table."""
    stats = json.dumps({"numRecords": num_rows})
    return AddAction(path, num_bytes, {}, int(time.time() * 1000), data_change, stats)


def remove_action(path: str) -> RemoveAction:
    """The Delta action that takes a file out of the table without changing what the table says."""
    return RemoveAction(path, data_change=False, deletion_timestamp=int(time.time() * 1000))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
