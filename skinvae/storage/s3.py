"""What s3fs does not offer as it is: one client for all threads, and an object, or a part of it, by one request."""

from __future__ import annotations

import asyncio
from functools import lru_cache
from typing import Any

import fsspec
from fsspec.asyn import sync
from s3fs.core import S3_RETRYABLE_ERRORS


def get_object(filesystem: Any, uri: str, **conditions: str) -> bytes:
    """One GET, as often as the network needs. s3fs' own ways to an object look it up first."""
    bucket, key, _ = filesystem.split_path(uri)
    return bytes(sync(filesystem.loop, _get_object, filesystem, Bucket=bucket, Key=key, **conditions))


@lru_cache
def s3_filesystem(*, anonymous: bool, process_id: int) -> Any:
    """Shared by all threads, which fsspec's own cache is not: each client takes 0.1 s to make, and connects anew."""
    # Listings are not cached: other processes write below the same prefixes.
    return fsspec.filesystem("s3", anon=anonymous, use_listings_cache=False)


async def _get_object(filesystem: Any, **arguments: str) -> bytes:
    for attempt in range(filesystem.retries):
        response = await filesystem._call_s3("get_object", **arguments)
        try:
            data: bytes = await response["Body"].read()
        except S3_RETRYABLE_ERRORS:  # the connection broke off inside the body, which s3fs does not retry here
            if attempt + 1 == filesystem.retries:
                raise
            await asyncio.sleep(min(1.7**attempt * 0.1, 15))
        else:
            return data
        finally:
            response["Body"].close()
    raise AssertionError("s3fs has no retries")
