"""Whole jobs on a bad day of S3: the table that a good day gives, or an exit code and a sentence."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pandas as pd
import pytest

from skinvae.storage.filesystem import Location
from skinvae.storage.score_table import ScoreTable
from tests.conftest import ArchiveFiles, config
from tests.fault_proxy import fault_proxy
from tests.faults.jobs import run_command
from tests.faults_to_inject import RandomFaults
from tests.s3_server import S3Server

SMALL_SLICES = config(slice_size=16, commit_seconds=0.2)
FROM_JOB = {"run_id", "scored_at", "source", "source_id", "slice_id"}


@pytest.fixture
def archive_uri(s3: S3Server, archive: ArchiveFiles) -> str:
    """The synthetic archive, in a place of its own on S3."""
    target = Location.parse(f"s3://tests/jobs-{uuid.uuid4().hex}/images.zip")
    target.write_bytes(Path(archive.zip).read_bytes())
    return target.uri


def rows(uri: str) -> pd.DataFrame:
    frame = ScoreTable.open(Location.parse(uri)).read(ScoreTable.schema.names).to_pandas()
    return frame.drop(columns=list(FROM_JOB)).sort_values("member_index", ignore_index=True)


def test_a_job_on_a_bad_day_gives_the_table_of_a_good_one(
    s3: S3Server, ray_cluster: str, model: str, table: str, archive_uri: str
) -> None:
    """30 % refused, 5 % reset, 1 % truncated, some 2 s late: on every request of the driver and of all workers."""
    out = f"{archive_uri}.scores"
    plan = RandomFaults(7, slow_down=0.3, resets=0.05, truncated=0.01, latency=0.05, broken_off_only="_delta_log")
    with fault_proxy(s3.endpoint, plan) as traffic:
        arguments = ("score", archive_uri, "--model", model, "--table", out, "--json")
        done = run_command(traffic, ray_cluster, *arguments, config=SMALL_SLICES)
        faults = traffic.count_faults()
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["num_scored"] == len(rows(out)) == 106
    assert summary["num_retries"] > 0
    pd.testing.assert_frame_equal(rows(out), rows(table))
    assert {"slow down", "reset before", "reset after", "latency"} <= set(faults)
