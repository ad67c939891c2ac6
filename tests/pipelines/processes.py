"""Run the skinvae command as users do: in a process of its own, which tests may kill."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skinvae.config import Config, render_toml


def skinvae_command(*arguments: str, config: Config | None = None) -> list[str]:
    """The command line; `config` is handed over as a file."""
    command = [str(Path(sys.executable).parent / "skinvae"), *arguments]
    if config is not None:
        file = Path(tempfile.mkdtemp()) / "config.toml"
        file.write_text(render_toml(config))
        command += ["--config", str(file)]
    return command


def command_environment(ray_address: str | None = None) -> dict[str, str]:
    """This process's environment, joined to the tests' Ray or, without an address, free to start its own."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return environment | ({"RAY_ADDRESS": ray_address} if ray_address else {})


def wait_for(condition: Callable[[], object], process: subprocess.Popen[Any]) -> None:
    """Until the condition holds; fails with what the process last said if it ends before."""
    deadline = time.monotonic() + 120
    while not condition():
        if process.poll() is not None:
            if process.stderr is not None and process.stderr.seekable():
                process.stderr.seek(0)  # a file that the process wrote to
            pytest.fail(f"the process ended with {process.returncode}:\n{process.stderr and process.stderr.read()}")
        assert time.monotonic() < deadline, "the awaited state did not come about"
        time.sleep(0.02)
