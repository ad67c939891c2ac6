"""Run a command once the autoscaler has brought the nodes that it needs, and release them when it has ended.

    python deploy/autoscaler/with_nodes.py --gpus 4 --cpus 48 -- python jobs/score.py ...

skinvae shares out the nodes that are there when a job starts, so they have to be there first. Run without a command, it
releases what a killed run still holds.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from types import FrameType

import ray
from ray.autoscaler.sdk import request_resources

SECONDS_BETWEEN_LOOKS = 5.0
INTERRUPTED = 5
"""As skinvae's own exit code."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, default=0, help="each with one CPU beside it")
    parser.add_argument("--cpus", type=int, default=0, help="for decoding, beside those")
    parser.add_argument("--minutes", type=float, default=20.0, help="how long to wait for the nodes")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="after --")
    asked = parser.parse_args()
    command = asked.command[1:] if asked.command[:1] == ["--"] else asked.command
    ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), log_to_driver=False, logging_level=logging.ERROR)
    try:
        _on_stop(_interrupt)
        request_resources(bundles=[{"GPU": 1, "CPU": 1}] * asked.gpus + [{"CPU": 1}] * asked.cpus)
        if not command:
            return 0
        num_gpus, num_cpus = _wait_for(asked.gpus, asked.cpus, seconds=60 * asked.minutes)
        if (asked.gpus and not num_gpus) or not num_cpus:
            print(
                f"no node with a {'GPU' if asked.gpus else 'CPU'} came within {asked.minutes:g} minutes: `ray status` "
                "says what the autoscaler tried; raise --minutes, or the node types' max_workers",
                file=sys.stderr,
            )
            return 1
        print(f"{num_gpus:g} of {asked.gpus} GPUs and {num_cpus:g} CPUs are here", file=sys.stderr)
        # `ray job stop` signals this process and the command alike: the command ends, and then this does.
        _on_stop(_wait_on)
        code = subprocess.call(command)
        return code if code >= 0 else 128 - code
    except KeyboardInterrupt:
        print("stopped while it waited for nodes; the command has not run", file=sys.stderr)
        return INTERRUPTED
    finally:
        _on_stop(_wait_on)
        request_resources(bundles=[])
        ray.shutdown()


def _wait_for(num_gpus: int, num_cpus: int, *, seconds: float) -> tuple[float, float]:
    """GPUs and CPUs of the cluster when it has as many as were asked for, or when the time is over."""
    until = time.monotonic() + seconds
    while True:
        there = ray.cluster_resources()  # type: ignore[no-untyped-call]  # Ray's omission
        gpus, cpus = there.get("GPU", 0.0), there.get("CPU", 0.0)
        if (gpus >= num_gpus and cpus >= num_gpus + num_cpus) or time.monotonic() >= until:
            return gpus, cpus
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _on_stop(handler: Callable[[int, FrameType | None], None]) -> None:
    """In the place of Ray's own handler, installed by init, which would end this process at once."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _wait_on(number: int, frame: FrameType | None) -> None:
    """The command has got the signal, too."""


if __name__ == "__main__":
    sys.exit(main())
