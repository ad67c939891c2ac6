"""`ray job submit` on a real cluster: the job joins it, and its log is the command's."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pandas as pd
import psutil
import pytest

from tests.conftest import ArchiveFiles
from tests.pipelines.processes import command_environment, wait_for

REPOSITORY = Path(__file__).parents[2]
_TOKEN = secrets.token_hex(32)
RAY = str(Path(sys.executable).parent / "ray")


@pytest.fixture
def job_server() -> Iterator[str]:
    """A cluster of one node with its job server; its address."""
    port, client_port = _free_port(), _free_port()
    command = [
        RAY, "start", "--head", "--block", "--port=0", "--num-cpus=3", "--node-ip-address=127.0.0.1",
        f"--dashboard-port={port}", "--dashboard-agent-listen-port=0", f"--ray-client-server-port={client_port}",
        "--disable-usage-stats",
    ]  # fmt: skip
    process = subprocess.Popen(command, env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: _answers(f"{address}/api/version"), process)
        yield address
    finally:
        # `ray start --block` leaves its servers behind when it is stopped.
        for one in [*psutil.Process(process.pid).children(recursive=True), process]:
            one.kill()
        process.wait(timeout=60)


def test_a_submitted_job_scores_on_the_cluster(
    job_server: str, model: str, archive: ArchiveFiles, tmp_path: Path
) -> None:
    table = f"{tmp_path}/scores"
    environment = {"SKINVAE_SCORE__SLICE_SIZE": "16", "OMP_NUM_THREADS": "1"}
    command = [
        RAY, "job", "submit", "--address", job_server, "--working-dir", str(REPOSITORY),
        "--runtime-env-json", json.dumps({"env_vars": environment}),
        "--", "python", "jobs/score.py", archive.zip, "--model", model, "--table", table,
    ]  # fmt: skip
    finished = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "106 images scored, 0 rejected" in finished.stdout
    rows = pd.read_parquet(table)
    assert sorted(rows["member"]) == sorted(archive.members())
    assert rows["slice_id"].nunique() == 7, "108 members in slices of 16: the environment reached the job"


def _environment() -> dict[str, str]:
    """`python` is this one, and both sides hold the token that Ray's servers ask for."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return command_environment() | {"PATH": path, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": _TOKEN}


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(url: str) -> bool:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {_TOKEN}"})
    try:
        with urllib.request.urlopen(request, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False
