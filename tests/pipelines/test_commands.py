"""The command as a process: exit codes, output, and what is left when it is killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
from deltalake import DeltaTable

from skinvae.audit.status import read_status
from skinvae.storage.filesystem import Location
from skinvae.storage.run_records import RunState
from skinvae.storage.score_table import ScoreTable
from tests.conftest import ArchiveFiles, config
from tests.pipelines.processes import command_environment, skinvae_command, wait_for
from tests.pipelines.test_score import assert_same_scores, read

SLOW_SAMPLES = 300
"""Draws that make an image of the small model take about 25 ms, so that a job can be caught half-way."""


def test_a_killed_job_is_completed_by_the_same_command(
    ray_cluster: str, table: str, model: str, archive: ArchiveFiles, tmp_path: Path
) -> None:
    """SIGKILL of the driver after the first commits; the second run has other slice borders, too."""
    out = str(tmp_path / "scores")
    slow = config(slice_size=4, batch_size=4, commit_seconds=0.05, num_samples=SLOW_SAMPLES)
    with _started_score(archive, model, out, config=slow, ray_address=ray_cluster) as process:
        wait_for_rows(out, 8, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    committed = DeltaTable(out).to_pandas(columns=["image_id", "run_id"])
    assert 0 < len(committed) < len(archive.members())

    command = _score_command(archive, model, out, config=config(slice_size=10, batch_size=5, num_samples=SLOW_SAMPLES))
    finished = subprocess.run(
        [*command, "--json"], env=command_environment(ray_cluster), capture_output=True, check=False
    )
    assert finished.returncode == 0, finished.stderr.decode()
    summary = json.loads(finished.stdout)
    rows = pd.read_parquet(out)
    assert sorted(rows["member"]) == sorted(archive.members())
    kept = rows.merge(committed, on=["image_id", "run_id"])
    assert len(kept) == len(committed), "rows committed before the kill were not scored again"
    assert summary["num_images"] + summary["num_adopted"] == len(archive.members()) - len(committed)
    assert summary["stage_seconds"]["score"] > 0
    assert 0 < summary["seconds_to_first"] < summary["seconds"]
    said = finished.stderr.decode()
    assert "first images scored after" in said
    assert f"bound by {summary['bottleneck']}: " in said.splitlines()[-1]

    uninterrupted = str(tmp_path / "uninterrupted")
    command = _score_command(archive, model, uninterrupted, config=config(num_samples=SLOW_SAMPLES))
    subprocess.run(command, env=command_environment(ray_cluster), check=True)
    assert_same_scores(read(out), read(uninterrupted))


def test_sigterm_commits_what_is_done_and_exits_with_5(
    ray_cluster: str, model: str, archive: ArchiveFiles, tmp_path: Path
) -> None:
    out = str(tmp_path / "scores")
    # It would take a minute on an idle machine: the signal comes before the end.
    slow = config(slice_size=1, batch_size=1, commit_seconds=0.05, num_samples=5 * SLOW_SAMPLES)
    with _started_score(archive, model, out, config=slow, ray_address=ray_cluster) as process:
        wait_for_rows(out, 1, process)
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 5, errors.decode()
    assert time.monotonic() - started < 20
    assert "run the same command to go on" in errors.decode().splitlines()[-1]
    assert "Traceback" not in errors.decode()
    (scoring,) = read_status(Location.parse(out)).scorings
    assert scoring.heartbeats[-1].state is RunState.INTERRUPTED
    assert scoring.by_status == {"ok": len(DeltaTable(out).to_pandas(columns=["image_id"]))}


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["nowhere.zip", "--model", "M", "--table", "T"], 4, "no model bundle at"),
        (["a.zip", "--model", "M", "--table", "T", "--set", "score.slise_size=3"], 2, "nearest is 'score.slice_size'"),
        (["a.zip", "--model", "M", "--table", "T", "--set", "score.slice_size=-1"], 2, "score.slice_size"),
        (["a.zip", "--model", "M", "--table", "gs://bucket/t"], 2, "unknown scheme 'gs'"),
        (["a.zip", "--model", "M"], 2, "--table"),
    ],
)
def test_bad_arguments_give_one_sentence_and_their_exit_code(
    arguments: list[str], code: int, sentence: str, tmp_path: Path
) -> None:
    finished = subprocess.run(
        skinvae_command("score", *arguments), capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert finished.returncode == code
    assert sentence in finished.stderr
    assert "Traceback" not in finished.stderr
    assert finished.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_job_with_too_many_rejects_writes_everything_and_exits_with_3(
    ray_cluster: str, model: str, tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "broken.jpg").write_bytes(b"no image")
    command = skinvae_command(
        "score", f"{tmp_path}/images", "--model", model, "--table", f"{tmp_path}/scores", config=config()
    )
    finished = subprocess.run(
        command, env=command_environment(ray_cluster), capture_output=True, text=True, check=False
    )
    assert finished.returncode == 3, finished.stderr
    assert "1 of 1 images are rejected" in finished.stderr
    assert "1 unsupported_format" in finished.stdout
    assert len(pd.read_parquet(tmp_path / "scores")) == 1
    again = subprocess.run(command, env=command_environment(ray_cluster), capture_output=True, check=False)
    assert again.returncode == 3, "nothing new was scored, and what the table holds is still too bad"


def test_the_job_file_is_the_same_command(table: str, archive: ArchiveFiles, tmp_path: Path) -> None:
    job = Path(__file__).parents[2] / "jobs" / "evaluate.py"
    command = [
        sys.executable,
        str(job),
        "--table",
        table,
        "--labels",
        archive.labels,
        "--out",
        f"{tmp_path}/e",
        "--json",
    ]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(finished.stdout)["num_evaluated"] > 0


def _score_command(archive: ArchiveFiles, model: str, table: str, *, config: object) -> list[str]:
    return skinvae_command("score", archive.zip, "--model", model, "--table", table, config=config)


@contextmanager
def _started_score(
    archive: ArchiveFiles, model: str, table: str, *, config: object, ray_address: str
) -> Iterator[subprocess.Popen[bytes]]:
    """The command, running; a test that fails leaves none behind on the Ray that all tests share."""
    command = _score_command(archive, model, table, config=config)
    process = subprocess.Popen(command, env=command_environment(ray_address), stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for_rows(table: str, count: int, process: subprocess.Popen[bytes]) -> None:
    """Until the table holds `count` committed rows; fails if the process ends before."""
    location = Location.parse(table)
    wait_for(
        lambda: (
            (location / "_delta_log").exists()
            and sum(file.num_rows for file in ScoreTable.open(location).live_files()) >= count
        ),
        process,
    )
