"""The command that asks Ray's autoscaler for nodes around another one; its clusters have what they will ever have."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from ray.autoscaler._private.constants import AUTOSCALER_RESOURCE_REQUEST_CHANNEL
from ray.experimental.internal_kv import _internal_kv_get

from tests.pipelines.processes import command_environment, wait_for

WITH_NODES = str(Path(__file__).parents[2] / "deploy/autoscaler/with_nodes.py")


def start(cluster: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, WITH_NODES, *arguments],
        env=command_environment(cluster),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def asked_for() -> Any:
    """What the autoscaler is to hold ready."""
    return json.loads(_internal_kv_get(AUTOSCALER_RESOURCE_REQUEST_CHANNEL) or "[]")


def test_nodes_are_asked_for_while_the_command_runs_which_ends_by_itself_when_stopped(
    ray_cluster: str, tmp_path: Path
) -> None:
    script = (
        "import pathlib, signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(__import__('os').getpid()))\n"
        "signal.pause()"
    )
    process = start(ray_cluster, "--cpus", "2", "--", sys.executable, "-c", script)
    wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), process)
    assert [bundle.get("resources", bundle) for bundle in asked_for()] == [{"CPU": 1}] * 2
    # As `ray job stop` does: the signal reaches both.
    process.send_signal(signal.SIGTERM)
    subprocess.run(["kill", (tmp_path / "pid").read_text()], check=True)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 5, stderr
    assert "0 of 0 GPUs and" in stderr
    assert asked_for() == []


def test_nodes_that_never_come_end_the_command_with_a_sentence(ray_cluster: str) -> None:
    process = start(ray_cluster, "--gpus", "1", "--minutes", "0", "--", sys.executable, "-c", "print('ran')")
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert stdout == ""
    assert stderr.splitlines()[-1].startswith("no node with a GPU came within 0 minutes: `ray status`")
    assert asked_for() == []


def test_it_can_be_stopped_while_it_waits(ray_cluster: str) -> None:
    process = start(ray_cluster, "--cpus", "1000", "--", sys.executable, "-c", "print('ran')")
    wait_for(lambda: len(asked_for()) == 1000, process)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 5, stderr
    assert stdout == ""
    assert stderr.splitlines()[-1] == "stopped while it waited for nodes; the command has not run"
    assert asked_for() == []
