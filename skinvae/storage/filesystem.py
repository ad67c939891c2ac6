"""Local paths and s3:// URIs behind one interface: read, list, and write atomically or only if absent."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import fsspec
import pyarrow.fs
from botocore.exceptions import BotoCoreError, ClientError
from pydantic import BaseModel, ConfigDict, Field
from s3fs.core import S3_RETRYABLE_ERRORS
from s3fs.utils import FileExpired

from skinvae.errors import InputError, SourceChanged, UsageError
from skinvae.images.archives import ObjectEntry
from skinvae.storage.atomic_files import create_file, replace_file


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

    def arrow_filesystem(self) -> tuple[Any, str]:
        """What Ray Train stores its runs in: a pyarrow FileSystem (None: the local one) and the path without scheme."""
        if self.is_local:
            return None, self.uri
        handler = pyarrow.fs.FSSpecHandler(self.filesystem)
        return pyarrow.fs.PyFileSystem(handler), self.uri.removeprefix("s3://")

    def delta_options(self) -> dict[str, str]:
        """Storage options for deltalake, which reads the AWS_* environment, endpoints included, itself."""
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        return {"allow_http": "true"} if endpoint.startswith("http://") and not self.is_local else {}

    def exists(self) -> bool:
        """Whether an object, or anything below this prefix, is there."""
        with _storage_errors(self, "look up"):
            return bool(self.filesystem.exists(self.uri))

    def info(self) -> ObjectInfo | None:
        """Size and version of the object here; None for a folder or prefix. Raises InputError if nothing is there."""
        with _storage_errors(self, "look up"):
            found = self.filesystem.info(self.uri)
            return None if found["type"] == "directory" else ObjectInfo(found["size"], _version(found))

    def read_bytes(self) -> bytes:
        with _storage_errors(self, "read"):
            return bytes(self.filesystem.cat_file(self.uri))

    def write_bytes(self, data: bytes) -> None:
        """Write or replace the object: readers see the old bytes or the new, never a part."""
        with _storage_errors(self, "write"):
            if self.is_local:
                replace_file(self.uri, data)
            else:
                self.filesystem.pipe_file(self.uri, data)

    def create_bytes(self, data: bytes) -> bool:
        """Write the object unless one is there already: True if it was written. Safe against other writers."""
        with _storage_errors(self, "write"):
            if self.is_local:
                return create_file(self.uri, data)
            try:
                self.filesystem.pipe_file(self.uri, data, mode="create")
            except OSError as error:
                if _is_precondition_failure(error):
                    return False
                raise
            return True

    def list_objects(self) -> list[ObjectEntry]:
        """Every object below this folder or prefix, by name relative to it; empty if there is none."""
        root = self.uri.removeprefix("s3://").rstrip("/") + "/"
        entries = []
        with _storage_errors(self, "list"):
            for path, info in self.filesystem.find(self.uri, detail=True).items():
                if path.startswith(root) and not path.endswith("/"):
                    # Another process may delete a file while this one lists.
                    with suppress(FileNotFoundError):
                        entries.append(ObjectEntry(path.removeprefix(root), info["size"], _version(info)))
        return entries

    def delete(self) -> None:
        """Remove the object and everything below this prefix; nothing there is no error.

        Names are taken literally: fsspec's own recursive `rm` would expand `*`, `?` and `[` in an S3 key.
        """
        with _storage_errors(self, "delete"), suppress(FileNotFoundError):
            if not self.is_local:
                # Itself last: a server on top of a file system drops a folder only once it is empty.
                for path in dict.fromkeys([*self.filesystem.find(self.uri), self.uri.removeprefix("s3://")]):
                    if "/" in path:  # not the bucket itself
                        self.filesystem.rm_file(path)
            elif os.path.isdir(self.uri) and not os.path.islink(self.uri):
                shutil.rmtree(self.uri)
            else:
                os.remove(self.uri)

    def open_range_reader(self, version: str) -> RangeFile:
        """Random access to the object as long as it has this version."""
        return RangeFile(self, version)


class RangeFile:
    """Ranged reads of one object, pinned to a version: a RangeReader for archives.

    Every read of an S3 object carries If-Match with the ETag that opening found, and a local file is looked at again
    after every read, so bytes of two versions never mix. Raises SourceChanged for any other version, or none.
    """

    def __init__(self, location: Location, version: str) -> None:
        self.uri = location.uri
        self._location, self._version = location, version
        self._lock = threading.Lock()  # archives read ahead in a thread of their own
        with _storage_errors(location, "open", pinned=True):
            self._file = location.filesystem.open(self.uri, "rb", cache_type="none", block_size=None)
            if not location.is_local and self._file.details["type"] == "directory":
                raise IsADirectoryError(self.uri)
            self._require_version()
        self.size = int(self._file.size)

    def read(self, start: int, stop: int) -> bytes:
        """The bytes [start, stop). Raises SourceChanged if they are no longer those of the pinned version."""
        with self._lock, _storage_errors(self._location, "read", pinned=True):
            self._file.seek(start)
            data = bytes(self._file.read(stop - start))
            self._require_version()
        if len(data) != stop - start:
            raise _source_changed(self.uri)
        return data

    def _require_version(self) -> None:
        if self._location.is_local:
            # Both: the open file may be overwritten in place, and another may take its path.
            found = {_stat_version(os.fstat(self._file.fileno())), _stat_version(os.stat(self.uri))}
        else:
            found = {_version(self._file.details)}
        if found != {self._version}:
            raise _source_changed(self.uri)


def _source_changed(uri: str, what: str = "was replaced while it was read") -> SourceChanged:
    return SourceChanged(f"source changed: '{uri}' {what}; run the command again")


def _version(info: dict[str, Any]) -> str:
    if etag := info.get("ETag"):
        return str(etag).strip('"')
    return _stat_version(os.stat(info["name"]))


def _stat_version(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_mtime_ns}"


def _is_precondition_failure(error: Exception) -> bool:
    cause = error.__cause__
    if not isinstance(cause, ClientError):
        return False
    return cause.response.get("Error", {}).get("Code") in {"PreconditionFailed", "ConditionalRequestConflict"}


@contextmanager
def _storage_errors(location: Location, action: str, *, pinned: bool = False) -> Iterator[None]:
    """Turn what the file systems raise into one sentence that says what to do.

    What is `pinned` to a version was there, so that its absence means a change.
    """
    failed = f"cannot {action} '{location}'"
    may_be_public = not location.is_local and not location.settings.anonymous and action not in {"write", "delete"}
    hint = ", or set storage.anonymous=true for a public bucket" if may_be_public else ""
    try:
        yield
    except FileNotFoundError as error:
        if pinned:
            raise _source_changed(location.uri, "is gone") from error
        raise InputError(f"{failed}: it does not exist; check the path or URI") from error
    except (IsADirectoryError, NotADirectoryError, FileExistsError) as error:
        raise InputError(f"{failed}: a file was expected where a folder is, or the reverse") from error
    except PermissionError as error:
        what = "permissions" if location.is_local else "permissions or credentials"
        raise InputError(f"{failed}: access denied; check the {what}{hint}") from error
    except BotoCoreError as error:
        raise InputError(f"{failed}: {_first_line(error)}; check the AWS_* environment{hint}") from error
    except (OSError, *S3_RETRYABLE_ERRORS) as error:
        if isinstance(error, FileExpired) or _is_precondition_failure(error):
            raise _source_changed(location.uri) from error
        what = "check the disk and the path" if location.is_local else "check the AWS_* environment (region, endpoint)"
        raise InputError(f"{failed}: {_first_line(error)}; {what}") from error


def _first_line(error: Exception) -> str:
    text = str(getattr(error, "strerror", None) or error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")
