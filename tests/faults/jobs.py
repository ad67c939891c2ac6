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
    # What `ray job submit` hands over; the workers that run already know another endpoint.
    job_config = {"RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps({"runtime_env": {"env_vars": variables}})}
    joined = command_environment(ray_address) | variables | job_config
    command = skinvae_command(*arguments, config=config)
    return subprocess.run(command, env=joined, capture_output=True, text=True, timeout=240, check=False)
