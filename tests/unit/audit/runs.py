"""Run records as drivers leave them, at times that a test chooses."""

from __future__ import annotations

import datetime
from typing import Any

from skinvae.storage.filesystem import Location
from skinvae.storage.run_records import (
    Heartbeat,
    PlannedArchive,
    RunPlan,
    RunState,
    write_archives,
    write_heartbeat,
    write_plan,
)

NOON = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.timezone.utc)


def seconds(number: float) -> datetime.timedelta:
    return datetime.timedelta(seconds=number)


def archive(uri: str, *, source: str = "aaaa", members: int | None = 100, num_bytes: int = 5000) -> PlannedArchive:
    return PlannedArchive(uri=uri, source_id=source, num_members=members, num_bytes=num_bytes)


def plan(table: Location, *archives: PlannedArchive, run_id: str = "run-1", scoring: str = "cccc") -> None:
    write_plan(
        table,
        RunPlan(
            run_id=run_id,
            verb="score",
            scoring_id=scoring,
            started_at=NOON,
            code_version="0",
            slice_size=10,
            max_bytes=1 << 20,
            images_column=None,
            anonymous=False,
            archives=write_archives(table, archives),
        ),
    )


def heartbeat(table: Location, *, run_id: str = "run-1", scoring: str = "cccc", **changes: Any) -> Heartbeat:
    values = {
        "host": "gpu-1", "pid": 4711, "started_at": NOON - seconds(600), "heartbeat_at": NOON,
        "state": RunState.RUNNING, "made": {}, "adopted": {}, "images_per_second": 0.0,
    }  # fmt: skip
    sign = Heartbeat(run_id=run_id, scoring_id=scoring, **(values | changes))
    write_heartbeat(table, sign)
    return sign
