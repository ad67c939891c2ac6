"""The pictures behind chosen rows of a score table, read again from their archives; without Ray.

Only the members that are asked for are fetched and decoded, in isolation as everywhere. A tar is streamed, from the
last border of a slice that its table knows. What cannot be shown for what it is is left out, with the reason.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from skinvae.errors import InputError, SourceChanged, UsageError
from skinvae.images.archives import Member
from skinvae.images.decode import DecodeSettings
from skinvae.pipelines.decoding import DecodedMember, Unreadable, decode_slices
from skinvae.pipelines.slicing import OpenedArchive, missing_parts
from skinvae.report.findings import LeftOut, Pictures, Row
from skinvae.storage.done import Done
from skinvae.storage.filesystem import Location, StorageSettings
from skinvae.storage.pixel_table import open_prepared
from skinvae.storage.ranges import Ranges
from skinvae.storage.run_records import PlannedArchive, RunPlan, read_archives, read_runs
from skinvae.storage.score_table import ScoreTable
from skinvae.storage.sources import open_source


def parse_moves(moves: Sequence[str], *, sources: Iterable[str]) -> dict[str, str]:
    """Where archives lie by now, by the URI that the table knows, from OLD=NEW each; either may be a prefix.

    Raises UsageError for one that concerns no archive of the table.
    """
    known = sorted(set(sources))
    moved: dict[str, str] = {}
    for move in moves:
        # A URI may itself hold '=': the sign meant is the first one with an archive's name in front of it.
        pairs = [(move[:at], move[at + 1 :]) for at, sign in enumerate(move) if sign == "="]
        usable = [(old, new) for old, new in pairs if old and new and _below(old, known)]
        if not usable:
            listed = ", ".join(f"'{one}'" for one in known[:3]) + (" and others" if len(known) > 3 else "")
            raise UsageError(
                f"--archive {move}: give OLD=NEW, where OLD is, or begins, an archive of the table: {listed}"
            )
        old, new = usable[0]
        start = Location.parse(old).uri
        moved |= {uri: Location.parse(new).uri + uri[len(start) :] for uri in _below(old, known)}
    return moved


def read_pictures(
    rows: Iterable[Row],
    *,
    table: ScoreTable,
    size: int,
    decode: DecodeSettings,
    storage: StorageSettings,
    moved: Mapping[str, str],
) -> Pictures:
    """The resized pixels of rows of one scoring. `storage` says how their archives are reached."""
    pictures = Pictures()
    by_archive: dict[tuple[str, str], dict[int, Row]] = defaultdict(dict)
    for row in rows:
        by_archive[row["source"], row["source_id"]][row["member_index"]] = row
    plans = _plans(table.location) if by_archive else {}
    offsets = table.offsets() if by_archive else {}
    for (source, source_id), its_rows in sorted(by_archive.items()):
        planned = plans.get(source_id)
        scoring_id = next(iter(its_rows.values()))["scoring_id"]
        try:
            opened = _open(source, source_id, planned, its_rows, decode=decode, storage=storage, moved=moved)
            done = {opened.source.source_id: Done(offsets=offsets.get((source_id, scoring_id), {}))}
            _read(opened, done, its_rows, source_id=source_id, size=size, decode=decode, pictures=pictures)
        except InputError as error:
            _leave_out(source, source_id, its_rows, str(error), pictures)
    return pictures


def _below(old: str, known: Sequence[str]) -> list[str]:
    start = Location.parse(old).uri
    return [uri for uri in known if uri == start or uri.startswith(f"{start}/")]


def _plans(table: Location) -> dict[str, tuple[PlannedArchive, RunPlan]]:
    """How the runs of the table read each archive, by source_id; the latest counts."""
    plans = [run.plan for run in read_runs(table) if run.plan is not None]
    lists = read_archives(table, [plan.archives for plan in plans])
    return {one.source_id: (one, plan) for plan in plans for one in lists[plan.archives]}


def _open(
    source: str,
    source_id: str,
    planned: tuple[PlannedArchive, RunPlan] | None,
    rows: Mapping[int, Row],
    *,
    decode: DecodeSettings,
    storage: StorageSettings,
    moved: Mapping[str, str],
) -> OpenedArchive:
    """Raises InputError if the archive cannot be opened, SourceChanged if it is another one than was scored."""
    archive, plan = planned or (None, None)
    settings = storage.model_copy(update={"anonymous": storage.anonymous or (plan is not None and plan.anonymous)})
    only = Ranges((index, index + 1) for index in rows)
    if source not in moved and archive is not None and archive.prepared is not None:
        for one in open_prepared(Location(archive.prepared, storage.with_credentials)):
            if one.source.source_id == source_id:
                return OpenedArchive(one.source, one.archive, only=only)
        raise InputError(f"'{archive.prepared}' no longer holds it")
    location = Location(moved.get(source, source), settings)
    images_column = plan.images_column if plan is not None else None
    its_source, its_archive = open_source(location, max_bytes=decode.max_bytes, images_column=images_column)
    # Elsewhere it has another source_id by its URI alone: there the members themselves are compared.
    if source not in moved and its_source.source_id != source_id:
        raise SourceChanged("the archive was replaced, or changed, since it was scored")
    return OpenedArchive(its_source, its_archive, only=only)


def _read(
    opened: OpenedArchive,
    done: Mapping[str, Done],
    rows: Mapping[int, Row],
    *,
    source_id: str,
    size: int,
    decode: DecodeSettings,
    pictures: Pictures,
) -> None:
    def is_wanted(member: Member) -> bool:
        return member.index in rows

    num_members = opened.archive.num_members
    if num_members is not None and max(rows) >= num_members:
        raise SourceChanged("the archive has fewer members than the one that was scored")
    for part in missing_parts([opened], slice_size=1, done=done):
        for read in decode_slices(part, size=size, settings=decode, wanted=is_wanted):
            if isinstance(read, Unreadable):
                raise read.error
            for member in read.members:
                row = rows.get(member.index)
                if row is not None and _is_same(member, row):
                    assert member.image.pixels is not None
                    pictures.pixels[source_id, member.index] = member.image.pixels
    if any((source_id, index) not in pictures.pixels for index in rows):
        raise SourceChanged("other images stand where these were scored")


def _is_same(member: DecodedMember, row: Row) -> bool:
    """As far as the table knows the image: name, bytes and size."""
    image = member.image
    return image.pixels is not None and (member.name, member.num_bytes, image.width, image.height) == (
        row["member"],
        row["num_bytes"],
        row["width"],
        row["height"],
    )


def _leave_out(source: str, source_id: str, rows: Mapping[int, Row], reason: str, pictures: Pictures) -> None:
    num_missing = sum((source_id, index) not in pictures.pixels for index in rows)
    pictures.left_out.append(LeftOut(source, num_missing, reason))
