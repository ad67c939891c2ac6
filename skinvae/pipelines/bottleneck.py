"""What a job was bound by, by plain thresholds on what its workers and its driver spent, and what helps."""

from __future__ import annotations

from enum import Enum

from skinvae.pipelines.stage_times import Stage
from skinvae.pipelines.usage import Usage

MAX_STILL_SHARE = 0.2
"""Actors that stand still for less of their time are the bottleneck: without it the job were 1.25 times as fast."""

MIN_BUSY_SHARE = 0.5
"""Tasks that are busy for less of the actors' time are not what these wait for."""

MOST = 0.5
"""A share of the run beside which all else is secondary."""


class Bottleneck(str, Enum):
    """What a job would be faster with more of, or with less of."""

    SCORING = "scoring"
    DECODING = "decoding"
    READING = "reading"
    WRITING = "writing"
    COMMITTING = "committing"
    FEEDING = "feeding"
    """Actors wait though nobody else is busy."""


_OF_STAGE = {
    Stage.READ: Bottleneck.READING,
    Stage.STREAM: Bottleneck.READING,
    Stage.DECODE: Bottleneck.DECODING,
    Stage.WRITE: Bottleneck.WRITING,
}


def bottleneck_of(usage: Usage) -> Bottleneck | None:
    """None where there was nothing to do."""
    if not usage.num_images or not usage.run_seconds:
        return None
    if usage.of(Stage.COMMIT, Stage.SWAP) / usage.run_seconds >= MOST:
        return Bottleneck.COMMITTING
    if not usage.num_actors:
        return _largest(usage, *_OF_STAGE)
    if still_share(usage) < MAX_STILL_SHARE:
        return Bottleneck.SCORING
    return _of_still_actors(usage)


def _of_still_actors(usage: Usage) -> Bottleneck:
    if usage.of(Stage.HELD) > usage.of(Stage.WAIT):
        return Bottleneck.WRITING
    if max(reading_share(usage), decoding_share(usage)) < MIN_BUSY_SHARE:
        return Bottleneck.FEEDING
    if reading_share(usage) > decoding_share(usage):
        return Bottleneck.READING
    return _largest(usage, Stage.READ, Stage.DECODE)


def still_share(usage: Usage) -> float:
    """Of the actors' time, less that of loading the model: in which nothing is scored."""
    still = usage.of(Stage.WAIT, Stage.HELD)
    return still / (still + usage.of(Stage.SCORE)) if still else 0.0


def decoding_share(usage: Usage) -> float:
    """How busy decoding tasks were, measured by the time that the actors had; at most 1."""
    return _busy(usage, usage.of(Stage.READ, Stage.DECODE), usage.num_tasks)


def reading_share(usage: Usage) -> float:
    """The same of tasks that read tars."""
    return _busy(usage, usage.of(Stage.STREAM), usage.num_readers)


def _busy(usage: Usage, seconds: float, number: int) -> float:
    available = number * usage.alive_seconds / max(1, usage.num_actors)
    return min(1.0, seconds / available) if available else 0.0


def _largest(usage: Usage, *stages: Stage) -> Bottleneck:
    return _OF_STAGE[max(stages, key=usage.of)]


def verdict(usage: Usage) -> str:
    """One sentence: what the job was bound by, and what helps; empty where there was nothing to do."""
    bottleneck = bottleneck_of(usage)
    if bottleneck is None:
        return ""
    start = usage.of(Stage.START)
    mostly = "most of the run was its start, the rest " if start >= MOST * usage.run_seconds else ""
    if bottleneck is Bottleneck.COMMITTING:
        share = usage.of(Stage.COMMIT, Stage.SWAP) / usage.run_seconds
        reason = f"commits and large files took {_percent(share)} of the run"
    elif not usage.num_actors:
        advice = "; add CPUs" if bottleneck is Bottleneck.DECODING else ""
        reason = f"it took the largest part of the tasks' time{advice}"
    else:
        reason = _reason_of_actors(usage, bottleneck)
    return f"{mostly}bound by {bottleneck.value}: {reason}"


def _reason_of_actors(usage: Usage, bottleneck: Bottleneck) -> str:
    waited = f"actors waited {_percent(still_share(usage))} of the time for decoded images"
    if bottleneck is Bottleneck.WRITING:
        waited = f"actors stood still {_percent(still_share(usage))} of the time until files were written"
        return f"{waited}; larger slices, or storage nearer to the cluster, help"
    if bottleneck is Bottleneck.DECODING:
        return f"{waited}; add CPUs, or `skinvae prepare` the archives"
    if bottleneck is Bottleneck.READING and reading_share(usage) > decoding_share(usage):
        return f"{waited}, and one task reads one tar; smaller tars, or zips, are read by more tasks"
    if bottleneck is Bottleneck.READING:
        return f"{waited}, and decoding tasks for storage; storage nearer to the cluster, or more CPUs, help"
    if bottleneck is Bottleneck.FEEDING:
        busy = _percent(decoding_share(usage))
        return f"{waited}, and decoding tasks were busy for {busy} of it; larger slices, or more archives at once, help"
    return waited


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
