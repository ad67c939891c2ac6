"""Run the skinvae command as users do: in a process of its own, which tests may kill."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

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
