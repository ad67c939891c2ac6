"""Which run, code and libraries made a result."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import secrets

import skinvae

_LIBRARIES = ("torch", "numpy", "simplejpeg", "pillow", "ray", "deltalake", "pyarrow")


def library_versions() -> dict[str, str]:
    """Versions of Python, skinvae and the libraries that a score passes through."""
    versions = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    return {"python": platform.python_version(), "skinvae": skinvae.__version__} | versions


def new_run_id() -> str:
    """Names one run of a job: when it began, and a few random digits."""
    now = datetime.datetime.now(datetime.timezone.utc)
    return f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
