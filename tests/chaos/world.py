"""What histories happen in: one S3 server behind a proxy that injects faults, one Ray of several nodes, one archive."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from deltalake import DeltaTable

from skinvae.records import Status
from skinvae.storage.filesystem import Location
from tests.fault_proxy import Traffic, fault_proxy
from tests.faults.world import Images, RayNodes, ray_nodes
from tests.faults_to_inject import NoFaults
from tests.s3_server import S3Server, run_s3_server
from tests.unit.storage.test_bundle import write

RUN_SECONDS = 300.0
"""A driver that takes longer hangs."""


@dataclass
class World:
    """Everything that histories share; each has a table of its own."""

    s3: S3Server
    traffic: Traffic
    nodes: RayNodes
    images: Images
    archive: str
    model: str
    folder: Path
    slice_size: int
    seconds_per_image: float
    is_vae: bool
    """Whether the bundle's network scores, and not the fast scorer."""

    @cached_property
    def expected(self) -> pd.DataFrame:
        """What a run without a fault says of each image, by member."""
        if not self.is_vae:
            return self.images.expected().assign(status=Status.OK.value)
        table = self.new_table()
        table.run_to_the_end()
        return table.delta_rows()

    def new_table(self) -> Table:
        """An empty prefix."""
        self.traffic.faults = NoFaults()
        name = f"tests/chaos-{uuid.uuid4().hex[:12]}"
        return Table(self, f"s3://{name}/scores", self.folder / f"{name.replace('/', '-')}.journal")


@dataclass
class Table:
    """One table to be, and the drivers that make it."""

    world: World
    uri: str
    journal: Path
    """To which every scoring process appends how many images it has scored, and when."""

    @property
    def path(self) -> str:
        """As requests name it."""
        return f"/{self.uri.removeprefix('s3://')}"

    @contextmanager
    def driver(self, **settings: object) -> Iterator[subprocess.Popen[str]]:
        """A driver in a process of its own, killed if it outlives the block."""
        world = self.world
        # One of the two GPUs that each node claims to have, so that two drivers find room at once.
        chosen = {"slice_size": world.slice_size, "batch_size": 8, "commit_seconds": 0.3, "num_actors": 1, **settings}
        command = [sys.executable, "-m", "tests.faults.drive", world.archive, "--model", world.model]
        command += ["--table", self.uri, "--seconds-per-image", str(world.seconds_per_image)]
        command += ["--vae", "--set=ray.device=cpu"] if world.is_vae else []
        command += ["--journal", str(self.journal), *(f"--set=score.{name}={value}" for name, value in chosen.items())]
        proxied = S3Server(world.traffic.endpoint).environment
        environment = os.environ | proxied | {"RAY_ADDRESS": world.nodes.address}
        with tempfile.TemporaryFile("w+") as said:
            process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=said, text=True)
            process.said = said  # type: ignore[attr-defined]
            try:
                yield process
            finally:
                process.kill()
                process.wait()

    def finish(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        """The summary of a driver that ends well."""
        output, _ = process.communicate(timeout=RUN_SECONDS)
        if process.returncode != 0:
            raise RuntimeError(f"the driver ended with {process.returncode}: {words_of(process)[-3000:]}")
        summary: dict[str, Any] = json.loads(output)
        return summary

    def run_to_the_end(self, **settings: object) -> dict[str, Any]:
        """The same command again, without a fault."""
        self.world.traffic.faults = NoFaults()
        with self.driver(**settings) as process:
            return self.finish(process)

    def num_scored(self) -> int:
        """Images scored so far, by all runs."""
        return sum(count for _, count in self.scorings())

    def scorings(self) -> list[tuple[float, int]]:
        """(seconds since 1970, images) of each batch that was scored."""
        if not self.journal.exists():
            return []
        lines = self.journal.read_text().split("\n")[:-1]
        return [(float(when), int(count)) for when, count in map(str.split, lines)]

    def num_slices_written(self) -> int:
        """Slice files, committed or not."""
        filesystem = self.world.s3.filesystem()
        return len(filesystem.glob(f"{self.path[1:]}/_slices/*.parquet"))

    def plain_rows(self) -> pd.DataFrame:
        """As readers of plain Parquet see the table."""
        filesystem = self.world.s3.filesystem()
        pieces = [pd.read_parquet(filesystem.open(file)) for file in filesystem.glob(f"{self.path[1:]}/*.parquet")]
        return pd.concat(pieces).set_index("member").sort_index()

    def delta_rows(self) -> pd.DataFrame:
        """As readers of Delta see it."""
        return self.delta().to_pandas().set_index("member").sort_index()

    def delta(self) -> DeltaTable:
        options = {name.lower(): value for name, value in self.world.s3.environment.items()}
        return DeltaTable(self.uri, storage_options={**options, "aws_allow_http": "true"})


class Reader:
    """Reads the table again and again while it is made. What it has seen once must never be gone, nor there twice."""

    def __init__(self, table: Table, *, every_seconds: float = 0.25) -> None:
        self._table, self._every_seconds = table, every_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="reader")
        self.seen: list[tuple[float, int]] = []
        """(seconds since 1970, rows of a snapshot), whenever their number grew."""
        self.complaints: list[str] = []

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        handle: DeltaTable | None = None
        while not self._stop.wait(self._every_seconds):
            if handle is None:
                with suppress(Exception):  # there is no table yet
                    handle = self._table.delta()
                continue
            handle.update_incremental()
            self._look(handle)

    def _look(self, handle: DeltaTable) -> None:
        members = sorted(handle.to_pyarrow_dataset().to_table(columns=["member_index"])["member_index"].to_pylist())
        if len(members) != len(set(members)):
            self.complaints.append(f"version {handle.version()} holds rows twice")
        num_before = self.seen[-1][1] if self.seen else 0
        if len(members) < num_before:
            self.complaints.append(f"version {handle.version()} has lost {num_before - len(members)} rows")
        if len(members) > num_before:
            self.seen.append((time.time(), len(members)))


def words_of(process: subprocess.Popen[str]) -> str:
    """What a driver has said on stderr."""
    said = process.said  # type: ignore[attr-defined]
    said.seek(0)
    return str(said.read())


@contextmanager
def open_world(
    *, num_images: int, slice_size: int, seconds_per_image: float, num_nodes: int = 1, is_vae: bool = False
) -> Iterator[World]:
    """Start all of it, and end it with the block."""
    with (
        tempfile.TemporaryDirectory(prefix="chaos-") as folder,
        run_s3_server(Path(folder)) as s3,
        fault_proxy(s3.endpoint) as traffic,
        ray_nodes(S3Server(traffic.endpoint).environment, num_nodes=num_nodes, num_cpus=5, num_gpus=2) as nodes,
    ):
        images = Images.make(num_images, seed=0)
        s3.filesystem().pipe("tests/chaos/images.zip", images.zip_bytes())
        model = f"{folder}/model"
        write(Location.parse(model))
        archive = "s3://tests/chaos/images.zip"
        yield World(s3, traffic, nodes, images, archive, model, Path(folder), slice_size, seconds_per_image, is_vae)
