"""How far a table is, as a terminal page and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.filesize import decimal
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from skinvae.audit.status import RATE_SECONDS, ArchiveStatus, ScoringStatus, TableStatus
from skinvae.records import Status
from skinvae.storage.run_records import Heartbeat, RunState

_MAX_ARCHIVES = 20
"""Lines of archives; where there are more, those that are complete are only counted."""

_BAR_WIDTH = 40


def status_page(status: TableStatus) -> Group:
    """What the terminal shows. 80 columns suffice."""
    version = "nothing committed yet" if status.version is None else f"version {status.version}"
    parts: list[RenderableType] = [Text(f"{status.noun} {status.uri}, {version}", style="bold")]
    if not status.scorings:
        parts.append(Text("no rows, and no run has left a record"))
    for one in status.scorings:
        parts += [Text(), *_scoring(one)]
    return Group(*parts)


def status_document(status: TableStatus) -> dict[str, Any]:
    """For JSON: the same, and every archive."""
    return {
        "table": status.uri,
        "kind": status.noun,
        "version": status.version,
        "scorings": [_scoring_document(one) for one in status.scorings],
    }


def _scoring_document(one: ScoringStatus) -> dict[str, Any]:
    num_ok = one.by_status.get(Status.OK.value, 0)
    return {
        "scoring_id": one.scoring_id,
        "is_complete": one.is_complete,
        "is_alive": bool(one.alive),
        "num_members": one.num_members,
        "num_done": one.num_done,
        "num_stream_bytes": one.num_bytes_unread,
        "num_images": one.num_rows,
        "num_ok": num_ok,
        "num_rejected": one.num_rows - num_ok,
        "by_status": one.by_status,
        "num_images_unplanned": one.num_rows_unplanned,
        "images_per_second": one.images_per_second,
        "images_per_second_before_last_commit": one.commit_rate,
        "eta_seconds": one.eta_seconds,
        "num_archives": len(one.archives),
        "num_archives_complete": sum(archive.is_complete for archive in one.archives),
        "archives": [asdict(archive) | {"is_complete": archive.is_complete} for archive in one.archives],
        "runs": [
            run.model_dump(mode="json") | {"age_seconds": run.age_seconds(one.now), "is_alive": run.is_alive(one.now)}
            for run in one.heartbeats
        ],
    }


def _scoring(one: ScoringStatus) -> Iterator[RenderableType]:
    yield Text(f"scoring {one.scoring_id}", style="bold")
    if one.archives:
        yield _bar(one)
    else:
        yield Text("planned   not known: no run has left a record of its archives")
    yield Text(f"images    {_images(one)}")
    yield Text(f"speed     {_speed(one)}")
    for line in _drivers(one):
        yield Text(line)
    if one.archives:
        num_complete = sum(archive.is_complete for archive in one.archives)
        yield Text(f"archives  {num_complete:,} of {len(one.archives):,} complete")
        yield _archives(one.archives)


def _bar(one: ScoringStatus) -> RenderableType:
    expected = one.num_members_expected
    streams = f", and {decimal(one.num_bytes_unread)} of tar unread" if one.num_bytes_unread else ""
    grid = Table.grid(padding=(0, 1))
    share = "" if expected is None else f"{_percent(one.num_done, expected)} %"
    bar = ProgressBar(total=max(1.0, expected or 1.0), completed=one.num_done, width=_BAR_WIDTH)
    grid.add_row(bar, share, f"{one.num_done:,} of {one.num_members:,} members{streams}")
    return grid


def _images(one: ScoringStatus) -> str:
    num_ok = one.by_status.get(Status.OK.value, 0)
    rejected = sorted(((count, name) for name, count in one.by_status.items() if name != Status.OK.value), reverse=True)
    reasons = ", ".join(f"{count:,} {name}" for count, name in rejected)
    unplanned = (
        f"; {one.num_rows_unplanned:,} of the rows are of archives that no plan names, or that were replaced since"
        if one.num_rows_unplanned and one.archives
        else ""
    )
    return f"{num_ok:,} ok, {one.num_rows - num_ok:,} rejected{': ' if reasons else ''}{reasons}{unplanned}"


def _speed(one: ScoringStatus) -> str:
    if one.images_per_second is not None:
        eta = "" if one.eta_seconds is None else f", ETA {clock(one.eta_seconds)}"
        return f"{one.images_per_second:,.1f} images/s over the last {RATE_SECONDS / 60:.0f} minutes{eta}"
    if one.alive:
        return "nothing committed yet"
    before = (
        "" if one.commit_rate is None else f"; {one.commit_rate:,.1f} images/s in the minutes before the last commit"
    )
    return f"no driver at work{before}"


def _drivers(one: ScoringStatus) -> list[str]:
    """Every driver at work, or what became of the last."""
    if len(one.alive) > 1:
        title = f"drivers   {len(one.alive)} at once:"
        return [title, *(f"          {_driver(run, one)}" for run in one.alive)]
    if not one.heartbeats:
        return ["driver    not known: no run has left a record"]
    return [f"driver    {_driver((one.alive or one.heartbeats)[-1], one)}"]


def _driver(run: Heartbeat, one: ScoringStatus) -> str:
    who = f"run {run.run_id} on {run.host}, pid {run.pid}"
    ago = f"{clock(run.age_seconds(one.now))} ago"
    if run.is_alive(one.now):
        return f"at work, last heartbeat {ago}: {who}"
    said = f": {run.message}" if run.message else ""
    if run.state is RunState.RUNNING:
        advice = "" if one.is_complete else "; run the same command to go on"
        return f"dead or cut off, last heartbeat {ago}: {who}{advice}"
    return f"{run.state.value} {ago}: {who}{said}"


def _archives(archives: list[ArchiveStatus]) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(overflow="fold")
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    ordered = sorted(archives, key=lambda one: (one.is_complete, one.uri))
    num_open = sum(not one.is_complete for one in ordered)
    num_shown = len(ordered) if len(ordered) <= _MAX_ARCHIVES else min(num_open, _MAX_ARCHIVES)
    for one in ordered[:num_shown]:
        if one.num_members is not None:
            share, count = f"{_percent(one.num_done, one.num_members)} %", f"{one.num_done:,} of {one.num_members:,}"
        else:
            share = f"{_percent(one.num_bytes - one.num_bytes_unread, one.num_bytes)} %"
            count = f"{one.num_done:,} so far"
        table.add_row(f"  {one.uri}", share, count)
    hidden = ordered[num_shown:]
    if not hidden:
        return table
    num_complete = sum(one.is_complete for one in hidden)
    counts = {"complete": num_complete, "not complete": len(hidden) - num_complete}
    words = " and ".join(f"{count:,} more {what}" for what, count in counts.items() if count)
    return Group(table, Text(f"  ... and {words}"))


def _percent(done: float, total: float) -> int:
    """Rounded down: 100 is said of what is done, and of nothing else."""
    return int(100 * min(done, total) / total) if total else 100


def clock(seconds: float) -> str:
    """'42 s', '8:02' or '3:08:02'."""
    hours, rest = divmod(round(seconds), 3600)
    if hours:
        return f"{hours:,}:{rest // 60:02}:{rest % 60:02}"
    return f"{rest // 60}:{rest % 60:02}" if rest >= 60 else f"{rest} s"
