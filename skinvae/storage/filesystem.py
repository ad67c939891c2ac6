"""Local paths and s3:// URIs behind one interface: read, list, and write atomically or only if absent."""

from __future__ import annotations

import os
import posixpath
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import fsspec
import pyarrow.fs
from pydantic import BaseModel, ConfigDict, Field, model_validator

from skinvae.errors import ArchiveError, InputError, UsageError
from skinvae.images.archives import ObjectEntry
from skinvae.storage.atomic_files import create_file, replace_file
from skinvae.storage.range_file import RangeFile, open_at_once, read_span
from skinvae.storage.retries import LONGEST_PAUSE_SECONDS, MAX_ATTEMPTS, MAX_SECONDS, retry
from skinvae.storage.s3 import ArrowHandler, s3_filesystem
from skinvae.storage.storage_errors import (
    error_code,
    is_absence,
    is_precondition_failure,
    is_unfinished_write,
    source_changed,
    storage_errors,
)
from skinvae.storage.versions import ObjectInfo, listed_version, stat_version

_PRESIGNED = re.compile(r"(?i)[?&](x-amz-(signature|credential|security-token)|awsaccesskeyid|signature)=")


class StorageSettings(BaseModel):
    """How object storage is reached; endpoint and credentials come from the usual AWS_* environment and profiles."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    anonymous: bool = Field(
        default=False, description="read archives, labels and groups without credentials: for public buckets"
    )
    sse: Literal["AES256", "aws:kms"] | None = Field(
        default=None, description="server-side encryption asked for with every object that is written to S3"
    )
    sse_kms_key_id: str | None = Field(
        default=None, min_length=1, description="key id or ARN for sse = aws:kms; default: the account's own key for S3"
    )

    @model_validator(mode="after")
    def _key_fits(self) -> StorageSettings:
        if self.sse_kms_key_id is not None and self.sse != "aws:kms":
            raise ValueError("storage.sse_kms_key_id needs storage.sse=aws:kms")
        return self

    @property
    def with_credentials(self) -> StorageSettings:
        """The same for models, tables and all else of one's own, which `anonymous` is not about."""
        return self.model_copy(update={"anonymous": False})


@dataclass(frozen=True)
class Location:
    """One path or URI. `Location.parse` normalises; `/` goes to what lies below."""

    uri: str
    settings: StorageSettings

    @classmethod
    def parse(cls, uri: str, settings: StorageSettings | None = None) -> Location:
        """Raises UsageError for a scheme that is neither a local path nor s3://, and for a URI that holds a secret."""
        _refuse_secrets(uri)
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
        """The fsspec filesystem; one per process and settings."""
        if self.is_local:
            return fsspec.filesystem("file")
        encryption = {"ServerSideEncryption": self.settings.sse, "SSEKMSKeyId": self.settings.sse_kms_key_id}
        asked = tuple((name, value) for name, value in encryption.items() if value is not None)
        return s3_filesystem(anonymous=self.settings.anonymous, encryption=asked, process_id=os.getpid())

    def arrow_filesystem(self) -> tuple[Any, str]:
        """What Ray Train stores its runs in: a pyarrow FileSystem (None: the local one) and the path without scheme."""
        if self.is_local:
            return None, self.uri
        return pyarrow.fs.PyFileSystem(ArrowHandler(self.filesystem)), self.uri.removeprefix("s3://")

    def delta_options(self) -> dict[str, str]:
        """Storage options for deltalake, which reads the AWS_* environment, endpoints included, itself."""
        if self.is_local:
            return {}
        options = {
            "max_retries": str(MAX_ATTEMPTS - 1),
            "retry_timeout": f"{MAX_SECONDS:.0f}s",
            "backoff_config.max_backoff": f"{LONGEST_PAUSE_SECONDS:.0f}s",
        }
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        if endpoint.startswith("http://"):
            options["allow_http"] = "true"
        if self.settings.sse is not None:
            options["aws_server_side_encryption"] = self.settings.sse
        if self.settings.sse_kms_key_id is not None:
            options["aws_sse_kms_key_id"] = self.settings.sse_kms_key_id
        return options

    def exists(self) -> bool:
        """Whether an object, or anything below this prefix, is there."""
        with storage_errors(self, "look up"):
            return bool(self.filesystem.exists(self.uri))

    def info(self) -> ObjectInfo | None:
        """Size and version of the object here; None for a folder or prefix. Raises InputError if nothing is there."""
        with storage_errors(self, "look up"):
            found = self.filesystem.info(self.uri)
            return None if found["type"] == "directory" else ObjectInfo(found["size"], listed_version(found))

    def read_bytes(self) -> bytes:
        with storage_errors(self, "read"):
            if not self.is_local:
                return self._get_object()
            return bytes(self.filesystem.cat_file(self.uri))

    def read_version(self, version: str) -> bytes:
        """The whole object, by one request. Raises SourceChanged if it has another version, or is gone."""
        with storage_errors(self, "read", pinned=True):
            if not self.is_local:
                return self._get_object(version=version)
            with open_at_once(self.uri) as file:
                before = os.fstat(file.fileno())
                data = read_span(file, 0, before.st_size)
                after = os.fstat(file.fileno())
            if {stat_version(before), stat_version(after)} != {version}:
                raise source_changed(self.uri)
            return data

    def read_head(self, num_bytes: int) -> bytes | None:
        """The object's first bytes, all if it has fewer, by one request; None if no object is there.

        A bucket that is not there is an InputError: it hardly is the fault of one name.
        """
        if "\0" in self.uri or not (self.is_local or _is_utf8(self.uri)):  # no object can have such a name
            return None
        try:
            with storage_errors(self, "read"):
                if not self.is_local:
                    return self._get_object(byte_range=f"0-{num_bytes - 1}")
                with open_at_once(self.uri) as file:
                    return read_span(file, 0, num_bytes)
        except InputError as error:
            if is_absence(error.__cause__):
                return None
            raise

    def _get_object(self, *, byte_range: str = "0-", version: str | None = None) -> bytes:
        try:
            data: bytes = self.filesystem.get_object(self.uri, byte_range=byte_range, version=version)
        except OSError as error:
            if error_code(error) == "InvalidRange":  # of an empty object no range can be had
                return b""
            raise
        else:
            return data

    def read_tail(self, num_bytes: int) -> bytes:
        """The object's last bytes, all if it has fewer, by one request."""
        with storage_errors(self, "read"):
            if not self.is_local:
                return self._get_object(byte_range=f"-{num_bytes}")
            with open_at_once(self.uri) as file:
                size = os.fstat(file.fileno()).st_size
                return read_span(file, max(0, size - num_bytes), size)

    def resolve(self, uri: str) -> Location:
        """What a URI or path means that is written in the file here: relative ones begin at its folder.

        Raises ArchiveError where a file on S3 names a local one: who may write the former must not choose which of
        the workers' own files are opened.
        """
        is_absolute = "://" in uri or uri.startswith(("/", "~"))
        if is_absolute and not self.is_local and not uri.startswith("s3://"):
            raise ArchiveError(f"{self.uri} names {uri!r}, but a list on S3 may name only s3:// and relative URIs.")
        if is_absolute:
            return Location.parse(uri, self.settings)
        folder = self.uri.rpartition("/")[0]
        if self.is_local:
            return Location.parse(f"{folder}/{uri}", self.settings)
        if {".", ".."}.isdisjoint(uri.split("/")):
            return Location(f"{folder}/{uri}", self.settings)
        bucket, _, prefix = folder.removeprefix("s3://").partition("/")
        return Location(f"s3://{bucket}{posixpath.normpath(f'/{prefix}/{uri}')}", self.settings)

    def write_bytes(self, data: bytes) -> None:
        """Write or replace the object: readers see the old bytes or the new, never a part."""
        with storage_errors(self, "write"):
            if self.is_local:
                replace_file(self.uri, data)
            else:
                retry(lambda: self.filesystem.pipe_file(self.uri, data), is_passing=is_unfinished_write)

    def create_bytes(self, data: bytes) -> bool:
        """Write the object unless one is there already: True if it was written. Safe against other writers.

        False may mean that it was written by this very call, whose answer was lost: callers compare what is there.
        """
        with storage_errors(self, "write"):
            if self.is_local:
                return create_file(self.uri, data)
            try:
                retry(lambda: self.filesystem.pipe_file(self.uri, data, mode="create"), is_passing=is_unfinished_write)
            except OSError as error:
                if is_precondition_failure(error):
                    return False
                raise
            return True

    def list_objects(self) -> list[ObjectEntry]:
        """Every object below this folder or prefix, by name relative to it; empty if there is none."""
        root = self.uri.removeprefix("s3://").rstrip("/") + "/"
        entries = []
        with storage_errors(self, "list"):
            for path, info in self.filesystem.find(self.uri, detail=True).items():
                if path.startswith(root) and not path.endswith("/"):
                    # Another process may delete a file while this one lists.
                    with suppress(FileNotFoundError):
                        entries.append(ObjectEntry(path.removeprefix(root), info["size"], listed_version(info)))
        return entries

    def glob(self) -> dict[str, str]:
        """What matches the wildcards in this URI: path without scheme -> 'file' or 'directory'."""
        with storage_errors(self, "list"):
            found = self.filesystem.glob(self.uri, detail=True)
        return {path: info["type"] for path, info in found.items()}

    def delete(self) -> None:
        """Remove the object and everything below this prefix; nothing there is no error.

        Names are taken literally: fsspec's own recursive `rm` would expand `*`, `?` and `[` in an S3 key.
        """
        with storage_errors(self, "delete"), suppress(FileNotFoundError):
            if not self.is_local:
                # Itself last: a server on top of a file system drops a folder only once it is empty.
                for path in dict.fromkeys([*self.filesystem.find(self.uri), self.uri.removeprefix("s3://")]):
                    if "/" in path:  # not the bucket itself
                        self.filesystem.rm_file(path)
            elif os.path.isdir(self.uri) and not os.path.islink(self.uri):
                shutil.rmtree(self.uri)
            else:
                os.remove(self.uri)

    def delete_file(self) -> None:
        """Remove the object here, by one request; nothing there is no error."""
        with storage_errors(self, "delete"), suppress(FileNotFoundError):
            if self.is_local:
                os.remove(self.uri)
            else:
                self.filesystem.rm_file(self.uri)

    def open_range_reader(self, info: ObjectInfo) -> RangeFile:
        """Random access to the object as long as it has this version."""
        return RangeFile(self, info)


def _refuse_secrets(uri: str) -> None:
    """Raises UsageError, which does not repeat them."""
    authority = uri.partition("://")[2].partition("/")[0]
    if "@" in authority:
        raise UsageError(
            "a URI holds credentials, the part before '@': leave them out, and give them in the AWS_* environment"
        )
    if _PRESIGNED.search(uri):
        raise UsageError("a URI is presigned: give it as s3://BUCKET/KEY, and credentials in the AWS_* environment")


def _is_utf8(text: str) -> bool:
    """Whether the text has no lone surrogates, which stand for bytes that are no UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8") == text
