"""Random Ray workers are killed, from the first to the last second of a job: it costs what was in flight, no more."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from tests.faults.conftest import MakeJob
from tests.faults.world import Images, Job, Killer, ray_nodes
from tests.s3_server import S3Server


def run_under_fire(
    s3: S3Server,
    make_job: MakeJob,
    *,
    num_images: int,
    seconds_per_image: float,
    every_seconds: float,
    seed: int,
    only: str = "",
    at_most: int = 1_000_000,
) -> tuple[Job, Killer, dict[str, Any]]:
    with ray_nodes(s3.environment, num_nodes=1, num_cpus=5) as nodes:
        job = make_job(Images.make(num_images, seed=seed), nodes.address)
        with (
            job.running(f"--seconds-per-image={seconds_per_image}", num_actors=2) as process,
            Killer(nodes.workers, every_seconds=every_seconds, seed=seed, only=only, at_most=at_most) as killer,
        ):
            summary = job.finish(process, seconds=540)
    sys.stderr.write(f"{summary['seconds']:.0f} s, {summary['num_reattempted']} begun again, killed {killer.killed}\n")
    return job, killer, summary


@pytest.mark.slow
def test_killed_workers_lose_nothing_repeat_nothing_and_change_nothing(s3: S3Server, make_job: MakeJob) -> None:
    """Aimed at the stages, and soon over: Ray's own actors are killed as well, to the end, in the longer test."""
    job, killer, summary = run_under_fire(
        s3, make_job, num_images=192, seconds_per_image=0.03, every_seconds=2.0, seed=1, only="Map", at_most=8
    )
    job.assert_complete()
    assert len(killer.killed) >= 2
    # An actor has one slice under way, and what it scored may be lost with the task that writes it.
    assert summary["num_reattempted"] <= 2 * len(killer.killed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_worker_killed_every_five_seconds_of_a_longer_job(s3: S3Server, make_job: MakeJob, seed: int) -> None:
    job, killer, summary = run_under_fire(
        s3, make_job, num_images=2048, seconds_per_image=0.05, every_seconds=5.0, seed=seed
    )
    job.assert_complete()
    assert len(killer.killed) >= 8
    assert summary["num_reattempted"] <= 2 * len(killer.killed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("only", "at_most"),
    [("_write_part_task", 4), ("ProgressActor", 8), ("decode_stage", 8), ("ScoreStage", 8)],
)
def test_each_kind_of_worker_may_die_wherever_it_is(s3: S3Server, make_job: MakeJob, only: str, at_most: int) -> None:
    """Aimed at: among them what writes the large files of the end, which random kills hardly hit."""
    with ray_nodes(s3.environment, num_nodes=1, num_cpus=5) as nodes:
        job = make_job(Images.make(192, seed=0), nodes.address)
        with (
            job.running("--seconds-per-image=0.02", num_actors=2) as process,
            Killer(nodes.workers, every_seconds=0.5, seed=0, only=only, at_most=at_most) as killer,
        ):
            job.finish(process, seconds=200)
    job.assert_complete()
    assert killer.killed, "it was there to be killed"
