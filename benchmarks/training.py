"""Training: images per second against what arithmetic allows, with one worker and two, and how long they wait."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks.arithmetic import forward_flops, matrix_flops
from benchmarks.harness import Part, Scale, interleaved, medians
from benchmarks.images import drawn_jpegs, real_jpegs, zip_of
from benchmarks.models import PAPER, TINY, small_model
from benchmarks.processes import run_command
from skinvae.model.vae import ModelSettings

PASSES = 3
"""Forward, gradients of activations, gradients of weights: each costs as much as the forward pass."""


@dataclass(frozen=True)
class Setup:
    """One model and its training run."""

    name: str
    model: ModelSettings
    num_images: int
    num_epochs: int
    """The first one is not counted: kernels and memory are set up in it."""


def measure(scale: Scale) -> Part:
    """Fresh `skinvae train` processes; the rate is that of their epochs, as they report it themselves."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    flops = matrix_flops(threads=scale.threads, device=device, seconds=0.1 if scale.small else 2.0)
    rows = []
    for setup in _setups(scale):
        rows += _measure_setup(setup, scale, flops=flops)
    return Part(
        name="training",
        title="Training",
        rows=rows,
        notes=[
            f"The limit is {flops / 1e9:,.0f} GFLOP/s, the measured float32 rate of square matrix products on all "
            f"{scale.threads} threads, over {PASSES} times the forward pass: one encode and one decode.",
            "Rates are medians over epochs after the first, without validation, and over interleaved rounds of whole "
            "commands. Images lie decoded in memory; waiting is the time a worker takes to gather a batch and to draw "
            "its noise, as a share of the epoch.",
        ],
        bars=("job", "images/s"),
    )


def _setups(scale: Scale) -> list[Setup]:
    if scale.small:
        return [Setup("tiny model", TINY, num_images=48, num_epochs=3)]
    return [
        Setup("paper's model", PAPER, num_images=128, num_epochs=3),
        Setup("64 px model", small_model(), num_images=600, num_epochs=5),
    ]


def _measure_setup(setup: Setup, scale: Scale, *, flops: float) -> list[dict[str, Any]]:
    folder = scale.folder(str(setup.model.image_size))
    archive, labels = _archive(setup, scale, folder)
    shares: dict[str, list[float]] = {}

    def way(num_workers: int) -> float:
        name = str(num_workers)
        out = folder / f"model-{num_workers}-{len(shares.setdefault(name, []))}"
        history = _train(setup, archive, labels, out, num_workers=num_workers)
        shares[name].append((history["input_seconds"] / history["seconds"]).median())
        return float((history["num_images"] / history["seconds"]).median())

    ways: dict[str, Callable[[], float | None]] = {str(count): functools.partial(way, count) for count in (1, 2)}
    rates = medians(
        interleaved(ways, min(2, scale.rounds), say=lambda words: scale.say(f"{setup.name}, {words} worker(s)"))
    )
    limit = flops / (PASSES * sum(forward_flops(setup.model)))
    waits = medians(shares)
    return [
        {
            "job": f"{setup.name}, {name} worker{'s' * (name != '1')}",
            "images/s": rate,
            "limit images/s": limit,
            "of the limit": rate / limit,
            "relative to 1 worker": rate / rates["1"],
            "waits for input": waits[name],
        }
        for name, rate in rates.items()
    ]


def _archive(setup: Setup, scale: Scale, folder: Path) -> tuple[Path, Path]:
    """Images, all of them called normal, and their labels."""
    jpegs = [data for _, data in real_jpegs(scale, setup.num_images)]
    jpegs = jpegs or list(drawn_jpegs(min(setup.num_images, 64), width=200, height=150))
    members = [(f"{index:07}.jpg", jpegs[index % len(jpegs)]) for index in range(setup.num_images)]
    archive, labels = folder / "images.zip", folder / "labels.csv"
    archive.write_bytes(zip_of(members))
    labels.write_text("image_id,dx\n" + "".join(f"{Path(name).stem},nv\n" for name, _ in members))
    return archive, labels


def _train(setup: Setup, archive: Path, labels: Path, out: Path, *, num_workers: int) -> pd.DataFrame:
    """The training epochs that count: records of history.csv."""
    command = ["-m", "skinvae", "train", str(archive), "--labels", str(labels), "--normal", "NV", "--out", str(out)]
    settings = {f"model.{name}": value for name, value in setup.model.model_dump().items()}
    settings |= {"train.num_epochs": setup.num_epochs, "train.num_workers": num_workers}
    for name, value in settings.items():
        command += ["--set", f"{name}={value}"]
    run_command(command)
    history = pd.read_csv(out / "history.csv")
    return history[(history["split"] == "train") & (history["epoch"] > 1)]
