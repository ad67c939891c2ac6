"""Find the sentence meant for the user inside what Ray wraps around an error raised in a worker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ray.exceptions import RayTaskError

from skinvae.errors import SkinvaeError


@contextmanager
def user_errors() -> Iterator[None]:
    """Re-raise the SkinvaeError that a Ray exception stems from; all other exceptions pass as they are."""
    try:
        yield
    except SkinvaeError:
        raise
    except Exception as error:
        if found := _skinvae_error(error):
            raise type(found)(str(found)) from error
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
