"""Nodes join while a job runs: it begins with what is there, and takes what comes."""

from __future__ import annotations

import time

import pytest

from tests.faults.conftest import MakeJob
from tests.faults.test_node_kills import wait_for_slices
from tests.faults.world import QUICK_SIGHT, Images, RayNodes, ray_nodes
from tests.pipelines.processes import wait_for
from tests.s3_server import S3Server


def num_scoring(nodes: RayNodes) -> int:
    """Actors at work."""
    return sum("ScoreStage" in "".join(process.cmdline()) for process in nodes.workers())


@pytest.mark.slow
def test_gpus_that_join_are_used_and_may_go_again(s3: S3Server, make_job: MakeJob) -> None:
    """From a head that does no work, over two GPUs, to one."""
    with ray_nodes(s3.environment | QUICK_SIGHT, num_nodes=0, num_cpus=3, num_gpus=1) as nodes:
        job = make_job(Images.make(960, seed=0), nodes.address)
        with job.running("--seconds-per-image=0.1", "--patience=5", "--set=ray.min_gpus=1") as process:
            time.sleep(15)
            assert process.poll() is None, "the job waits"
            nodes.add()
            wait_for_slices(job, 2, process)
            assert num_scoring(nodes) == 1
            joined = nodes.add()
            wait_for(lambda: num_scoring(nodes) == 2, process)
            time.sleep(5)
            nodes.kill(joined)
            job.finish(process, seconds=250)
    job.assert_complete()


@pytest.mark.slow
def test_a_job_that_waited_for_two_gpus_goes_on_with_one(s3: S3Server, make_job: MakeJob) -> None:
    """What it asks for is to begin with: what a loss leaves is taken, not waited for."""
    with ray_nodes(s3.environment | QUICK_SIGHT, num_nodes=1, num_cpus=3, num_gpus=1) as nodes:
        job = make_job(Images.make(480, seed=0), nodes.address)
        settings = ("--set=ray.min_gpus=2", "--set=ray.wait_seconds=100")
        with job.running("--seconds-per-image=0.1", "--patience=5", *settings) as process:
            time.sleep(10)
            assert process.poll() is None, "the job waits"
            joined = nodes.add()
            wait_for(lambda: num_scoring(nodes) == 2, process)
            wait_for_slices(job, 2, process)
            nodes.kill(joined)
            job.finish(process, seconds=250)
    job.assert_complete()
