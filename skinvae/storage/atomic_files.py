"""Local files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


def replace_file(path: str, data: bytes) -> None:
    """Write or replace the file: readers see the old bytes or the new, never a part."""
    with _temporary_beside(path, data) as temporary:
        os.replace(temporary, path)


def create_file(path: str, data: bytes) -> bool:
    """Write the file unless there is one: True if it was written. Safe against other writers."""
    with _temporary_beside(path, data) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
    return True


@contextmanager
def _temporary_beside(path: str, data: bytes) -> Iterator[str]:
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=".writing-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_UMASK)
        yield temporary
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def _read_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


_UMASK = _read_umask()
"""mkstemp makes files that only their owner can read; tables and bundles follow the umask like any other file."""
