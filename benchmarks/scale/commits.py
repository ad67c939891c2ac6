"""The commits of a run, one after the other, and the log that they leave."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

from benchmarks.scale.phases import Measured, megabytes
from benchmarks.scale.slice_writer import Order, write, write_one_and_link, writers
from skinvae.pipelines.committing import Committer
from skinvae.pipelines.run_recording import RunRecorder
from skinvae.pipelines.slice_job import SliceJob, WorkPlan
from skinvae.pipelines.slicing import OpenedArchive
from skinvae.storage.score_table import ScoreTable
from skinvae.storage.slice_ids import SliceId

ROWS = 64
"""Of a slice: its other members are as if they were no images."""
NUM_COMMITS = 1000
NUM_WRITERS = 2
AT_ONCE = 20
"""Slices that a writer is given at a time."""


def run_commits(
    job: SliceJob,
    opened: Sequence[OpenedArchive],
    table: ScoreTable,
    plan: WorkPlan,
    *,
    slice_size: int,
    at_half: Callable[[], None],
    say: Callable[[str], None],
) -> Measured:
    """Every slice of the plan is written and committed; seconds and memory of each commit."""
    committer = Committer(table, provenance=job.provenance, seconds=5.0)
    batches = _batches(job, plan, size=max(1, len(plan.parts) // NUM_COMMITS))
    seconds: list[float] = []
    memory: list[int] = []
    sizes: list[int] = []
    with (
        RunRecorder(job, opened, committer, slice_size=slice_size, images_column=None),
        writers(NUM_WRITERS) as pool,
    ):
        for number, orders in enumerate(batches, start=1):
            for file in (file for files in pool.map(write_one_and_link, orders, chunksize=1) for file in files):
                committer.add(file)
                sizes.append(file.num_bytes)
            started = time.perf_counter()
            committer.flush()
            seconds.append(time.perf_counter() - started)
            memory.append(megabytes("VmRSS"))
            if number % -(-len(batches) // 20) == 0:
                say(f"{len(sizes):,} slices, commit {1000 * seconds[-1]:.0f} ms, {memory[-1]} MB")
            if number == len(batches) // 2:
                at_half()
    assert committer.made.total() == ROWS * len(plan.parts)
    tenth = max(1, len(seconds) // 10)
    return {
        "number": len(seconds),
        "slices_each": len(plan.parts) / len(seconds),
        "first_tenth_seconds": statistics.median(seconds[:tenth]),
        "median_seconds": statistics.median(seconds),
        "last_tenth_seconds": statistics.median(seconds[-tenth:]),
        "slowest_seconds": max(seconds),
        "all_seconds": sum(seconds),
        "mb_before": memory[0],
        "mb_behind": memory[-1],
        "slice_file_bytes": statistics.mean(sizes),
    }


def _batches(job: SliceJob, plan: WorkPlan, *, size: int) -> list[list[Order]]:
    """What each commit is to bring, as orders of one archive each."""
    batches = []
    for first in range(0, len(plan.parts), size):
        orders = []
        for source, parts in groupby(plan.parts[first : first + size], key=lambda one: one.source):
            ids = []
            for one in parts:
                assert one.part.stop is not None
                ids.append(SliceId(source.source_id, job.scoring_id, one.part.start, one.part.stop))
            orders += [Order(job.table, source.uri, ids[at : at + AT_ONCE], ROWS) for at in range(0, len(ids), AT_ONCE)]
        batches.append(orders)
    return batches


def log_of(folder: Path) -> Measured:
    """What the log takes, and how much of it a reader who opens the table reads."""
    entries = sorted(folder.glob("*[0-9].json"))
    checkpoints = sorted(folder.glob("*.checkpoint.parquet"))
    newest = int(checkpoints[-1].name.split(".")[0]) if checkpoints else -1
    behind = [entry for entry in entries if int(entry.stem) > newest]
    return {
        "num_entries": len(entries),
        "entry_bytes": sum(entry.stat().st_size for entry in entries),
        "num_checkpoints": len(checkpoints),
        "checkpoint_bytes": sum(one.stat().st_size for one in checkpoints),
        "newest_checkpoint_bytes": checkpoints[-1].stat().st_size if checkpoints else 0,
        "num_entries_behind_it": len(behind),
    }


def contended(job: SliceJob, *, num_slices: int) -> Measured:
    """Two drivers on one table, who commit in turns: each finds the other's commit before its own."""
    drivers = [ScoreTable.open(job.table), ScoreTable.open(job.table)]
    for driver in drivers:
        driver.covered()
    slice_ids = [SliceId("d" * 16, job.scoring_id, start, start + ROWS) for start in range(0, num_slices * ROWS, ROWS)]
    seconds = []
    for number, file in enumerate(write(Order(job.table, "another archive", slice_ids, ROWS))):
        started = time.perf_counter()
        drivers[number % 2].commit_slices([file], provenance=job.provenance)
        seconds.append(time.perf_counter() - started)
    return {"median_seconds": statistics.median(seconds[1:])}
