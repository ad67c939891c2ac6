"""What may go wrong between a client and S3, and plans of when it does: `Faults.decide` is asked once a request."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

Callback = Callable[["Request"], None]


@dataclass(frozen=True)
class Request:
    """What a plan knows of a request. Headers by lower-case name, without those that hold secrets."""

    ordinal: int
    """Of all requests to this proxy, from 0, in the order in which they came."""
    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """'PUT /bucket/key', what patterns are matched with."""
        return f"{self.method} {self.path}"

    @property
    def is_create(self) -> bool:
        """Whether it writes only what is not there yet."""
        return self.method in {"PUT", "POST"} and "if-none-match" in self.headers


@dataclass(frozen=True)
class Fault:
    """What is done to one exchange, in the order of the fields; by default nothing."""

    name: str = ""
    """What the record calls it."""
    before: Callback | None = None
    """Called, in a thread, before the server hears of the request."""
    delay_seconds: float = 0.0
    is_forwarded: bool = True
    """Whether the server hears of it; if not, `code` or `reset` says what the client gets."""
    after: Callback | None = None
    """Called when the server has answered and the client knows nothing of it."""
    reset: Literal["", "before", "after"] = ""
    """RST to the client before the request is forwarded, or when its answer is there."""
    code: tuple[int, str] | None = None
    """HTTP status and S3 code that the client is told instead of the server's answer."""
    truncation: Literal["", "kept", "rewritten"] = ""
    """The body of the answer ends early: with its Content-Length kept, or rewritten to what is sent."""
    kept_share: float = 0.5
    """Of a truncated body."""


NO_FAULT = Fault()
SLOW_DOWN = Fault("slow down", is_forwarded=False, code=(503, "SlowDown"))
INTERNAL_ERROR = Fault("internal error", is_forwarded=False, code=(500, "InternalError"))
RESET_BEFORE = Fault("reset before", reset="before")
RESET_AFTER = Fault("reset after", reset="after")
"""The answer is lost; the effect is not."""
BROKEN_OFF = Fault("broken off", truncation="kept")
SHORTENED = Fault("shortened", truncation="rewritten")
"""Only what is known of the object tells that the body is not whole."""
DENIED = Fault("denied", is_forwarded=False, code=(403, "AccessDenied"))
EXPIRED = Fault("expired", is_forwarded=False, code=(400, "ExpiredToken"))
EXISTS = Fault("412, not written", is_forwarded=False, code=(412, "PreconditionFailed"))
EXISTS_NOW = Fault("412, written", code=(412, "PreconditionFailed"))
"""What a client that repeats its own lost create is told."""
CONFLICT = Fault("409, not written", is_forwarded=False, code=(409, "ConditionalRequestConflict"))
CONFLICT_NOW = Fault("409, written", code=(409, "ConditionalRequestConflict"))


class Faults(Protocol):
    """A plan. The proxy asks it from one thread, once a request."""

    def decide(self, request: Request) -> Fault: ...


class NoFaults:
    """Everything passes."""

    def decide(self, request: Request) -> Fault:
        return NO_FAULT


@dataclass
class RandomFaults:
    """Each request meets each fault with a probability.

    What the n-th request of one kind (method, path, query and range) meets depends on the seed alone, not on the order
    in which clients that run at the same time ask.
    """

    seed: int
    slow_down: float = 0.0
    resets: float = 0.0
    """Half of them before the request is forwarded, half of them behind its effect."""
    truncated: float = 0.0
    """Of answers with a body; a half of them with their Content-Length rewritten, but for `broken_off_only`."""
    latency: float = 0.0
    latency_seconds: float = 2.0
    pattern: str = ""
    """Only requests whose 'METHOD /path' holds it."""
    broken_off_only: str = r"(?!)"
    """Requests whose answers are never shortened with a rewritten Content-Length: nothing could tell."""
    _seen: Counter[str] = field(default_factory=Counter)

    def decide(self, request: Request) -> Fault:
        if not re.search(self.pattern, str(request)):
            return NO_FAULT
        kind = f"{request} {request.query} {request.headers.get('range', '')}"
        self._seen[kind] += 1
        draws = random.Random(f"{self.seed} {self._seen[kind]} {kind}")
        delay = self.latency_seconds if draws.random() < self.latency else 0.0
        chosen = self._choose(draws, request)
        if not delay:
            return chosen
        name = " and ".join(one for one in (chosen.name, "latency") if one)
        return Fault(name, None, delay, chosen.is_forwarded, None, chosen.reset, chosen.code, chosen.truncation)

    def _choose(self, draws: random.Random, request: Request) -> Fault:
        point = draws.random()
        if point < self.slow_down:
            return SLOW_DOWN
        point -= self.slow_down
        if point < self.resets:
            return RESET_BEFORE if point < self.resets / 2 else RESET_AFTER
        point -= self.resets
        if request.method == "GET" and point < self.truncated:
            shortened = point < self.truncated / 2 and not re.search(self.broken_off_only, str(request))
            return SHORTENED if shortened else BROKEN_OFF
        return NO_FAULT


@dataclass
class At:
    """One fault at the n-th request, from 1, whose 'METHOD /path' holds a pattern, and `times` in a row from there.

    What else there is to meet is up to `otherwise`. With `Fault(before=..., reset="before")` a callback runs while the
    server knows nothing of the request, with `Fault(after=..., reset="after")` when its effect took place and the
    client knows nothing of that.
    """

    pattern: str
    fault: Fault
    nth: int = 1
    times: float = 1
    """`math.inf`: from the n-th on."""
    otherwise: Faults = field(default_factory=NoFaults)
    num_seen: int = 0

    def decide(self, request: Request) -> Fault:
        if re.search(self.pattern, str(request)):
            self.num_seen += 1
            if self.nth <= self.num_seen < self.nth + self.times:
                return self.fault
        return self.otherwise.decide(request)
