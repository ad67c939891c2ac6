"""Ray at work, and what goes wrong there in the user's terms: the sentence inside what Ray wraps around an error."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import RayError, RayTaskError

from skinvae.config import RaySettings
from skinvae.errors import JobError, SkinvaeError
from skinvae.logs import stray_output
from skinvae.pipelines.runtime import ray_session

_ADDED_BY_RAY = "\nFailed to apply UDF transform"
"""Ray Data appends advice to the words of an error, of settings that no user of ours can reach."""


@contextlib.contextmanager
def at_work(settings: RaySettings) -> Iterator[None]:
    """Ray, joined or started; what it has to say goes to stderr, what goes wrong is said in the user's terms."""
    # Ray says on stdout, which is for results, that it tries a lost task again.
    with contextlib.redirect_stdout(stray_output("ray")), ray_session(settings), user_errors():
        yield


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Re-raise the SkinvaeError that a Ray exception stems from, and lost workers as JobError.

    An exception that our own code did not foresee passes as it is: its traceback is for those who mend it.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, SkinvaeError) and not isinstance(error, RayTaskError):
            raise
        if found := _skinvae_error(error):
            sentence, _, _ = str(found).partition(_ADDED_BY_RAY)
            raise type(found)(sentence) from error
        if isinstance(error, ExecutionTimeoutError):
            raise JobError(
                "the Ray job stands still: nothing has moved for long; see that the cluster's nodes are alive and have "
                "room, then run the same command again to go on"
            ) from error
        if isinstance(error, RayError) and not isinstance(error, RayTaskError):
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise JobError(f"the Ray job failed: {lines[0]}; run the same command again to go on") from error
        raise


def _skinvae_error(error: BaseException) -> SkinvaeError | None:
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, SkinvaeError) and not isinstance(one, RayTaskError):
            return one
        waiting += [one.__cause__, one.__context__, getattr(one, "cause", None)]
    return None
