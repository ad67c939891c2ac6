"""From what was measured to what a job of any size takes: every figure of docs/scale.md, and nothing else.

All functions are of `Measurements`, what the JSON in benchmarks/results says, and of a `Cluster`, what is assumed.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field

from benchmarks.arithmetic import forward_flops
from benchmarks.scale.measurements import Measurements
from skinvae.config import ScoreSettings
from skinvae.images.archives.coalesce import MAX_READ_BYTES
from skinvae.model.vae import ModelSettings
from skinvae.pipelines.actor_stage import CALLS_AT_ONCE
from skinvae.pipelines.completing import MAX_INPUT_BLOCKS
from skinvae.pipelines.tuning import MAX_SLICE_SIZE


@dataclass(frozen=True)
class Gpu:
    """A kind of node; from data sheets, not measured."""

    name: str
    teraflops: float
    """bfloat16, dense."""
    gigabits: float
    """Network of a node, for each of its GPUs."""


L4 = Gpu("L4 (g6.xlarge)", 121.0, 10.0)
H100 = Gpu("H100 (p5.48xlarge)", 990.0, 400.0)


@dataclass(frozen=True)
class Cluster:
    """A job, and what runs it. Everything here is assumed; README and page say so."""

    gpu: Gpu
    gpu_rate: float | None = None
    """Images/s of one GPU, where it was measured; None: by arithmetic."""
    num_images: int = 100_000_000
    num_gpus: int = 64
    num_samples: int = 15
    slice_size: int = MAX_SLICE_SIZE
    images_per_archive: int = 64_000
    is_prepared: bool = False
    """Decoded before: pixels are read, nothing is decoded."""
    commit_seconds: float = field(default_factory=lambda: ScoreSettings().commit_seconds)
    put_price: float = 0.005
    """US$ per 1,000 PUT, POST or LIST requests of S3 Standard, us-east-1."""
    get_price: float = 0.0004
    """US$ per 1,000 GET or HEAD requests."""
    puts_per_second: float = 3500.0
    """That S3 promises for one prefix before it splits it."""
    gets_per_second: float = 5500.0
    driver_gigabytes: float = 16.0
    """Memory of cluster.yaml's head."""


@functools.cache
def _forward_flops() -> tuple[float, float]:
    return forward_flops(ModelSettings())


class Job:
    """The job on the cluster, by the measured costs."""

    def __init__(self, measured: Measurements, cluster: Cluster) -> None:
        self.measured, self.cluster = measured, cluster

    @property
    def gflop_per_image(self) -> float:
        encode, decode = _forward_flops()
        return (encode + self.cluster.num_samples * decode) / 1e9

    @property
    def gpu_rate(self) -> float:
        """Images/s of one GPU: the matrix rate of its data sheet, and the share of it that the scorer has on a CPU."""
        if self.cluster.gpu_rate is not None:
            return self.cluster.gpu_rate
        return self.cluster.gpu.teraflops * 1000 * self.measured.share_of_limit / self.gflop_per_image

    @property
    def rate(self) -> float:
        """Images/s of all of them."""
        return self.cluster.num_gpus * self.gpu_rate

    @property
    def seconds(self) -> float:
        return self.cluster.num_images / self.rate

    @property
    def num_slices(self) -> float:
        return self.cluster.num_images / self.cluster.slice_size

    @property
    def slices_per_second(self) -> float:
        return self.rate / self.cluster.slice_size

    @property
    def num_archives(self) -> float:
        return self.cluster.num_images / self.cluster.images_per_archive

    @property
    def decode_cores(self) -> float:
        return 0.0 if self.cluster.is_prepared else self.rate / self.measured.decoded_per_core

    @property
    def driver_bytes(self) -> float:
        return self.measured.process_bytes + self.num_slices * self.measured.driver_bytes_per_slice

    @property
    def num_commits(self) -> float:
        return max(1.0, self.seconds / self.cluster.commit_seconds)

    @property
    def commit_seconds(self) -> float:
        """Of the last commit."""
        return self.measured.commit_seconds(self.num_slices)

    @property
    def table_bytes(self) -> float:
        part = self.measured.full_part
        return self.cluster.num_images * part["num_bytes"] / part["num_rows"]

    @property
    def num_parts(self) -> float:
        return self.table_bytes / self.measured.full_part["num_bytes"]

    @property
    def pixel_bytes(self) -> float:
        """Of an image, between decoding and scoring."""
        return 3.0 * ModelSettings().image_size ** 2

    @property
    def object_store_bytes_per_gpu(self) -> float:
        """Slices that its actor has or that wait for it, and one that each of its decoding cores makes."""
        num_slices = CALLS_AT_ONCE + 1 + self.decode_cores / self.cluster.num_gpus
        return num_slices * self.cluster.slice_size * self.pixel_bytes

    @property
    def archive_bytes_per_image(self) -> float:
        return self.pixel_bytes if self.cluster.is_prepared else self.measured.image_bytes

    @property
    def reads_per_slice(self) -> float:
        """Of archives: as counted with images so small that one read held a slice, and one for every 16 MB beyond."""
        counted = self.measured.requests_per_slice("score", "archive", "GET", "HEAD")
        return counted + self.cluster.slice_size * self.archive_bytes_per_image / MAX_READ_BYTES - 1

    @property
    def num_gets(self) -> float:
        swapped = self.measured.requests_per_slice("score", "slice files", "GET", "HEAD")
        return self.num_slices * (self.reads_per_slice + swapped)

    @property
    def num_puts(self) -> float:
        return self.num_slices * self.measured.requests_per_slice("score", "slice files", "PUT") + self.num_parts

    @property
    def num_lists(self) -> float:
        """The slice files and the archives, 1,000 a page, before the work and behind it."""
        return 2 * self.num_slices / 1000 + self.num_archives / 1000

    @property
    def request_dollars(self) -> float:
        writing = self.num_puts + self.num_lists + self.num_commits
        return (writing * self.cluster.put_price + self.num_gets * self.cluster.get_price) / 1000

    @property
    def num_drivers(self) -> int:
        """That share the archives, so that neither a driver's core nor the tasks that one can have are the limit."""
        limits = self.limits()
        return math.ceil(max(limits["driver's core"], limits["decoding tasks"]))

    @property
    def seconds_of_all_commits(self) -> float:
        """That so many drivers take for a commit each, one after the other, as the table is full."""
        return self.num_drivers * self.measured.contended_commit_seconds

    def limits(self) -> dict[str, float]:
        """How much of each limit the job takes, the most first; above 1 it waits for that instead of for GPUs."""
        cluster, measured = self.cluster, self.measured
        found = {
            "driver's core": self.slices_per_second * measured.cpu_seconds_per_slice("driver"),
            "decoding tasks": self.decode_cores / MAX_INPUT_BLOCKS,
            "commits": self.commit_seconds / cluster.commit_seconds,
            "driver's memory": self.driver_bytes / (cluster.driver_gigabytes * 1e9),
            "S3 reads of one prefix": self.slices_per_second * self.reads_per_slice / cluster.gets_per_second,
            "S3 writes of one prefix": self.slices_per_second / cluster.puts_per_second,
            "GPU node's network": self.gpu_rate * self.pixel_bytes * 8 / (cluster.gpu.gigabits * 1e9),
            "planning": measured.plan_seconds_per_member * cluster.num_images / self.seconds,
        }
        return dict(sorted(found.items(), key=lambda one: -one[1]))
