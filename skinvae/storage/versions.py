"""The version of an object: what changes when its bytes do."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ObjectInfo:
    """Size in bytes and version (ETag, or size and mtime) of one object."""

    num_bytes: int
    version: str


def listed_version(info: dict[str, Any]) -> str:
    """Of what an fsspec filesystem says of an object."""
    if etag := info.get("ETag"):
        return str(etag).strip('"')
    return stat_version(os.stat(info["name"]))


def stat_version(status: os.stat_result) -> str:
    """Of a local file."""
    return f"{status.st_size}-{status.st_mtime_ns}"
