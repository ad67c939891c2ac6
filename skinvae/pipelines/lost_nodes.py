"""Notice that nodes are gone for good, and end what waits for them.

Ray Data ties every slice that an actor was given to this actor. If its node is lost, and no other has room for it, they
wait for a node to join, which may never happen. So when nothing moves any more, the waiting actors are ended and what
they held is planned anew, for the nodes that are left. A node that joins in time gets the actors, and nothing is ended.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any

import ray

from skinvae.config import RaySettings
from skinvae.errors import UsageError
from skinvae.pipelines.nodes import alive_nodes
from skinvae.pipelines.runtime import Resources, divide_resources, has_room

PATIENCE_SECONDS = 30.0
"""Without any progress, while nodes are missing."""


class LostNodes:
    """Watches one round of a job, whose actors were planned to take `resources`."""

    def __init__(
        self,
        resources: Resources,
        *,
        run_id: str,
        settings: RaySettings,
        num_actors: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._resources = resources
        self._run_id = run_id
        self._settings = settings
        self._num_actors = num_actors
        self._clock = clock
        self._last_seen: Hashable = None
        self._moved_at = clock()

    def is_stuck(self, progress: Hashable) -> bool:
        """Nothing has changed in `progress` for long, some actors have no place, and fewer actors would have one."""
        if progress != self._last_seen:
            self._last_seen, self._moved_at = progress, self._clock()
            return False
        if self._clock() - self._moved_at < PATIENCE_SECONDS:
            return False
        self._moved_at = self._clock()
        nodes = alive_nodes()
        # More than were planned, if nodes joined.
        num_now = max(self._resources.num_actors, len(_names_of_actors(self._run_id)))
        if has_room(replace(self._resources, num_actors=num_now), nodes):
            return False
        try:
            smaller = divide_resources(nodes, device=self._settings.device, num_actors=self._num_actors)
        except UsageError:
            return False
        # Scores of one job come from one kind of device, even if the last GPU is gone.
        return smaller.device == self._resources.device


def named_actor(run_id: str) -> dict[str, Any]:
    """Ray's options for an actor of the run, by which `end_actors` finds it."""
    return {"name": f"{_prefix(run_id)}{uuid.uuid4().hex}"}


def end_actors(run_id: str) -> None:
    """For good, wherever they are or wait. The tasks they have fail, and the round with them."""
    for name in _names_of_actors(run_id):
        with contextlib.suppress(ValueError):  # it has just come to its own end
            ray.kill(ray.get_actor(name))


def _names_of_actors(run_id: str) -> list[str]:
    """Of those that work, and of those that wait for a place."""
    return [name for name in ray.util.list_named_actors() if name.startswith(_prefix(run_id))]


def _prefix(run_id: str) -> str:
    return f"skinvae-{run_id}-"
