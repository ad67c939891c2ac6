"""Commands are measured with all that they start, and leave nothing running."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest

from benchmarks import processes
from benchmarks.processes import run_command

BURN = "import time; end = time.process_time() + 0.6; data = bytearray(50 << 20)\nwhile time.process_time() < end: pass"
DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open(sys.argv[1], "w").write(str(os.getpid()))
        os.closerange(0, 3)
        time.sleep(600)
    os._exit(0)
os.wait()
while not os.path.exists(sys.argv[1]): time.sleep(0.01)
"""


def test_time_and_memory_are_those_of_children_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "LOOK_SECONDS", 0.1)
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BURN!r}], check=True); print('done')"
    usage = run_command(["-c", script])
    assert usage.output == "done\n"
    assert 0.3 < usage.cpu_seconds <= 2 * usage.seconds
    assert usage.peak_mb > 50 > usage.own_peak_mb > 0


def test_a_daemon_is_ended_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_FAREWELL_SECONDS", 0.2)
    run_command(["-c", DAEMON, str(tmp_path / "pid")])
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


def test_a_command_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match="no such luck"):
        run_command(["-c", "raise SystemExit('no such luck')"])


def test_the_start_is_in_the_clock_that_all_processes_share() -> None:
    before = time.monotonic()
    usage = run_command(["-c", "import time; print(time.monotonic())"])
    assert before <= usage.started <= float(usage.output) <= usage.started + usage.seconds
