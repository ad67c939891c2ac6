"""JPEGs on an S3 server -> six scores of every image: skinvae beside what people would write or use instead."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import s3fs
import torch
from scipy.stats import spearmanr

from benchmarks.bundles import make_bundle
from benchmarks.harness import Floor, Part, Scale, interleaved, ratio
from benchmarks.images import named_jpegs, zip_of
from benchmarks.models import PAPER, TINY, small_model
from benchmarks.processes import Usage, run_command
from benchmarks.ways.task import Task, marks_of_job, read_marks, read_scores
from skinvae.model.vae import ModelSettings
from skinvae.records import SCORES
from tests.s3_server import run_s3_server

SKINVAE, DEFAULT = "skinvae", "skinvae at its default precision"
AUTHORS, LOOP, DOCUMENTATION = "authors' way", "DataLoader loop", "Ray Data documentation's way"
LOOP_OURS = "DataLoader loop with skinvae's scorer"
DAFT, NATIVE = "Daft", "Daft, its own decoding"
KERNEL, DECODE = "limit: kernel alone", "limit: decoding alone"

MODULES = {
    SKINVAE: "product",
    # The limits that skinvae is held against come right behind it: a machine may be slower some minutes later.
    KERNEL: "kernel_alone",
    DECODE: "decode_alone",
    DEFAULT: "product_default",
    LOOP: "loop",
    LOOP_OURS: "loop_product_scorer",
    DAFT: "dataframe",
    NATIVE: "dataframe_native",
    DOCUMENTATION: "documentation",
    AUTHORS: "authors",
}
SAME_SCORES = {LOOP, LOOP_OURS, DAFT, DOCUMENTATION, AUTHORS}
"""Ways that score the same pixels with the same draws in float32."""

RTOL = 1e-5
ROUNDS = 2
"""Rather than more rounds of fewer images: a job's first seconds are spent beside processes that still start."""
AT_LEAST_OF_LIMIT, AT_LEAST_OF_DAFT, AT_LEAST_OF_LOOP, AT_LEAST_OF_DOCUMENTATION = 0.90, 1.0, 1.0, 2.0


@dataclass(frozen=True)
class Setup:
    """One model and how many images of it a round takes."""

    name: str
    model: ModelSettings
    num_images: int
    num_images_of_authors: int


@dataclass(frozen=True)
class Run:
    """One way, run once."""

    usage: Usage
    start_up_seconds: float
    """Until the first batch was scored."""
    images_per_second: float
    """From then until the last one was."""
    num_images: int


def setups(scale: Scale) -> list[Setup]:
    """The paper's model, and the small one on each image of the small archive twice."""
    if scale.small:
        return [Setup("tiny model", TINY, num_images=96, num_images_of_authors=4)]
    return [
        Setup("paper's model", PAPER, num_images=256, num_images_of_authors=4),
        Setup("64 px model", small_model(), num_images=2742, num_images_of_authors=32),
    ]


def measure(scale: Scale) -> Part:
    """Interleaved rounds of fresh processes for each setup."""
    rows: list[dict[str, Any]] = []
    floors: list[Floor] = []
    notes: list[str] = []
    with run_s3_server(scale.folder("s3")) as server:
        os.environ.update(server.environment)
        for setup in setups(scale):
            found_rows, found_floors, found_notes = _measure_setup(setup, scale, server.filesystem())
            rows += found_rows
            floors += found_floors
            notes += found_notes
    return Part(
        name="peers",
        title="End to end: JPEGs on an S3 server -> six scores of every image",
        rows=rows,
        floors=floors,
        notes=[*dict.fromkeys(notes), *NOTES],
        bars=("way", "relative to skinvae"),
    )


NOTES = (
    "images/s is the rate from the first scored batch to the last; wall seconds are of the whole process, with start "
    "and end; the S3 server runs on the same cores.",
    "Beside skinvae, ways run the plain module in batches of 32, but for the DataLoader loop with skinvae's scorer, "
    "which tells pipeline from arithmetic. Floors are float32 against float32; the documentation's way, which is "
    "float32 by design, meets skinvae as it comes.",
    "All ways load the same bundle, score the same pixels with the same draws in float32 at the same number of "
    "threads, and write Parquet to the same server; skinvae reads the zip and writes a Delta table that resumes.",
    "Decoding is skinvae's in the authors' way, the DataLoader loop and Daft; the documentation's way decodes with "
    "Pillow, as read_images does. The resize is the same kernel everywhere but in 'Daft, its own decoding'.",
    "The authors' way takes fewer images: its rate is what is compared.",
    "peak MB adds up the resident memory of all processes; shared pages count in each.",
)


def _measure_setup(
    setup: Setup, scale: Scale, fs: s3fs.S3FileSystem
) -> tuple[list[dict[str, Any]], list[Floor], list[str]]:
    task, what = _prepare(setup, scale, fs)
    runs: dict[str, list[Run]] = {}
    outs: dict[str, str] = {}

    def way(name: str) -> float:
        number = len(runs.setdefault(name, []))
        slug = MODULES[name]
        own = dataclasses.replace(
            task,
            out=f"{task.out}/{slug}-{number}",
            marks=str(scale.folder("marks") / f"{slug}-{setup.model.image_size}-{number}"),
            max_images=setup.num_images_of_authors if name == AUTHORS else None,
        )
        count = None if name == DECODE else own.max_images or setup.num_images
        runs[name].append(_run(slug, own, count))
        outs.setdefault(name, own.out)
        return runs[name][-1].images_per_second

    ways: dict[str, Callable[[], float | None]] = {name: functools.partial(way, name) for name in _ways_at_hand()}
    rates = interleaved(ways, min(ROUNDS, scale.rounds), say=lambda words: scale.say(f"{setup.name}, {words}"))
    notes = [
        f"{setup.name}: {setup.num_images:,} {what}.",
        *_check(setup, {name: read_scores(out, fs=fs) for name, out in outs.items() if not name.startswith("limit")}),
    ]
    if DAFT not in ways:
        notes.append("Daft is not installed here: `pip install -e '.[bench]'`.")
    return _rows(setup, runs, rates), _floors(setup, rates), notes


def _ways_at_hand() -> list[str]:
    has_daft = importlib.util.find_spec("daft") is not None
    return [name for name in MODULES if has_daft or name not in (DAFT, NATIVE)]


def _prepare(setup: Setup, scale: Scale, fs: s3fs.S3FileSystem) -> tuple[Task, str]:
    """Model, zip and objects on the server."""
    scale.say(f"{setup.name}: uploading")
    root = f"s3://tests/{setup.model.image_size}"
    members, what = named_jpegs(scale, setup.num_images)
    make_bundle(f"{root}/model", setup.model)
    fs.pipe_file(f"{root}/images.zip", zip_of(members))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda member: fs.pipe_file(f"{root}/objects/{member[0]}", member[1]), members))
    task = Task(
        bundle=f"{root}/model",
        archive=f"{root}/images.zip",
        objects=f"{root}/objects",
        out=f"{root}/out",
        marks="",
        threads=scale.threads,
        device="cuda" if torch.cuda.is_available() else "cpu",
    )
    return task, what


def _run(module: str, task: Task, num_images: int | None) -> Run:
    usage = run_command(["-m", "benchmarks.ways", module, task.to_json()])
    # Decoding alone goes over its images as often as time allows.
    marks = read_marks(task.marks) if num_images is None else marks_of_job(task.marks, num_images)
    (first, num_first), *later = marks
    assert later, f"{module} scored all in one batch: there is no rate to tell"
    num_later = sum(count for _, count in later)
    rate = num_later / (later[-1][0] - first)
    return Run(usage, first - usage.started, rate, num_later + num_first)


def _check(setup: Setup, scores: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """All ways give every image the same six scores. Raises AssertionError."""
    ours = scores[SKINVAE]
    worst = 0.0
    for name, theirs in scores.items():
        expected = setup.num_images_of_authors if name == AUTHORS else setup.num_images
        assert len(theirs) == expected, f"{name} gave {len(theirs)} rows for {expected} images"
        assert set(theirs) <= set(ours), f"{name} names other images"
        ids = sorted(theirs)
        a, b = (np.stack([one[image] for image in ids]) for one in (ours, theirs))
        if name in SAME_SCORES:
            off = np.abs(b - a) / np.maximum(1.0, np.abs(a))
            assert off.max() <= RTOL, f"{name}: {SCORES[int(off.max(0).argmax())]} is off by {off.max():.1e}"
            worst = max(worst, float(off.max()))
    notes = [f"{setup.name}: the ways' scores agree to {worst:.0e} at worst, relative, or of a nat below 1 nat."]
    return notes + [_difference(setup, name, scores[name], ours) for name in (DEFAULT, NATIVE) if name in scores]


def _difference(setup: Setup, name: str, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """Of a way whose scores are its own."""
    column = SCORES.index("vae_reconst")
    a, b = (np.array([one[image][column] for image in sorted(ours)]) for one in (ours, theirs))
    rank = float(spearmanr(a, b).statistic)
    off = float(np.max(np.abs(b / a - 1)))
    return (
        f"{setup.name}: vae_reconst of '{name}' differs from skinvae's in float32 by {off:.0e} at most, relative; rank "
        f"correlation {rank:.6f}."
    )


def _rows(setup: Setup, runs: Mapping[str, Sequence[Run]], rates: Mapping[str, list[float]]) -> list[dict[str, Any]]:
    rows = []
    for name, some in runs.items():
        is_limit = name == DECODE  # as often as time allows: its images are not the others'
        rows.append(
            {
                "way": f"{name}, {setup.name}",
                "images/s": statistics.median(rates[name]),
                "relative to skinvae": None if is_limit else ratio(rates, name, SKINVAE),
                "start-up s": statistics.median(run.start_up_seconds for run in some),
                "wall s": None if is_limit else statistics.median(run.usage.seconds for run in some),
                "images": None if is_limit else some[0].num_images,
                "CPU s / 1,000 images": statistics.median(
                    1000 * run.usage.cpu_seconds / run.num_images for run in some
                ),
                "peak MB": statistics.median(run.usage.peak_mb for run in some),
            }
        )
    kernel, decode = (statistics.median(rates[name]) for name in (KERNEL, DECODE))
    both = {"way": f"limit: both on the same cores, {setup.name}", "images/s": 1 / (1 / kernel + 1 / decode)}
    return [*rows, both]


def _floors(setup: Setup, rates: Mapping[str, list[float]]) -> list[Floor]:
    def against(name: str, at_least: float, *, ours: str = SKINVAE) -> list[Floor]:
        if name not in rates:
            return []
        what = f"{setup.name}: images/s of {ours} relative to {name}"
        return [Floor(what, ratio(rates, ours, name), at_least=at_least)]

    of_limit = statistics.median(
        ours / min(kernel, decode)
        for ours, kernel, decode in zip(rates[SKINVAE], rates[KERNEL], rates[DECODE], strict=True)
    )
    what = f"{setup.name}: skinvae's images/s relative to the lower of kernel and decoding alone"
    return [
        Floor(what, of_limit, at_least=AT_LEAST_OF_LIMIT),
        *against(DAFT, AT_LEAST_OF_DAFT),
        *against(NATIVE, AT_LEAST_OF_DAFT),
        *against(LOOP, AT_LEAST_OF_LOOP),
        *against(DOCUMENTATION, AT_LEAST_OF_DOCUMENTATION, ours=DEFAULT),
    ]
