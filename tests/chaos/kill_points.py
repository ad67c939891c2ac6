"""Where a driver is killed: at the n-th request of one kind, before the server hears of it or behind its effect."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.faults_to_inject import NO_FAULT, Fault, Faults, NoFaults, Request

KINDS = {
    "slice": r"^PUT .*/_slices/",
    "commit": r"^PUT .*/_delta_log/\d+\.json",
    "part": r"^PUT .*/part-",
    "swap": r"^PUT .*/_delta_log/\d+\.json",
    "clean": r"^DELETE ",
    "record": r"^PUT .*/_skinvae/",
    "read": r"^(GET|HEAD) ",
}
"""What the n-th request matches. The swap is the first commit behind a part."""

_AT_WORK = {"slice": 8, "commit": 6, "record": 1, "read": 2}
_AT_THE_END = {"part": 2, "swap": 3, "clean": 1}
"""Kinds with their weights."""

_SLICES_PER_COMMIT = 20


@dataclass(frozen=True)
class KillPoint:
    """One moment of a driver's life."""

    kind: str
    nth: int
    """From 1, of the requests of this kind that this run makes."""
    is_after: bool
    """Whether the server has carried the request out."""

    def __str__(self) -> str:
        return f"{'behind' if self.is_after else 'before'} {self.kind} {self.nth}"


def choose_point(chance: random.Random, *, num_slices_left: int) -> KillPoint:
    """A point that a run with so much left to do will reach, and that leaves something for the next one."""
    weights = _AT_WORK if num_slices_left else _AT_THE_END
    kind = chance.choices(list(weights), weights=list(weights.values()))[0]
    last = {"slice": num_slices_left // 3, "commit": num_slices_left // 3 // _SLICES_PER_COMMIT, "read": 20}.get(
        kind, 1
    )
    return KillPoint(kind, chance.randint(1, max(1, last)), is_after=chance.random() < 0.5)


@dataclass
class KillAt:
    """A plan of faults: calls `kill` at the point, once, and lets everything else pass on to `otherwise`."""

    point: KillPoint
    kill: Callable[[], None]
    below: str
    """Only requests whose path begins with this count."""
    otherwise: Faults = field(default_factory=NoFaults)
    is_reached: bool = False
    _num_seen: int = 0
    _has_parts: bool = False

    def decide(self, request: Request) -> Fault:
        if not self.is_reached and request.path.startswith(self.below) and self._counts(request):
            self._num_seen += 1
            if self._num_seen == self.point.nth:
                self.is_reached = True
                return self._fault()
        return NO_FAULT if self.is_reached else self.otherwise.decide(request)

    def _counts(self, request: Request) -> bool:
        self._has_parts |= bool(re.search(KINDS["part"], str(request)))
        if self.point.kind == "swap" and not self._has_parts:
            return False
        return bool(re.search(KINDS[self.point.kind], str(request)))

    def _fault(self) -> Fault:
        def kill(_: Request) -> None:
            self.kill()

        name = f"driver killed {self.point}"
        if self.point.is_after:
            return Fault(name, after=kill, reset="after")
        return Fault(name, before=kill, reset="before")
