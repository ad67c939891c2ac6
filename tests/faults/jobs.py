"""Whole commands whose every request to S3, of the driver and of all workers, goes through a proxy."""

from __future__ import annotations

import json
import subprocess

from skinvae.config import Config
from tests.fault_proxy import Traffic
from tests.pipelines.processes import command_environment, skinvae_command


def run_command(
    traffic: Traffic, ray_address: str, *arguments: str, config: Config, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `skinvae ARGUMENTS` on the tests' Ray, in workers of its own that know the proxy and `environment`."""
    variables = {"AWS_ENDPOINT_URL": traffic.endpoint, **environment}
    joined = command_environment(ray_address) | variables | {"RAY_RUNTIME_ENV": json.dumps({"env_vars": variables})}
    command = skinvae_command(*arguments, config=config)
    return subprocess.run(command, env=joined, capture_output=True, text=True, timeout=240, check=False)
