"""The driver's heartbeat: what a run is to do and how far it is, written beside the table while the job goes on."""

from __future__ import annotations

import datetime
import functools
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

import skinvae
from skinvae.errors import Interrupted, SkinvaeError
from skinvae.pipelines.committing import Committer
from skinvae.pipelines.progress import RateMeter, say
from skinvae.pipelines.slicing import OpenedArchive
from skinvae.storage.pixel_table import PreparedArchive
from skinvae.storage.run_records import (
    HEARTBEAT_SECONDS,
    Heartbeat,
    PlannedArchive,
    RunPlan,
    RunState,
    write_archives,
    write_heartbeat,
    write_plan,
)

if TYPE_CHECKING:
    from skinvae.pipelines.slice_job import SliceJob

_LOOK_SECONDS = 1.0
"""How often to look whether something was committed."""

_RATE_SECONDS = 300.0
_FAREWELL_SECONDS = 5.0
"""The last sign may take so long: a scheduler that stops a job does not wait."""


class RunRecorder:
    """While the block runs, a thread of its own writes the plan and then the heartbeats: no job waits for a sign.

    A sign that cannot be written is tried again at the next beat, and is no reason to end a job.
    """

    def __init__(
        self,
        job: SliceJob,
        opened: Sequence[OpenedArchive],
        committer: Committer,
        *,
        slice_size: int,
        images_column: str | None,
    ) -> None:
        self.message = ""
        """What is to be told of a run that ends well, such as which archives are damaged."""
        self._job, self._opened, self._committer = job, opened, committer
        self._slice_size, self._images_column = slice_size, images_column
        self._started_at = _now()
        self._rate = RateMeter(window_seconds=_RATE_SECONDS)
        self._state = RunState.RUNNING
        self._ended = threading.Event()
        self._has_failed = False
        self._thread = threading.Thread(target=self._run, daemon=True, name="heartbeat")

    def __enter__(self) -> RunRecorder:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self._state = RunState.DONE
        else:
            is_stop = isinstance(error, Interrupted | KeyboardInterrupt)
            self._state = RunState.INTERRUPTED if is_stop else RunState.FAILED
            self.message = str(error) if isinstance(error, SkinvaeError) else type(error).__name__
        self._ended.set()
        self._thread.join(timeout=_FAREWELL_SECONDS)

    def _run(self) -> None:
        self._attempt(self._write_plan)
        written, next_beat = -1, 0.0
        while not self._ended.is_set():
            heartbeat = self._heartbeat()
            if heartbeat.num_rows != written or time.monotonic() >= next_beat:
                next_beat = time.monotonic() + HEARTBEAT_SECONDS
                if self._attempt(functools.partial(write_heartbeat, self._job.table, heartbeat)):
                    written = heartbeat.num_rows
            self._ended.wait(_LOOK_SECONDS)
        self._attempt(functools.partial(write_heartbeat, self._job.table, self._heartbeat()))

    def _write_plan(self) -> None:
        plan = RunPlan(
            run_id=self._job.run_id,
            verb=self._committer.table.command,
            scoring_id=self._job.scoring_id,
            started_at=self._started_at,
            code_version=skinvae.__version__,
            slice_size=self._slice_size,
            max_bytes=self._job.decode.max_bytes,
            images_column=self._images_column,
            anonymous=any(one.source.location.settings.anonymous for one in self._opened),
            archives=write_archives(self._job.table, map(_planned, self._opened)),
        )
        write_plan(self._job.table, plan)

    def _heartbeat(self) -> Heartbeat:
        # dict() copies in one step, although the job's thread counts meanwhile.
        made, adopted = dict(self._committer.made), dict(self._committer.adopted)
        return Heartbeat(
            run_id=self._job.run_id,
            scoring_id=self._job.scoring_id,
            host=socket.gethostname(),
            pid=os.getpid(),
            started_at=self._started_at,
            heartbeat_at=_now(),
            state=self._state,
            message=self.message,
            made=made,
            adopted=adopted,
            images_per_second=self._rate.update(sum(made.values())),
        )

    def _attempt(self, write: Callable[[], object]) -> bool:
        try:
            write()
        except Exception as error:  # noqa: BLE001 whatever it is, the job matters and its sign does not
            if not self._has_failed:
                say(f"note: `skinvae status` will not see this run as it is: {error}")
            self._has_failed = True
            return False
        return True


def _planned(one: OpenedArchive) -> PlannedArchive:
    prepared = one.archive.location.uri if isinstance(one.archive, PreparedArchive) else None
    return PlannedArchive(
        uri=one.source.uri,
        source_id=one.source.source_id,
        num_members=one.archive.num_members,
        num_bytes=one.source.num_bytes,
        prepared=prepared,
    )


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)
