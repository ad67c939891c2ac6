"""Random Ray workers are killed, from the first to the last second of a job: it costs what was in flight, no more."""

from __future__ import annotations

import sys

import pytest

from tests.faults.conftest import Images, Job, Killer, MakeJob, ray_nodes
from tests.s3_server import S3Server

MEMBERS_PER_SLICE = 16


def run_under_fire(
    s3: S3Server, make_job: MakeJob, *, num_images: int, seconds_per_image: float, every_seconds: float, seed: int
) -> tuple[Job, Killer, dict[str, int]]:
    with ray_nodes(s3.environment, num_nodes=1, num_cpus=5) as nodes:
        job = make_job(Images.make(num_images, seed=seed), nodes.address)
        with (
            job.running(f"--seconds-per-image={seconds_per_image}", num_actors=2) as process,
            Killer(nodes.workers, every_seconds=every_seconds, seed=seed) as killer,
        ):
            summary = job.finish(process, seconds=540)
            sys.stderr.write(f"{len(killer.killed)} kills {killer.killed}\n{summary}\n")
    return job, killer, summary


def test_killed_workers_lose_nothing_repeat_nothing_and_change_nothing(s3: S3Server, make_job: MakeJob) -> None:
    job, killer, summary = run_under_fire(
        s3, make_job, num_images=256, seconds_per_image=0.02, every_seconds=2.0, seed=1
    )
    job.assert_complete()
    assert len(killer.killed) >= 3, killer.killed
    # An actor has one slice under way; a task that writes has one, too, whose scores may be lost with it.
    assert summary["num_reattempted"] <= 2 * len(killer.killed), killer.killed


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_worker_killed_every_five_seconds_of_a_longer_job(s3: S3Server, make_job: MakeJob, seed: int) -> None:
    job, killer, summary = run_under_fire(
        s3, make_job, num_images=2048, seconds_per_image=0.05, every_seconds=5.0, seed=seed
    )
    job.assert_complete()
    assert len(killer.killed) >= 8, killer.killed
    assert summary["num_reattempted"] <= 2 * len(killer.killed), killer.killed
