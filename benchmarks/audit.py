"""`status` and `verify` on a score table of many slices on an S3 server: `python -m benchmarks.audit 10000`.

The server is the tests', on this machine. The archive is a zip with one image of one byte a row; the rows are made
from arithmetic. Time and memory are those of the commands as processes of their own.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa

from skinvae.images.archives.base import Archive
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
from skinvae.storage.score_table import ScoreTable
from skinvae.storage.slice_ids import SliceFile, SliceId
from skinvae.storage.slices import write_slice
from skinvae.storage.sources import Source, open_source
from tests.s3_server import run_s3_server
from tests.unit.storage.rows import rows_of

SLICE_SIZE = 64
COMMITS = 200
SCORING_ID = "c" * 16
STATUS_SECONDS = 30.0
"""A status that takes longer is none."""


def make_table(uri: str, archive_uri: str, *, num_slices: int) -> None:
    """The archive, all of its slices in their own files, as just before the swap, and the record of one run."""
    location, archive_location = Location.parse(uri), Location.parse(archive_uri)
    with tempfile.NamedTemporaryFile() as file:
        with zipfile.ZipFile(file, "w") as archive:
            for index in range(num_slices * SLICE_SIZE):
                archive.writestr(f"{index:08}.jpg", b"x")
        archive_location.filesystem.put_file(file.name, archive_uri)
    source, opened = open_source(archive_location, max_bytes=1 << 20)
    table = ScoreTable.open_or_create(location)
    model_id = _write_model_files(location)

    def write(number: int) -> SliceFile:
        one = SliceId(source.source_id, SCORING_ID, number * SLICE_SIZE, (number + 1) * SLICE_SIZE)
        rows = rows_of(one)
        for name, value in (("source", archive_uri), ("model_id", model_id)):
            rows = rows.set_column(
                rows.schema.get_field_index(name), rows.schema.field(name), pa.array([value] * rows.num_rows)
            )
        return write_slice(location, one, rows, provenance={})

    step = max(1, num_slices // COMMITS)
    counts: dict[str, int] = {}
    with ThreadPoolExecutor(8) as pool:
        for first in range(0, num_slices, step):
            files = list(pool.map(write, range(first, min(first + step, num_slices))))
            for committed in table.commit_slices(files, provenance={}):
                counts = {name: counts.get(name, 0) + committed.counts.get(name, 0) for name in ("ok", "truncated")}
    _write_run(location, source, opened, counts)


def _write_model_files(location: Location) -> str:
    split = b"no split"
    config = json.dumps({"files": {"split.parquet": hashlib.sha256(split).hexdigest()}}).encode()
    model_id = hashlib.sha256(config).hexdigest()[:16]
    for name, data in (("config.json", config), ("split.parquet", split)):
        (location / "_skinvae" / model_id / name).write_bytes(data)
    return model_id


def _write_run(location: Location, source: Source, archive: Archive, counts: dict[str, int]) -> None:
    now = datetime.datetime.now(datetime.timezone.utc)
    planned = PlannedArchive(
        uri=source.uri, source_id=source.source_id, num_members=archive.num_members, num_bytes=source.num_bytes
    )
    plan = RunPlan(
        run_id="run-1",
        verb="score",
        scoring_id=SCORING_ID,
        started_at=now,
        code_version="0",
        slice_size=SLICE_SIZE,
        max_bytes=1 << 20,
        images_column=None,
        anonymous=False,
        archives=write_archives(location, [planned]),
    )
    write_plan(location, plan)
    heartbeat = Heartbeat(
        run_id="run-1",
        scoring_id=SCORING_ID,
        host="here",
        pid=1,
        started_at=now,
        heartbeat_at=now,
        state=RunState.DONE,
        made=counts,
        adopted={},
        images_per_second=0.0,
    )
    write_heartbeat(location, heartbeat)


def timed(*arguments: str) -> tuple[float, int, dict[str, Any]]:
    """Seconds, peak memory in MB and result of one command."""
    started = time.monotonic()
    # Not getrusage: its peak begins with that of the process that started this one.
    script = "import re, pathlib; from skinvae.cli import app; app(standalone_mode=False); "
    script += "print(int(re.search(r'VmHWM:\\s+(\\d+)', pathlib.Path('/proc/self/status').read_text())[1]) >> 10)"
    finished = subprocess.run(
        [sys.executable, "-c", script, *arguments, "--json"], capture_output=True, text=True, check=True
    )
    document, peak_mb = finished.stdout.splitlines()
    return time.monotonic() - started, int(peak_mb), json.loads(document)


def main(arguments: Sequence[str]) -> None:
    """Make the table and time the commands; fails on a wrong count, and on a status that takes too long."""
    num_slices = int(arguments[0]) if arguments else 10_000
    num_rows = num_slices * SLICE_SIZE
    with tempfile.TemporaryDirectory() as folder, run_s3_server(Path(folder)) as server:
        os.environ.update(server.environment)
        uri = "s3://tests/scores"
        started = time.monotonic()
        make_table(uri, "s3://tests/images.zip", num_slices=num_slices)
        print(f"{num_slices:,} slices, {num_rows:,} rows, made in {time.monotonic() - started:.0f} s")
        seconds, peak_mb, document = timed("status", uri)
        assert document["scorings"][0]["num_images"] == num_rows
        assert seconds < STATUS_SECONDS, f"status took {seconds:.1f} s"
        print(f"status: {seconds:.1f} s, {peak_mb} MB")
        Location.parse(f"{uri}/_skinvae/runs").delete()
        seconds, peak_mb, document = timed("status", uri)
        assert document["scorings"][0]["num_images"] == num_rows
        print(f"status from {num_slices:,} footers, without a run record: {seconds:.1f} s, {peak_mb} MB")
        seconds, peak_mb, document = timed("verify", uri)
        assert document["num_rows"] == document["num_images"] == num_rows
        assert document["is_right"], document["differences"]
        print(f"verify: {seconds:.1f} s, {peak_mb} MB, {num_rows / seconds:,.0f} rows/s")
        seconds, peak_mb, document = timed("verify", uri, "--no-archives")
        print(f"verify --no-archives: {seconds:.1f} s, {peak_mb} MB")


if __name__ == "__main__":
    main(sys.argv[1:])
