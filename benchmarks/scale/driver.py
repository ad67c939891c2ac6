"""The driver's part of a job of many slices: plan, commit, resume, status, swap and clean-up, on local disk.

Everything a driver does is the product's own code. What workers do is not done: slices are not read, decoded and scored
by Ray. Their files are written by processes of the benchmark, 64 rows each, as if the other members were no images: one
of each twenty, of which the others are hard links, since a driver never looks at rows, and a swap copies them. The
archives are hard links to one zip, so their directories are as large as they would be.
"""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.scale.commits import ROWS, contended, log_of, run_commits
from benchmarks.scale.phases import Measured, Phases, alone
from benchmarks.scale.slice_writer import PROVENANCE
from benchmarks.scale.swap import FULL_SLICES, full_part, swapped
from skinvae.audit.status import read_status
from skinvae.config import Config
from skinvae.images.decode import DecodeSettings
from skinvae.pipelines.slice_job import SliceJob, make_plan, summarise
from skinvae.pipelines.slicing import OpenedArchive, open_archives
from skinvae.pipelines.stages import input_row
from skinvae.storage.compaction import delete_expired_slices
from skinvae.storage.filesystem import Location
from skinvae.storage.pixel_table import Preparation
from skinvae.storage.score_table import ScoreTable

SLICE_SIZE = 256
SLICES_PER_ARCHIVE = 250
"""As many as a zip without zip64 extensions holds."""


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
    return SliceJob("run-1", "c" * 16, _preparation(), 10.0, table, PROVENANCE, verb="score")


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

    commits = run_commits(job, opened, table, plan, slice_size=SLICE_SIZE, at_half=at_half, say=say)
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
