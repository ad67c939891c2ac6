"""Which code and libraries made a result."""

from __future__ import annotations

import importlib.metadata
import platform

import skinvae

_LIBRARIES = ("torch", "numpy", "simplejpeg", "pillow", "ray", "deltalake", "pyarrow")


def library_versions() -> dict[str, str]:
    """Versions of Python, skinvae and the libraries that a score passes through."""
    versions = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    return {"python": platform.python_version(), "skinvae": skinvae.__version__} | versions
