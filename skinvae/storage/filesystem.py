"""Local paths and s3:// URIs behind one interface: read, list, and write atomically or only if absent."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import fsspec
from botocore.exceptions import BotoCoreError, ClientError
from pydantic import BaseModel, ConfigDict, Field
from s3fs.utils import FileExpired

from skinvae.errors import InputError, SourceChanged, UsageError
from skinvae.images.archives import ObjectEntry


class StorageSettings(BaseModel):
    """How object storage is reached; endpoint and credentials come from the usual AWS_* environment and profiles."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    anonymous: bool = Field(
        default=False, description="read archives, labels and groups without credentials: for public buckets"
    )


@dataclass(frozen=True)
class ObjectInfo:
    """Size in bytes and version (ETag, or size and mtime) of one object."""

    num_bytes: int
    version: str


@dataclass(frozen=True)
class Location:
    """One path or URI. `Location.parse` normalises; `/` goes to what lies below."""

    uri: str
    settings: StorageSettings

    @classmethod
    def parse(cls, uri: str, settings: StorageSettings | None = None) -> Location:
        """Raises UsageError for a scheme that is neither a local path nor s3://."""
        scheme, separator, rest = uri.partition("://")
        if not separator or scheme == "file":
            uri = os.path.abspath(os.path.expanduser(rest if separator else uri))
        elif scheme != "s3":
            raise UsageError(f"'{uri}' has the unknown scheme '{scheme}': use a local path or s3://BUCKET/KEY")
        elif not rest.strip("/"):
            raise UsageError(f"'{uri}' names no bucket: use s3://BUCKET/KEY")
        return cls(uri.rstrip("/") or "/", settings or StorageSettings())

    def __truediv__(self, name: str) -> Location:
        return Location(f"{self.uri}/{name}", self.settings)

    def __str__(self) -> str:
        return self.uri

    @property
    def is_local(self) -> bool:
        return not self.uri.startswith("s3://")

    @property
    def name(self) -> str:
        """The last component of the URI."""
        return self.uri.rsplit("/", 1)[-1]

    @cached_property
    def filesystem(self) -> Any:
        """The fsspec filesystem; fsspec keeps one per process and settings."""
        if self.is_local:
            return fsspec.filesystem("file")
        # Listings are not cached: other processes write below the same prefixes.
        return fsspec.filesystem("s3", anon=self.settings.anonymous, use_listings_cache=False)

    def delta_options(self) -> dict[str, str]:
        """Storage options for deltalake, which reads the AWS_* environment itself."""
        if self.is_local:
            return {}
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        options = {"aws_skip_signature": "true"} if self.settings.anonymous else {}
        return options | ({"allow_http": "true"} if endpoint.startswith("http://") else {})

    def exists(self) -> bool:
        """Whether an object, or anything below this prefix, is there."""
        with _storage_errors(self.uri, "look up"):
            return bool(self.filesystem.exists(self.uri))

    def info(self) -> ObjectInfo | None:
        """Size and version of the object here; None for a folder or prefix. Raises InputError if nothing is there."""
        with _storage_errors(self.uri, "look up"):
            found = self.filesystem.info(self.uri)
            return None if found["type"] == "directory" else ObjectInfo(found["size"], _version(found))

    def read_bytes(self) -> bytes:
        with _storage_errors(self.uri, "read"):
            return bytes(self.filesystem.cat_file(self.uri))

    def write_bytes(self, data: bytes) -> None:
        """Write or replace the object: readers see the old bytes or the new, never a part."""
        with _storage_errors(self.uri, "write"):
            if self.is_local:
                with _temporary_beside(self.uri, data) as temporary:
                    os.replace(temporary, self.uri)
            else:
                self.filesystem.pipe_file(self.uri, data)

    def create_bytes(self, data: bytes) -> bool:
        """Write the object unless one is there already: True if it was written. Safe against other writers."""
        with _storage_errors(self.uri, "write"):
            if self.is_local:
                return _link_if_absent(self.uri, data)
            try:
                self.filesystem.pipe_file(self.uri, data, mode="create")
            except OSError as error:
                if _is_precondition_failure(error):
                    return False
                raise
            return True

    def list_objects(self) -> list[ObjectEntry]:
        """Every object below this folder or prefix, by name relative to it; empty if there is none."""
        with _storage_errors(self.uri, "list"):
            found = self.filesystem.find(self.uri, detail=True)
        root = self.uri.removeprefix("s3://").rstrip("/") + "/"
        entries = []
        for path, info in found.items():
            if path.startswith(root) and not path.endswith("/"):
                # Another process may delete a file while this one lists.
                with suppress(FileNotFoundError):
                    entries.append(ObjectEntry(path.removeprefix(root), info["size"], _version(info)))
        return entries

    def delete(self) -> None:
        """Remove the object, or everything below this prefix; nothing there is no error."""
        with _storage_errors(self.uri, "delete"), suppress(FileNotFoundError):
            self.filesystem.rm(self.uri, recursive=True)

    def open_range_reader(self, version: str) -> RangeFile:
        """Random access to the object as long as it has this version."""
        return RangeFile(self, version)


class RangeFile:
    """Ranged reads of one object, pinned to a version: a RangeReader for archives.

    Every read of an S3 object carries If-Match, so bytes of two versions never mix.
    """

    def __init__(self, location: Location, version: str) -> None:
        self.uri = location.uri
        info = location.info()
        if info is None:
            raise InputError(f"'{self.uri}' is a folder, not a file")
        if info.version != version:
            raise _source_changed(self.uri)
        self.size = info.num_bytes
        self._lock = threading.Lock()  # archives read ahead in a thread of their own
        with _storage_errors(self.uri, "open"):
            self._file = location.filesystem.open(self.uri, "rb", cache_type="none", block_size=None)

    def read(self, start: int, stop: int) -> bytes:
        """The bytes [start, stop). Raises SourceChanged if they are no longer those of the pinned version."""
        with self._lock, _storage_errors(self.uri, "read"):
            self._file.seek(start)
            data = bytes(self._file.read(stop - start))
        if len(data) != stop - start:
            raise _source_changed(self.uri)
        return data


def _source_changed(uri: str) -> SourceChanged:
    return SourceChanged(f"source changed: '{uri}' was replaced while it was read; run the command again")


def _version(info: dict[str, Any]) -> str:
    if etag := info.get("ETag"):
        return str(etag).strip('"')
    return f"{info['size']}-{os.stat(info['name']).st_mtime_ns}"


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


def _link_if_absent(path: str, data: bytes) -> bool:
    with _temporary_beside(path, data) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
    return True


def _is_precondition_failure(error: OSError) -> bool:
    cause = error.__cause__
    if not isinstance(cause, ClientError):
        return False
    return cause.response.get("Error", {}).get("Code") in {"PreconditionFailed", "ConditionalRequestConflict"}


@contextmanager
def _storage_errors(uri: str, action: str) -> Iterator[None]:
    """Turn what the file systems raise into one sentence that says what to do."""
    try:
        yield
    except FileExpired as error:
        raise _source_changed(uri) from error
    except FileNotFoundError as error:
        raise InputError(f"cannot {action} '{uri}': it does not exist; check the path or URI") from error
    except (IsADirectoryError, NotADirectoryError) as error:
        raise InputError(f"cannot {action} '{uri}': a file was expected where a folder is, or the reverse") from error
    except PermissionError as error:
        raise InputError(
            f"cannot {action} '{uri}': access denied; check the permissions or credentials, "
            "or set storage.anonymous=true for a public bucket"
        ) from error
    except BotoCoreError as error:
        raise InputError(
            f"cannot {action} '{uri}': {error}; check the AWS_* environment, "
            "or set storage.anonymous=true for a public bucket"
        ) from error
