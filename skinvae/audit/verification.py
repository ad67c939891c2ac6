"""Whether a table is right: every file as written, every image of every planned archive once, and nothing else.

It compares what is committed with what is planned: while a job runs, what is still to be done is a difference too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeVar

from skinvae.audit.differences import Difference, Differences, Kind
from skinvae.audit.file_check import FileChecker, Found
from skinvae.audit.identities import check_identities
from skinvae.audit.planned import Target, targets
from skinvae.audit.recount import Recount, Recounter
from skinvae.audit.tables import open_table, table_kind
from skinvae.errors import DifferenceFound, InputError, SourceChanged, TableError
from skinvae.storage.done import Done
from skinvae.storage.filesystem import Location, StorageSettings
from skinvae.storage.member_bits import MemberBits
from skinvae.storage.slice_ids import covered_ranges, stream_offsets
from skinvae.storage.slice_table import SliceTable

_NUM_AT_ONCE = 8
_NUM_NAMED = 5
"""Members that one sentence names."""

OnStep = Callable[[str, int, int], None]
"""Is told what is being done, how much of it is, and of how much; from any thread."""

Item = TypeVar("Item")


@dataclass
class Verification:
    """What `verify` found."""

    uri: str
    noun: str
    version: int
    num_files: int = 0
    num_slices: int = 0
    num_rows: int = 0
    num_archives: int = 0
    """Counted again, all or in part."""
    num_images: int = 0
    """Of them."""
    differences: list[Difference] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    """Archives that could not be counted again, or not to their ends: why."""
    notes: list[str] = field(default_factory=list)
    """What is right, and yet to be known."""

    @property
    def num_differences(self) -> int:
        return sum(one.count for one in self.differences)


def verify_table(
    location: Location, *, settings: StorageSettings, with_archives: bool, on_step: OnStep
) -> Verification:
    """Check the table's newest snapshot; `settings` are those of the archives, which are read unless `with_archives`
    is false.

    Raises TableError if there is no table, InputError if storage refuses one of its files.
    """
    table = open_table(location)
    if table is None:
        kind = table_kind(location)
        raise TableError(
            f"no {kind.noun} at '{location}': check the path or URI, or run `skinvae {kind.command}` first"
        )
    verifier = _Verifier(table, on_step)
    verifier.check_files()
    verifier.check_slices()
    check_identities(table, verifier.found.constants, verifier.differences)
    verifier.check_archives(settings=settings, with_archives=with_archives)
    verifier.result.differences = verifier.differences.listed()
    return verifier.result


def require_right(found: Verification) -> None:
    """Raises DifferenceFound if something is not as it should be, else InputError if something cannot be read."""
    if found.differences:
        kinds = ", ".join(one.title for one in found.differences)
        raise DifferenceFound(f"'{found.uri}' is not as it should be: {kinds}")
    if found.unreadable:
        more = f", and {len(found.unreadable) - 1:,} more archives" if len(found.unreadable) > 1 else ""
        raise InputError(f"what could be read is right, but not all could: {found.unreadable[0].rstrip('.')}{more}")


class _Verifier:
    """The state of `verify_table`, check by check."""

    def __init__(self, table: SliceTable, on_step: OnStep) -> None:
        self.result = Verification(table.location.uri, table.noun, table.version)
        self.differences = Differences()
        self._table, self._on_step = table, on_step
        self._checker = FileChecker(table.location, table.schema, self.differences)

    @property
    def found(self) -> Found:
        return self._checker.found

    def check_files(self) -> None:
        files = self._table.live_files()
        step = _Step("rows", sum(file.num_rows for file in files), self._on_step)
        _each(files, lambda file: self._checker.check(file, on_rows=step.advance))
        self.result.num_files = len(files)
        self.result.num_slices = len({slice_id for slice_id, _ in self.found.slices})
        self.result.num_rows = self.found.num_rows

    def check_slices(self) -> None:
        """No two slices of an archive share a member."""
        ordered = sorted(self.found.slices)
        for (one, one_path), (two, two_path) in pairwise(ordered):
            if (one.source_id, one.scoring_id) != (two.source_id, two.scoring_id) or two.start >= one.stop:
                continue
            if one == two:
                sentence = f"slice {one} is in '{one_path}' and in '{two_path}'"
            else:
                sentence = f"slices {one} and {two} share members"
            self.differences.add(Kind.OVERLAP, sentence)

    def check_archives(self, *, settings: StorageSettings, with_archives: bool) -> None:
        """Every planned archive is done, and has a row for each image and for nothing else."""
        slice_ids = [slice_id for slice_id, _ in self.found.slices]
        covered, offsets = covered_ranges(slice_ids), stream_offsets(slice_ids)
        done = {key: Done(ranges, offsets.get(key, {})) for key, ranges in covered.items()}
        wanted, self.result.notes = targets(self._table, self.found, done, settings=settings)
        recounts: dict[Target, Recount] = {}
        if with_archives:
            total = sum(one.num_members_expected for one in wanted)
            step = _Step("members of the archives", total, self._on_step)

            def count(target: Target) -> None:
                recount = self._recount(target, step)
                if recount is not None:
                    recounts[target] = recount

            _each(wanted, count)
        for target in wanted:
            self._compare(target, recounts.get(target))

    def _recount(self, target: Target, step: _Step) -> Recount | None:
        try:
            return Recounter(target.to_count, on_members=step.advance).count()
        except SourceChanged:
            return Recount(is_same=False, images=MemberBits())
        except InputError as error:
            self.result.unreadable.append(str(error))
            return None

    def _compare(self, target: Target, recount: Recount | None) -> None:
        if recount is not None and not recount.is_same:
            sentence = f"'{target.uri}' was replaced since: its rows are of another version; run the command again"
            self.differences.add(Kind.REPLACED_ARCHIVE, sentence)
            return
        if recount is None:
            for scoring_id in target.scoring_ids:
                self._note_incomplete(target, scoring_id, num_open=None)
            return
        self.result.num_archives += 1
        self.result.num_images += len(recount.images)
        if recount.damage:
            self.result.unreadable.append(recount.damage)
        for scoring_id in target.scoring_ids:
            self._compare_rows(target, recount, scoring_id)

    def _compare_rows(self, target: Target, recount: Recount, scoring_id: str) -> None:
        covered = MemberBits.of(target.done[scoring_id].members)
        rows = self.found.rows.get((target.to_count.source_id, scoring_id), MemberBits())
        missing, surplus = (recount.images & covered) - rows, rows - recount.images
        if missing:
            sentence = f"'{target.uri}' has images without a row in scoring {scoring_id}: {_named(missing)}"
            self.differences.add(Kind.MISSING_ROW, sentence, count=len(missing))
        if surplus:
            sentence = f"'{target.uri}' has no image where scoring {scoring_id} has rows: {_named(surplus)}"
            self.differences.add(Kind.SURPLUS_ROW, sentence, count=len(surplus))
        num_open = len(recount.images - covered)
        if num_open or not recount.damage:
            self._note_incomplete(target, scoring_id, num_open=num_open)

    def _note_incomplete(self, target: Target, scoring_id: str, *, num_open: int | None) -> None:
        """`num_open`: images that no slice covers, where the archive was counted again."""
        if target.is_complete(scoring_id) and not num_open:
            return
        images = "" if num_open is None else f", {num_open:,} images are not"
        progress = f"{target.progress(scoring_id)} are done in scoring {scoring_id}{images}"
        self.differences.add(Kind.INCOMPLETE, f"'{target.uri}': {progress}; run the same command to go on")


class _Step:
    """One kind of work, done by several threads."""

    def __init__(self, title: str, total: int, on_step: OnStep) -> None:
        self._title, self._total, self._on_step = title, total, on_step
        self._done, self._lock = 0, threading.Lock()
        self.advance(0)

    def advance(self, count: int) -> None:
        with self._lock:
            self._done += count
            self._on_step(self._title, self._done, self._total)


def _each(items: Sequence[Item], work: Callable[[Item], None]) -> None:
    """Several at a time; the first error ends the rest."""
    with ThreadPoolExecutor(max_workers=_NUM_AT_ONCE, thread_name_prefix="verify") as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            for future in futures:
                future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _named(members: MemberBits) -> str:
    first = members.first(_NUM_NAMED)
    more = f" and {len(members) - len(first):,} more" if len(members) > len(first) else ""
    return f"{'member' if len(members) == 1 else 'members'} {', '.join(map(str, first))}{more}"
