"""What a job says of the cluster when it starts."""

from __future__ import annotations

from skinvae.config import RaySettings
from skinvae.pipelines.cluster import describe
from skinvae.pipelines.nodes import Node
from skinvae.pipelines.runtime import divided

GIB = 2**30


def test_a_cluster_of_gpus_and_decoding_nodes() -> None:
    nodes = [Node(0, 0, 4 * GIB), *[Node(4, 1, 12 * GIB, 6 * GIB)] * 4, *[Node(16, 0, 24 * GIB, 8 * GIB)] * 2]
    resources = divided(nodes, RaySettings(), num_actors=0)
    assert describe(nodes, resources) == (
        "7 nodes, 48 CPUs, 4 GPUs, 100 GiB; 4 scoring actors (1 GPU, 1 CPU each), up to 44 decoding tasks (1 CPU, "
        "1 GiB each); object store 40 GiB"
    )


def test_little_memory_means_few_tasks() -> None:
    nodes = [Node(64, 0, 8 * GIB)]
    resources = divided(nodes, RaySettings(task_memory_gib=2), num_actors=1)
    assert "up to 4 decoding tasks (1 CPU, 2 GiB each)" in describe(nodes, resources)


def test_one_small_machine() -> None:
    nodes = [Node(1, 0, GIB)]
    assert describe(nodes, divided(nodes, RaySettings(), num_actors=0)) == (
        "1 node, 1 CPU, 1 GiB; 1 scoring actor (0.5 CPU), up to 1 decoding task (0.5 CPU, 0.5 GiB)"
    )


def test_a_job_without_actors_and_a_training() -> None:
    nodes = [Node(8)]
    resources = divided(nodes, RaySettings(), num_actors=0, num_actors_on_cpus=1)
    assert describe(nodes, resources, num_actors=0) == "1 node, 8 CPUs; up to 8 decoding tasks (1 CPU each)"
    assert "1 training worker (7 CPUs), up to 1" in describe(nodes, resources, noun="training worker")
