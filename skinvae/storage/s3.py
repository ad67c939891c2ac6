"""What s3fs does not offer as it is: patience, one client for all threads, and an object, or a part of it, whole."""

from __future__ import annotations

import functools
import io
import re
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.fs
from fsspec.asyn import sync, sync_wrapper
from s3fs import S3FileSystem
from s3fs.utils import FileExpired

from skinvae.storage.retries import retry_async
from skinvae.storage.storage_errors import AnswerCutShort, is_passing

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/")


class PatientS3(S3FileSystem):  # type: ignore[misc]  # s3fs has no types
    """s3fs that tries again by our policy alone: neither s3fs nor botocore add their own attempts to it.

    (aiohttp, below both, repeats a request once whose connection was lost, and nothing can forbid it: a create may be
    refused because it succeeded. What cannot be told apart must be looked at: see `Location.create_bytes`.)
    """

    retries = 1

    async def _call_s3(self, method: str, *arguments: Any, **options: Any) -> Any:
        call = functools.partial(super()._call_s3, method, *arguments, **options)
        return await retry_async(call, is_passing=is_passing)

    call_s3 = sync_wrapper(_call_s3)  # s3fs binds its own when the class is made, and opened files call that

    def get_object(self, uri: str, *, byte_range: str = "0-", version: str | None = None) -> bytes:
        """Bytes of an object by one request, all that the server promised; s3fs' own ways look it up first.

        A range is always asked for, since only its answer says in two places how long it is: so a body is noticed that
        something on the way cut short. Raises FileExpired if the object has another version than `version`.
        """
        data: bytes = sync(self.loop, self._get_object, uri, byte_range, version)
        return data

    async def _get_object(self, uri: str, byte_range: str, version: str | None) -> bytes:
        bucket, key, _ = self.split_path(uri)
        conditions = {"Range": f"bytes={byte_range}"} | ({"IfMatch": f'"{version}"'} if version is not None else {})
        ask = functools.partial(super()._call_s3, "get_object", Bucket=bucket, Key=key, **conditions)

        async def attempt() -> bytes:
            response = await ask()
            try:
                data: bytes = await response["Body"].read()
            finally:
                response["Body"].close()
            if version is not None and response.get("ETag", version).strip('"') != version:
                raise FileExpired(uri, version)
            if len(data) != _num_bytes_promised(response):
                raise AnswerCutShort(f"only {len(data):,} of {_num_bytes_promised(response):,} bytes came")
            return data

        return await retry_async(attempt, is_passing=is_passing)


@lru_cache
def s3_filesystem(*, anonymous: bool, encryption: tuple[tuple[str, str], ...], process_id: int) -> PatientS3:
    """Shared by all threads, which fsspec's own cache is not: each client takes 0.1 s to make, and connects anew.

    `encryption` goes with every request that makes an object.
    """
    return PatientS3(
        anon=anonymous,
        # Listings are not cached: other processes write below the same prefixes.
        use_listings_cache=False,
        config_kwargs={"retries": {"total_max_attempts": 1, "mode": "standard"}},
        s3_additional_kwargs=dict(encryption),
        skip_instance_cache=True,
    )


class ArrowHandler(pyarrow.fs.FSSpecHandler):  # type: ignore[misc]  # pyarrow has no types
    """What pyarrow reads and writes S3 by. Objects are read whole: an open file of s3fs would not bear a reset."""

    def open_input_stream(self, path: str) -> Any:
        return self.open_input_file(path)

    def open_input_file(self, path: str) -> Any:
        return pa.PythonFile(io.BytesIO(self.fs.get_object(path)), mode="r")


def _num_bytes_promised(response: dict[str, Any]) -> int:
    if found := _CONTENT_RANGE.match(response.get("ContentRange", "")):
        return int(found[2]) - int(found[1]) + 1
    return int(response["ContentLength"])
