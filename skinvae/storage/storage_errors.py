"""What the file systems and deltalake raise -> passing or not, and one sentence that says what to do."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    ProxyConnectionError,
)
from s3fs.core import S3_RETRYABLE_ERRORS
from s3fs.utils import FileExpired

from skinvae.errors import InputError, SourceChanged

if TYPE_CHECKING:
    from skinvae.storage.filesystem import Location

_NO_CONNECTION = (EndpointConnectionError, ConnectTimeoutError, ProxyConnectionError)
_PASSING_STATUS = {408, 429, 500, 502, 503, 504}
_PASSING_CODES = {"SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "IncompleteBody"}
_DENIED_CODES = {"InvalidToken", "TokenRefreshRequired", "400"}
"""Beside those that s3fs calls a PermissionError. The answer to HEAD has no room for a reason but its status."""
_SAID_OF_DENIALS = {"AccessDenied": "", "403": "", None: "", "400": " (400, as for expired credentials)"}
_DELTA_STATUS = re.compile(r"non-2xx status code\W+(\d{3})")
_DELTA_DENIED = re.compile(r"<Code>(?:ExpiredToken|InvalidToken|TokenRefreshRequired)<")
_DELTA_PASSING = re.compile(r"HTTP error|invalid list response|Json error: Truncated record")
"""Connections; answers that something on the way cut short. (Delta's log is not told how long its files are.)"""
_DELTA_CODE = re.compile(r"<Code>(\w+)</Code>")
_TERMINAL_COLOURS = re.compile(r"\x1b\[[\d;]*m")


class AnswerCutShort(ConnectionError):
    """The body of an answer ended before the bytes that its head promised."""


@contextmanager
def storage_errors(location: Location, action: str, *, pinned: bool = False) -> Iterator[None]:
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
            raise source_changed(location.uri, "is gone") from error
        raise InputError(f"{failed}: it does not exist; check the path or URI") from error
    except (IsADirectoryError, NotADirectoryError, FileExistsError) as error:
        raise InputError(f"{failed}: a file was expected where a folder is, or the reverse") from error
    except BotoCoreError as error:
        raise InputError(f"{failed}: {_first_line(error)}; check the AWS_* environment{hint}") from error
    except (OSError, *S3_RETRYABLE_ERRORS) as error:
        if is_denial(error):
            raise InputError(f"{failed}: {_denied(location, error_code(error))}{hint}") from error
        if isinstance(error, FileExpired) or is_precondition_failure(error):
            raise source_changed(location.uri) from error
        what = "check the disk and the path" if location.is_local else "check the AWS_* environment (region, endpoint)"
        raise InputError(f"{failed}: {_first_line(error)}; {what}") from error


def source_changed(uri: str, what: str = "was replaced while it was read") -> SourceChanged:
    """The error that ends the reading of an object whose version is no longer the planned one."""
    return SourceChanged(f"source changed: '{uri}' {what}; run the command again")


def error_code(error: BaseException | None) -> str | None:
    """S3's own code of what s3fs raised."""
    refusal = _refusal(error)
    return None if refusal is None else refusal.response.get("Error", {}).get("Code")


def is_precondition_failure(error: Exception) -> bool:
    """Whether a condition of the request, such as If-Match, did not hold."""
    return error_code(error) == "PreconditionFailed"


def is_denial(error: BaseException | None) -> bool:
    """Whether permissions or credentials are what is wrong."""
    return isinstance(error, PermissionError) or error_code(error) in _DENIED_CODES


def is_unfinished_write(error: Exception) -> bool:
    """Whether a write must be made anew, from its beginning, to learn what came of it.

    Another's was under way at the same time, or the answer that ended our own multipart upload was lost.
    """
    return error_code(error) in {"ConditionalRequestConflict", "NoSuchUpload"}


def is_passing(error: Exception) -> bool:
    """Whether what s3fs raised may be gone the next time."""
    if (refusal := _refusal(error)) is not None:
        status = refusal.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status in _PASSING_STATUS or error_code(error) in _PASSING_CODES
    return isinstance(error, (*_NO_CONNECTION, ConnectionError, *S3_RETRYABLE_ERRORS))


def is_passing_delta_error(error: Exception) -> bool:
    """Whether what deltalake raised may be gone the next time; its client tells it only in words."""
    text = _TERMINAL_COLOURS.sub("", str(error))
    if status := _DELTA_STATUS.search(text):
        return int(status[1]) in _PASSING_STATUS
    return bool(_DELTA_PASSING.search(text))


def delta_error_words(location: Location, error: Exception) -> str:
    """What is to be said of it behind 'cannot commit to ...: '."""
    text = _TERMINAL_COLOURS.sub("", str(error))
    status, code = _DELTA_STATUS.search(text), _DELTA_CODE.search(text)
    if isinstance(error, PermissionError) or (status and status[1] in {"401", "403"}) or _DELTA_DENIED.search(text):
        return _denied(location, code[1] if code else None)
    reasons = [line for line in (line.strip(" \t↳") for line in text.splitlines()) if line]
    # deltalake's first line is often vague: S3's code says more, or, of a connection, the line that stands last.
    detail = code[1] if code else reasons[-1] if _DELTA_PASSING.search(text) else ""
    return f"{reasons[0]}{f' ({detail})' if detail not in reasons[0] else ''}; run again"


def is_absence(error: BaseException | None) -> bool:
    """Whether no object is there; a bucket that is not there is another matter."""
    if isinstance(error, FileNotFoundError):
        return error_code(error) != "NoSuchBucket"
    if isinstance(error, IsADirectoryError | NotADirectoryError):
        return True
    return isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG


def _refusal(error: BaseException | None) -> ClientError | None:
    cause = error.__cause__ if error is not None and not isinstance(error, ClientError) else error
    return cause if isinstance(cause, ClientError) else None


def _denied(location: Location, code: str | None) -> str:
    says = _SAID_OF_DENIALS.get(code, f" ({code})")
    return f"access denied{says}; check the {'permissions' if location.is_local else 'permissions or credentials'}"


def _first_line(error: Exception) -> str:
    text = str(getattr(error, "strerror", None) or error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")
