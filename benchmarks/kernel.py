"""The scorer alone, pixels in memory: against the arithmetic limit, the authors' way, and without each trick."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.arithmetic import forward_flops, matrix_flops
from benchmarks.authors import authors_scores
from benchmarks.harness import Floor, Part, Scale, interleaved, medians, ratio
from benchmarks.models import NUM_SAMPLES, VARIANCE, scorer_of, settings_for
from skinvae.model.network import Tricks
from skinvae.model.noise import draw_noise
from skinvae.model.precision import DTYPES, Precision, fastest_precision, lacks
from skinvae.model.scorer import BATCH_SIZES, Scorer, ScoringSettings
from skinvae.model.vae import VAE

MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}
NUM_IMAGES = {"cpu": 64, "cuda": 2048}
AUTHORS_FLOOR = 2.0
"""Half of it follows from encoding and drawing once, the rest from batches and layout."""
H100_FLOORS = {"bfloat16": ("images/s", 22_000.0), "float32": ("of limit", 0.70)}

SHARED = "without a batch for each thread"
AUTHORS, OURS = "the authors' way (float32, one thread)", "skinvae (float32, one thread)"

Images = NDArray[np.uint8]


def measure(scale: Scale) -> Part:
    """One row a way and precision, on the GPU if there is one, else on the CPU with `scale.threads` threads."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(scale.threads)
    settings = settings_for(scale)
    torch.manual_seed(0)
    model = VAE(settings).eval()
    count = 4 if scale.small else NUM_IMAGES[device]
    size = settings.image_size
    images = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    precisions = _precisions(torch.device(device))
    ways: dict[str, Callable[[], float]] = {
        f"matrix {one}": functools.partial(
            matrix_flops,
            threads=scale.threads,
            device=device,
            precision=one,
            size=MATRIX_SIDE[device],
            seconds=0.0 if scale.small else 0.5,
        )
        for one in precisions
    }
    for precision in precisions:
        for name, tricks in _variants(torch.device(device)).items():
            scorer = scorer_of(model, ScoringSettings(precision=precision), device=device, tricks=tricks)
            ways[f"{name}, {precision}"] = _rate(functools.partial(scorer.score, images), count)
            if device == "cpu" and name == "skinvae":
                shared = functools.partial(_one_batch_at_a_time, scorer, images)
                ways[f"{SHARED}, {precision}"] = _rate(shared, count)
    ways["noise alone"] = _rate(functools.partial(_noise, images, settings.num_latents), count)
    if device == "cpu":
        # One thread each: waiting for a second one would be counted against the way that waits more.
        image, settings_alone = images[0], ScoringSettings()
        alone = scorer_of(model, settings_alone)
        authors = functools.partial(authors_scores, model, image, variance=VARIANCE, settings=settings_alone)
        ways[AUTHORS] = _on_one_thread(_rate(authors, 1), scale)
        batch = images[: BATCH_SIZES["cpu"][0]]  # what one thread scores at once
        ways[OURS] = _on_one_thread(_rate(functools.partial(alone.score, batch), len(batch)), scale)
        theirs, ours = authors(), alone.score(image[None])
        for name, nats in theirs.items():
            np.testing.assert_allclose(ours[name], nats, rtol=1e-5, atol=1e-5, err_msg=name)
    measured = interleaved(ways, scale.rounds + 2 * (not scale.small), say=scale.say)
    encode, decode = forward_flops(settings)
    flops = encode, NUM_SAMPLES * decode
    rows = _rows(measured, flops)
    notes = [
        f"{sum(flops) / 1e9:.2f} GFLOP an image at k = {NUM_SAMPLES}; {settings.image_size} pixels a side, "
        f"{settings.base_channels} channels, {settings.num_latents} latents; device {device}, "
        f"{scale.threads} threads; {count} images a call.",
        "The limit is the rate of a square matrix product in the same precision, measured in the same rounds; with "
        "bfloat16 the encoder, 6 % of the arithmetic, counts in float32 (tf32 on a GPU), as it is computed.",
    ]
    return Part(
        name="kernel",
        title="The scorer alone",
        rows=rows,
        floors=_floors(rows, measured, device),
        notes=notes,
        bars=("way", "to skinvae"),
    )


def _precisions(device: torch.device) -> list[Precision]:
    """Those that the device computes natively, but float64."""
    if device.type == "cpu":
        return ["float32"] if fastest_precision(device) == "float32" else ["bfloat16", "float32"]
    return [one for one in DTYPES if one != "float64" and lacks(device, one) is None]


def _variants(device: torch.device) -> dict[str, Tricks | None]:
    """As scored, without each trick, with each one more, and the model as it is written."""
    usual = Tricks.for_device(device)
    switches = [one.name for one in fields(Tricks) if one.type == "bool" and one.name != "cuda_graph"]
    variants: dict[str, Tricks | None] = {"skinvae": usual}
    for name in switches:
        words = name.replace("_", " ")
        does = getattr(usual, name)
        variants[f"{'without' if does else 'with'} {words}"] = replace(usual, **_switched(name, on=not does))
    if device.type == "cuda":
        variants["with cuda graph"] = replace(usual, cuda_graph=True)
        variants["with fused squared error"] = replace(usual, squared_error="triton")
        variants["with both"] = replace(usual, cuda_graph=True, squared_error="triton")
    variants["no trick at all"] = replace(usual, **_switched(*switches, on=False))
    return variants


def _switched(*names: str, on: bool) -> dict[str, Any]:
    return dict.fromkeys(names, on)


def _rate(work: Callable[[], Any], amount: int) -> Callable[[], float]:
    """`amount` over the seconds of `work`, after a first time that is not counted."""
    is_warm = False

    def timed() -> float:
        nonlocal is_warm
        if not is_warm:
            work()
            is_warm = True
        started = time.perf_counter()
        work()
        return amount / (time.perf_counter() - started)

    return timed


def _on_one_thread(timed: Callable[[], float], scale: Scale) -> Callable[[], float]:
    def run() -> float:
        torch.set_num_threads(1)
        try:
            return timed()
        finally:
            torch.set_num_threads(scale.threads)

    return run


def _one_batch_at_a_time(scorer: Scorer, images: Images) -> None:
    size = BATCH_SIZES["cpu"][0]
    for start in range(0, len(images), size):
        scorer.score(images[start : start + size])


def _noise(images: Images, num_latents: int) -> NDArray[np.float32]:
    return draw_noise(images, seed=0, num_samples=NUM_SAMPLES, num_latents=num_latents)


def _rows(measured: dict[str, list[float]], flops: tuple[float, float]) -> list[dict[str, Any]]:
    rates, rows = medians(measured), []
    for name, rate in rates.items():
        if name.startswith("matrix "):
            continue
        _, _, precision = name.partition(", ")
        row: dict[str, Any] = {"way": name, "images/s": rate}
        if f"matrix {precision}" in rates:
            seconds = [
                amount / rates[f"matrix {one}"]
                for amount, one in zip(flops, (_of_encoder(precision, rates), precision), strict=True)
            ]
            limit = 1 / sum(seconds)
            row |= {
                "limit, images/s": limit,
                "of limit": rate / limit,
                "to skinvae": rate / rates[f"skinvae, {precision}"],
            }
        rows.append(row)
    return rows


def _of_encoder(precision: str, rates: dict[str, float]) -> str:
    if precision != "bfloat16":
        return precision
    return "tf32" if "matrix tf32" in rates else "float32"


def _floors(rows: list[dict[str, Any]], measured: dict[str, list[float]], device: str) -> list[Floor]:
    if device == "cpu":
        against = ratio(measured, OURS, AUTHORS)
        return [Floor("the scorer in float32 against the authors' way", against, at_least=AUTHORS_FLOOR)]
    if "H100" not in torch.cuda.get_device_name():
        return []
    by_way = {row["way"]: row for row in rows}
    floors = []
    for precision, (column, least) in H100_FLOORS.items():
        what = f"the scorer's {column} in {precision} on an H100"
        floors.append(Floor(what, by_way[f"skinvae, {precision}"][column], at_least=least))
    return floors
