"""The closing sentence: which figures make a job bound by what, and what is printed of them."""

from __future__ import annotations

import json

import pytest

from skinvae.pipelines.bottleneck import Bottleneck, bottleneck_of, verdict
from skinvae.pipelines.slice_job import JobSummary
from skinvae.pipelines.stage_times import Stage
from skinvae.pipelines.usage import Usage
from skinvae.printing import usage_lines


def usage(*, num_actors: int = 2, num_tasks: int = 4, num_readers: int = 0, **seconds: float) -> Usage:
    """Of a run of 100 s."""
    return Usage(
        run_seconds=100.0,
        num_images=1000,
        num_cpus=6.0,
        num_actors=num_actors,
        num_tasks=num_tasks,
        num_readers=num_readers,
        task_seconds=100.0 * num_tasks,
        reader_seconds=100.0 * num_readers,
        seconds_to_first=seconds.get("start"),
        stages={Stage(name): value for name, value in seconds.items()},
    )


@pytest.mark.parametrize(
    ("figures", "expected", "words"),
    [
        (usage(score=184, wait=10, load=6), Bottleneck.SCORING, "actors waited 5 % of the time for decoded images"),
        (usage(score=161, wait=39), Bottleneck.SCORING, "waited 20 %"),
        (usage(score=159, wait=41, decode=300), Bottleneck.DECODING, "add CPUs, or `skinvae prepare` the archives"),
        (usage(score=50, wait=150, decode=130, read=200), Bottleneck.READING, "decoding tasks for storage"),
        (usage(score=50, wait=150, decode=100, read=90), Bottleneck.FEEDING, "busy for 48 % of it"),
        (usage(score=50, wait=150, decode=300, stream=95, num_readers=1), Bottleneck.READING, "one task reads one tar"),
        (usage(score=50, wait=150, decode=390, stream=60, num_readers=1), Bottleneck.DECODING, "waited 75 %"),
        (usage(score=90, wait=50, held=60, write=300, decode=400), Bottleneck.WRITING, "stood still 55 % of the time"),
        (usage(score=190, commit=30, swap=25), Bottleneck.COMMITTING, "took 55 % of the run"),
        (usage(num_actors=0, decode=200, read=30, write=50), Bottleneck.DECODING, "add CPUs"),
        (usage(num_actors=0, decode=20, read=30, write=50), Bottleneck.WRITING, "the largest part of the tasks' time"),
        (usage(num_actors=0, decode=20, stream=30, write=5, num_readers=1), Bottleneck.READING, "the largest part"),
    ],
)
def test_what_a_job_was_bound_by(figures: Usage, expected: Bottleneck, words: str) -> None:
    assert bottleneck_of(figures) is expected
    sentence = verdict(figures)
    assert sentence.startswith(f"bound by {expected.value}: ")
    assert words in sentence


def test_loading_the_model_is_no_reason_to_call_actors_idle_or_busy() -> None:
    assert bottleneck_of(usage(score=10, wait=1, load=100)) is Bottleneck.SCORING
    assert bottleneck_of(usage(score=10, wait=30, load=100, decode=300)) is Bottleneck.DECODING


def test_a_run_that_mostly_started_says_so() -> None:
    assert verdict(usage(score=90, start=51)).startswith("most of the run was its start, the rest bound by scoring")
    assert verdict(usage(score=90, start=49)).startswith("bound by scoring")


def test_a_run_without_work_has_no_bottleneck_and_prints_nothing() -> None:
    nothing = Usage(run_seconds=3.0)
    assert bottleneck_of(nothing) is None
    assert usage_lines(nothing, done="scored") == []


def test_figures_that_are_lost_end_no_job() -> None:
    """Of workers and of a ProgressActor that died before they told."""
    assert bottleneck_of(usage()) is Bottleneck.SCORING
    assert usage_lines(usage(), done="scored")[-1].startswith("bound by")


def test_the_printed_table_relates_seconds_to_workers() -> None:
    figures = usage(score=150, wait=38, load=12, write=4, decode=280, read=20, start=8.1, commit=2, swap=0.04)
    assert usage_lines(figures, done="scored") == [
        "where the time went (100.0 s; first images scored after 8.1 s):",
        "  2 scoring actors    score       150.0 s   75 %      6.7 images/s each",
        "                      wait         38.0 s   19 %",
        "                      load         12.0 s    6 %",
        "                      write         4.0 s    2 %      250 images/s each",
        "  4 decoding tasks    read         20.0 s    5 %       50 images/s each",
        "                      decode      280.0 s   70 %      3.6 images/s each",
        "  driver              start         8.1 s    8 %",
        "                      commit        2.0 s    2 %",
        verdict(figures),
    ]


def test_a_retry_adds_to_the_run_before_it() -> None:
    both = usage(score=80, start=5)
    both.add(usage(score=100, wait=20, start=9))
    assert (both.of(Stage.SCORE), both.of(Stage.WAIT), both.num_images, both.run_seconds) == (180, 20, 2000, 200)
    assert (both.num_actors, both.task_seconds, both.seconds_to_first) == (2, 800, 5)


def test_json_holds_every_stage_and_shares_by_kind_of_worker() -> None:
    summary = JobSummary(table="t", run_id="r", scoring_id="s", usage=usage(score=184, wait=10, load=6, decode=40))
    document = json.loads(json.dumps(summary.as_dict(), allow_nan=False))
    assert set(document["stage_seconds"]) == {stage.value for stage in Stage}
    assert document["utilisation"]["scoring_actor"]["score"] == pytest.approx(0.92)
    assert document["utilisation"]["decoding_task"] == {"read": 0, "decode": pytest.approx(0.1)}
    assert (document["bottleneck"], document["num_actors"], document["num_decoding_tasks"]) == ("scoring", 2, 4)
    assert "usage" not in document
