"""`ray job submit` on a real cluster of several nodes: the job joins it, can be followed, stops and resumes."""

from __future__ import annotations

import io
import json
import re
import shlex
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from ray.job_submission import JobStatus, JobSubmissionClient

from tests.conftest import ArchiveFiles
from tests.pipelines.job_cluster import AUTHORIZATION, RAY, REPOSITORY, JobCluster, environment, job_cluster
from tests.s3_server import S3Server

NUM_IMAGES = 106


@pytest.fixture(scope="module")
def cluster() -> Iterator[JobCluster]:
    with job_cluster() as running:
        yield running


@pytest.fixture
def bucket(s3: S3Server, archive: ArchiveFiles, model: str, tmp_path: Path) -> str:
    """A bucket with the archive as a zip and as a tar, and the model, and no table yet."""
    filesystem, name = s3.filesystem(), tmp_path.name.replace("_", "-").lower()
    filesystem.mkdir(name)
    filesystem.put_file(archive.zip, f"{name}/images.zip")
    filesystem.pipe_file(f"{name}/images.tar", tar_of(archive.members()))
    filesystem.put(model, f"{name}/model", recursive=True)
    return f"s3://{name}"


@pytest.fixture
def runtime_env(s3: S3Server) -> dict[str, object]:
    """What the job brings along: where S3 is, and settings. The GPU is one in name only."""
    settings = {"SKINVAE_SCORE__SLICE_SIZE": "16", "SKINVAE_RAY__DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
    return {"env_vars": s3.environment | settings}


def tar_of(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def score_command(bucket: str, *more: str) -> list[str]:
    uris = [f"{bucket}/images.zip", "--model", f"{bucket}/model", "--table", f"{bucket}/scores"]
    return ["python", "jobs/score.py", *uris, *more]


def rows_of(s3: S3Server, bucket: str) -> pd.DataFrame:
    filesystem = s3.filesystem()
    files = filesystem.glob(f"{bucket.removeprefix('s3://')}/scores/*.parquet")
    return pd.concat([pd.read_parquet(filesystem.open(file)) for file in files])


def test_a_submitted_job_is_followed_while_the_nodes_do_its_work(
    cluster: JobCluster,
    bucket: str,
    runtime_env: dict[str, object],
    s3: S3Server,
    archive: ArchiveFiles,
    tmp_path: Path,
) -> None:
    command = [
        RAY, "job", "submit", "--address", cluster.address, "--working-dir", str(REPOSITORY),
        "--runtime-env-json", json.dumps(runtime_env), "--", *score_command(bucket), f"{bucket}/images.tar",
    ]  # fmt: skip
    seen: dict[str, set[str]] = {name: set() for name in cluster.nodes}
    log, followed = tmp_path / "log.txt", False
    with log.open("w") as file, subprocess.Popen(command, env=environment(), stdout=file, stderr=file) as job:
        while job.poll() is None:
            for name in cluster.nodes:
                seen[name] |= cluster.work_on(name)
            followed |= "scoring actor" in log.read_text()
            time.sleep(0.2)
    text = log.read_text()
    assert job.returncode == 0, text
    assert followed, "the log came while the job ran"
    assert f"{2 * NUM_IMAGES} images scored, 0 rejected" in text
    rows = rows_of(s3, bucket)
    assert sorted(rows["member"]) == sorted(2 * [*archive.members()])
    in_zip = rows[rows["source"].str.endswith(".zip")]
    assert in_zip["slice_id"].nunique() == 7, "108 members in slices of 16: the environment reached the job"
    assert any("Map(ScoreStage)" in one for one in seen["decode"] | seen["gpu"])
    assert not [one for one in seen["head"] if "Map(" in one or "task" in one], "the head runs the driver alone"


def test_a_stopped_job_commits_what_is_done_and_the_next_one_goes_on(
    cluster: JobCluster, bucket: str, runtime_env: dict[str, object], s3: S3Server
) -> None:
    # This process has a Ray of its own, without a token: the client is told the cluster's.
    client = JobSubmissionClient(cluster.address, headers=AUTHORIZATION)
    slowly = ["--set", "score.num_samples=4000", "--set", "score.slice_size=8", "--set", "score.commit_seconds=0.5"]
    # Ray keeps no exit code of a job that it stopped; the shell lives on to tell it.
    entrypoint = f"trap : TERM; {shlex.join(score_command(bucket, *slowly))}; echo it ended with $?"

    def submit() -> str:
        env = runtime_env | {"working_dir": str(REPOSITORY)}
        return str(client.submit_job(entrypoint=entrypoint, runtime_env=env))

    def wait(job: str, until: set[JobStatus]) -> str:
        deadline = time.monotonic() + 200
        while client.get_job_status(job) not in until:
            assert time.monotonic() < deadline, client.get_job_logs(job)
            time.sleep(0.3)
        return str(client.get_job_logs(job))

    stopped = submit()
    log = f"{bucket.removeprefix('s3://')}/scores/_delta_log"
    while len(s3.filesystem().glob(f"{log}/*.json")) < 3:
        assert client.get_job_status(stopped) in {JobStatus.PENDING, JobStatus.RUNNING}, client.get_job_logs(stopped)
        time.sleep(0.3)
        s3.filesystem().invalidate_cache()
    client.stop_job(stopped)
    text = wait(stopped, {JobStatus.STOPPED, JobStatus.FAILED, JobStatus.SUCCEEDED})
    assert client.get_job_status(stopped) == JobStatus.STOPPED
    committed = re.search(r"interrupted: (\d+) images of this run are committed .* run the same command to go on", text)
    assert committed is not None, text
    assert "it ended with 5" in text

    resumed = submit()
    text = wait(resumed, {JobStatus.SUCCEEDED, JobStatus.FAILED})
    assert client.get_job_status(resumed) == JobStatus.SUCCEEDED
    assert "it ended with 0" in text
    rows = rows_of(s3, bucket)
    assert len(rows) == NUM_IMAGES
    assert rows["member"].is_unique
    by_run = rows.sort_values("scored_at").groupby("run_id", sort=False)["status"].count()
    assert len(by_run) == 2, "each run scored a part of the images"
    # What the first one had written, and could not commit any more, the second one adopts.
    assert by_run.iloc[0] >= int(committed[1]) > 0
