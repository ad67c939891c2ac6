"""Find the images that kill the process which scores them: try groups, split those at which a process dies.

Pure: what a process is, and how it is started and watched, is the caller's business.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

NUM_DEATHS_ALONE = 2
"""Fresh processes that must die at an image alone: one death may be chance, such as somebody else's kill."""


@dataclass(frozen=True)
class Death:
    """How a process ended while it scored."""

    reason: str
    is_overdue: bool = False
    """A timer ended it, which is never chance."""


Attempt = Callable[[Sequence[int]], Death | None]
"""Scores a group of images; None if the process lives on. Behind a death, the next attempt has a fresh process."""


def find_killers(groups: Iterable[Sequence[int]], *, attempt: Attempt) -> dict[int, Death]:
    """Attempt all images of the groups until each is scored, or is found to kill: those, and how they did it.

    A group at which a process dies is halved. One that is overdue is taken apart at once, for every further group that
    holds the image which hangs would take the whole time again. An image is a killer if it was alone when the time ran
    out, or alone in a process that had scored nothing else, `NUM_DEATHS_ALONE` times.

    With K killers and C deaths by chance in groups of G images there are at most K * (ceil(log2(G)) + 3) + C deaths.
    """
    waiting = deque(tuple(group) for group in groups)
    num_deaths_alone: dict[int, int] = {}
    killers: dict[int, Death] = {}
    is_fresh = True
    while waiting:
        group = waiting.popleft()
        death = attempt(group)
        if death is None:
            is_fresh = False
            continue
        if len(group) > 1:
            half = 1 if death.is_overdue else (len(group) + 1) // 2
            waiting.extendleft(group[start : start + half] for start in reversed(range(0, len(group), half)))
        else:
            (image,) = group
            num_deaths_alone[image] = num_deaths_alone.get(image, 0) + is_fresh
            if death.is_overdue or num_deaths_alone[image] == NUM_DEATHS_ALONE:
                killers[image] = death
            else:
                waiting.appendleft(group)
        is_fresh = True
    return killers
