"""The metrics of a run, declared once, and how they reach Ray's Prometheus endpoint.

docs/metrics.md is written from METRICS, and deploy/grafana/skinvae.json is checked against it. All of them are counted
in the driver, or for training in the process that controls the workers: so no image is counted twice because a worker
died, and the counts are those of the table.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import ray.util.metrics

from skinvae.logs import note

PREFIX = "ray_"
"""What Ray puts before every name."""


class Kind(str, Enum):
    """As in Prometheus."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


_JOB = ("verb", "run_id", "scoring_id")
_TRAINING = ("run_id",)


@dataclass(frozen=True)
class Metric:
    """One metric; counters end in `_total`, which Prometheus wants and Ray would add."""

    name: str
    kind: Kind
    unit: str
    meaning: str
    tags: tuple[str, ...] = _JOB
    boundaries: tuple[float, ...] = ()
    """Of a histogram's buckets."""

    @property
    def series(self) -> tuple[str, ...]:
        """Its names on the endpoint."""
        suffixes = ("_bucket", "_count", "_sum") if self.kind is Kind.HISTOGRAM else ("",)
        return tuple(f"{PREFIX}{self.name}{suffix}" for suffix in suffixes)


IMAGES_SCORED = Metric(
    "skinvae_images_scored_total", Kind.COUNTER, "images", "with scores, in slices that this run made and committed"
)
IMAGES_PREPARED = Metric(
    "skinvae_images_prepared_total", Kind.COUNTER, "images", "decoded, in slices that this run made and committed"
)
IMAGES_MAPPED = Metric(
    "skinvae_images_mapped_total", Kind.COUNTER, "images", "with error maps, in slices that this run made and committed"
)
IMAGES_REJECTED = Metric(
    "skinvae_images_rejected_total",
    Kind.COUNTER,
    "images",
    "rejected, in slices that this run made and committed, by status code",
    (*_JOB, "status"),
)
ROWS_ADOPTED = Metric(
    "skinvae_rows_adopted_total", Kind.COUNTER, "rows", "that an earlier run had written and this one committed"
)
BYTES_DECODED = Metric(
    "skinvae_bytes_decoded_total", Kind.COUNTER, "bytes", "encoded size of the images that were read and decoded"
)
STAGE_SECONDS = Metric(
    "skinvae_stage_seconds_total",
    Kind.COUNTER,
    "worker-seconds",
    "spent on each stage, as in the summary at the end of a job",
    (*_JOB, "stage"),
)
SLICES_WAITING = Metric(
    "skinvae_slices_waiting", Kind.GAUGE, "slices", "decoded, and not taken by an actor yet: the queue before scoring"
)
SLICES_IN_PROGRESS = Metric(
    "skinvae_slices_in_progress", Kind.GAUGE, "slices", "taken by an actor, and not written yet"
)
MEMBERS_LEFT = Metric(
    "skinvae_members_left", Kind.GAUGE, "members", "of the archives, still to be done; of tars a guess by their bytes"
)
COMMITS = Metric("skinvae_commits_total", Kind.COUNTER, "commits", "of slices to the table")
SLICES_COMMITTED = Metric(
    "skinvae_slices_committed_total", Kind.COUNTER, "slices", "that this run committed, adopted ones included"
)
COMMIT_SECONDS = Metric(
    "skinvae_commit_seconds",
    Kind.HISTOGRAM,
    "seconds",
    "that a commit took",
    boundaries=(0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
STORAGE_RETRIES = Metric(
    "skinvae_storage_retries_total", Kind.COUNTER, "requests", "to storage that were made again, by workers and driver"
)
ROWS_IN_TABLE = Metric(
    "skinvae_rows_in_table", Kind.GAUGE, "rows", "of all scorings in the table, as far as this driver knows"
)
TRAIN_EPOCH = Metric("skinvae_train_epoch", Kind.GAUGE, "epochs", "of training that are done", _TRAINING)
TRAIN_LOSS = Metric("skinvae_train_loss", Kind.GAUGE, "nats an image", "mean of the last epoch", (*_TRAINING, "split"))
TRAIN_SPEED = Metric(
    "skinvae_train_images_per_second", Kind.GAUGE, "images/s", "of the last epoch, all workers together", _TRAINING
)

METRICS = (
    IMAGES_SCORED,
    IMAGES_PREPARED,
    IMAGES_MAPPED,
    IMAGES_REJECTED,
    ROWS_ADOPTED,
    BYTES_DECODED,
    STAGE_SECONDS,
    SLICES_WAITING,
    SLICES_IN_PROGRESS,
    MEMBERS_LEFT,
    COMMITS,
    SLICES_COMMITTED,
    COMMIT_SECONDS,
    STORAGE_RETRIES,
    ROWS_IN_TABLE,
    TRAIN_EPOCH,
    TRAIN_LOSS,
    TRAIN_SPEED,
)

TAGS = {
    "verb": "`score`, `prepare`, `map` for error maps, or `retry` for what `score --retry` scores again",
    "run_id": "names one run, as in the log, the column `run_id` and `skinvae status`; of training its digest",
    "scoring_id": "as the column of the score table; of `prepare` the digest of the preparation",
    "status": "a code of [score-table.md](score-table.md#status-codes)",
    "stage": "as in the summary at the end of a job",
    "split": "`train` or `validation`",
}


class RunMetrics:
    """The metrics of one run, which needs Ray to be up. Whatever fails here is said once, and ends no job."""

    def __init__(self, **tags: str) -> None:
        self._tags = tags
        self._in_ray: dict[Metric, Any] = {}
        self._has_failed = False

    def add(self, metric: Metric, amount: float, **tags: str) -> None:
        """Count so much more; nothing is nothing."""
        if amount > 0:
            self._record(metric, "inc", amount, tags)

    def set(self, metric: Metric, value: float, **tags: str) -> None:
        self._record(metric, "set", value, tags)

    def observe(self, metric: Metric, values: Iterable[float], **tags: str) -> None:
        for value in values:
            self._record(metric, "observe", value, tags)

    def _record(self, metric: Metric, method: str, value: float, tags: dict[str, str]) -> None:
        if self._has_failed:
            return
        try:
            if metric not in self._in_ray:
                self._in_ray[metric] = _in_ray(metric)
            getattr(self._in_ray[metric], method)(value, tags=self._tags | tags)
        except Exception as error:  # noqa: BLE001 whatever it is, the job matters and its metrics do not
            self._has_failed = True
            note(f"no more metrics of this run: {type(error).__name__}: {error}")


class Rising:
    """Counts that are known as sums so far, added up to as they rise. One that falls was lost and began anew."""

    def __init__(self, metrics: RunMetrics) -> None:
        self._metrics = metrics
        self._known: dict[tuple[Metric, tuple[str, ...]], float] = {}

    def reach(self, metric: Metric, total: float, **tags: str) -> float:
        """Add what is new; returns that."""
        key = (metric, tuple(tags.values()))
        before = self._known.get(key, 0.0)
        self._known[key] = total
        more = total - before if total >= before else total
        self._metrics.add(metric, more, **tags)
        return more


def _in_ray(metric: Metric) -> Any:
    about = f"{metric.unit}: {metric.meaning}"
    if metric.kind is Kind.HISTOGRAM:
        return ray.util.metrics.Histogram(metric.name, about, boundaries=list(metric.boundaries), tag_keys=metric.tags)
    kind = ray.util.metrics.Counter if metric.kind is Kind.COUNTER else ray.util.metrics.Gauge
    return kind(metric.name, about, tag_keys=metric.tags)
