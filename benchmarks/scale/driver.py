"""The driver's part of a job of many slices: plan, commit, resume, status, swap and clean-up, on local disk.

Everything a driver does is the product's own code. What workers do is not done: slices are not read, decoded and scored
by Ray, their files are written as they are by processes of the benchmark, 64 rows each, as if the other members were no
images. The archives are hard links to one zip, so their directories are as large as they would be.
"""

from __future__ import annotations

import functools
import json
import os
import pickle
import re
import statistics
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.scale.slice_writer import PROVENANCE, Order, write, writers
from skinvae.audit.status import read_status
from skinvae.config import Config
from skinvae.images.decode import DecodeSettings
from skinvae.pipelines.committing import Committer
from skinvae.pipelines.run_recording import RunRecorder
from skinvae.pipelines.slice_job import SliceJob, WorkPlan, make_plan, summarise
from skinvae.pipelines.slicing import OpenedArchive, open_archives
from skinvae.pipelines.stages import input_row
from skinvae.storage.commit_protocol import LiveFile, NewFile, Part
from skinvae.storage.compaction import delete_expired_slices, swap_slices_for_parts, write_part
from skinvae.storage.filesystem import Location
from skinvae.storage.pixel_table import Preparation
from skinvae.storage.score_table import ScoreTable
from skinvae.storage.slice_ids import SliceId

SLICE_SIZE, ROWS, FULL_ROWS = 256, 64, 1024
"""Members of a slice, and how many of them have rows; members of the slices of one large file, which all have."""
SLICES_PER_ARCHIVE = 250
"""As many as a zip without zip64 extensions holds."""
NUM_COMMITS = 1000
FULL_SLICES = 1600
"""About as many as join one large file."""
NUM_WRITERS = 2
AT_ONCE = 20
"""Slices that a writer is given at a time."""

Measured = dict[str, Any]
Result = TypeVar("Result")


class Phases:
    """Seconds and peak memory of this process, phase by phase."""

    def __init__(self) -> None:
        self.found: dict[str, Measured] = {}

    @contextmanager
    def measured(self, name: str) -> Iterator[Measured]:
        """What the block puts into its record is kept with it."""
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
        started, more = time.perf_counter(), dict[str, Any]()
        yield more
        seconds = time.perf_counter() - started
        self.found[name] = {
            "seconds": seconds,
            "peak_mb": _megabytes("VmHWM"),
            "mb_behind": _megabytes("VmRSS"),
            **more,
        }


def _megabytes(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) >> 10


def alone(work: Callable[..., Result], *arguments: Any) -> Result:
    """The result of a function, in a process of its own: that of another command."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def make_archives(folder: Path, number: int, slices_each: int) -> str:
    """Zips with one byte a member, all of them the same file; returns the pattern that names them."""
    folder.mkdir()
    first = folder / f"{0:05}.zip"
    with zipfile.ZipFile(first, "w") as archive:
        for index in range(slices_each * SLICE_SIZE):
            archive.writestr(f"ISIC_{index:09}.jpg", b"x")
    for index in range(1, number):
        os.link(first, folder / f"{index:05}.zip")
    return f"{folder}/*.zip"


def open_all(pattern: str) -> list[OpenedArchive]:
    """As `score` does."""
    return open_archives([pattern], config=Config(), preparation=_preparation())


def _preparation() -> Preparation:
    return Preparation(image_size=128, preprocessing_version="1", decode=DecodeSettings())


def make_job(table: Location) -> SliceJob:
    """A scoring job's identity."""
    return SliceJob("run-1", "c" * 16, _preparation(), 10.0, table, PROVENANCE)


def resume(table_uri: str, pattern: str) -> dict[str, Measured]:
    """What the same command does before Ray starts, when it is run again."""
    phases = Phases()
    with phases.measured("open archives"):
        opened = open_all(pattern)
    job = make_job(Location.parse(table_uri))
    with phases.measured("open table"):
        table = ScoreTable.open(job.table)
    with phases.measured("summarise, thrice"):
        for _ in range(3):  # to choose the precision, to choose the slice size, and to tell
            summarise(job, opened, table)
    with phases.measured("plan") as more:
        more["num_parts"] = len(make_plan(job, opened, table, slice_size=SLICE_SIZE).parts)
    return phases.found


def status(table_uri: str) -> dict[str, Measured]:
    """`skinvae status`, but for its output."""
    phases = Phases()
    with phases.measured("status") as more:
        found = read_status(Location.parse(table_uri))
        more["num_rows"] = sum(one.num_rows for one in found.scorings)
    return phases.found


def part(table_uri: str, one: Part) -> tuple[NewFile | None, dict[str, Measured]]:
    """One large file, as a task of the swap writes it."""
    phases = Phases()
    with phases.measured("part") as more:
        written = write_part(Location.parse(table_uri), one)
        assert written
        more.update({"num_slices": len(one.slices), "num_bytes": written.num_bytes, "num_rows": written.num_rows})
    return written, phases.found


def measure(num_slices: int, folder: Path, *, say: Callable[[str], None]) -> Measured:
    """All phases, of about so many slices."""
    slices_each = min(SLICES_PER_ARCHIVE, num_slices)
    pattern = alone(make_archives, folder / "archives", -(-num_slices // slices_each), slices_each)
    job, phases = make_job(Location.parse(f"{folder}/table")), Phases()
    with phases.measured("begin"):
        table = ScoreTable.open_or_create(job.table)
    with phases.measured("open archives"):
        opened = open_all(pattern)
    with phases.measured("plan") as more:
        plan = make_plan(job, opened, table, slice_size=SLICE_SIZE)
        more.update({"num_parts": len(plan.parts), "num_members": plan.num_members})
    with phases.measured("rows for Ray") as more:
        more["num_bytes"] = sum(len(pickle.dumps(input_row(one))) for one in plan.parts)
    say(f"planned: {phases.found['plan']}")

    def at_half() -> None:
        for name, found in (alone(resume, job.table.uri, pattern) | alone(status, job.table.uri)).items():
            phases.found[f"half: {name}"] = found

    commits = run_commits(job, opened, table, plan, at_half=at_half, say=say)
    log = log_of(folder / "table" / "_delta_log")
    with phases.measured("commit after another driver's") as more:
        more.update(contended(job, num_slices=20))
    with phases.measured("a large file of full slices") as more:
        more.update(full_part(folder / "full", num_slices=min(num_slices, FULL_SLICES)))
    say("swapping")
    with phases.measured("swap") as more:
        more.update(swapped(job))
    say(f"swapped: {phases.found['swap']}")
    for name, found in (alone(resume, job.table.uri, pattern) | alone(status, job.table.uri)).items():
        phases.found[f"done: {name}"] = found
    fresh = ScoreTable.open(job.table)
    with phases.measured("delete slice files") as more:
        more["num_files"] = delete_expired_slices(fresh, retention_seconds=0)
    return {
        "num_slices": len(plan.parts),
        "num_archives": len(opened),
        "rows_per_slice": ROWS,
        "phases": phases.found,
        "commits": commits,
        "log": log,
    }


def run_commits(
    job: SliceJob,
    opened: Sequence[OpenedArchive],
    table: ScoreTable,
    plan: WorkPlan,
    *,
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
        RunRecorder(job, opened, committer, slice_size=SLICE_SIZE, images_column=None),
        writers(NUM_WRITERS) as pool,
    ):
        for number, orders in enumerate(batches, start=1):
            for file in (file for files in pool.map(write, orders, chunksize=1) for file in files):
                committer.add(file)
                sizes.append(file.num_bytes)
            started = time.perf_counter()
            committer.flush()
            seconds.append(time.perf_counter() - started)
            memory.append(_megabytes("VmRSS"))
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


def full_part(folder: Path, *, num_slices: int) -> Measured:
    """One large file of slices whose members all have rows."""
    table = Location.parse(str(folder))
    ids = [SliceId("e" * 16, "c" * 16, start * FULL_ROWS, (start + 1) * FULL_ROWS) for start in range(num_slices)]
    orders = [Order(table, "an archive", ids[at : at + AT_ONCE], FULL_ROWS) for at in range(0, num_slices, AT_ONCE)]
    with writers(NUM_WRITERS) as pool:
        files = [file for files in pool.map(write, orders, chunksize=1) for file in files]
    live = tuple(LiveFile(one.path, one.num_bytes, one.num_rows) for one in files)
    _, phases = alone(part, table.uri, Part(live))
    return phases["part"] | {"slice_file_bytes": statistics.mean(one.num_bytes for one in files)}


def swapped(job: SliceJob) -> Measured:
    """As a job ends, from a handle of its own; each part is written in a fresh process, as a task would."""
    table = ScoreTable.open(job.table)
    parts: list[Measured] = []

    def write_all(wanted: Sequence[Part]) -> list[NewFile | None]:
        written = []
        with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            for file, phases in pool.imap(functools.partial(part, job.table.uri), wanted, chunksize=1):
                written.append(file)
                parts.append(phases["part"])
        return written

    number = swap_slices_for_parts(table, provenance=job.provenance, write_all=write_all)
    entry = Path(job.table.uri) / "_delta_log" / f"{table.version:020}.json"
    num_removed = sum("remove" in json.loads(line) for line in entry.read_text().splitlines())
    return {"num_parts": number, "parts": parts, "entry_bytes": entry.stat().st_size, "num_removed": num_removed}
