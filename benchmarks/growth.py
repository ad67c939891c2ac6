"""What an image costs in archives of 1x, 10x and 100x images, and how long a job takes to begin."""

from __future__ import annotations

import json
import os
import statistics
import time
from dataclasses import dataclass
from typing import Any

import s3fs

from benchmarks.bundles import make_bundle
from benchmarks.harness import Floor, Part, Scale
from benchmarks.images import drawn_jpegs, zip_of
from benchmarks.models import TINY
from benchmarks.processes import run_command
from benchmarks.ways.task import Task, marks_of_job
from skinvae.model.vae import ModelSettings
from tests.s3_server import run_s3_server

BASE = 500
ROUNDS = {1: 3, 10: 2, 100: 1}
"""Times the base -> repetitions: what is short has the most noise."""
SMALL_BASE, SMALL_ROUNDS = 64, {1: 1, 4: 1}

MODEL = ModelSettings(image_size=64, base_channels=16, num_latents=64)
"""Dear enough for a steady rate, and cheap enough for 100x."""

AT_MOST_DEARER, AT_MOST_MORE_MEMORY, AT_MOST_SECONDS = 1.10, 1.20, 30.0


@dataclass(frozen=True)
class Run:
    """One job."""

    steady_ms: float
    """Per image, from the first scored batch to the last."""
    total_ms: float
    """Per image, of the whole process."""
    start_up_seconds: float
    first_row_seconds: float
    """Until rows are in the table's log."""
    driver_mb: float
    all_mb: float


def measure(scale: Scale) -> Part:
    """Whole jobs, zip on an S3 server -> table there, with one, two and as many more actors as there are cores."""
    base, rounds = (SMALL_BASE, SMALL_ROUNDS) if scale.small else (BASE, ROUNDS)
    model = TINY if scale.small else MODEL
    most = max(rounds)
    found: dict[tuple[int, int], list[Run]] = {}
    with run_s3_server(scale.folder("s3")) as server:
        os.environ.update(server.environment)
        fs = server.filesystem()
        make_bundle("s3://tests/model", model)
        for times in rounds:
            fs.pipe_file(f"s3://tests/{times}.zip", zip_of(_members(base * times)))
        for number in range(max(rounds.values())):
            for times, num_rounds in rounds.items():
                if number >= num_rounds:
                    continue
                for num_actors in _actors(scale, is_most=times == most):
                    scale.say(f"{base * times:,} images, {num_actors} actor(s), round {number + 1}")
                    run = _run(scale, fs, times=times, num_images=base * times, num_actors=num_actors, number=number)
                    found.setdefault((times, num_actors), []).append(run)
    return Part(
        name="growth",
        title="Growth: what an image costs as archives grow",
        rows=[_row(base * times, num_actors, runs) for (times, num_actors), runs in sorted(found.items())],
        floors=_floors(found),
        notes=[
            f"One zip of synthetic 128x128 JPEGs on an S3 server, scored by a {model.image_size} px model with "
            f"{model.base_channels} base channels; default settings but for score.num_actors.",
            "Medians of repeated jobs, of which the smaller archives have more: a short job tells less.",
            "The driver's MB are those of its memory that no other process shares.",
        ],
        bars=("job", "steady ms/image"),
    )


def _members(count: int) -> list[tuple[str, bytes]]:
    few = drawn_jpegs(min(count, 64), width=128, height=128)
    return [(f"{index:07}.jpg", few[index % len(few)]) for index in range(count)]


def _actors(scale: Scale, *, is_most: bool) -> list[int]:
    """1 and 2; more, by doubling, where cores allow, for the largest archive only."""
    if scale.small:
        return [1]
    more = [4 * 2**power for power in range(8) if 4 * 2**power <= scale.threads]
    return [1, 2, *(more if is_most else [])]


def _run(scale: Scale, fs: s3fs.S3FileSystem, *, times: int, num_images: int, num_actors: int, number: int) -> Run:
    name = f"{times}-{num_actors}-{number}"
    task = Task(
        bundle="s3://tests/model",
        archive=f"s3://tests/{times}.zip",
        objects="",
        out=f"s3://tests/tables/{name}",
        marks=str(scale.folder("marks") / name),
        threads=scale.threads,
        num_actors=num_actors,
    )
    began = time.time()
    usage = run_command(["-m", "benchmarks.ways", "product", task.to_json()])
    (first, num_first), *later = marks_of_job(task.marks, num_images)
    num_later = sum(count for _, count in later)
    return Run(
        steady_ms=1000 * (later[-1][0] - first) / num_later,
        total_ms=1000 * usage.seconds / (num_first + num_later),
        start_up_seconds=first - usage.started,
        first_row_seconds=_first_commit(fs, task.out) - began,
        driver_mb=usage.own_peak_mb,
        all_mb=usage.peak_mb,
    )


def _first_commit(fs: s3fs.S3FileSystem, table: str) -> float:
    """time.time() of the first entry in the table's log that adds rows, as the log says."""
    for path in sorted(path for path in fs.ls(f"{table}/_delta_log", refresh=True) if path.endswith(".json")):
        actions = [json.loads(line) for line in fs.cat_file(path).decode().splitlines()]
        if any("add" in action for action in actions):
            (info,) = (action["commitInfo"] for action in actions if "commitInfo" in action)
            return float(info["timestamp"]) / 1000
    raise AssertionError(f"{table} has no rows")


def _row(num_images: int, num_actors: int, runs: list[Run]) -> dict[str, Any]:
    return {
        "job": f"{num_images:,} images, {num_actors} actor{'s' * (num_actors > 1)}",
        "steady ms/image": _median(runs, "steady_ms"),
        "total ms/image": _median(runs, "total_ms"),
        "steady images/s": 1000 / _median(runs, "steady_ms"),
        "first scored s": _median(runs, "start_up_seconds"),
        "first row in the table s": _median(runs, "first_row_seconds"),
        "driver MB": _median(runs, "driver_mb"),
        "all MB": _median(runs, "all_mb"),
        "jobs": len(runs),
    }


def _floors(found: dict[tuple[int, int], list[Run]]) -> list[Floor]:
    least, most = min(times for times, _ in found), max(times for times, _ in found)
    floors = []
    for num_actors in sorted({num_actors for times, num_actors in found if times == least}):
        few, many = found[least, num_actors], found[most, num_actors]
        with_actors = f"with {num_actors} actor{'s' * (num_actors > 1)}"
        for what, name, bound in (
            ("steady cost per image", "steady_ms", AT_MOST_DEARER),
            ("driver's memory", "driver_mb", AT_MOST_MORE_MEMORY),
        ):
            growth = _median(many, name) / _median(few, name)
            floors.append(Floor(f"{what} at {most}x relative to {least}x, {with_actors},", growth, at_most=bound))
    slowest = max(_median(runs, "start_up_seconds") for runs in found.values())
    return [*floors, Floor("seconds until the first images are scored", slowest, at_most=AT_MOST_SECONDS)]


def _median(runs: list[Run], name: str) -> float:
    values: list[float] = [getattr(run, name) for run in runs]
    return statistics.median(values)
