"""Every request of whole jobs on an S3 server, counted by a proxy; and what their drivers and Ray's head took.

The model costs next to nothing, and slices hold a few tiny images: what is counted does not depend on either.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.bundles import make_bundle
from benchmarks.harness import Scale
from benchmarks.images import zip_of
from benchmarks.memory import jpeg
from benchmarks.processes import MB
from skinvae.model.vae import ModelSettings
from skinvae.storage.filesystem import Location
from tests.fault_proxy import Exchange, Traffic, fault_proxy
from tests.s3_server import run_s3_server

SLICE_SIZE = 8
MODEL = ModelSettings(image_size=32, base_channels=8, num_latents=1)
LOOK_SECONDS = 0.5

KINDS = {
    "list": r"^GET /tests/?\?",
    "archive": r" /tests/\d+\.zip",
    "model": r" /tests/model/",
    "log": r" /tests/table-\d+/_delta_log",
    "slice files": r" /tests/table-\d+/_slices",
    "large files": r" /tests/table-\d+/part-",
    "run records": r" /tests/table-\d+/_skinvae/(runs|archives)",
}
"""What a request is about, by 'METHOD /path?query'; all else is 'other'."""

HEAD = ("gcs_server", "raylet", "dashboard")
"""What runs on a cluster's head beside the driver, by name of the process or a word of its command."""

Measured = dict[str, Any]


def measure(scale: Scale, num_slices: int) -> Measured:
    """A tenth of the slices, then all of them, so that what a slice costs can be told from what a job costs."""
    few = max(1, num_slices // 10)
    with run_s3_server(scale.folder("s3")) as server:
        os.environ.update(server.environment)
        make_bundle("s3://tests/model", MODEL)
        return {"few": _jobs(scale, server.endpoint, few), "many": _jobs(scale, server.endpoint, num_slices)}


def _jobs(scale: Scale, endpoint: str, num_slices: int) -> Measured:
    """Score, score again, ask for the status, and score again when slice files have expired."""
    archive, table = f"s3://tests/{num_slices}.zip", f"s3://tests/table-{num_slices}"
    data = jpeg(16, 16, quality=50)
    zipped = zip_of([(f"{index:07}.jpg", data) for index in range(num_slices * SLICE_SIZE)])
    Location.parse(archive).filesystem.pipe_file(archive, zipped)
    score = ["score", archive, "--model", "s3://tests/model", "--table", table, "--set", "score.precision=float32"]
    score += ["--set", f"score.slice_size={SLICE_SIZE}", "--set", "score.num_samples=1"]
    commands = {
        "score": score,
        "status": ["status", table],
        "score again": score,
        "score when slice files expire": [*score, "--set", "score.retention_hours=0"],
    }
    found: Measured = {"num_slices": num_slices, "slice_size": SLICE_SIZE}
    with fault_proxy(endpoint) as traffic:
        for name, command in commands.items():
            scale.say(f"{num_slices:,} slices: {name}")
            first = len(traffic.exchanges)
            found[name] = _run(command, traffic)
            found[name]["requests"] = count(traffic.exchanges[first:])
    entries = sorted(Location.parse(f"{table}/_delta_log").list_objects(), key=lambda one: one.name)
    found["num_log_entries"] = sum(one.name.endswith(".json") for one in entries)
    assert found["score"]["result"]["in_table"] == {"ok": num_slices * SLICE_SIZE}
    return found


def count(exchanges: Sequence[Exchange]) -> dict[str, dict[str, dict[str, int]]]:
    """Requests and bytes, each way, by kind and method."""
    found: dict[str, dict[str, Counter[str]]] = {}
    for one in exchanges:
        asked = f"{one.request.method} {one.request.path}?{one.request.query}"
        kind = next((name for name, pattern in KINDS.items() if re.search(pattern, asked)), "other")
        counter = found.setdefault(kind, {}).setdefault(one.request.method, Counter())
        sent = int(one.request.headers.get("content-length", 0))
        counter.update(number=1, bytes_sent=sent, bytes_received=one.num_bytes)
    return {kind: {method: dict(counts) for method, counts in sorted(of.items())} for kind, of in sorted(found.items())}


def _run(command: Sequence[str], traffic: Traffic) -> Measured:
    process = subprocess.Popen(
        [sys.executable, "-m", "skinvae", *command, "--json"],
        stdout=subprocess.PIPE,
        env={**os.environ, "AWS_ENDPOINT_URL": traffic.endpoint},
        cwd=Path(__file__).parents[2],
    )
    started = time.monotonic()
    with _watched(psutil.Process(process.pid)) as seen:
        output, _ = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"skinvae {' '.join(command)} ended with {process.returncode}")
    return {"seconds": time.monotonic() - started, "result": json.loads(output), "processes": seen}


@contextmanager
def _watched(driver: psutil.Process) -> Iterator[dict[str, dict[str, float]]]:
    """Processor seconds and peak memory of the driver and of Ray's head, as seen last."""
    seen: dict[str, dict[str, float]] = {}
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(LOOK_SECONDS):
            for name, process in [("driver", driver), *_head(driver)]:
                with contextlib.suppress(psutil.Error):
                    times, memory = process.cpu_times(), process.memory_full_info().uss / MB
                    before = seen.get(name, {"peak_mb": 0.0})
                    cpu_seconds = times.user + times.system
                    seen[name] = {"cpu_seconds": cpu_seconds, "peak_mb": max(memory, before["peak_mb"])}

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def _head(driver: psutil.Process) -> list[tuple[str, psutil.Process]]:
    found = []
    with contextlib.suppress(psutil.Error):
        for process in driver.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                command = " ".join(process.cmdline()[:3])
                found += [(name, process) for name in HEAD if f"/{name}" in command and "agent" not in command]
    return found
