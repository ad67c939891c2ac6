"""One scoring job on a real cluster, seen from outside: its metrics on Ray's endpoint, its log in JSON."""

from __future__ import annotations

import datetime
import json
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
from deltalake import DeltaTable
from prometheus_client.parser import text_string_to_metric_families

from skinvae.pipelines import metrics
from skinvae.pipelines.metrics import METRICS, Kind, Metric
from skinvae.storage.filesystem import Location
from tests.conftest import ArchiveFiles
from tests.pipelines.processes import command_environment, skinvae_command, wait_for
from tests.unit.storage.test_bundle import write

RAY = str(Path(sys.executable).parent / "ray")
_AUTHENTICATION = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
OF_A_JOB = {one for one in METRICS if "verb" in one.tags}


@dataclass(frozen=True)
class Cluster:
    """Of one node."""

    address: str
    metrics_url: str

    def scrape(self) -> str:
        """What Prometheus would get; nothing as long as nobody answers."""
        try:
            with urllib.request.urlopen(self.metrics_url, timeout=10) as response:
                return str(response.read().decode())
        except OSError:
            return ""


@dataclass(frozen=True)
class Seen:
    """A job that has ended."""

    done: subprocess.CompletedProcess[str]
    table: str
    scraped: str
    """Afterwards."""
    names: set[str] = field(default_factory=set)
    """Series of ours that were there at any time."""

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.done.stderr.splitlines()]

    def total(self, metric: Metric, **labels: str) -> float:
        """Sum over all series of a counter with these labels."""
        return sum(
            sample.value
            for family in text_string_to_metric_families(self.scraped)
            for sample in family.samples
            if sample.name == metric.series[0] and labels.items() <= sample.labels.items()
        )


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    port, metrics_port, client_port = (_free_port() for _ in range(3))
    command = [
        RAY, "start", "--head", "--block", f"--port={port}", "--num-cpus=3", f"--metrics-export-port={metrics_port}",
        "--include-dashboard=false", "--dashboard-agent-listen-port=0", f"--ray-client-server-port={client_port}",
        "--disable-usage-stats", "--object-store-memory=200000000",
    ]  # fmt: skip
    environment = command_environment() | _AUTHENTICATION | {"RAY_metrics_report_interval_ms": "1000"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    running = Cluster(f"127.0.0.1:{port}", f"http://127.0.0.1:{metrics_port}/metrics")
    try:
        wait_for(lambda: "ray_resources" in running.scrape(), process)
        yield running
    finally:
        # `ray start --block` leaves its servers behind when it is stopped.
        for one in [*psutil.Process(process.pid).children(recursive=True), process]:
            one.kill()
        process.wait(timeout=60)


@pytest.fixture(scope="module")
def seen(cluster: Cluster, archive: ArchiveFiles, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """106 images and two that cannot be decoded, scored while the endpoint is asked again and again."""
    folder = tmp_path_factory.mktemp("metrics")
    write(Location.parse(str(folder / "model")))
    with zipfile.ZipFile(folder / "images.zip", "w") as images:
        for name, data in archive.members().items():
            images.writestr(name, data)
        images.writestr("broken.jpg", b"no image")
        images.writestr("cut.jpg", next(iter(archive.members().values()))[:500])
    table = str(folder / "scores")
    where = ("--model", str(folder / "model"), "--table", table)
    settings = ("log.format=json", "score.slice_size=16", "score.commit_seconds=0.5", "score.max_rejects=0.5")
    command = skinvae_command("score", str(folder / "images.zip"), *where, *(f"--set={one}" for one in settings))
    environment = command_environment(cluster.address) | _AUTHENTICATION
    names: set[str] = set()
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=(folder / "stderr").open("w"), text=True
    ) as process:
        while process.poll() is None:
            names |= _names(cluster.scrape())
            time.sleep(0.2)
        said, _ = process.communicate()
    scraped = cluster.scrape()
    done = subprocess.CompletedProcess(command, process.returncode, said, (folder / "stderr").read_text())
    assert done.returncode == 0, done.stderr
    return Seen(done, table, scraped, names | _names(scraped))


def test_the_counters_are_the_table_s_counts(seen: Seen) -> None:
    rows = pd.read_parquet(seen.table)
    log = DeltaTable(seen.table).history()
    run = {"run_id": rows["run_id"].iloc[0], "scoring_id": rows["scoring_id"].iloc[0], "verb": "score"}
    by_status = rows["status"].value_counts()
    assert by_status["ok"] == 106
    assert seen.total(metrics.IMAGES_SCORED, **run) == by_status["ok"]
    rejected = by_status.drop("ok")
    assert rejected.sum() == 2
    for status, count in rejected.items():
        assert seen.total(metrics.IMAGES_REJECTED, status=str(status), **run) == count
    assert seen.total(metrics.IMAGES_REJECTED) == rejected.sum()
    assert seen.total(metrics.SLICES_COMMITTED, **run) == rows["slice_id"].nunique() == 7
    assert seen.total(metrics.BYTES_DECODED, **run) == rows["num_bytes"].sum()
    # Beside those, one commit made the table, and one swapped its files at the end.
    assert seen.total(metrics.COMMITS, **run) == len(log) - 2


def test_stage_seconds_are_those_of_the_summary(seen: Seen) -> None:
    (usage,) = (line for line in seen.lines() if line["event"] == "usage")
    for stage in ("start", "read", "decode", "score", "wait", "write", "commit", "swap"):
        assert seen.total(metrics.STAGE_SECONDS, stage=stage) == pytest.approx(
            usage["stage_seconds"][stage], rel=1e-3, abs=1e-3
        ), stage


def test_every_metric_of_a_job_is_on_the_endpoint_under_its_name(seen: Seen) -> None:
    """But for those of which nothing happened."""
    did_not_happen = {metrics.IMAGES_PREPARED, metrics.IMAGES_MAPPED, metrics.ROWS_ADOPTED, metrics.STORAGE_RETRIES}
    assert seen.names == {name for one in OF_A_JOB - did_not_happen for name in one.series}
    kinds = {family.name: family.type for family in text_string_to_metric_families(seen.scraped)}
    for metric in OF_A_JOB - did_not_happen:
        if metric.kind is not Kind.GAUGE:  # a gauge goes soon after its driver
            assert kinds[f"ray_{metric.name}".removesuffix("_total")] == metric.kind.value


def test_every_line_on_stderr_is_json_and_names_the_run(seen: Seen) -> None:
    rows = pd.read_parquet(seen.table)
    lines = seen.lines()
    assert len(lines) > 15
    for line in lines:
        assert {"time", "level", "event", "message", "run_id", "scoring_id"} <= line.keys()
        assert line["run_id"] == rows["run_id"].iloc[0], line
        moment = datetime.datetime.fromisoformat(line["time"])
        assert moment.utcoffset() == datetime.timedelta(0)
    assert lines[-1]["event"] == "end"
    assert lines[-1]["exit_code"] == 0


def test_lines_about_slices_name_them(seen: Seen) -> None:
    rows = pd.read_parquet(seen.table)
    for event in ("slice_written", "slice_committed"):
        lines = [line for line in seen.lines() if line["event"] == event]
        assert sorted(line["slice_id"] for line in lines) == sorted(rows["slice_id"].unique())
        assert {line["scoring_id"] for line in lines} == set(rows["scoring_id"])
    rejected = [line["rejected"] for line in seen.lines() if line["event"] == "slice_written" and line["rejected"]]
    assert sum(sum(one.values()) for one in rejected) == 2


@pytest.mark.slow
def test_a_training_shows_its_last_epoch(cluster: Cluster, archive: ArchiveFiles, tmp_path: Path) -> None:
    """Its gauges go with it, so it is asked while it runs; epochs take longer than Ray takes to tell of them."""
    where = ("--labels", archive.labels, "--normal", "NV", "--out", str(tmp_path / "model"))
    settings = ("log.format=json", "model.image_size=64", "train.num_epochs=12", "score.num_samples=2")
    command = skinvae_command("train", archive.zip, *where, *(f"--set={one}" for one in settings))
    environment = command_environment(cluster.address) | _AUTHENTICATION
    scraped: list[str] = []
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        while process.poll() is None:
            scraped.append(cluster.scrape())
            time.sleep(0.5)
        said = process.stderr.read().decode() if process.stderr else ""
    assert process.returncode == 0, said
    of_training = {name for one in METRICS if "verb" not in one.tags for name in one.series}
    assert of_training <= {name for one in scraped for name in _names(one)}
    epochs = {
        sample.value: sample.labels["run_id"]
        for one in scraped
        for family in text_string_to_metric_families(one)
        for sample in family.samples
        if sample.name == metrics.TRAIN_EPOCH.series[0]
    }
    assert len(epochs) > 1
    lines = [json.loads(line) for line in said.splitlines()]
    told = {line["epoch"]: line["run_id"] for line in lines if line["event"] == "epoch"}
    assert told.keys() == set(range(1, 13))
    assert epochs.items() <= told.items()


def test_an_error_is_a_line_of_json_with_its_exit_code(tmp_path: Path) -> None:
    command = skinvae_command(
        "score", f"{tmp_path}/no.zip", "--model", f"{tmp_path}/no", "--table", "t", "--set", "log.format=json"
    )
    done = subprocess.run(command, env=command_environment(), capture_output=True, text=True, check=False)
    (line,) = map(json.loads, done.stderr.splitlines())
    assert (line["level"], line["event"], line["exit_code"]) == ("error", "end", 4)
    assert done.returncode == 4
    assert f"{tmp_path}/no" in line["message"]
    assert line["run_id"]


def _names(scraped: str) -> set[str]:
    return {line.split("{")[0] for line in scraped.splitlines() if line.startswith("ray_skinvae")}


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
