"""How a table changes: decisions without I/O, so that every order of events can be tried.

A protocol is a generator. It looks at a `View`, the newest snapshot that its driver has loaded, yields one `Effect` at
a time and is sent the answer. `run` hands the effects to a store: DeltaStore carries them out, and the model check has
a store that fails before and after any of them. Nothing here knows a clock, a bucket or a library.

What holds whatever fails, and however many drivers are at work:

- A commit is a compare-and-swap: it takes place only on the very snapshot that it was derived from. Where it did not,
  or nobody knows, it is derived again from a newer one, so that no change takes place twice.
- A slice comes in only if no member of its range is in the snapshot: every member has one row at most.
- Files are created only if absent. A file that is in a snapshot is never written again.
- A part, a large file, takes the place of other files, all of which were in the table when it was written. Once one of
  them has left, it can never be committed, for files do not come back: it is lost, and may be deleted.
- A slice file may be deleted once it has been in a part for as long as old snapshots are to stay readable.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from skinvae.errors import TableError
from skinvae.storage.slice_ids import Coverage, SliceFile, SliceId, is_slice_path, without_overlap

T = TypeVar("T")

MAX_COMMIT_ATTEMPTS = 20

PART_BYTES = 128 * 2**20
"""Size of a top-level file: large enough for few requests, small enough to be written from memory."""


SLICE_OVERHEAD_BYTES = 12_000
"""Schema, metadata and heads of columns, which a slice file has beside its rows: 11 to 13 KB, and a part about once."""


@dataclass(frozen=True)
class LiveFile:
    """One Parquet file of a snapshot."""

    path: str
    num_bytes: int
    num_rows: int
    modified_ms: int = 0
    """When it came into being, in milliseconds since 1970."""

    @property
    def is_slice(self) -> bool:
        return is_slice_path(self.path)


class View(Protocol):
    """The newest snapshot that a driver has loaded or committed."""

    @property
    def version(self) -> int: ...

    def covered(self) -> Coverage:
        """The members that have rows."""
        ...

    def live_files(self) -> Sequence[LiveFile]:
        """Ordered by path."""
        ...

    def slices_in(self, file: LiveFile) -> Collection[SliceId]:
        """The slices whose rows the file holds."""
        ...


@dataclass(frozen=True)
class NewFile:
    """A written file that is to become part of the table."""

    path: str
    num_bytes: int
    num_rows: int


@dataclass(frozen=True)
class Part:
    """A top-level file to be: the slice files it takes the place of."""

    slices: tuple[LiveFile, ...]

    @property
    def slice_ids(self) -> list[SliceId]:
        return [SliceId.from_path(file.path) for file in self.slices]

    @property
    def path(self) -> str:
        digest = hashlib.blake2b("\n".join(map(str, self.slice_ids)).encode(), digest_size=16)
        return f"part-{digest.hexdigest()}.parquet"


@dataclass(frozen=True)
class Change:
    """What one commit does to a table."""

    add: tuple[NewFile, ...] = ()
    remove: tuple[str, ...] = ()
    changes_rows: bool = True
    """False if the same rows are in other files only, which tells streaming readers to pass over the commit."""


@dataclass(frozen=True)
class Reload:
    """Move the view on to the newest snapshot. Answer: None."""


@dataclass(frozen=True)
class Commit:
    """Make the change if the table's newest version is still the view's.

    Answer: True if it was made, and the view shows it; False if it was not, or nobody can tell.
    """

    change: Change


@dataclass(frozen=True)
class Pause:
    """Wait a little longer with each attempt, for other drivers to get out of the way. Answer: None."""

    attempt: int


@dataclass(frozen=True)
class WriteParts:
    """Create the parts from their slices, if absent. Answer: a NewFile for each; None if a slice's file is gone."""

    parts: tuple[Part, ...]


@dataclass(frozen=True)
class RewriteParts:
    """Create copies of the parts with other rows in the same slices, if absent.

    Answer: a NewFile for each; None if a part is gone.
    """

    paths: tuple[str, ...]


@dataclass(frozen=True)
class ListParts:
    """Answer: the paths of all top-level files that are named like parts, in the table or not."""


@dataclass(frozen=True)
class ReadReplaced:
    """Answer: the paths of the files that the part takes the place of; None if it is gone by now."""

    path: str


@dataclass(frozen=True)
class ListSlices:
    """Answer: the slices that have a file, in the table or not."""


@dataclass(frozen=True)
class Delete:
    """Remove the files, many at a time; one that is gone already is no error. Answer: None."""

    paths: tuple[str, ...]


Effect = Reload | Commit | Pause | WriteParts | RewriteParts | ListParts | ReadReplaced | ListSlices | Delete

Steps = Generator[Effect, Any, T]
"""A protocol under way, which returns a T."""


class Store(Protocol):
    """Whoever carries out effects."""

    def carry_out(self, effect: Effect) -> Any: ...


def run(steps: Steps[T], store: Store) -> T:
    """Carry the protocol through to its end."""
    answer: Any = None
    while True:
        try:
            effect = steps.send(answer)
        except StopIteration as end:
            result: T = end.value
            return result
        answer = store.carry_out(effect)


def compare_and_swap(derive: Callable[[], Steps[Change | None]]) -> Steps[None]:
    """Commit what `derive` makes of the view, and derive it again from a newer one until that succeeds.

    An empty change needs no commit. None says that the view is out of date. Raises TableError if that never ended.
    """
    for attempt in range(MAX_COMMIT_ATTEMPTS):
        change = yield from derive()
        if change is not None and (not (change.add or change.remove) or (yield Commit(change))):
            return
        yield Pause(attempt)
        yield Reload()
    raise TableError(f"{MAX_COMMIT_ATTEMPTS} commits in a row were lost to other writers or failed: run again")


def commit_slices(view: View, files: Iterable[SliceFile]) -> Steps[list[SliceFile]]:
    """Add slice files to the table; returns those that came in by this, and leaves out what is covered already."""
    wanted = {file.slice_id: file for file in files}
    added: list[SliceFile] = []

    def derive() -> Steps[Change | None]:
        added[:] = [wanted[one] for one in without_overlap(wanted, view.covered())]
        return Change(add=tuple(NewFile(one.path, one.num_bytes, one.num_rows) for one in added))
        yield  # derives without effects

    yield from compare_and_swap(derive)
    return added


def swap_slices_for_parts(view: View, *, part_bytes: int = PART_BYTES) -> Steps[int]:
    """Replace the slice files of the table by parts, in one commit that changes no row; returns how many came in.

    What other drivers commit meanwhile is left to the next swap; only if they swapped, the parts are planned again.
    """
    change: Change | None = None

    def derive() -> Steps[Change | None]:
        nonlocal change
        live = view.live_files()
        if change is None or not is_possible(change, live):
            parts = tuple(plan_parts(live, part_bytes=part_bytes))
            written: Sequence[NewFile] | None = (yield WriteParts(parts)) if parts else ()
            replaced = tuple(file.path for part in parts for file in part.slices)
            change = None if written is None else Change(tuple(written), replaced, changes_rows=False)
        return change

    yield from compare_and_swap(derive)
    yield from delete_lost_parts(view)
    return 0 if change is None else len(change.add)


def replace_parts(view: View, paths: Collection[str]) -> Steps[list[str]]:
    """Replace parts by their rewritten copies, in one commit; returns those that were replaced by this.

    One that another driver has replaced meanwhile is left out. What was replaced is deleted at once, although readers
    of older snapshots may want it still: readers of plain Parquet, who see every top-level file, would see rows twice.
    """
    change: Change | None = None

    def derive() -> Steps[Change | None]:
        nonlocal change
        live = view.live_files()
        if change is None or not is_possible(change, live):
            replaced = tuple(file.path for file in live if file.path in paths)
            written: Sequence[NewFile] | None = (yield RewriteParts(replaced)) if replaced else ()
            change = None if written is None else Change(tuple(written), replaced)
        return change

    yield from compare_and_swap(derive)
    yield from delete_lost_parts(view)
    return [] if change is None else list(change.remove)


def is_possible(change: Change, live: Iterable[LiveFile]) -> bool:
    """Whether all that the change takes out is still in the table."""
    return {file.path for file in live}.issuperset(change.remove)


def delete_lost_parts(view: View) -> Steps[list[str]]:
    """Delete top-level files that a stopped or slower driver wrote and can never commit; returns their paths."""
    found: Sequence[str] = yield ListParts()
    # Only now: whatever a part replaces was in the table when it was written, so a file that is not there has left.
    yield Reload()
    live = {file.path for file in view.live_files()}
    lost = []
    for path in found:
        replaced: Collection[str] | None = None if path in live else (yield ReadReplaced(path))
        if replaced is not None and not live.issuperset(replaced):
            lost.append(path)
    if lost:
        yield Delete(tuple(lost))
    return lost


def delete_expired_slices(view: View, *, before_ms: int) -> Steps[int]:
    """Delete slice files whose rows have been in a part since `before_ms`; returns how many."""
    live = {file.path for file in view.live_files()}
    expired = {
        slice_id
        for file in view.live_files()
        if not file.is_slice and file.modified_ms < before_ms
        for slice_id in view.slices_in(file)
    }
    found: Sequence[SliceId] = (yield ListSlices()) if expired else ()
    gone = tuple(one.path for one in found if one in expired and one.path not in live)
    if gone:
        yield Delete(gone)
    return len(gone)


def plan_parts(files: Iterable[LiveFile], *, part_bytes: int = PART_BYTES) -> list[Part]:
    """Group the slice files, in order of scoring, archive and member, into parts of up to about `part_bytes`."""
    ordered = sorted((file for file in files if file.is_slice), key=lambda file: _reading_order(file.path))
    groups: list[list[LiveFile]] = []
    group_bytes = 0
    for file in ordered:
        if not groups or group_bytes + bytes_in_part(file) > part_bytes:
            groups.append([])
            group_bytes = 0
        groups[-1].append(file)
        group_bytes += bytes_in_part(file)
    return [Part(tuple(group)) for group in groups]


def bytes_in_part(file: LiveFile) -> int:
    """What the rows of a slice file add to a part, about."""
    return max(1, file.num_bytes - SLICE_OVERHEAD_BYTES)


def _reading_order(path: str) -> tuple[str, str, int]:
    slice_id = SliceId.from_path(path)
    return slice_id.scoring_id, slice_id.source_id, slice_id.start
