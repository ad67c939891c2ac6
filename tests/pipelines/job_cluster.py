"""A Ray cluster as platform teams run it, on this machine: a head with the job server, and nodes that do the work.

Its processes know nothing of the S3 server: what a job needs for that has to come with the job.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.pipelines.processes import command_environment, wait_for

RAY = str(Path(sys.executable).parent / "ray")
REPOSITORY = Path(__file__).parents[2]
_TOKEN = secrets.token_hex(32)
AUTHORIZATION = {"Authorization": f"Bearer {_TOKEN}"}


@dataclass(frozen=True)
class JobCluster:
    """A running cluster."""

    address: str
    """Of the job server."""
    nodes: dict[str, psutil.Process]
    """`ray start` of each node, by name: head, decode, gpu."""

    def work_on(self, node: str) -> set[str]:
        """What Ray's workers on a node do right now, by their titles: ray::ScoreStage and the like; the idle do not."""
        titles = set()
        for process in self.nodes[node].children(recursive=True):
            try:
                title = " ".join(process.cmdline()).strip()
            except psutil.Error:
                continue
            if title.startswith("ray::") and not title.startswith("ray::IDLE"):
                titles.add(title)
        return titles


def environment() -> dict[str, str]:
    """`python` is this one; both sides hold the token that Ray's servers ask for; nothing leads to the S3 server."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    without_s3 = {name: value for name, value in command_environment().items() if not name.startswith("AWS_")}
    return without_s3 | {"PATH": path, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": _TOKEN}


@contextmanager
def job_cluster() -> Iterator[JobCluster]:
    """A head without CPUs for tasks, a node that decodes, and a node with a GPU in name, all asking for a token."""
    gcs, dashboard, client = _free_port(), _free_port(), _free_port()
    head = [
        "--head", "--num-cpus=0", "--disable-usage-stats",
        f"--port={gcs}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}",
    ]  # fmt: skip
    address = f"http://127.0.0.1:{dashboard}"
    with ExitStack() as stack:
        # A stopped job gets as long as this to commit what is done; Ray's own default is 3 s.
        processes = {"head": stack.enter_context(_node(*head, RAY_JOB_STOP_WAIT_TIME_S="30"))}
        wait_for(lambda: _answers(f"{address}/api/version"), processes["head"])
        join = f"--address=127.0.0.1:{gcs}"
        # One after the other: nodes that start at the same time on one machine reach for the same ports.
        for name, offers in {"decode": ["--num-cpus=2"], "gpu": ["--num-cpus=1", "--num-gpus=1"]}.items():
            processes[name] = stack.enter_context(_node(join, *offers))
            num_nodes = len(processes)
            wait_for(lambda: _num_nodes(f"127.0.0.1:{gcs}") == num_nodes, processes[name])  # noqa: B023
        yield JobCluster(address, {name: psutil.Process(one.pid) for name, one in processes.items()})


@contextmanager
def _node(*arguments: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    command = [RAY, "start", "--block", "--node-ip-address=127.0.0.1", "--dashboard-agent-listen-port=0", *arguments]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, env=environment() | variables, stdout=said, stderr=subprocess.STDOUT)
        process.stderr = said  # what `wait_for` shows of a process that ended early
        try:
            yield process
        finally:
            # `ray start --block` leaves its servers behind when it is stopped.
            with contextlib.suppress(psutil.NoSuchProcess):
                for one in psutil.Process(process.pid).children(recursive=True):
                    one.kill()
            process.kill()
            process.wait(timeout=60)


def _num_nodes(address: str) -> int:
    listed = subprocess.run(
        [RAY, "list", "nodes", "--filter", "state=ALIVE", "--format=json", "--address", address],
        env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    return listed.stdout.count('"node_id"')


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(url: str) -> bool:
    request = urllib.request.Request(url, headers=AUTHORIZATION)
    try:
        with urllib.request.urlopen(request, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False
