"""The two large tables of docs/scale.md: what is assumed, and every resource as unit cost x count = total."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from benchmarks.report import number
from benchmarks.scale.arithmetic import H100, L4, Job
from benchmarks.scale.measurements import IMAGE
from skinvae.pipelines.completing import MAX_INPUT_BLOCKS

DRIVER, REQUESTS = "`python -m benchmarks.scale driver`", "`python -m benchmarks.scale requests`"
BENCH = "`benchmarks/results/bench.md`"
BUILT, ASSUMED = "by construction", "assumed"


class Resource(NamedTuple):
    """One line of the table, for any job."""

    what: str
    unit_cost: str
    times: str
    measured_by: str
    total: Callable[[Job], float]


def assumptions(l4: Job, h100: Job) -> list[dict[str, str]]:
    """Everything that a job's figures depend on and that nobody measured here."""
    cluster, measured = l4.cluster, l4.measured
    share = f"{measured.share_of_limit:.3g} of the matrix rate, as the scorer reaches on a CPU ({BENCH})"
    rows: list[tuple[str, Any, str]] = [
        (
            "images/s of an L4",
            l4.gpu_rate,
            f"{L4.teraflops:g} TFLOP/s by its data sheet, {share}, {l4.gflop_per_image:.4g} GFLOP an image at "
            f"k = {cluster.num_samples}",
        ),
        ("images/s of an H100", h100.gpu_rate, f"the same, of {H100.teraflops:g} TFLOP/s"),
        ("images of an archive", cluster.images_per_archive, "zips below the limit of zip64"),
        ("images of a slice", cluster.slice_size, "the most that skinvae chooses by itself"),
        ("seconds between commits", cluster.commit_seconds, "default of `score.commit_seconds`"),
        ("KB of an image", measured.image_bytes / 1000, f"'{IMAGE}' of {BENCH}, nearest to ISIC's originals"),
        ("US$ per 1,000 PUT, LIST", f"{cluster.put_price:g}", "list price of S3 Standard, us-east-1"),
        ("US$ per 1,000 GET, HEAD", f"{cluster.get_price:g}", "the same"),
        ("requests/s of a prefix", f"{cluster.puts_per_second:,.0f} PUT, {cluster.gets_per_second:,.0f} GET", "S3's"),
        ("GB of memory of the head", cluster.driver_gigabytes, "m7i.xlarge, of cluster.yaml"),
        ("Gbit/s for each GPU", f"{L4.gigabits:g}, {H100.gigabits:g}", "data sheets of g6.xlarge and p5.48xlarge"),
    ]
    return [{"what": what, "value": number(value), "why": why} for what, value, why in rows]


def resources(jobs: Mapping[str, Job]) -> list[dict[str, Any]]:
    """Every resource of every job."""
    job = next(iter(jobs.values()))
    lines = [*_work(job), *_storage(job), *_driver(job), *_ray(job), *_network(job), *_afterwards(job)]
    return [
        {"what": one.what, "unit cost": one.unit_cost, "times": one.times}
        | {name: one.total(each) for name, each in jobs.items()}
        | {"measured by": one.measured_by}
        for one in lines
    ]


def _work(job: Job) -> list[Resource]:
    rate = f"{job.measured.decoded_per_core:.0f} images/s a core"
    size = f"{job.cluster.slice_size:,} images"
    return [
        Resource("images/s", "rate of a GPU", "GPUs", ASSUMED, lambda j: j.rate),
        Resource("scoring, minutes", "1 / images/s", "images", ASSUMED, lambda j: j.seconds / 60),
        Resource("GPU-hours", "1 / rate of a GPU", "images", ASSUMED, lambda j: j.cluster.num_gpus * j.seconds / 3600),
        Resource("decoding cores", rate, "images/s", BENCH, lambda j: j.decode_cores),
        Resource("decoding cores a GPU", rate, "rate of a GPU", BENCH, lambda j: j.decode_cores / j.cluster.num_gpus),
        Resource("slices", size, "images", BUILT, lambda j: j.num_slices),
        Resource("slices/s", size, "images/s", BUILT, lambda j: j.slices_per_second),
    ]


def _storage(job: Job) -> list[Resource]:
    swapped = job.measured.requests_per_slice("score", "slice files", "GET")
    return [
        Resource("LIST requests", "1 for 1,000 names", "archives, slices twice", REQUESTS, lambda j: j.num_lists),
        Resource("reads of archives, a slice", "2, 1 for 16 MB beyond", "1", REQUESTS, lambda j: j.reads_per_slice),
        Resource("GET requests", f"those, {swapped:.2g} at the swap", "slices", REQUESTS, lambda j: j.num_gets),
        Resource("PUT requests", "1 a slice, 1 a large file", "slices", REQUESTS, lambda j: j.num_puts),
        Resource("requests, US$", "list prices", "requests", ASSUMED, lambda j: j.request_dollars),
    ]


def _driver(job: Job) -> list[Resource]:
    m = job.measured
    plan, commit = m.plan_seconds_per_member, f"{1000 * m.commit_seconds(0):.2g} ms and "
    commit += f"{1e6 * (m.commit_seconds(1) - m.commit_seconds(0)):.2g} µs a slice"
    memory, log, point = m.driver_bytes_per_slice, m.log_bytes_per_slice, m.checkpoint_bytes_per_slice
    core = m.cpu_seconds_per_slice("driver")
    return [
        Resource(
            "planning, minutes",
            f"{1e6 * plan:.2g} µs an image",
            "images",
            DRIVER,
            lambda j: plan * j.cluster.num_images / 60,
        ),
        Resource("its memory, GB", f"{memory / 1000:.3g} KB a slice", "slices", DRIVER, lambda j: j.driver_bytes / 1e9),
        Resource(
            "its core, share",
            f"{1000 * core:.3g} ms a slice",
            "slices/s",
            REQUESTS,
            lambda j: core * j.slices_per_second,
        ),
        Resource("commits", "1 in 5 s", "seconds", BUILT, lambda j: j.num_commits),
        Resource("slices of a commit", "slices/s", "5 s", BUILT, lambda j: j.num_slices / j.num_commits),
        Resource("last commit, s", commit, "slices in the table", DRIVER, lambda j: j.commit_seconds),
        Resource("log, MB", f"{log:.0f} bytes a slice", "slices", DRIVER, lambda j: log * j.num_slices / 1e6),
        Resource(
            "its last checkpoint, MB",
            f"{point:.0f} bytes a slice",
            "slices",
            DRIVER,
            lambda j: point * j.num_slices / 1e6,
        ),
    ]


def _ray(job: Job) -> list[Resource]:
    m = job.measured
    gcs, board = m.cpu_seconds_per_slice("gcs_server"), m.cpu_seconds_per_slice("dashboard")
    row, slice_mb = m.input_bytes_per_slice, job.pixel_bytes * job.cluster.slice_size / 1e6
    events = m.mb_per_slice("gcs_server")
    return [
        Resource(
            "input in the object store, MB",
            f"{row:.0f} bytes a slice",
            "slices",
            DRIVER,
            lambda j: row * j.num_slices / 1e6,
        ),
        Resource(
            "pixels in it, GB a GPU",
            f"{slice_mb:.3g} MB a slice",
            "3 a GPU, 1 a decoding core",
            BUILT,
            lambda j: j.object_store_bytes_per_gpu / 1e9,
        ),
        Resource(
            "objects", "4 a slice: two blocks and what describes them", "slices", BUILT, lambda j: 4 * j.num_slices
        ),
        Resource("tasks", "1 a slice, 1 a block", "slices", BUILT, _tasks),
        Resource(
            "GCS, share of a core",
            f"{1000 * gcs:.2g} ms a slice",
            "slices/s",
            REQUESTS,
            lambda j: gcs * j.slices_per_second,
        ),
        Resource(
            "GCS, MB of events", f"{1000 * events:.2g} KB a slice", "slices", REQUESTS, lambda j: events * j.num_slices
        ),
        Resource(
            "dashboard, share of a core",
            f"{1000 * board:.2g} ms a slice",
            "slices/s",
            REQUESTS,
            lambda j: board * j.slices_per_second,
        ),
    ]


def _network(job: Job) -> list[Resource]:
    m, rows = job.measured, job.measured.full_part["slice_file_bytes"]
    pixels, image = job.pixel_bytes, f"{m.image_bytes / 1000:.0f} KB an image, {job.pixel_bytes / 1000:.0f} prepared"
    return [
        Resource(
            "archives in, Gbit/s a GPU",
            image,
            "rate of a GPU",
            BENCH,
            lambda j: j.gpu_rate * j.archive_bytes_per_image * 8e-9,
        ),
        Resource(
            "pixels to it, Gbit/s a GPU",
            f"{pixels / 1000:.0f} KB an image",
            "rate of a GPU",
            BUILT,
            lambda j: j.gpu_rate * pixels * 8e-9,
        ),
        Resource(
            "rows out, Mbit/s a GPU",
            f"{rows / 1000:.0f} KB a slice",
            "slices/s of a GPU",
            DRIVER,
            lambda j: rows * 8e-6 * j.gpu_rate / j.cluster.slice_size,
        ),
    ]


def _afterwards(job: Job) -> list[Resource]:
    part, resume, status = job.measured.full_part, job.measured.resume_seconds_per_member, job.measured.status_seconds
    size = f"{part['num_bytes'] / part['num_rows']:.0f} bytes a row"
    swap = f"{part['seconds']:.2g} s a large file, of up to {part['peak_mb']:,.0f} MB"
    return [
        Resource("table, GB", size, "images", DRIVER, lambda j: j.table_bytes / 1e9),
        Resource("swap, core-minutes", swap, "large files", DRIVER, lambda j: j.num_parts * part["seconds"] / 60),
        Resource(
            "resume at half, minutes",
            f"{1e6 * resume:.2g} µs an image",
            "images",
            DRIVER,
            lambda j: resume * j.cluster.num_images / 60,
        ),
        Resource(
            "status, s",
            f"{1e6 * status:.2g} µs a slice in the table",
            "slices",
            DRIVER,
            lambda j: status * j.num_slices,
        ),
    ]


def _tasks(job: Job) -> float:
    return job.num_slices + min(MAX_INPUT_BLOCKS, job.num_slices)
