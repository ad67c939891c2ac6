"""A Ray cluster of several nodes on this machine, archives, and jobs on them, for faults to happen to.

Jobs are driven by processes of their own (drive.py): the Ray of other tests stays out of it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import psutil
from deltalake import DeltaTable
from PIL import Image
from ray.cluster_utils import Cluster

from skinvae.records import SCORES, Status
from tests.fast_scorer import FastScorer, Mischief, UInt8Array, mischievous_image
from tests.s3_server import S3Server
from tests.unit.storage.test_bundle import MODEL

SIZE = MODEL.image_size
QUICK_SIGHT = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "8",
}
"""Ray sees within seconds that a node is gone; less time, and it takes a busy node for one."""


@dataclass(frozen=True)
class Images:
    """Images by member name, as pixels."""

    pixels: dict[str, UInt8Array]
    mischief: dict[str, Mischief]

    @classmethod
    def make(cls, count: int, *, seed: int, mischief: dict[int, Mischief] | None = None) -> Images:
        """`count` images of noise, some of them replaced by mischievous ones."""
        noise = np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)
        bad = {f"{index:05}.png": what for index, what in (mischief or {}).items()}
        pixels = {f"{index:05}.png": image for index, image in enumerate(noise)}
        return cls(pixels | {name: mischievous_image(what, size=SIZE) for name, what in bad.items()}, bad)

    def zip_bytes(self) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, pixels in self.pixels.items():
                encoded = io.BytesIO()
                Image.fromarray(pixels).save(encoded, "PNG")
                archive.writestr(name, encoded.getvalue())
        return buffer.getvalue()

    def expected(self) -> pd.DataFrame:
        """What a run without faults says of the good ones: the scorer applied directly."""
        good = [name for name in self.pixels if name not in self.mischief]
        scores = FastScorer().score(np.stack([self.pixels[name] for name in good]))
        return pd.DataFrame(scores, index=pd.Index(good, name="member"))


@dataclass
class Job:
    """One table to be, on S3, and the cluster that makes it."""

    images: Images
    s3: S3Server
    ray_address: str
    archive: str
    model: str
    table: str
    settings: dict[str, object] = field(default_factory=dict)

    def command(self, *arguments: str, **settings: object) -> list[str]:
        settings = {"slice_size": 16, "batch_size": 4, "commit_seconds": 0.5, **self.settings, **settings}
        assignments = [f"--set=score.{name}={value}" for name, value in settings.items()]
        where = ["--model", self.model, "--table", self.table]
        return [sys.executable, "-m", "tests.faults.drive", self.archive, *where, *assignments, *arguments]

    @contextmanager
    def running(self, *arguments: str, **settings: object) -> Iterator[subprocess.Popen[str]]:
        """The driver, killed if it outlives the block."""
        environment = os.environ | self.s3.environment | {"RAY_ADDRESS": self.ray_address}
        with subprocess.Popen(
            self.command(*arguments, **settings),
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def finish(self, process: subprocess.Popen[str], *, seconds: float) -> dict[str, Any]:
        """The summary of a driver that ends well in time."""
        said, errors = process.communicate(timeout=seconds)
        assert process.returncode == 0, errors[-4000:]
        summary: dict[str, Any] = json.loads(said)
        return summary

    def rows(self) -> pd.DataFrame:
        """The table as plain Parquet readers see it, which is what Delta readers see."""
        filesystem = self.s3.filesystem()
        files = filesystem.glob(f"{self.table.removeprefix('s3://')}/*.parquet")
        plain = pd.concat([pd.read_parquet(filesystem.open(file)) for file in files]).set_index("member").sort_index()
        options = {**{k.lower(): v for k, v in self.s3.environment.items()}, "aws_allow_http": "true"}
        delta = DeltaTable(self.table, storage_options=options).to_pandas().set_index("member").sort_index()
        pd.testing.assert_frame_equal(plain, delta[plain.columns], check_dtype=False)
        return plain

    def assert_complete(self) -> pd.DataFrame:
        """One row for each image, none twice, the good ones' scores bit for bit those of a run without faults."""
        rows = self.rows()
        assert list(rows.index) == sorted(self.images.pixels), "none lost, none twice"
        expected = self.images.expected()
        good = rows.loc[expected.index]
        assert (good["status"] == Status.OK.value).all(), good[good["status"] != "ok"][["status", "error"]]
        for name in (*SCORES, "ess"):
            assert np.array_equal(good[name], expected[name]), name
        bad = rows.loc[sorted(self.images.mischief)]
        assert bad[[*SCORES, "ess", "p_value"]].isna().all(axis=None)
        assert (bad["error"].str.len() > 10).all()
        return rows


@dataclass
class RayNodes:
    """A running cluster; its head does no work."""

    cluster: Any
    num_cpus: int
    num_gpus: int

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def add(self) -> Any:
        return self.cluster.add_node(num_cpus=self.num_cpus, num_gpus=self.num_gpus)

    def kill(self, node: Any) -> None:
        """SIGKILL to its raylet, its workers go with it."""
        self.cluster.remove_node(node, allow_graceful=False)

    def workers(self) -> list[psutil.Process]:
        """All processes in which Ray runs an actor or a task: the job's own, and those of Ray Data."""
        found = []
        for node in (self.cluster.head_node, *self.cluster.worker_nodes):
            raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
            for process in raylet.children(recursive=True):
                with contextlib.suppress(psutil.Error, IndexError):
                    title = process.cmdline()[0]
                    # A raylet ends itself, and its node, if it loses an agent.
                    if title.startswith("ray::") and title != "ray::IDLE" and "Agent" not in title:
                        found.append(process)
        return found


@contextmanager
def ray_nodes(environment: dict[str, str], *, num_nodes: int, num_cpus: int, num_gpus: int = 0) -> Iterator[RayNodes]:
    """A cluster of its own whose workers have this environment."""
    before = dict(os.environ)
    os.environ.update({**environment, "RAY_DATA_EXECUTION_NO_PROGRESS_TIMEOUT_S": "120"})
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = RayNodes(cluster, num_cpus, num_gpus)
    try:
        for _ in range(num_nodes):
            nodes.add()
        yield nodes
    finally:
        cluster.shutdown()
        os.environ.clear()
        os.environ.update(before)


class Killer:
    """SIGKILLs a random one of some processes, again and again, `at_most` times."""

    def __init__(
        self,
        victims: Callable[[], list[psutil.Process]],
        *,
        every_seconds: float,
        seed: int,
        only: str = "",
        at_most: int = 1_000_000,
    ) -> None:
        self._victims = victims
        self._only, self._at_most = only, at_most
        self._every_seconds = every_seconds
        self._random = random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.killed: list[str] = []
        self.times: list[float] = []
        """Of each, in seconds since 1970."""

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._every_seconds) and len(self.killed) < self._at_most:
            victims = sorted(self._victims(), key=lambda process: process.pid)
            self._random.shuffle(victims)
            for victim in victims:
                with contextlib.suppress(psutil.Error, IndexError):
                    title = victim.cmdline()[0]
                    if self._only in title:
                        victim.kill()
                        self.killed.append(title)
                        self.times.append(time.time())
                        break
