"""What a job on a table is counted as, from a real committer's commits and a ProgressActor's own counts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from skinvae.images.decode import DecodeSettings
from skinvae.pipelines import job_metrics, metrics
from skinvae.pipelines.committing import Committer
from skinvae.pipelines.job_metrics import JobMetrics
from skinvae.pipelines.metrics import Metric, RunMetrics
from skinvae.pipelines.progress import ProgressActor
from skinvae.pipelines.slice_job import SliceJob
from skinvae.pipelines.stage_times import Stage
from skinvae.pipelines.usage import Usage
from skinvae.storage.filesystem import Location
from skinvae.storage.pixel_table import Preparation
from skinvae.storage.score_table import ScoreTable
from tests.unit.storage.rows import slice_id, write


class Kept(RunMetrics):
    """What Ray would have been told."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[tuple[str, ...]] = Counter()
        self.gauges: dict[str, float] = {}
        self.observed: list[float] = []

    def _record(self, metric: Metric, method: str, value: float, tags: dict[str, str]) -> None:
        if method == "inc":
            self.counts[(metric.name, *tags.values())] += value  # type: ignore[assignment]  # seconds are no whole numbers
        elif method == "set":
            self.gauges[metric.name] = value
        else:
            self.observed.append(value)


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Kept:
    kept = Kept()
    monkeypatch.setattr(job_metrics, "RunMetrics", lambda **_: kept)
    monkeypatch.setattr(job_metrics, "answer_of", lambda answer, *, otherwise: answer)
    return kept


def job(table: ScoreTable, *, verb: str) -> SliceJob:
    return SliceJob(
        run_id="run-1",
        scoring_id="cccc",
        preparation=Preparation(image_size=32, preprocessing_version="1", decode=DecodeSettings()),
        max_seconds=1.0,
        table=table.location,
        provenance={},
        verb=verb,
    )


def called_at_once(actor: ProgressActor) -> Any:
    return SimpleNamespace(sample=SimpleNamespace(remote=actor.sample))


@pytest.fixture
def table(tmp_path: Path) -> ScoreTable:
    return ScoreTable.open_or_create(Location.parse(str(tmp_path / "table")))


@pytest.mark.parametrize(("verb", "done"), [("score", "scored"), ("prepare", "prepared"), ("retry", "scored")])
def test_what_is_committed_is_counted_once(table: ScoreTable, kept: Kept, verb: str, done: str) -> None:
    Committer(table, provenance={}, seconds=1.0).adopt([write(table.location, slice_id(0, 7))])
    committer = Committer(table, provenance={}, seconds=1.0)
    counting = JobMetrics(job(table, verb=verb), committer)
    committer.adopt([write(table.location, slice_id(7, 14))])
    for start in (14, 28):
        committer.add(write(table.location, slice_id(start, start + 14)))
        committer.flush()
        counting.take_commits()
        counting.take_commits()
    assert kept.counts[f"skinvae_images_{done}_total",] == committer.made["ok"] == 24
    assert kept.counts["skinvae_images_rejected_total", "truncated"] == 4
    assert kept.counts["skinvae_rows_adopted_total",] == 7
    assert kept.counts["skinvae_commits_total",] == len(kept.observed) == 3
    assert kept.counts["skinvae_slices_committed_total",] == 3
    assert kept.gauges["skinvae_rows_in_table"] == 42


def test_each_round_is_sampled_to_its_end(table: ScoreTable, kept: Kept) -> None:
    counting = JobMetrics(job(table, verb="score"), Committer(table, provenance={}, seconds=1.0))
    for _ in range(2):
        actor = ProgressActor()
        with counting.watching(called_at_once(actor), expected=lambda: 10):
            actor.decoded("a", 500)
            actor.decoded("b", 70)
            actor.begin("a", 1)
            actor.advance_slice("a", 3)
            actor.count_retries(2)
            actor.add_seconds({Stage.READ: 1.5, Stage.WAIT: 0.5})
    assert kept.counts["skinvae_bytes_decoded_total",] == 2 * 570
    assert kept.counts["skinvae_storage_retries_total",] == 4
    assert kept.counts["skinvae_stage_seconds_total", "read"] == 3.0
    assert kept.counts["skinvae_stage_seconds_total", "wait"] == 1.0
    assert kept.gauges["skinvae_slices_waiting"] == 1
    assert kept.gauges["skinvae_slices_in_progress"] == 1
    assert kept.gauges["skinvae_members_left"] == 6


def test_the_driver_s_stages_and_retries_come_at_the_end(table: ScoreTable, kept: Kept) -> None:
    counting = JobMetrics(job(table, verb="score"), Committer(table, provenance={}, seconds=1.0))
    counting.count_retries(3)
    counting.finish(Usage(seconds_to_first=2.5, stages={Stage.SWAP: 0.5}))
    assert kept.counts["skinvae_storage_retries_total",] == 3
    assert kept.counts["skinvae_stage_seconds_total", "start"] == 2.5
    assert kept.counts["skinvae_stage_seconds_total", "swap"] == 0.5


def test_a_lost_actor_is_no_count(table: ScoreTable, kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_metrics, "answer_of", lambda answer, *, otherwise: otherwise)
    counting = JobMetrics(job(table, verb="score"), Committer(table, provenance={}, seconds=1.0))
    with counting.watching(called_at_once(ProgressActor()), expected=lambda: None):
        pass
    assert set(kept.gauges) == {metrics.ROWS_IN_TABLE.name}
