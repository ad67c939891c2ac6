"""The histories: each makes one table under faults that its seed chooses, and says what became of it."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.chaos.kill_points import KillAt, KillPoint, choose_point
from tests.chaos.outcome import Outcome, Timeline
from tests.chaos.world import RUN_SECONDS, Reader, Table, World, words_of
from tests.faults.world import Killer
from tests.faults_to_inject import (
    CONFLICT,
    CONFLICT_NOW,
    DENIED,
    EXISTS,
    EXISTS_NOW,
    EXPIRED,
    INTERNAL_ERROR,
    NO_FAULT,
    RESET_AFTER,
    At,
    Fault,
    RandomFaults,
    Request,
)

Scenario = Callable[[World, Table, random.Random, Outcome], None]

LOG = "/_delta_log/"
"""What deltalake reads: nothing tells it that a body was cut short if its Content-Length was, too."""

DRAIN_SECONDS = 20.0
"""From SIGTERM to the end."""


def driver_killed(world: World, table: Table, chance: random.Random, outcome: Outcome) -> None:
    """The driver is killed before or behind one of its requests; the same command runs again; up to 16 times."""
    num_kills = chance.randint(12, 16)
    num_at_work = num_kills - chance.randint(2, 4)
    num_slices = -(-len(world.images.pixels) // world.slice_size)
    retention = chance.choice([0, 168])
    while len(outcome.faults) < num_kills:
        is_at_work = len(outcome.faults) < num_at_work
        num_left = max(3, num_slices - table.num_slices_written()) if is_at_work else 0
        point = choose_point(chance, num_slices_left=num_left)
        slice_size = max(1, chance.choice([world.slice_size, world.slice_size // 2, world.slice_size + 3]))
        with table.driver(slice_size=slice_size, retention_hours=retention) as process:
            plan = KillAt(point, process.kill, below=f"{table.path}/")
            world.traffic.faults = plan
            process.wait(RUN_SECONDS)
            if not plan.is_reached:
                outcome.note("points not reached")
                if process.returncode != 0:
                    raise RuntimeError(f"the driver ended with {process.returncode}: {words_of(process)[-3000:]}")
                break
            outcome.faults.append(str(point))
    table.run_to_the_end(retention_hours=retention)


def two_drivers(world: World, table: Table, chance: random.Random, outcome: Outcome) -> None:
    """Two drivers with other slice sizes at once, a reader beside them; often one is killed and runs again."""
    sizes = [world.slice_size, chance.choice([world.slice_size, world.slice_size // 2, world.slice_size * 2 - 1])]
    with Reader(table) as reader, table.driver(slice_size=sizes[0]) as one, table.driver(slice_size=sizes[1]) as other:
        outcome.faults.append(f"two drivers, slices of {sizes[0]} and {sizes[1]}")
        if chance.random() < 0.5:
            point = choose_point(chance, num_slices_left=len(world.images.pixels) // world.slice_size // 2)
            plan = KillAt(point, one.kill, below=f"{table.path}/")
            world.traffic.faults = plan
            one.wait(RUN_SECONDS)
            if plan.is_reached:
                outcome.faults.append(str(point))
                with table.driver(slice_size=sizes[0]) as again:
                    table.finish(again)
        else:
            table.finish(one)
        table.finish(other)
        time.sleep(1.0)
    table.run_to_the_end()
    outcome.complaints += reader.complaints
    outcome.note("snapshots read", len(reader.seen))


def workers_killed(world: World, table: Table, chance: random.Random, outcome: Outcome) -> None:
    """A random worker process of Ray is killed every few seconds."""
    with (
        table.driver() as process,
        Killer(world.nodes.workers, every_seconds=chance.uniform(1.0, 5.0), seed=chance.randrange(2**32)) as killer,
    ):
        summary = table.finish(process)
    outcome.faults += killer.killed
    outcome.note("slices begun again", summary["num_reattempted"])
    table.run_to_the_end()


def node_killed(world: World, table: Table, chance: random.Random, outcome: Outcome) -> None:
    """A node is killed in the middle of the work, and another takes its place later."""
    with table.driver() as process:
        wait_until(lambda: table.num_scored() > 0 or process.poll() is not None)
        time.sleep(chance.uniform(0.0, 3.0))
        world.nodes.kill(chance.choice(world.nodes.cluster.list_all_nodes()[1:]))
        outcome.faults.append("node")
        time.sleep(chance.uniform(0.0, 5.0))
        world.nodes.add()
        table.finish(process)
    table.run_to_the_end()


def unreliable_s3(world: World, table: Table, chance: random.Random, outcome: Outcome) -> None:
    """30 % of requests are told to slow down, 5 % are cut, 1 % of bodies are truncated, some wait for 2 s."""
    seed = chance.randrange(2**32)
    world.traffic.faults = RandomFaults(
        seed, slow_down=0.3, resets=0.05, truncated=0.01, latency=0.01, broken_off_only=LOG
    )
    before = world.traffic.count_faults()
    with table.driver() as process:
        summary = table.finish(process)
    counts = world.traffic.count_faults() - before
    outcome.faults += list(counts.elements())
    outcome.note("retries counted", summary["num_retries"])
    table.run_to_the_end()


@dataclass
class UnsureCommits:
    """Half of all commits are answered with something else than what became of them."""

    seed: int
    names: list[str] = field(default_factory=list)
    _answers: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._answers = random.Random(self.seed)

    def decide(self, request: Request) -> Fault:
        if request.method != "PUT" or "/_delta_log/" not in request.path or self._answers.random() < 0.5:
            return NO_FAULT
        kinds = [RESET_AFTER, EXISTS_NOW, EXISTS, CONFLICT, CONFLICT_NOW, INTERNAL_ERROR]
        fault = self._answers.choice(kinds)
        self.names.append(f"commit: {fault.name}")
        return fault


def answers_lost(world: World, table: Table, chance: random.Random, outcome: Outcome) -> None:
    """Commits take place and say they did not, or the reverse: answers lost, 409, 412, 500."""
    plan = UnsureCommits(chance.randrange(2**32))
    world.traffic.faults = plan
    with table.driver() as process:
        table.finish(process)
    outcome.faults += plan.names
    table.run_to_the_end()


def access_lost(world: World, table: Table, chance: random.Random, outcome: Outcome) -> None:
    """From some request on, all is forbidden, or the credentials have expired: exit 4, then the command again."""
    fault = chance.choice([DENIED, EXPIRED])
    world.traffic.faults = At("", fault, nth=chance.randint(20, 200), times=1e9)
    with table.driver() as process:
        process.wait(RUN_SECONDS)
        said = words_of(process)
        if process.returncode != 4 or "denied" not in said or "Traceback" in said:
            raise RuntimeError(f"the driver ended with {process.returncode}: {said[-3000:]}")
    outcome.faults.append(fault.name)
    table.run_to_the_end()


def stopped(world: World, table: Table, chance: random.Random, outcome: Outcome) -> None:
    """SIGTERM in the middle: exit 5 within 20 seconds, what was done is committed, then the command again."""
    with table.driver() as process:
        wait_until(lambda: table.num_scored() > 0 or process.poll() is not None)
        time.sleep(chance.uniform(0.0, 2.0))
        process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        process.wait(RUN_SECONDS)
        seconds = time.monotonic() - started
        if process.returncode != 5 or seconds > DRAIN_SECONDS:
            raise RuntimeError(f"ended with {process.returncode} after {seconds:.0f} s: {words_of(process)[-3000:]}")
    outcome.faults.append("SIGTERM")
    outcome.note("milliseconds to the end", round(1000 * seconds))
    table.run_to_the_end()


def everything(world: World, table: Table, chance: random.Random, outcome: Outcome) -> None:
    """Killed drivers and workers, an unreliable S3, all at once."""
    seed = chance.randrange(2**32)
    random_faults = RandomFaults(seed, slow_down=0.1, resets=0.03, truncated=0.01, broken_off_only=LOG)
    num_slices = len(world.images.pixels) // world.slice_size
    drivers_killed = []
    with (
        Reader(table) as reader,
        Killer(world.nodes.workers, every_seconds=5.0, seed=chance.randrange(2**32)) as killer,
    ):
        for _ in range(3):
            num_left = max(3, num_slices - table.num_slices_written())
            point = KillPoint(
                "slice", chance.randint(1 + num_left // 6, 1 + num_left // 3), is_after=chance.random() < 0.5
            )
            with table.driver() as process:
                plan = KillAt(point, process.kill, below=f"{table.path}/", otherwise=random_faults)
                world.traffic.faults = plan
                process.wait(RUN_SECONDS)
            if plan.is_reached:
                drivers_killed.append(time.time())
                outcome.faults.append(str(point))
        table.run_to_the_end()
        time.sleep(1.0)
    outcome.faults += killer.killed
    outcome.complaints += reader.complaints
    outcome.timeline = Timeline(reader.seen, table.scorings(), drivers_killed, killer.times)


def with_the_vae(world: World, table: Table, chance: random.Random, outcome: Outcome) -> None:
    """The VAE itself, under the faults of the line above."""
    everything(world, table, chance, outcome)


SCENARIOS: dict[str, Scenario] = {
    "driver-killed": driver_killed,
    "two-drivers": two_drivers,
    "workers-killed": workers_killed,
    "node-killed": node_killed,
    "unreliable-s3": unreliable_s3,
    "answers-lost": answers_lost,
    "access-lost": access_lost,
    "stopped": stopped,
    "everything": everything,
    "vae": with_the_vae,
}


def play(world: World, name: str, seed: int) -> Outcome:
    """One history, and how its table compares to that of a run without faults."""
    outcome = Outcome(name, seed)
    table = world.new_table()
    started = time.monotonic()
    SCENARIOS[name](world, table, random.Random(f"{name} {seed}"), outcome)
    outcome.seconds = time.monotonic() - started
    outcome.num_scored = table.num_scored()
    for rows in (table.delta_rows(), table.plain_rows()):
        outcome.compare(rows, world.expected)
        if not outcome.is_right:
            break
    return outcome


def wait_until(condition: Callable[[], bool], *, seconds: float = RUN_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.05)
