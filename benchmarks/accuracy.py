"""How near the fast precisions come to float64, score by score, on real images and trained weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from benchmarks.harness import Floor, Part, Scale
from benchmarks.models import pixels_for, scorer_of, settings_for, trained
from skinvae.model.precision import Precision, lacks
from skinvae.model.scorer import ScoringSettings
from skinvae.records import SCORES

NUM_IMAGES = {"cpu": 150, "cuda": 1000}
"""float64 takes a processor a second an image; tests/unit/model/test_precision.py has 1,000 with a small model."""
NUM_STEPS = {"cpu": 60, "cuda": 1000}
MIN_RANK_CORRELATION = 0.9999
MAX_ERROR: dict[Precision, float] = {"float32": 1e-5, "tf32": 1e-2, "bfloat16": 2e-2}
"""Of a score, relative to that score's standard deviation over the images."""
MAX_DEVICE_DIFFERENCE = 1e-5
"""Between CPU and GPU in float32, in the same unit."""

Scores = dict[str, NDArray[np.float64]]


def measure(scale: Scale) -> Part:
    """One row a precision and score."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(scale.threads)
    settings = settings_for(scale)
    count, steps = (40, 20) if scale.small else (NUM_IMAGES[device], NUM_STEPS[device])
    images, what = pixels_for(scale, count, size=settings.image_size)
    scale.say("training")
    model = trained(settings, images, steps=steps, device=device)

    def scored(precision: Precision, *, on: str = device, images: NDArray[np.uint8] = images) -> Scores:
        scale.say(f"{precision} on {on}")
        return scorer_of(model, ScoringSettings(precision=precision), device=on).score(images)

    exact = scored("float64")
    rows: list[dict[str, Any]] = []
    floors = []
    for precision, allowed in MAX_ERROR.items():
        if lacks(torch.device(device), precision) is not None:
            continue
        fast = scored(precision)
        mine = [_row(name, precision, fast[name], exact[name]) for name in (*SCORES, "ess")]
        rows += mine
        worst = min(row["rank correlation"] for row in mine if row["score"] != "ess")
        largest = max(row["largest error / SD"] for row in mine if row["score"] != "ess")
        floors += [
            Floor(f"the least rank correlation of a score in {precision}", worst, at_least=MIN_RANK_CORRELATION),
            Floor(f"the largest error of a score in {precision} over its deviation", largest, at_most=allowed),
        ]
    if device == "cuda":
        few = images[:64]
        on_cpu, on_gpu = (scored("float32", on=one, images=few) for one in ("cpu", "cuda"))
        largest = max(float(np.abs(on_cpu[name] - on_gpu[name]).max() / exact[name].std()) for name in SCORES)
        floors.append(Floor("CPU against GPU in float32", largest, at_most=MAX_DEVICE_DIFFERENCE))
    return Part(
        name="accuracy",
        title="Precisions against float64",
        rows=rows,
        floors=floors,
        notes=[
            f"{len(images):,} {what}, the model trained on them for {steps} steps of 32; device {device}.",
            "ESS feels differences of single nats between log-weights of ten thousands: only its mean is comparable "
            "in bfloat16.",
        ],
    )


def _row(name: str, precision: str, fast: NDArray[np.float64], exact: NDArray[np.float64]) -> dict[str, Any]:
    error = np.abs(fast - exact)
    return {
        "precision": precision,
        "score": name,
        "rank correlation": float(spearmanr(fast, exact).statistic),
        "largest error / SD": float(error.max() / exact.std()),
        "mean error / SD": float(error.mean() / exact.std()),
        "largest error, nats": float(error.max()),
    }
