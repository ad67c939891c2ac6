"""A table of slices on Delta, whose commits are compare-and-swap, so that every slice is in it exactly once.

What is committed when, and why that is safe, is in commit_protocol.py; this carries it out. Slice files lie under
`_slices/`, which plain Parquet readers ignore; compaction.py makes large top-level files of them. A slice is in the
table if and only if the newest snapshot covers its member range. `ScoreTable` and `PixelTable` say which rows it holds.
"""

from __future__ import annotations

import functools
import json
import secrets
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, TypeVar

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Schema, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction

from skinvae.errors import InputError, TableError
from skinvae.storage import commit_protocol
from skinvae.storage.commit_protocol import (
    Change,
    Commit,
    Delete,
    Effect,
    ListParts,
    ListSlices,
    LiveFile,
    NewFile,
    Part,
    Pause,
    ReadReplaced,
    Reload,
    RewriteParts,
    WriteParts,
    run,
)
from skinvae.storage.filesystem import Location
from skinvae.storage.retries import count_retry, retry
from skinvae.storage.seen_slices import SeenSlices
from skinvae.storage.slice_ids import Counts, Coverage, Offsets, SliceFile, SliceId, is_slice_path
from skinvae.storage.slices import (
    SliceContents,
    contents_of_part,
    contents_of_slice,
    part_paths,
    read_replaced,
    slices_written,
)
from skinvae.storage.storage_errors import delta_error_words, is_denial, is_passing_delta_error

Table = TypeVar("Table", bound="SliceTable")
Answer = TypeVar("Answer")

WriteAll = Callable[[Sequence[Part]], Sequence[NewFile | None]]
"""Writes parts, wherever its owner wants that work done; None for one that cannot be written any more."""

RewriteAll = Callable[[Sequence[str]], Sequence[NewFile | None]]
"""Writes copies of the parts at these paths; None for one that is gone."""

APP_ID = "skinvae"

_NUM_FILES_AT_ONCE = 32

_CAME_SECOND = "Invalid table version: 0"
"""What deltalake says where another driver created the table first, or where it did so itself and was not told."""

_COMMIT_ID = "commit_id"
"""In a commit's metadata: tells a driver whose answer was lost whether its commit was made."""


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
        self._contents_by_path: dict[str, dict[SliceId, SliceContents]] = {}
        self._seen = SeenSlices()
        self.undeleted: list[str] = []
        """Files that no snapshot needs, and that storage does not allow to delete."""

    @classmethod
    def open(cls: type[Table], location: Location) -> Table:
        """Raises TableError if there is no such table."""
        load = functools.partial(DeltaTable, location.uri, storage_options=location.delta_options())
        try:
            return cls(location, _patiently(load, f"open the {cls.noun}", location))
        except TableNotFoundError as error:
            raise TableError(
                f"no {cls.noun} at '{location}': check the path or URI, or run `skinvae {cls.command}` first"
            ) from error

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

        def opened() -> Table:
            table = cls.open_if_exists(location)
            if table is None:
                DeltaTable.create(
                    location.uri,
                    schema=Schema.from_arrow(cls.schema),
                    mode="ignore",
                    storage_options=location.delta_options(),
                    description=cls.description,
                )
                table = cls.open(location)
            return table

        table: Table = _patiently(opened, f"create a {cls.noun} at", location)
        table.check_schema()
        return table

    @property
    def version(self) -> int:
        return self._table.version()

    def reload(self) -> None:
        """Move on to the newest snapshot."""
        _patiently(self._table.update_incremental, "read the log of", self.location)

    def live_files(self) -> list[LiveFile]:
        """The Parquet files of the snapshot, ordered by path."""
        names = ["path", "size_bytes", "num_records", "modification_time"]
        columns = pa.table(self._table.get_add_actions(flatten=True)).select(names)
        modified = columns["modification_time"].cast(pa.int64())  # milliseconds
        rows = zip(*(columns[name].to_pylist() for name in names[:3]), modified.to_pylist(), strict=True)
        return sorted((LiveFile(*row) for row in rows), key=lambda file: file.path)

    def live_slices(self) -> list[SliceId]:
        """Every slice of the snapshot, whether it still has its own file or is part of a larger one."""
        return self._slices_at([file.path for file in self.live_files()])

    def _slices_at(self, paths: Sequence[str]) -> list[SliceId]:
        self._read_parts(paths)
        return [
            slice_id
            for path in paths
            for slice_id in ([SliceId.from_path(path)] if is_slice_path(path) else self._contents_by_path[path])
        ]

    def slices_in(self, file: LiveFile) -> list[SliceId]:
        """The slices whose rows the file holds. Top-level files are asked by their footers, each once."""
        if file.is_slice:
            return [SliceId.from_path(file.path)]
        return list(self.contents_in_part(file))

    def contents_in_part(self, file: LiveFile) -> dict[SliceId, SliceContents]:
        """What a top-level file says of its slices, in its order."""
        self._read_parts([file.path])
        return self._contents_by_path[file.path]

    def _read_parts(self, paths: Iterable[str]) -> None:
        parts = [path for path in paths if not is_slice_path(path) and path not in self._contents_by_path]
        found = _at_once(lambda path: contents_of_part(self.location / path), parts)
        self._contents_by_path |= dict(zip(parts, found, strict=True))

    def covered(self) -> Coverage:
        """Per (source_id, scoring_id) the member ranges that the snapshot has rows of."""
        return self._seen_now().covered

    def offsets(self) -> Offsets:
        """Per (source_id, scoring_id) of a stream the byte offsets of members, as far as its slices say."""
        return self._seen_now().offsets

    def _seen_now(self) -> SeenSlices:
        if self._seen.version != self.version:
            paths = pa.table(self._table.get_add_actions())["path"].combine_chunks().cast(pa.string())
            self._seen.move_on(self.version, paths, self._slices_at)
        return self._seen

    def commit_slices(self, files: Iterable[SliceFile], *, provenance: dict[str, str]) -> list[SliceFile]:
        """Add slice files to the table and return those that this call added; see `commit_protocol.commit_slices`."""
        return run(commit_protocol.commit_slices(self, files), DeltaStore(self, provenance=provenance))

    def commit(self, change: Change, *, provenance: dict[str, str]) -> bool:
        """Make the change if no version came after this handle's; either way the handle moves to the newest one.

        Returns whether it was made, also where the answer was lost on the way.
        """
        before, seen = self.version, self._seen_now()
        commit_id = secrets.token_hex(8)
        properties = CommitProperties(
            custom_metadata=provenance | {_COMMIT_ID: commit_id},
            # Fails if any other commit came first, which mere additions to a Delta table would not.
            app_transactions=[Transaction(APP_ID, before + 1)],
        )
        try:
            self._table.create_write_transaction(
                _actions(change), "append", Schema.from_arrow(self.schema), commit_properties=properties
            )
        except (OSError, DeltaError) as error:
            if not isinstance(error, CommitFailedError):
                if not is_passing_delta_error(error):
                    why = delta_error_words(self.location, error)
                    raise TableError(f"cannot commit to '{self.location}': {why}") from error
                count_retry()
            # Another commit came first, or the answer to ours was lost: what is in the log counts.
            self.reload()
            return self._log_has(commit_id, since=before)
        # create_write_transaction leaves its handle at the old snapshot.
        self.reload()
        if self.version == before + 1 and not change.remove:
            # Nobody else has committed: what is covered follows without reading the whole snapshot again.
            paths = [file.path for file in change.add]
            seen.add(self.version, pa.array(paths, pa.string()), map(SliceId.from_path, paths))
        return True

    def delete(self, paths: Sequence[str]) -> None:
        """Delete files that no row depends on, many at a time; where that is forbidden, they stay and are noted."""
        _at_once(lambda path: self._delete(path, (self.location / path).delete_file), paths)

    def delete_folder(self, path: str) -> None:
        """The same with everything below a path."""
        self._delete(path, (self.location / path).delete)

    def _delete(self, path: str, delete: Callable[[], None]) -> None:
        try:
            delete()
        except InputError as error:
            if not is_denial(error.__cause__):
                raise
            self.undeleted.append(path)

    def _log_has(self, commit_id: str, *, since: int) -> bool:
        """Whether a commit behind a version has this id. (`DeltaTable.history` would hold up all threads meanwhile.)"""
        versions = range(since + 1, self.version + 1)
        log = self.location / "_delta_log"
        return any(commit_id.encode() in (log / f"{version:020}.json").read_bytes() for version in versions)

    def count_by_status(self, scoring_id: str, *, source_ids: Collection[str]) -> Counts:
        """Rows of these archives in one scoring, by status code: from the files' footers, without reading a row."""
        total: Counter[str] = Counter()
        alone: list[LiveFile] = []
        files = self.live_files()
        self._read_parts(file.path for file in files)
        for file in files:
            for one in self.slices_in(file):
                if one.scoring_id != scoring_id or one.source_id not in source_ids:
                    continue
                if file.is_slice:
                    alone.append(file)
                else:
                    total.update(self._contents_by_path[file.path][one].counts)
        return dict(total + self.count_rows(alone))

    def count_rows(self, slice_files: Sequence[LiveFile]) -> Counter[str]:
        """Rows of slices that have their own files still, by status code, from their footers."""
        total: Counter[str] = Counter()
        paths = [file.path for file in slice_files]
        for contents in _at_once(lambda path: contents_of_slice(self.location / path), paths):
            total.update(contents.counts)
        return total

    def scoring_ids(self) -> list[str]:
        """The distinct scorings, or preparations, of the snapshot, ascending."""
        return sorted({scoring_id for _, scoring_id in self.covered()})

    def has_columns(self, kind: type[SliceTable]) -> bool:
        """Whether the columns are those of this kind of table."""
        names: list[str] = [field.name for field in self._table.schema().fields]
        return names == list(kind.schema.names)

    def check_schema(self) -> None:
        """Raises TableError if the table is none of ours."""
        if not self.has_columns(type(self)):
            raise TableError(
                f"'{self.location}' is a Delta table with other columns than a {self.noun}: choose another"
            )


class DeltaStore:
    """Carries out a table's protocols on Delta and on the files beside its log."""

    def __init__(
        self,
        table: SliceTable,
        *,
        provenance: dict[str, str],
        write_parts: WriteAll | None = None,
        rewrite_parts: RewriteAll | None = None,
    ) -> None:
        self._table, self._provenance = table, provenance
        self._write_parts, self._rewrite_parts = write_parts, rewrite_parts

    def carry_out(self, effect: Effect) -> Any:
        location = self._table.location
        answer: Any = None
        match effect:
            case Reload():
                self._table.reload()
            case Commit(change):
                answer = self._table.commit(change, provenance=self._provenance)
            case Pause(attempt):
                time.sleep(min(0.05 * 2**attempt, 2.0))
            case WriteParts(parts):
                assert self._write_parts is not None
                written = self._write_parts(parts)
                answer = None if None in written else written
            case RewriteParts(paths):
                assert self._rewrite_parts is not None
                written = self._rewrite_parts(paths)
                answer = None if None in written else written
            case ListParts():
                answer = part_paths(location)
            case ReadReplaced(path):
                answer = read_replaced(location / path)
            case ListSlices():
                answer = slices_written(location)
            case Delete(paths):
                self._table.delete(paths)
        return answer


def _actions(change: Change) -> list[AddAction | RemoveAction]:
    now = int(time.time() * 1000)
    adds = [
        AddAction(one.path, one.num_bytes, {}, now, change.changes_rows, json.dumps({"numRecords": one.num_rows}))
        for one in change.add
    ]
    return adds + [RemoveAction(path, change.changes_rows, now) for path in change.remove]


def _at_once(access: Callable[[str], Answer], paths: Sequence[str]) -> list[Answer]:
    """What `access` says of each path, in order; the requests of many at a time."""
    if len(paths) < 2:
        return [access(path) for path in paths]
    with ThreadPoolExecutor(max_workers=_NUM_FILES_AT_ONCE, thread_name_prefix="files") as pool:
        return list(pool.map(access, paths))


def _is_passing(error: Exception) -> bool:
    """Not what was tried again already, and is a TableError by now, whatever it says."""
    is_raw = isinstance(error, OSError | DeltaError)
    return is_raw and (is_passing_delta_error(error) or _CAME_SECOND in str(error))


def _patiently(access: Callable[[], Any], action: str, location: Location) -> Any:
    """Make an access to Delta's log that may be made again; TableError if it fails for good, not if there is none."""
    try:
        return retry(access, is_passing=_is_passing)
    except TableNotFoundError:
        raise
    except (OSError, DeltaError) as error:
        raise TableError(f"cannot {action} '{location}': {delta_error_words(location, error)}") from error
