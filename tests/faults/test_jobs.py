"""Whole jobs on a bad day of S3: the table that a good day gives, or an exit code and a sentence."""

from __future__ import annotations

import json
import math
import uuid
from pathlib import Path

import pandas as pd
import pytest

from skinvae.storage.filesystem import Location
from skinvae.storage.score_table import ScoreTable
from tests.conftest import ArchiveFiles, config
from tests.fault_proxy import fault_proxy
from tests.faults.jobs import run_command
from tests.faults_to_inject import (
    DENIED,
    EXPIRED,
    RESET_AFTER,
    At,
    Fault,
    Faults,
    NoFaults,
    RandomFaults,
    Request,
)
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
        faults, writes_of_workers = traffic.count_faults(), traffic.matching("^PUT .*/_slices/")
    assert done.returncode == 0, done.stderr
    assert len(writes_of_workers) >= 7
    summary = json.loads(done.stdout)
    assert summary["num_scored"] == len(rows(out)) == 106
    assert summary["num_retries"] > 0
    pd.testing.assert_frame_equal(rows(out), rows(table))
    assert {"slow down", "latency"} <= set(faults)
    assert any("reset" in name for name in faults)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plan", "says"),
    [
        (At("^GET .*/images.zip$", DENIED, nth=5, times=math.inf), "cannot read '{archive}': access denied; check the"),
        (At("^PUT .*/_slices/", EXPIRED, nth=3, times=math.inf), "cannot write '{slices}"),
        (
            At(r"^PUT .*_delta_log/0*[2-9]\.json", DENIED, times=math.inf),
            "cannot commit to '{table}': access denied; ch",
        ),
    ],
    ids=["read", "write", "commit"],
)
def test_credentials_that_end_mid_run_end_the_job(
    s3: S3Server, ray_cluster: str, model: str, table: str, archive_uri: str, plan: Faults, says: str
) -> None:
    """Exit code 4 at once; no image is called bad for it; the same command goes on when they are renewed."""
    out = f"{archive_uri}.scores"
    with fault_proxy(s3.endpoint, plan) as traffic:
        arguments = ("score", archive_uri, "--model", model, "--table", out)
        denied = run_command(traffic, ray_cluster, *arguments, config=SMALL_SLICES)
        assert denied.returncode == 4, denied.stderr
        said = denied.stderr.strip().splitlines()[-1]
        assert said.startswith("skinvae: " + says.format(archive=archive_uri, table=out, slices=f"{out}/_slices/"))
        assert "access denied" in said
        assert set(rows(out)["status"]) <= {"ok"}
        traffic.faults = NoFaults()
        done = run_command(traffic, ray_cluster, *arguments, config=SMALL_SLICES)
    assert done.returncode == 0, done.stderr
    pd.testing.assert_frame_equal(rows(out), rows(table))


@pytest.mark.slow
def test_commits_whose_answers_are_lost_count_once(
    s3: S3Server, ray_cluster: str, model: str, table: str, archive_uri: str
) -> None:
    out = f"{archive_uri}.scores"
    with fault_proxy(s3.endpoint, At(r"^PUT .*_delta_log/", RESET_AFTER, times=math.inf)) as traffic:
        arguments = ("score", archive_uri, "--model", model, "--table", out, "--json")
        done = run_command(traffic, ray_cluster, *arguments, config=SMALL_SLICES)
        assert traffic.count_faults()["reset after"] >= 3
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["num_scored"] == 106
    pd.testing.assert_frame_equal(rows(out), rows(table))


@pytest.mark.slow
def test_an_archive_replaced_while_a_job_reads_it_mixes_no_rows(
    s3: S3Server, ray_cluster: str, model: str, table: str, archive_uri: str
) -> None:
    out = f"{archive_uri}.scores"

    def replace(request: Request) -> None:
        target = Location.parse(archive_uri)
        target.write_bytes(target.read_bytes() + b"another version")

    with fault_proxy(s3.endpoint, At("^GET .*/images.zip$", Fault("replaced", before=replace), nth=6)) as traffic:
        arguments = ("score", archive_uri, "--model", model, "--table", out)
        changed = run_command(traffic, ray_cluster, *arguments, config=SMALL_SLICES)
        assert traffic.count_faults() == {"replaced": 1}
    assert changed.returncode == 4, changed.stderr
    assert f"source changed: '{archive_uri}' was replaced while it was read; run the command again" in changed.stderr
    before = rows(out)
    unspoilt = rows(table).set_index("member_index").loc[before["member_index"]].reset_index()
    pd.testing.assert_frame_equal(before, unspoilt[before.columns])
