"""What the stages ask for together fits into the cluster with room for a task: no job can wait for itself."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skinvae.errors import UsageError
from skinvae.pipelines.runtime import MAX_THREADS_PER_ACTOR, Resources, divide_resources

COUNTS = (1, 2, 3, 4, 8, 64)


def in_ray_s_units(amount: float) -> int:
    """Ray counts resources in whole ten-thousandths and drops the rest."""
    return math.floor(amount * 10_000 + 1e-6)


def assert_fits(resources: Resources, *, num_cpus: float, num_gpus: float) -> None:
    of_actors = resources.num_actors * in_ray_s_units(resources.cpus_per_actor)
    of_task = in_ray_s_units(resources.cpus_per_task)
    assert resources.num_actors >= 1
    assert resources.threads_per_actor >= 1
    assert of_task > 0
    assert of_actors + of_task <= in_ray_s_units(num_cpus), resources
    if resources.gpus_per_actor:
        # An actor's share lies on one GPU, so each GPU takes a whole number of actors.
        per_gpu = 10_000 // in_ray_s_units(resources.gpus_per_actor)
        assert resources.num_actors <= per_gpu * math.floor(num_gpus), resources


@pytest.mark.parametrize("num_cpus", COUNTS)
def test_on_cpus_the_actors_leave_room_for_a_task(num_cpus: int) -> None:
    resources = divide_resources(num_cpus=num_cpus, num_gpus=0)
    assert_fits(resources, num_cpus=num_cpus, num_gpus=0)
    assert resources.device == "cpu"
    assert resources.threads_per_actor <= MAX_THREADS_PER_ACTOR
    assert resources.num_actors * resources.threads_per_actor <= max(1, num_cpus)


@pytest.mark.parametrize("num_gpus", COUNTS)
@pytest.mark.parametrize("num_cpus", COUNTS)
def test_on_gpus_there_is_one_actor_each_and_room_for_a_task(num_cpus: int, num_gpus: int) -> None:
    resources = divide_resources(num_cpus=num_cpus, num_gpus=num_gpus)
    assert (resources.num_actors, resources.gpus_per_actor, resources.device) == (num_gpus, 1.0, "cuda")
    assert_fits(resources, num_cpus=num_cpus, num_gpus=num_gpus)


@settings(deadline=None)
@given(num_cpus=st.integers(1, 200), num_actors=st.integers(1, 100))
def test_any_number_of_cpu_actors_that_a_user_asks_for_fits(num_cpus: int, num_actors: int) -> None:
    resources = divide_resources(num_cpus=num_cpus, num_gpus=0, num_actors=num_actors)
    assert resources.num_actors == num_actors
    assert_fits(resources, num_cpus=num_cpus, num_gpus=0)


@settings(deadline=None)
@given(num_gpus=st.integers(1, 16), num_actors=st.integers(1, 64))
def test_any_number_of_gpu_actors_that_a_user_asks_for_fits(num_gpus: int, num_actors: int) -> None:
    resources = divide_resources(num_cpus=256, num_gpus=num_gpus, num_actors=num_actors)
    assert resources.num_actors == num_actors
    assert_fits(resources, num_cpus=256, num_gpus=num_gpus)


def test_gpus_are_left_alone_where_the_cpu_is_asked_for() -> None:
    with_gpus = divide_resources(num_cpus=8, num_gpus=4, device="cpu")
    assert with_gpus == divide_resources(num_cpus=8, num_gpus=0)


def test_a_cluster_without_what_is_needed_is_refused() -> None:
    with pytest.raises(UsageError, match="no CPU to run on"):
        divide_resources(num_cpus=0, num_gpus=1)
    with pytest.raises(UsageError, match=r"ray\.device = cuda, but the Ray cluster has no GPU: use auto or cpu"):
        divide_resources(num_cpus=4, num_gpus=0, device="cuda")
