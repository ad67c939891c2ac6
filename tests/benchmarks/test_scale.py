"""docs/scale.md is the arithmetic of what was measured; and what measures it works at a small size."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks.scale import __main__ as scale
from benchmarks.scale.arithmetic import H100, L4, Cluster, Job
from benchmarks.scale.measurements import Measurements
from benchmarks.scale.page import THEN, page
from benchmarks.scale.requests import count
from benchmarks.scale.slice_writer import Order, write_one_and_link
from skinvae.records import SCORE_SCHEMA
from skinvae.storage.filesystem import Location
from skinvae.storage.slice_ids import SliceId
from skinvae.storage.slices import slices_written
from tests.fault_proxy import Exchange
from tests.faults_to_inject import Request


@pytest.fixture(scope="module")
def measured() -> Measurements:
    return scale.read(scale.RESULTS)


def test_the_page_is_what_the_measurements_make_it(measured: Measurements) -> None:
    assert scale.PAGE.read_text() == page(measured), "write it anew: python -m benchmarks.scale page"


def test_figures_follow_from_the_job(measured: Measurements) -> None:
    one = Job(measured, Cluster(L4, gpu_rate=1000.0))
    assert one.seconds == pytest.approx(100e6 / 64_000)
    assert one.slices_per_second == pytest.approx(62.5)
    assert one.num_commits == pytest.approx(one.seconds / 5)
    assert one.decode_cores == pytest.approx(64_000 / measured.decoded_per_core)
    twice = Job(measured, dataclasses.replace(one.cluster, num_images=200_000_000))
    assert twice.num_gets == pytest.approx(2 * one.num_gets)
    assert twice.limits()["commits"] > one.limits()["commits"]
    larger = Job(measured, dataclasses.replace(one.cluster, slice_size=4096))
    assert larger.limits()["driver's core"] == pytest.approx(one.limits()["driver's core"] / 4)
    assert larger.num_gets > one.num_gets / 4, "the bytes are the same, and read 16 MB at a time"
    prepared = Job(measured, dataclasses.replace(one.cluster, is_prepared=True))
    assert prepared.limits()["decoding tasks"] == 0
    assert set(one.limits()) == set(THEN)


def test_a_gpu_of_more_flops_needs_more_drivers(measured: Measurements) -> None:
    slow, fast = Job(measured, Cluster(L4)), Job(measured, Cluster(H100))
    assert fast.gpu_rate / slow.gpu_rate == pytest.approx(H100.teraflops / L4.teraflops)
    assert fast.num_drivers > slow.num_drivers >= 1


def test_what_is_measured_counts(measured: Measurements) -> None:
    jobs = copy.deepcopy(dict(measured.jobs))
    for method in jobs["many"]["score"]["requests"]["archive"].values():
        method["number"] += jobs["many"]["num_slices"] - jobs["few"]["num_slices"]
    more = dataclasses.replace(measured, jobs=jobs)
    methods = len(jobs["many"]["score"]["requests"]["archive"])
    before, behind = (one.requests_per_slice("score", "archive", "GET", "HEAD") for one in (measured, more))
    assert behind == pytest.approx(before + methods)


@pytest.mark.parametrize(
    ("method", "path", "query", "kind"),
    [
        ("GET", "/tests/20.zip", "", "archive"),
        ("GET", "/tests", "list-type=2&prefix=table-20/_slices/", "list"),
        ("PUT", "/tests/table-20/_slices/a-b-0-8.parquet", "", "slice files"),
        ("GET", "/tests/table-20/_delta_log/00000000000000000001.json", "", "log"),
        ("PUT", "/tests/table-20/part-0c.parquet", "", "large files"),
        ("PUT", "/tests/table-20/_skinvae/runs/r/heartbeat.json", "", "run records"),
        ("PUT", "/tests/table-20/_skinvae/0123/config.json", "", "other"),
    ],
)
def test_requests_are_told_apart(method: str, path: str, query: str, kind: str) -> None:
    request = Request(0, method, path, query, {"content-length": "7"})
    found = count([Exchange(request, 0.0, 0.0, 200, 5, "")] * 2)
    assert found == {kind: {method: {"number": 2, "bytes_sent": 14, "bytes_received": 10}}}


def test_slice_files_of_the_benchmark_are_slice_files(tmp_path: Path) -> None:
    ids = [SliceId("aaaa", "cccc", start, start + 16) for start in (0, 16, 32)]
    files = write_one_and_link(Order(Location.parse(str(tmp_path)), "images.zip", ids, num_rows=5))
    assert [one.slice_id for one in files] == ids == slices_written(Location.parse(str(tmp_path)))
    for one in files:
        rows = pq.read_table(tmp_path / one.path)
        assert rows.schema.equals(SCORE_SCHEMA)
        assert (rows.num_rows, one.counts, one.num_bytes) == (5, {"ok": 5}, (tmp_path / one.path).stat().st_size)


@pytest.mark.slow
def test_all_of_it_small(tmp_path: Path) -> None:
    for what, slices in (("driver", "40"), ("requests", "20")):
        scale.main(["--results", str(tmp_path), what, slices, "--scratch", str(tmp_path)])
    found = json.loads((tmp_path / "scale.json").read_text())
    phases = found["driver"]["phases"]
    assert phases["plan"]["num_parts"] == 40
    assert phases["half: plan"]["num_parts"] == 20
    assert phases["half: status"]["num_rows"] == 20 * 64
    assert phases["done: plan"]["num_parts"] == 0
    assert phases["swap"]["num_removed"] == phases["delete slice files"]["num_files"] == 60
    requests = found["requests"]["many"]["score"]["requests"]
    assert requests["slice files"]["PUT"]["number"] == requests["slice files"]["GET"]["number"] == 20
    expired = found["requests"]["many"]["score when slice files expire"]["requests"]
    assert expired["slice files"]["DELETE"]["number"] == 20
    scale.main(["--results", str(tmp_path), "page", "--page", str(tmp_path / "scale.md")])
    assert (tmp_path / "scale.md").read_text().count("\n| ") > 80
