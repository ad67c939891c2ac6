"""The time of a job from the speeds of its workers: the arithmetic, against cases that can be done in the head."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from skinvae.audit.forecast import (
    END_SECONDS,
    SWAPPED_ROWS_PER_SECOND,
    Bound,
    Crew,
    Forecast,
    Origin,
    Speed,
    forecast,
    former_speed,
)
from skinvae.storage.filesystem import Location
from skinvae.storage.run_records import RunState, RunUsage, read_runs
from tests.unit.audit.runs import heartbeat

GPUS = Crew(num_actors=4, gpus_per_actor=1.0, threads_per_actor=1, num_tasks=40, num_cpus=48)
SPEED = Speed(Origin.PROBE, scored_per_second=1000.0, decoded_per_second=200.0, start_seconds=30.0)
USAGE = RunUsage(
    num_images=80_000,
    run_seconds=52.0,
    num_cpus=48,
    num_actors=4,
    gpus_per_actor=1.0,
    threads_per_actor=1,
    num_tasks=40,
    seconds_to_first=30.0,
    seconds={"score": 80.0, "decode": 300.0, "read": 100.0, "swap": 2.0},
)


def made(speed: Speed, crew: Crew = GPUS, **changes: Any) -> Forecast:
    found = forecast(speed, crew, **({"num_images": 4_000_000, "slice_size": 1000} | changes))
    assert found is not None
    return found


def test_actors_that_are_slower_than_the_tasks_set_the_pace() -> None:
    found = made(SPEED)
    assert (found.images_per_second, found.bound_by) == (4000.0, Bound.SCORING)
    assert (found.scored_per_second, found.decoded_per_second) == (4000.0, 8000.0)
    # A first slice of 1,000 at 200 images/s, the images, half a slice at the end.
    assert found.work_seconds == pytest.approx(5.0 + 1000.0 + 0.5)
    assert found.start_seconds == 30.0
    assert found.end_seconds == pytest.approx(END_SECONDS + 4_000_000 / SWAPPED_ROWS_PER_SECOND)
    assert found.gpu_hours == pytest.approx(4 * found.eta_seconds / 3600)
    assert found.cpu_hours == pytest.approx(48 * found.eta_seconds / 3600)


def test_tasks_that_are_slower_than_the_actors_set_the_pace() -> None:
    found = made(replace(SPEED, decoded_per_second=50.0))
    assert (found.images_per_second, found.bound_by) == (2000.0, Bound.DECODING)


def test_two_cores_are_shared_by_scoring_and_decoding() -> None:
    crew = Crew(num_actors=1, gpus_per_actor=0.0, threads_per_actor=2, num_tasks=1, num_cpus=2)
    found = made(replace(SPEED, scored_per_second=100.0), crew)
    # An image takes 2/100 s of a core to be scored and 1/200 s to be decoded.
    assert found.images_per_second == pytest.approx(2 / (0.02 + 0.005))
    assert found.gpu_hours == 0.0


def test_without_the_speed_of_scoring_there_is_no_forecast() -> None:
    assert forecast(replace(SPEED, scored_per_second=None), GPUS, num_images=10, slice_size=1) is None


def test_nothing_to_do_takes_no_time() -> None:
    found = made(SPEED, num_images=0)
    assert (found.eta_seconds, found.gpu_hours) == (0.0, 0.0)


def test_a_former_run_of_the_same_workers_tells_what_they_did_together(tmp_path: Path) -> None:
    table = Location.parse(str(tmp_path))
    heartbeat(table, state=RunState.DONE, usage=USAGE)
    speed = former_speed(read_runs(table), GPUS, scoring_id="cccc")
    assert speed is not None
    assert (speed.origin, speed.run_id, speed.start_seconds) == (Origin.FORMER_RUN, "run-1", 30.0)
    assert (speed.scored_per_second, speed.decoded_per_second) == (1000.0, 200.0)
    assert speed.together_per_second == 80_000 / (52.0 - 30.0 - 2.0)
    assert made(speed).images_per_second == 4000.0


def test_a_former_run_tells_of_more_workers_of_its_kind(tmp_path: Path) -> None:
    table = Location.parse(str(tmp_path))
    heartbeat(table, state=RunState.DONE, usage=USAGE)
    speed = former_speed(read_runs(table), replace(GPUS, num_actors=8, num_tasks=100), scoring_id="cccc")
    assert speed is not None
    assert (speed.scored_per_second, speed.together_per_second) == (1000.0, None)


def test_cores_count_where_there_are_no_gpus(tmp_path: Path) -> None:
    table = Location.parse(str(tmp_path))
    heartbeat(
        table, state=RunState.DONE, usage=USAGE.model_copy(update={"gpus_per_actor": 0.0, "threads_per_actor": 2})
    )
    crew = Crew(num_actors=7, gpus_per_actor=0.0, threads_per_actor=4, num_tasks=4, num_cpus=32)
    speed = former_speed(read_runs(table), crew, scoring_id="cccc")
    assert speed is not None
    assert speed.scored_per_second == 2000.0, "four threads where there were two"
    assert former_speed(read_runs(table), GPUS, scoring_id="cccc") is None, "CPUs tell nothing of GPUs"


@pytest.mark.parametrize(
    "changes",
    [
        {"state": RunState.FAILED, "usage": USAGE},
        {"state": RunState.DONE},
        {"state": RunState.DONE, "usage": USAGE, "scoring": "dddd"},
        {"state": RunState.DONE, "usage": USAGE.model_copy(update={"num_images": 100})},
    ],
)
def test_other_runs_tell_nothing(changes: dict[str, Any], tmp_path: Path) -> None:
    table = Location.parse(str(tmp_path))
    heartbeat(table, **changes)
    assert former_speed(read_runs(table), GPUS, scoring_id="cccc") is None
