"""The paper's own protocol, to compare with its Table 2: small balanced test sets, drawn several times."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import pandas as pd

from skinvae.metrics.auroc import MACRO, POOLED, Floats, auroc
from skinvae.metrics.evaluation import abnormal_classes
from skinvae.records import SCORES

PAPER_NUM_NORMAL = 250
PAPER_NUM_ABNORMAL = 100
"""Of each class."""
PAPER_NUM_DRAWS = 5

PAPER_SOURCE = "Lu & Xu 2018, arXiv:1807.01349, Table 2"
PAPER_CLASSES = ("AKIEC", "BCC", "BKL", "DF", "MEL", "VASC")
PAPER_TABLE_2: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        score: MappingProxyType(dict(zip((*PAPER_CLASSES, MACRO), values, strict=True)))
        for score, values in {
            "vae_reconst": (0.872, 0.803, 0.792, 0.682, 0.862, 0.662, 0.779),
            "iwae_reconst": (0.871, 0.802, 0.793, 0.678, 0.864, 0.657, 0.777),
            "vae_kl": (0.441, 0.454, 0.472, 0.398, 0.690, 0.487, 0.491),
            "iwae_kl": (0.406, 0.431, 0.441, 0.383, 0.677, 0.477, 0.469),
            "vae": (0.864, 0.795, 0.783, 0.671, 0.861, 0.651, 0.771),
            "iwae": (0.864, 0.795, 0.784, 0.670, 0.861, 0.648, 0.771),
        }.items()
    }
)
"""AUROC by score and class, mean of 5 runs, as printed. Its column ALL is 'macro' here: the mean of the six."""


@dataclass(frozen=True)
class PaperProtocol:
    """AUROC over seeded draws, and how far the draws fall short of the paper's sizes."""

    frame: pd.DataFrame
    """Columns score, target, auroc_mean, auroc_std (over draws, ddof 1), num_draws, num_normal, num_abnormal."""
    num_normal: int
    num_abnormal: Mapping[str, int]
    """Images drawn each time, by class."""
    shortfalls: tuple[str, ...]
    """One sentence for each side that has fewer images than the protocol asks for; empty if none has."""


def paper_protocol(
    evaluated: pd.DataFrame,
    *,
    normal: Collection[str],
    seed: int,
    num_draws: int = PAPER_NUM_DRAWS,
    num_normal: int = PAPER_NUM_NORMAL,
    num_abnormal: int = PAPER_NUM_ABNORMAL,
    also: pd.DataFrame | None = None,
) -> PaperProtocol:
    """Evaluate draws of `num_normal` normals and `num_abnormal` images of each class from `LabelJoin.evaluated`.

    The normals `also` are added to every draw, whose other images are the same without them.
    Without replacement within a draw; a side with fewer images gives all it has. The standard deviation is that of the
    draws, which share images: it says how far one test set strays from another, not how well the archive is known.
    Raises LabelsError where either side has no image, ValueError for fewer than two draws.
    """
    if num_draws < 2:
        raise ValueError(f"num_draws must be at least 2 for a standard deviation, got {num_draws}")
    classes = abnormal_classes(evaluated, normal=normal)
    available = evaluated["label"].value_counts()
    num_available = int(evaluated["label"].isin(normal).sum())
    sizes = {name: min(num_abnormal, int(available[name])) for name in classes}
    size_normal = min(num_normal, num_available)
    draws = (
        draw_images(
            evaluated, normal=normal, num_normal=size_normal, num_abnormal=sizes, rng=_generator(seed, draw=draw)
        )
        for draw in range(num_draws)
    )
    if also is not None:
        draws = (pd.concat([images, also], ignore_index=True) for images in draws)
    values = np.stack([_aurocs(images, normal=normal, classes=classes) for images in draws])
    size_normal += 0 if also is None else len(also)
    missing = [("normal", num_available, num_normal)] if num_available < num_normal else []
    missing += [(name, sizes[name], num_abnormal) for name in classes if sizes[name] < num_abnormal]
    return PaperProtocol(
        frame=_summary(values, classes=classes, num_normal=size_normal, num_abnormal=sizes),
        num_normal=size_normal,
        num_abnormal=sizes,
        shortfalls=tuple(f"{side}: {has} images, the protocol asks for {asked}" for side, has, asked in missing),
    )


def draw_images(
    evaluated: pd.DataFrame,
    *,
    normal: Collection[str],
    num_normal: int,
    num_abnormal: Mapping[str, int],
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Return the rows of one draw. It depends on the image ids, not on the order of the rows."""
    ordered = evaluated.sort_values("image_id")
    sides = [(list(normal), num_normal), *(([name], size) for name, size in num_abnormal.items())]
    parts = []
    for classes, size in sides:
        rows = ordered[ordered["label"].isin(classes)]
        parts.append(rows.iloc[rng.choice(len(rows), size=size, replace=False)])
    return pd.concat(parts, ignore_index=True)


def _generator(seed: int, *, draw: int) -> np.random.Generator:
    return np.random.default_rng([seed, draw])


def _aurocs(images: pd.DataFrame, *, normal: Collection[str], classes: tuple[str, ...]) -> Floats:
    """Return (6, C + 2): every class, their mean, all pooled."""
    label = images["label"]
    result = np.empty((len(SCORES), len(classes) + 2))
    for row, score in enumerate(SCORES):
        scores = images[score].to_numpy(dtype=np.float64)
        normals = scores[label.isin(normal).to_numpy()]
        by_class = [auroc(normals, abnormal=scores[(label == name).to_numpy()]) for name in classes]
        pooled = auroc(normals, abnormal=scores[label.isin(classes).to_numpy()])
        result[row] = np.array([*by_class, np.mean(by_class), pooled], dtype=np.float64)
    return result


def _summary(
    values: Floats, *, classes: tuple[str, ...], num_normal: int, num_abnormal: Mapping[str, int]
) -> pd.DataFrame:
    """Mean and standard deviation of values (draws, 6, C + 2)."""
    targets = (*classes, MACRO, POOLED)
    total = sum(num_abnormal.values())
    mean, std = values.mean(axis=0), values.std(axis=0, ddof=1)
    return pd.DataFrame(
        [
            (
                score,
                target,
                mean[row, column],
                std[row, column],
                len(values),
                num_normal,
                num_abnormal.get(target, total),
            )
            for row, score in enumerate(SCORES)
            for column, target in enumerate(targets)
        ],
        columns=["score", "target", "auroc_mean", "auroc_std", "num_draws", "num_normal", "num_abnormal"],
    )
