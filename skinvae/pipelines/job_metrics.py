"""The metrics of a job on a table, taken in the driver every few seconds from its committer and its ProgressActor."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from skinvae.logs import tell
from skinvae.pipelines import metrics
from skinvae.pipelines.committing import Committer
from skinvae.pipelines.metrics import Rising, RunMetrics
from skinvae.pipelines.progress import ProgressSample, answer_of
from skinvae.pipelines.slice_job import SliceJob
from skinvae.pipelines.stage_times import Stage
from skinvae.pipelines.usage import Usage
from skinvae.records import Status

_SAMPLE_SECONDS = 2.0
"""Prometheus asks every 15 s, as a rule."""


class JobMetrics:
    """Every call but that of the constructor needs Ray to be up."""

    def __init__(self, job: SliceJob, committer: Committer) -> None:
        self._metrics = RunMetrics(verb=job.verb, run_id=job.run_id, scoring_id=job.scoring_id)
        self._committer = committer
        self._committed = Rising(self._metrics)
        self._num_commits_seen = 0
        others = {"prepare": metrics.IMAGES_PREPARED, "map": metrics.IMAGES_MAPPED}
        self._done = others.get(job.verb, metrics.IMAGES_SCORED)
        self._num_rows_before = sum(file.num_rows for file in committer.table.live_files())

    @contextlib.contextmanager
    def watching(self, progress: Any, *, expected: Callable[[], int | None]) -> Iterator[None]:
        """While the block runs, and once more at its end, sample the ProgressActor of one round.

        `expected` says how much the round will have done in the end, as far as that is known.
        """
        ended = threading.Event()
        of_workers = Rising(self._metrics)

        def watch() -> None:
            is_last = False
            while not is_last:
                is_last = ended.wait(_SAMPLE_SECONDS)
                self._take(answer_of(progress.sample.remote(), otherwise=None), of_workers, expected())
                self.take_commits()

        thread = threading.Thread(target=watch, daemon=True, name="metrics")
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def count_retries(self, count: int) -> None:
        """Of requests to storage, by the driver, or by workers that have no ProgressActor."""
        self._metrics.add(metrics.STORAGE_RETRIES, count)
        _tell_retries(count)

    def finish(self, usage: Usage) -> None:
        """Add what is known at the end: the stages of the driver."""
        self._committed.reach(metrics.STAGE_SECONDS, usage.seconds_to_first or 0.0, stage=Stage.START.value)
        self._committed.reach(metrics.STAGE_SECONDS, usage.of(Stage.SWAP), stage=Stage.SWAP.value)
        self.take_commits()

    def take_commits(self) -> None:
        """What was committed up to now."""
        committer, reach = self._committer, self._committed.reach
        # dict() and list() copy in one step, although the job's thread counts meanwhile.
        made, adopted, commits = dict(committer.made), dict(committer.adopted), list(committer.commit_seconds)
        for status, count in made.items():
            if status == Status.OK.value:
                reach(self._done, count)
            else:
                reach(metrics.IMAGES_REJECTED, count, status=status)
        reach(metrics.ROWS_ADOPTED, sum(adopted.values()))
        reach(metrics.COMMITS, len(commits))
        reach(metrics.SLICES_COMMITTED, committer.num_slices)
        reach(metrics.STAGE_SECONDS, sum(commits), stage=Stage.COMMIT.value)
        self._metrics.observe(metrics.COMMIT_SECONDS, commits[self._num_commits_seen :])
        self._num_commits_seen = len(commits)
        num_rows = self._num_rows_before + sum(made.values()) + sum(adopted.values())
        self._metrics.set(metrics.ROWS_IN_TABLE, num_rows)

    def _take(self, sample: ProgressSample | None, of_workers: Rising, num_expected: int | None) -> None:
        if sample is None:
            return
        of_workers.reach(metrics.BYTES_DECODED, sample.num_bytes)
        for stage, seconds in sample.seconds.items():
            of_workers.reach(metrics.STAGE_SECONDS, seconds, stage=stage.value)
        _tell_retries(int(of_workers.reach(metrics.STORAGE_RETRIES, sample.num_retries)))
        self._metrics.set(metrics.SLICES_WAITING, sample.num_waiting)
        self._metrics.set(metrics.SLICES_IN_PROGRESS, sample.num_in_progress)
        if num_expected is not None:
            self._metrics.set(metrics.MEMBERS_LEFT, max(0, num_expected - sample.num_done))


def _tell_retries(count: int) -> None:
    if count:
        tell(f"{count:,} requests to storage were made again", event="storage_retries", count=count)
