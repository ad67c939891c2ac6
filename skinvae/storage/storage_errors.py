"""What the file systems raise -> one sentence that says what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError
from s3fs.core import S3_RETRYABLE_ERRORS
from s3fs.utils import FileExpired

from skinvae.errors import InputError, SourceChanged

if TYPE_CHECKING:
    from skinvae.storage.filesystem import Location


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
    except PermissionError as error:
        what = "permissions" if location.is_local else "permissions or credentials"
        raise InputError(f"{failed}: access denied; check the {what}{hint}") from error
    except BotoCoreError as error:
        raise InputError(f"{failed}: {_first_line(error)}; check the AWS_* environment{hint}") from error
    except (OSError, *S3_RETRYABLE_ERRORS) as error:
        if isinstance(error, FileExpired) or is_precondition_failure(error):
            raise source_changed(location.uri) from error
        what = "check the disk and the path" if location.is_local else "check the AWS_* environment (region, endpoint)"
        raise InputError(f"{failed}: {_first_line(error)}; {what}") from error


def source_changed(uri: str, what: str = "was replaced while it was read") -> SourceChanged:
    """The error that ends the reading of an object whose version is no longer the planned one."""
    return SourceChanged(f"source changed: '{uri}' {what}; run the command again")


def error_code(error: BaseException | None) -> str | None:
    """S3's own code of what s3fs raised."""
    cause = error.__cause__ if error is not None else None
    return cause.response.get("Error", {}).get("Code") if isinstance(cause, ClientError) else None


def is_precondition_failure(error: Exception) -> bool:
    """Whether a condition of the request, such as If-Match, did not hold."""
    return error_code(error) in {"PreconditionFailed", "ConditionalRequestConflict"}


def is_absence(error: BaseException | None) -> bool:
    """Whether no object is there; a bucket that is not there is another matter."""
    if isinstance(error, FileNotFoundError):
        return error_code(error) != "NoSuchBucket"
    if isinstance(error, IsADirectoryError | NotADirectoryError):
        return True
    return isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG


def _first_line(error: Exception) -> str:
    text = str(getattr(error, "strerror", None) or error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")
