"""Nodes are lost, raylet and workers at once: the job ends by itself, with the whole table, on what is left."""

from __future__ import annotations

import subprocess
import time

import pytest

from tests.faults.conftest import MakeJob
from tests.faults.world import QUICK_SIGHT, Images, Job, ray_nodes
from tests.pipelines.processes import wait_for
from tests.s3_server import S3Server


def wait_for_slices(job: Job, count: int, process: subprocess.Popen[str]) -> None:
    """Until `count` slices are written."""
    folder = f"{job.table.removeprefix('s3://')}/_slices"
    wait_for(lambda: len(job.s3.filesystem().glob(f"{folder}/*.parquet")) >= count, process)


@pytest.mark.slow
def test_a_lost_node_that_nothing_replaces_leaves_its_work_to_the_others(s3: S3Server, make_job: MakeJob) -> None:
    """Two GPUs for two actors, then one: what the lost actor held must not wait for it for ever."""
    with ray_nodes(s3.environment | QUICK_SIGHT, num_nodes=2, num_cpus=3, num_gpus=1) as nodes:
        job = make_job(Images.make(320, seed=0), nodes.address)
        with job.running("--seconds-per-image=0.05", "--patience=5") as process:
            wait_for_slices(job, 2, process)
            nodes.kill(next(iter(nodes.cluster.worker_nodes)))
            summary = job.finish(process, seconds=200)
    job.assert_complete()
    assert summary["num_images"] == 320


@pytest.mark.slow
def test_a_node_that_joins_takes_over_from_one_that_was_lost(s3: S3Server, make_job: MakeJob) -> None:
    """Even where the only GPU was lost: the job waits for another, and no CPU takes its place."""
    with ray_nodes(s3.environment | QUICK_SIGHT, num_nodes=1, num_cpus=3, num_gpus=1) as nodes:
        nodes.cluster.add_node(num_cpus=2)
        job = make_job(Images.make(320, seed=0), nodes.address)
        with job.running("--seconds-per-image=0.05", "--patience=5") as process:
            wait_for_slices(job, 2, process)
            nodes.kill(next(node for node in nodes.cluster.worker_nodes if node.get_resource_and_label_spec().num_gpus))
            time.sleep(15)
            assert process.poll() is None, "the job waits"
            nodes.add()
            job.finish(process, seconds=200)
    job.assert_complete()
