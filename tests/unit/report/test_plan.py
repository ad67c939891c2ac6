"""The page of a plan says what is known, what is a guess, and what is not known."""

from __future__ import annotations

import io
import json
from dataclasses import replace

from rich.console import Console

from skinvae.audit.forecast import Crew, Origin, Speed, forecast
from skinvae.audit.plan import KindOfArchive, Output, Plan
from skinvae.report.plan import plan_document, plan_page

SPEED = Speed(Origin.PROBE, scored_per_second=1000.0, decoded_per_second=200.0, start_seconds=30.0)
CREW = Crew(num_actors=4, gpus_per_actor=1.0, threads_per_actor=1, num_tasks=44, num_cpus=48)
ZIPS = KindOfArchive("zip", 2, 3_000_000_000, 20_100, 20_000, 15_000, 0, None)
TARS = KindOfArchive("tar", 3, 12_000_000_000, 0, 0, 0, 12_000_000_000, 45_000)
PLAN = Plan(
    table="s3://bucket/scores",
    scoring_id="f7ec5a991f4a9c77",
    precision="bfloat16",
    num_members=20_100,
    num_members_done=5_100,
    num_stream_bytes=12_000_000_000,
    by_kind=[TARS, ZIPS],
    in_table={"ok": 4_900, "truncated": 90, "undecodable": 10},
    num_slices=60,
    slice_size=1_024,
    num_slices_written=2,
    num_commits=5,
    cluster="2 nodes, 48 CPUs, 4 GPUs; 4 scoring actors (1 GPU, 1 CPU each)",
    is_hypothetical=True,
    speed=SPEED,
    forecast=forecast(SPEED, CREW, num_images=60_000, slice_size=1_024),
    unknown="",
    output=Output(60_000, 80.0, is_measured=True, num_slice_bytes=5_520_000),
)


def shown(plan: Plan) -> str:
    console = Console(file=io.StringIO(), width=400)
    console.print(plan_page(plan))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_page_has_all_there_is_to_know() -> None:
    page = shown(PLAN)
    for words in (
        "3 tars, 12.0 GB, 12.0 GB unread: about 45,000 images",
        "2 zips, 3.0 GB, 20,000 images",
        "5,100 of 20,100 members: 4,900 ok, 100 rejected: 90 truncated, 10 undecodable; 2 slices are written, not",
        "about 60,000 images, in about 60 slices of up to 1,024",
        "(as given, not there)",
        "4,000 images/s, bound by scoring: alone, actors score 4,000, tasks decode 8,800 images/s (a probe)",
        "about 53 s: start 30 s, work 21 s, end 2 s, 0.0586 GPU-hours, 0.703 CPU-hours",
        "60,000 rows, about 4.8 MB (80 bytes a row, as the table's), and slice files of 5.5 MB for a while; 5 commits",
    ):
        assert words in page, page


def test_tars_that_nobody_looked_into_are_not_guessed_at() -> None:
    unread = replace(TARS, num_images_in_streams=None)
    page = shown(replace(PLAN, by_kind=[unread, ZIPS], forecast=None, speed=None, unknown="leave --no-probe out"))
    assert "15,000 images and 12.0 GB of tar" in page
    assert "no estimate of the time: leave --no-probe out" in page


def test_the_document_is_json_with_the_same_figures() -> None:
    document = json.loads(json.dumps(plan_document(PLAN), allow_nan=False))
    assert (document["num_images_left"], document["num_rejected"], document["is_guess"]) == (60_000, 100, True)
    assert document["forecast"]["bound_by"] == "scoring"
    assert document["forecast"]["eta_seconds"] > document["forecast"]["work_seconds"]
    assert document["speed"]["origin"] == "probe"
    assert document["output"]["num_bytes"] == 4_800_000
