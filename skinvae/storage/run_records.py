"""What every run of a job leaves beside its table: what it was to do, and a heartbeat that tells how far it is.

    _skinvae/runs/RUN_ID/plan.json        written when the run begins
    _skinvae/runs/RUN_ID/heartbeat.json   written again and again, and a last time when the run ends
    _skinvae/archives/DIGEST.json         the archives of a plan, once for all runs of the same command

Readers of the table's rows ignore names that begin with an underscore.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from skinvae.errors import TableError
from skinvae.storage.filesystem import Location

HEARTBEAT_SECONDS = 10.0
_MISSED_BEATS = 3
"""So many without a sign, and the driver is taken for dead."""

_RUNS, _ARCHIVES = "_skinvae/runs", "_skinvae/archives"
_PLAN, _HEARTBEAT = "plan.json", "heartbeat.json"
_NUM_REQUESTS_AT_ONCE = 16

Record = TypeVar("Record")


class LaxRecord(BaseModel):
    """Written by one version of skinvae, read by others."""

    # What a later version adds is passed over.
    model_config = ConfigDict(frozen=True, extra="ignore")


class PlannedArchive(LaxRecord):
    """One archive that a command names, as it was when the run began."""

    uri: str
    source_id: str
    num_members: int | None
    """None of a stream, which tells only at its end."""
    num_bytes: int
    prepared: str | None = None
    """URI of the prepared archive that is read in its place."""


class RunPlan(LaxRecord):
    """What a run was to do."""

    run_id: str
    verb: str
    scoring_id: str
    started_at: datetime.datetime
    code_version: str
    slice_size: int
    max_bytes: int
    """Larger images are refused unread."""
    images_column: str | None
    anonymous: bool
    """Whether the archives are read without credentials."""
    archives: str
    """Digest of their list."""


class RunState(str, Enum):
    """How far a run is, by its own account: one that was killed never tells."""

    RUNNING = "running"
    DONE = "done"
    INTERRUPTED = "interrupted"
    FAILED = "failed"


class Sign(LaxRecord):
    """The latest that a driver said of itself."""

    run_id: str
    host: str
    pid: int
    started_at: datetime.datetime
    heartbeat_at: datetime.datetime
    interval_seconds: float = HEARTBEAT_SECONDS
    state: RunState
    message: str = ""
    """Why it failed, or which archives could not be read to their ends."""
    images_per_second: float
    """Over the last minutes."""

    def age_seconds(self, now: datetime.datetime) -> float:
        """Since the sign; clocks of two machines may differ, so never below 0."""
        return max(0.0, (now - self.heartbeat_at).total_seconds())

    def is_alive(self, now: datetime.datetime) -> bool:
        """Whether the driver is at work, as far as storage tells."""
        return self.state is RunState.RUNNING and self.age_seconds(now) <= _MISSED_BEATS * self.interval_seconds


class RunUsage(LaxRecord):
    """What a run that ended well had, and what it spent, from which the next one's time is told."""

    num_images: int
    run_seconds: float
    num_cpus: float
    """Of the cluster, as Ray counts them."""
    num_actors: int
    gpus_per_actor: float
    threads_per_actor: int
    num_tasks: int
    """That decoded at once."""
    seconds_to_first: float | None
    seconds: dict[str, float]
    """Worker-seconds by stage."""


class Heartbeat(Sign):
    """Of a job on a table."""

    usage: RunUsage | None = None
    """Only the last sign of a run that ended well has it."""
    scoring_id: str
    made: dict[str, int]
    """Rows that this run made and committed, by status."""
    adopted: dict[str, int]
    """Rows that an earlier run had written and this one committed, by status."""

    @property
    def num_rows(self) -> int:
        return sum(self.made.values()) + sum(self.adopted.values())


@dataclass(frozen=True)
class RunRecord:
    """What a run left; either may be missing if it was killed at its very start."""

    run_id: str
    plan: RunPlan | None
    heartbeat: Heartbeat | None


_ARCHIVE_LIST = TypeAdapter(list[PlannedArchive])


def write_archives(table: Location, archives: Iterable[PlannedArchive]) -> str:
    """Note the archives, unless they are there already; returns the digest that names them."""
    data = _ARCHIVE_LIST.dump_json(sorted(archives, key=lambda one: one.uri))
    digest = hashlib.blake2b(data, digest_size=16).hexdigest()
    _archives(table, digest).create_bytes(data)
    return digest


def write_plan(table: Location, plan: RunPlan) -> None:
    """Note what a run is to do."""
    (table / _RUNS / plan.run_id / _PLAN).write_bytes(plan.model_dump_json().encode())


def write_heartbeat(table: Location, heartbeat: Heartbeat) -> None:
    """Give a sign, in place of the one before."""
    (table / _RUNS / heartbeat.run_id / _HEARTBEAT).write_bytes(heartbeat.model_dump_json().encode())


def read_runs(table: Location) -> list[RunRecord]:
    """Every run of the table, the oldest first. Raises TableError if a record cannot be read."""
    names = {entry.name for entry in (table / _RUNS).list_objects()}
    run_ids = sorted({name.split("/")[0] for name in names if name.endswith((f"/{_PLAN}", f"/{_HEARTBEAT}"))})

    def read(run_id: str) -> RunRecord:
        folder = table / _RUNS / run_id
        plan = _read(folder / _PLAN, RunPlan.model_validate_json) if f"{run_id}/{_PLAN}" in names else None
        heartbeat = read_heartbeat(table, run_id) if f"{run_id}/{_HEARTBEAT}" in names else None
        return RunRecord(run_id, plan, heartbeat)

    return _at_once(read, run_ids)


def read_heartbeat(table: Location, run_id: str) -> Heartbeat:
    """The latest sign of a run."""
    return _read(table / _RUNS / run_id / _HEARTBEAT, Heartbeat.model_validate_json)


def read_archives(table: Location, digests: Sequence[str]) -> dict[str, list[PlannedArchive]]:
    """The lists of archives that plans name, by digest."""
    distinct = list(dict.fromkeys(digests))
    lists = _at_once(lambda digest: _read(_archives(table, digest), _ARCHIVE_LIST.validate_json), distinct)
    return dict(zip(distinct, lists, strict=True))


def planned_archives(table: Location, runs: Iterable[RunRecord], *, scoring_id: str) -> dict[str, PlannedArchive]:
    """What the runs of a scoring were to do, by URI: a later plan for the same URI takes the place of an older one."""
    plans = [run.plan for run in runs if run.plan is not None and run.plan.scoring_id == scoring_id]
    lists = read_archives(table, [plan.archives for plan in plans])
    return {one.uri: one for plan in plans for one in lists[plan.archives]}


def _archives(table: Location, digest: str) -> Location:
    return table / _ARCHIVES / f"{digest}.json"


def _read(file: Location, parse: Callable[[bytes], Record]) -> Record:
    try:
        return parse(file.read_bytes())
    except ValidationError as error:
        raise TableError(f"'{file}' is damaged: remove it, the table itself does not need it") from error


def _at_once(read: Callable[[str], Record], names: Sequence[str]) -> list[Record]:
    with ThreadPoolExecutor(max_workers=_NUM_REQUESTS_AT_ONCE, thread_name_prefix="run-records") as pool:
        return list(pool.map(read, names))
