"""What the stages ask of the cluster fits its nodes with room for a task: no job can wait for itself."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skinvae.config import RaySettings
from skinvae.errors import UsageError
from skinvae.pipelines import runtime
from skinvae.pipelines.nodes import Node, logical_cpus
from skinvae.pipelines.runtime import MAX_THREADS_PER_ACTOR, Resources, divide_resources, has_room

COUNTS = (1, 2, 3, 4, 8, 64)
NODES = st.lists(st.builds(Node, num_cpus=st.integers(0, 40)), min_size=1, max_size=12)
GPU_NODES = st.lists(st.builds(Node, num_cpus=st.integers(1, 40), num_gpus=st.integers(0, 8)), min_size=1, max_size=8)


def in_ray_s_units(amount: float) -> int:
    """Ray counts resources in whole ten-thousandths and drops the rest."""
    return math.floor(amount * 10_000 + 1e-6)


def assert_fits(resources: Resources, nodes: list[Node]) -> None:
    """Ray may fill the nodes in any order: one after the other and in turn are the extremes."""
    assert resources.num_actors >= 1
    assert resources.threads_per_actor <= max(1, resources.cpus_per_actor)
    assert 0 < in_ray_s_units(resources.cpus_per_task) <= 10_000
    assert resources.cpus_per_actor < 1 or resources.cpus_per_actor == int(resources.cpus_per_actor)
    for order in (nodes, nodes[::-1]):
        for in_turn in (False, True):
            rest = free_after(resources, order, in_turn=in_turn)
            assert max(rest) >= in_ray_s_units(resources.cpus_per_task), (resources, rest)


def free_after(resources: Resources, nodes: list[Node], *, in_turn: bool) -> list[int]:
    """The CPUs that are free on each node once the actors are placed, in Ray's units."""
    need = in_ray_s_units(resources.cpus_per_actor)
    free = [in_ray_s_units(one.num_cpus) for one in nodes]
    slots = [math.inf] * len(nodes)
    if resources.gpus_per_actor:
        # An actor's share lies on one GPU, so each GPU takes a whole number of actors.
        slots = [int(one.num_gpus) * (10_000 // in_ray_s_units(resources.gpus_per_actor)) for one in nodes]
    position = 0
    for number in range(resources.num_actors):
        fitting = [index for index in range(len(nodes)) if free[index] >= need and slots[index] >= 1]
        assert fitting, f"actor {number} of {resources} fits no node of {nodes}"
        chosen = min(fitting, key=lambda index: (index - position) % len(nodes))
        position = chosen + in_turn
        free[chosen] -= need
        slots[chosen] -= 1
    return free


@pytest.mark.parametrize("num_cpus", COUNTS)
def test_on_cpus_the_actors_leave_room_for_a_task(num_cpus: int) -> None:
    resources = divide_resources([Node(num_cpus)])
    assert_fits(resources, [Node(num_cpus)])
    assert resources.device == "cpu"
    assert resources.threads_per_actor <= MAX_THREADS_PER_ACTOR
    assert resources.num_actors * resources.threads_per_actor <= max(1, num_cpus)


@pytest.mark.parametrize("num_gpus", COUNTS)
@pytest.mark.parametrize("num_cpus", COUNTS)
def test_on_gpus_there_is_one_actor_each_and_room_for_a_task(num_cpus: int, num_gpus: int) -> None:
    resources = divide_resources([Node(num_cpus, num_gpus)])
    assert (resources.num_actors, resources.gpus_per_actor, resources.device) == (num_gpus, 1.0, "cuda")
    assert_fits(resources, [Node(num_cpus, num_gpus)])


@settings(deadline=None)
@given(nodes=NODES.filter(lambda nodes: sum(one.num_cpus for one in nodes) > 0), num_actors=st.integers(0, 100))
def test_any_number_of_cpu_actors_fits_any_nodes(nodes: list[Node], num_actors: int) -> None:
    resources = divide_resources(nodes, num_actors=num_actors)
    assert resources.num_actors == (num_actors or resources.num_actors)
    assert_fits(resources, nodes)


@settings(deadline=None)
@given(
    nodes=GPU_NODES.filter(lambda nodes: any(one.num_gpus for one in nodes)),
    heads=st.lists(st.just(Node(8)), max_size=1),
    num_actors=st.integers(0, 64),
)
def test_any_number_of_gpu_actors_fits_any_nodes(nodes: list[Node], heads: list[Node], num_actors: int) -> None:
    cluster = heads + nodes
    resources = divide_resources(cluster, num_actors=num_actors)
    assert resources.num_actors == (num_actors or sum(int(one.num_gpus) for one in nodes))
    assert_fits(resources, cluster)


@settings(deadline=None)
@given(nodes=GPU_NODES.filter(lambda nodes: any(one.num_gpus for one in nodes)), num_actors=st.integers(0, 16))
def test_there_is_room_for_what_was_divided_until_a_node_with_an_actor_is_gone(
    nodes: list[Node], num_actors: int
) -> None:
    resources = divide_resources(nodes, num_actors=num_actors)
    assert has_room(resources, nodes)
    assert not has_room(resources, [])
    without = [one for one in nodes if one.num_gpus < 1]
    assert not has_room(resources, without), "CPUs do not replace GPUs"


def test_what_is_left_has_room_only_for_as_many() -> None:
    two = Resources(2, cpus_per_actor=1.0, gpus_per_actor=1.0, threads_per_actor=1, cpus_per_task=1.0)
    assert has_room(two, [Node(4, 2)])
    assert has_room(two, [Node(1, 1), Node(1, 1)])
    assert not has_room(two, [Node(4, 1), Node(4)])
    assert not has_room(two, [Node(1, 2)]), "a CPU each"
    thirds = Resources(3, cpus_per_actor=0.3333, gpus_per_actor=0.0, threads_per_actor=1, cpus_per_task=0.1)
    assert has_room(thirds, [Node(1)])
    assert not has_room(thirds, [Node(0.9)])


@pytest.mark.parametrize(
    ("nodes", "cpus_of_one_worker", "cpus_of_two"),
    [
        ([Node(64)], 56, 28),
        ([Node(8)] * 2, 8, 7),
        ([Node(2)] * 16, 2, 2),
        ([Node(8), Node(4)], 8, 4),
        ([Node(0), Node(16)], 14, 7),
    ],
)
def test_training_workers_take_what_single_nodes_have(
    nodes: list[Node], cpus_of_one_worker: int, cpus_of_two: int
) -> None:
    for num_workers, cpus in ((0, cpus_of_one_worker), (2, cpus_of_two)):
        resources = divide_resources(nodes, num_actors=num_workers, num_actors_on_cpus=1)
        assert (resources.num_actors, resources.cpus_per_actor) == (num_workers or 1, cpus)
        assert resources.threads_per_actor == cpus, "threads are not bound by what scoring actors take"


def test_small_nodes_get_small_scoring_actors() -> None:
    resources = divide_resources([Node(2)] * 16)
    assert (resources.num_actors, resources.cpus_per_actor) == (14, 2)


@pytest.mark.parametrize("cores", [1, 2, 4, 8, 15, 16, 24, 64, 192])
def test_threads_use_the_cores_of_a_local_ray_and_no_more(cores: int) -> None:
    nodes = [Node(logical_cpus(cores))]
    scoring = divide_resources(nodes)
    assert scoring.num_actors * scoring.threads_per_actor <= cores
    assert 0.9 * cores <= divide_resources(nodes, num_actors_on_cpus=1).threads_per_actor <= cores


def test_gpus_are_left_alone_where_the_cpu_is_asked_for() -> None:
    assert divide_resources([Node(8, 4)], device="cpu") == divide_resources([Node(8)])


def test_a_cluster_without_what_is_needed_is_refused() -> None:
    with pytest.raises(UsageError, match="no CPU to run on"):
        divide_resources([Node(0, 1)])
    with pytest.raises(UsageError, match=r"ray\.device = cuda, but the Ray cluster has no GPU: ask an autoscaler"):
        divide_resources([Node(4)], device="cuda")
    with pytest.raises(UsageError, match="no node of the Ray cluster has a CPU beside its GPU"):
        divide_resources([Node(8), Node(0, 4)])
    with pytest.raises(UsageError, match=r"no room for 1,000,000 actors: lower score\.num_actors or train"):
        divide_resources([Node(8)], num_actors=1_000_000)


def test_a_task_has_memory_that_some_node_has() -> None:
    gib = 2**30
    for sizes, memory in (([64, 8], 1.0), ([1], 0.5), ([0], 0.0)):
        nodes = [Node(8, memory_bytes=size * gib) for size in sizes]
        assert runtime.divided(nodes, RaySettings(), num_actors=0).memory_per_task == memory * gib
    nodes = [Node(8, memory_bytes=16 * gib), Node(0, memory_bytes=64 * gib)]
    assert runtime.divided(nodes, RaySettings(task_memory_gib=16), num_actors=0).memory_per_task == 16 * gib
    with pytest.raises(UsageError, match=r"task_memory_gib = 17, but the largest node of the Ray cluster has 16 GiB"):
        runtime.divided(nodes, RaySettings(task_memory_gib=17), num_actors=0)


@pytest.mark.parametrize(
    ("num_workers", "min_workers", "num_actors", "gpus_each"),
    [(0, 0, 3, 1.0), (2, 0, 2, 1.0), (3, 1, 3, 1.0), (8, 2, 8, 1.0)],
)
def test_training_workers_have_a_gpu_each(
    num_workers: int, min_workers: int, num_actors: int, gpus_each: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "alive_nodes", lambda: [Node(8, 2), Node(4, 1)])
    found = runtime.training_resources(RaySettings(), num_workers=num_workers, min_workers=min_workers)
    assert (found.num_actors, found.gpus_per_actor) == (num_actors, gpus_each)


@pytest.mark.parametrize(("num_workers", "min_workers", "words"), [(4, 0, "4 training"), (8, 4, "4 training")])
def test_more_training_workers_than_gpus_are_refused(
    num_workers: int, min_workers: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "alive_nodes", lambda: [Node(8, 3)])
    with pytest.raises(UsageError, match=f"{words} workers need a GPU each, and the Ray cluster has 3"):
        runtime.training_resources(RaySettings(), num_workers=num_workers, min_workers=min_workers)
