"""How long scoring will take: arithmetic from the speeds of one actor and one task, whoever measured them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from skinvae.storage.run_records import RunRecord, RunState, RunUsage

MIN_IMAGES = 256
"""A former run of fewer tells of its start, not of its speed."""

END_SECONDS = 1.5
"""The last commit, the swap for large files, the end of Ray; without the rows that the swap copies."""

SWAPPED_ROWS_PER_SECOND = 100_000.0
"""That the swap copies: 10,015 rows took it 0.1 s on idle cores, 1.1 s on cores with ten other jobs on them."""


class Origin(str, Enum):
    """Where a speed is known from."""

    FORMER_RUN = "a former run on this table"
    PROBE = "a probe"
    GIVEN = "--rate"


@dataclass(frozen=True)
class Crew:
    """The workers of a scoring job."""

    num_actors: int
    gpus_per_actor: float
    threads_per_actor: int
    num_tasks: int
    """That decode at once."""
    num_cpus: float
    """CPU cores under all of them: a local Ray counts more than there are."""


@dataclass(frozen=True)
class Speed:
    """What was measured of the workers."""

    origin: Origin
    scored_per_second: float | None
    """Images, by one actor; None where that could not be measured."""
    decoded_per_second: float | None
    """Images, read and decoded by one task; None where that was not measured."""
    start_seconds: float
    """From the command until its first images are scored."""
    together_per_second: float | None = None
    """Images, by a former run's workers, if these are the same now."""
    run_id: str = ""


class Bound(str, Enum):
    """What the speed of a job is the speed of."""

    SCORING = "scoring"
    DECODING = "decoding"


@dataclass(frozen=True)
class Forecast:
    """Of one job."""

    images_per_second: float
    """Once it is under way."""
    bound_by: Bound
    scored_per_second: float
    """By all actors, if nothing kept them waiting."""
    decoded_per_second: float | None
    """By all tasks, if they had the CPUs that Ray gives them for themselves."""
    start_seconds: float
    work_seconds: float
    end_seconds: float
    gpu_hours: float
    cpu_hours: float

    @property
    def eta_seconds(self) -> float:
        return self.start_seconds + self.work_seconds + self.end_seconds


def forecast(speed: Speed, crew: Crew, *, num_images: int, slice_size: int) -> Forecast | None:
    """None where the speed of scoring is not known."""
    if speed.scored_per_second is None:
        return None
    scored = crew.num_actors * speed.scored_per_second
    decoded = None if speed.decoded_per_second is None else crew.num_tasks * speed.decoded_per_second
    bound_by = Bound.SCORING if decoded is None or scored <= decoded else Bound.DECODING
    steady = speed.together_per_second or min(_beside_each_other(speed, crew), scored, decoded or scored)
    # The first slice is decoded before anybody scores, and at the end actors wait for the last of them.
    filling = 0.0 if speed.decoded_per_second is None else min(slice_size, num_images) / speed.decoded_per_second
    emptying = 0.5 * slice_size / speed.scored_per_second if crew.num_actors > 1 else 0.0
    work = filling + num_images / steady + emptying if num_images else 0.0
    start = speed.start_seconds if num_images else 0.0
    end = END_SECONDS + num_images / SWAPPED_ROWS_PER_SECOND if num_images else 0.0
    hours = (start + work + end) / 3600
    return Forecast(
        images_per_second=steady,
        bound_by=bound_by,
        scored_per_second=scored,
        decoded_per_second=decoded,
        start_seconds=start,
        work_seconds=work,
        end_seconds=end,
        gpu_hours=hours * crew.num_actors * crew.gpus_per_actor,
        cpu_hours=hours * crew.num_cpus,
    )


def _beside_each_other(speed: Speed, crew: Crew) -> float:
    """Images/s where threads that score and tasks that decode share cores, as they do on a machine of few."""
    assert speed.scored_per_second is not None
    core_seconds = crew.threads_per_actor / speed.scored_per_second
    if speed.decoded_per_second is not None:
        core_seconds += 1 / speed.decoded_per_second
    return crew.num_cpus / core_seconds


def former_speed(runs: Sequence[RunRecord], crew: Crew, *, scoring_id: str) -> Speed | None:
    """That of the newest run of this scoring that ended well, on devices as the crew's, and scored enough to tell."""
    for run in reversed(runs):
        sign = run.heartbeat
        if sign is None or sign.scoring_id != scoring_id or sign.state is not RunState.DONE or sign.usage is None:
            continue
        usage = sign.usage
        same_device = bool(usage.gpus_per_actor) == bool(crew.gpus_per_actor)
        if same_device and usage.num_images >= MIN_IMAGES and usage.num_actors and usage.seconds.get("score"):
            return _speed_of(usage, crew, run_id=run.run_id)
    return None


def _speed_of(usage: RunUsage, crew: Crew, *, run_id: str) -> Speed:
    scored = usage.num_images / usage.seconds["score"]
    if not crew.gpus_per_actor:
        scored *= crew.threads_per_actor / max(1, usage.threads_per_actor)
    decoding = usage.seconds.get("read", 0.0) + usage.seconds.get("decode", 0.0)
    is_same = (usage.num_actors, usage.gpus_per_actor, usage.threads_per_actor, usage.num_tasks) == (
        crew.num_actors,
        crew.gpus_per_actor,
        crew.threads_per_actor,
        crew.num_tasks,
    )
    start = usage.seconds_to_first or 0.0
    under_way = usage.run_seconds - start - usage.seconds.get("swap", 0.0)
    return Speed(
        origin=Origin.FORMER_RUN,
        scored_per_second=scored,
        decoded_per_second=usage.num_images / decoding if decoding else None,
        start_seconds=start,
        together_per_second=usage.num_images / under_way if is_same and under_way > 0 else None,
        run_id=run_id,
    )
