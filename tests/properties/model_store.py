"""A table in memory with several drivers, each of whose effects may fail before or after it took place.

Every file is a set of rows; the value in a row is a function of the archive and the member alone.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from skinvae.storage import commit_protocol
from skinvae.storage.commit_protocol import (
    Commit,
    Delete,
    Effect,
    ListParts,
    ListSlices,
    LiveFile,
    NewFile,
    Pause,
    ReadReplaced,
    Reload,
    RewriteParts,
    WriteParts,
)
from skinvae.storage.ranges import Ranges
from skinvae.storage.slice_ids import Coverage, SliceFile, SliceId, covered_ranges, without_overlap

NUM_MEMBERS = 6
"""Of each archive."""

RETENTION_MS = 3
SOURCES, SCORING = ("aaaa", "bbbb"), "cccc"

Row = tuple[str, int, int]
"""(source_id, member, value)"""

REJECTED = (-1, -2)
"""Values of every third member, until it was tried again; every sixth takes two tries."""


@dataclass(frozen=True)
class Content:
    """What a file holds."""

    rows: tuple[Row, ...]
    slices: tuple[SliceId, ...]
    replaces: frozenset[str]


@dataclass(frozen=True)
class Version:
    """One snapshot of the table."""

    files: dict[str, LiveFile]
    slices: dict[str, tuple[SliceId, ...]]

    @cached_property
    def coverage(self) -> Coverage:
        return covered_ranges(one for held in self.slices.values() for one in held)


@dataclass
class ModelStore:
    """The bucket: files, the log of versions, and the time."""

    checks_version: bool = True
    """False makes commits blind, as appends to a Delta table are: the check must find what goes wrong then."""
    files: dict[str, Content] = field(default_factory=dict)
    versions: list[Version] = field(default_factory=lambda: [Version({}, {})])
    retired: set[str] = field(default_factory=set)
    """Files whose rows a commit changed: they are not kept for readers of older snapshots."""
    now_ms: int = 0

    def create_slice(self, one: SliceId) -> None:
        """What a worker does, perhaps long after its driver has died."""
        self.files.setdefault(one.path, Content(rows_of(one.source_id, one.start, one.stop), (one,), frozenset()))

    def rows(self, version: Version) -> list[Row]:
        """What a reader of Delta sees."""
        return sorted(row for path in version.files for row in self.files[path].rows)

    def commit(self, base: int, effect: Commit) -> bool:
        if self.checks_version and base != len(self.versions) - 1:
            return False
        last, change = self.versions[-1], effect.change
        files, slices = dict(last.files), dict(last.slices)
        for path in change.remove:
            files.pop(path, None)
            slices.pop(path, None)
        if change.changes_rows:
            self.retired.update(change.remove)
        for new in change.add:
            files[new.path] = LiveFile(new.path, new.num_bytes, new.num_rows, self.now_ms)
            slices[new.path] = self.files[new.path].slices
        self.versions.append(Version(files, slices))
        return True

    def rewrite_parts(self, effect: RewriteParts) -> list[NewFile] | None:
        written: list[NewFile] = []
        if not self.files.keys() >= set(effect.paths):
            return None
        for path in effect.paths:
            old = self.files[path]
            new = f"part-again-{path.removeprefix('part-')}"
            rows = tuple(retried(row) for row in old.rows)
            self.files.setdefault(new, Content(rows, old.slices, frozenset([path])))
            written.append(NewFile(new, len(rows), len(rows)))
        return written

    def write_parts(self, effect: WriteParts) -> list[NewFile] | None:
        for part in effect.parts:
            if any(file.path not in self.files for file in part.slices):
                return None
            sources = [self.files[file.path] for file in part.slices]
            rows = tuple(row for source in sources for row in source.rows)
            replaces = frozenset(file.path for file in part.slices)
            self.files.setdefault(part.path, Content(rows, tuple(part.slice_ids), replaces))
        return [NewFile(part.path, *[len(self.files[part.path].rows)] * 2) for part in effect.parts]


class ModelView:
    """The version that one driver has loaded."""

    def __init__(self, store: ModelStore) -> None:
        self._store = store
        self.version = 0

    @property
    def _loaded(self) -> Version:
        return self._store.versions[self.version]

    def covered(self) -> Coverage:
        return self._loaded.coverage

    def live_files(self) -> list[LiveFile]:
        return sorted(self._loaded.files.values(), key=lambda file: file.path)

    def slices_in(self, file: LiveFile) -> tuple[SliceId, ...]:
        return self._loaded.slices[file.path]


@dataclass(frozen=True)
class Work:
    """A worker scores a slice. Not the protocol's own: the round of work between its commits."""

    slice_id: SliceId


Life = Generator[Effect | Work, Any, None]


class Driver:
    """One driver process: what it has loaded, and the effect it is about to ask for."""

    def __init__(self, store: ModelStore, life: Callable[[ModelView], Life]) -> None:
        self.store, self.view = store, ModelView(store)
        self._life = life(self.view)
        self.is_alive = True
        self.effect: Effect | Work | None = None
        self._advance(None)

    @property
    def next_effect(self) -> str:
        return type(self.effect).__name__

    def step(self) -> None:
        """The effect takes place and its answer arrives."""
        self._advance(self._carry_out())

    def failed_before(self) -> None:
        """The effect does not take place. Of a commit the driver hears that nobody knows; any other ends it."""
        self._hear_of_a_failure()

    def failed_after(self) -> None:
        """The effect takes place, but the driver hears of a failure: the answer was lost."""
        self._carry_out(is_cut=True)
        self._hear_of_a_failure()

    def killed_before(self) -> None:
        self.is_alive = False

    def killed_after(self) -> None:
        """Of many deletions, some have been made by then."""
        self._carry_out(is_cut=True)
        self.is_alive = False

    def _hear_of_a_failure(self) -> None:
        if isinstance(self.effect, Commit):
            self._advance(False)
        else:
            self.is_alive = False

    def _advance(self, answer: Any) -> None:
        try:
            self.effect = self._life.send(answer)
        except StopIteration:
            self.is_alive = False

    def _carry_out(self, *, is_cut: bool = False) -> Any:
        store, answer = self.store, None
        match self.effect:
            case Work(slice_id):
                store.create_slice(slice_id)
            case Reload():
                self.view.version = len(store.versions) - 1
            case Commit() as commit:
                answer = store.commit(self.view.version, commit)
                if answer:
                    self.view.version = len(store.versions) - 1
            case WriteParts() as write:
                answer = store.write_parts(write)
            case RewriteParts() as rewrite:
                answer = store.rewrite_parts(rewrite)
            case ListParts():
                answer = [path for path in store.files if path.startswith("part-")]
            case ReadReplaced(path):
                held = store.files.get(path)
                answer = held and held.replaces
            case ListSlices():
                answer = [content.slices[0] for path, content in store.files.items() if path.startswith("_slices/")]
            case Delete(paths):
                for path in paths[: len(paths) // 2 + 1] if is_cut else paths:
                    store.files.pop(path, None)
            case Pause():
                pass
        return answer


def scoring_life(
    store: ModelStore, *, sources: Sequence[str], slice_size: int, commit_every: int, part_bytes: int
) -> Callable[[ModelView], Life]:
    """What a scoring job does: adopt, work and commit until nothing is missing, then swap and clean."""

    def life(view: ModelView) -> Life:
        yield Reload()
        while True:
            written = yield ListSlices()
            adoptable = [one for one in sorted(written) if one.source_id in sources]
            adopted = without_overlap(adoptable, view.covered())
            yield from commit_protocol.commit_slices(view, map(file_of, adopted))
            missing = [one for source in sources for one in missing_slices(view, source, slice_size=slice_size)]
            if not missing:
                break
            done: list[SliceFile] = []
            for one in missing:
                yield Work(one)
                done.append(file_of(one))
                if len(done) == commit_every:
                    yield from commit_protocol.commit_slices(view, done)
                    done = []
            yield from commit_protocol.commit_slices(view, done)
            yield Reload()
        yield from commit_protocol.swap_slices_for_parts(view, part_bytes=part_bytes)
        yield from commit_protocol.delete_expired_slices(view, before_ms=store.now_ms - RETENTION_MS)

    return life


def retrying_life(store: ModelStore, **options: Any) -> Callable[[ModelView], Life]:
    """A scoring job, and behind it another try at what it rejected."""
    score = scoring_life(store, **options)

    def life(view: ModelView) -> Life:
        yield from score(view)
        yield Reload()
        with_rejects = {
            file.path
            for file in view.live_files()
            if not file.is_slice and any(value in REJECTED for *_, value in store.files[file.path].rows)
        }
        yield from commit_protocol.replace_parts(view, with_rejects)

    return life


def missing_slices(view: ModelView, source: str, *, slice_size: int) -> list[SliceId]:
    gaps = view.covered().get((source, SCORING), Ranges()).gaps(0, NUM_MEMBERS)
    return [
        SliceId(source, SCORING, first, min(first + slice_size, stop))
        for start, stop in gaps
        for first in range(start, stop, slice_size)
    ]


def file_of(one: SliceId) -> SliceFile:
    num_rows = one.stop - one.start
    return SliceFile(one, num_rows, num_rows, {"ok": num_rows})


def rows_of(source: str, start: int, stop: int) -> tuple[Row, ...]:
    """As they are scored first."""
    return tuple(
        (source, member, -1 if member % 3 == 0 else good_value(source, member)) for member in range(start, stop)
    )


def retried(row: Row) -> Row:
    """With the value that another try gives a rejected member."""
    source, member, value = row
    return source, member, -2 if value == -1 and member % 6 == 0 else good_value(source, member)


def good_value(source: str, member: int) -> int:
    return 31 * member + ord(source[0])
