"""The signs of a job on a table: what a run is to do and how far it is, written beside it while the job goes on."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING

import skinvae
from skinvae.pipelines.committing import Committer
from skinvae.pipelines.progress import RateMeter
from skinvae.pipelines.recorder import Recorder
from skinvae.pipelines.slicing import OpenedArchive
from skinvae.storage.pixel_table import PreparedArchive
from skinvae.storage.run_records import (
    Heartbeat,
    PlannedArchive,
    RunPlan,
    write_archives,
    write_heartbeat,
    write_plan,
)

if TYPE_CHECKING:
    from skinvae.pipelines.slice_job import SliceJob
    from skinvae.pipelines.usage import Usage

_RATE_SECONDS = 300.0


class RunRecorder(Recorder):
    """Writes the plan before the first heartbeat."""

    def __init__(
        self,
        job: SliceJob,
        opened: Sequence[OpenedArchive],
        committer: Committer,
        *,
        slice_size: int,
        images_column: str | None,
    ) -> None:
        super().__init__()
        self._job, self._opened, self._committer = job, opened, committer
        self._slice_size, self._images_column = slice_size, images_column
        self._rate = RateMeter(window_seconds=_RATE_SECONDS)
        self._is_planned = False
        self.usage: Usage | None = None
        """To be told once the work is done."""

    def _write_plan(self) -> None:
        plan = RunPlan(
            run_id=self._job.run_id,
            verb=self._committer.table.command,
            scoring_id=self._job.scoring_id,
            started_at=self.started_at,
            code_version=skinvae.__version__,
            slice_size=self._slice_size,
            max_bytes=self._job.decode.max_bytes,
            images_column=self._images_column,
            anonymous=any(one.source.location.settings.anonymous for one in self._opened),
            archives=write_archives(self._job.table, map(_planned, self._opened)),
        )
        write_plan(self._job.table, plan)
        self._is_planned = True

    def _write(self, heartbeat: Heartbeat) -> None:
        if not self._is_planned:
            self._write_plan()
        write_heartbeat(self._job.table, heartbeat)

    def look(self) -> tuple[Hashable, Callable[[], object]]:
        """A commit is something new."""
        # dict() copies in one step, although the job's thread counts meanwhile.
        made, adopted = dict(self._committer.made), dict(self._committer.adopted)
        heartbeat = Heartbeat(
            **self.about_the_driver(),
            run_id=self._job.run_id,
            scoring_id=self._job.scoring_id,
            made=made,
            adopted=adopted,
            images_per_second=self._rate.update(sum(made.values())),
            usage=None if self.usage is None else self.usage.for_record(),
        )
        return heartbeat.num_rows, functools.partial(self._write, heartbeat)


def _planned(one: OpenedArchive) -> PlannedArchive:
    prepared = one.archive.location.uri if isinstance(one.archive, PreparedArchive) else None
    return PlannedArchive(
        uri=one.source.uri,
        source_id=one.source.source_id,
        num_members=one.archive.num_members,
        num_bytes=one.source.num_bytes,
        prepared=prepared,
    )
