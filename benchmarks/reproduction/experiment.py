"""One training seed on one split: train, score, draw test sets as the paper did, AUROC in both modes."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import safetensors.torch

from benchmarks.reproduction.data import Data
from skinvae.images.decode import PREPROCESSING_VERSION
from skinvae.metrics.protocols import PAPER_NUM_ABNORMAL, PAPER_NUM_DRAWS, PAPER_NUM_NORMAL, paper_protocol
from skinvae.model.bounds import ScoreMode
from skinvae.model.scorer import Scorer, ScoringSettings
from skinvae.model.vae import VAE, ModelSettings
from skinvae.records import SCORES
from skinvae.training.fitting import Fitted, fit_in_process
from skinvae.training.history import Row, epoch_line
from skinvae.training.settings import WITHOUT_INFLUENCE, TrainSettings
from skinvae.training.splitting import split_normals

NORMAL = "NV"
SplitBy = Literal["image", "lesion"]
SPLITS: tuple[SplitBy, ...] = get_args(SplitBy)
MODES: tuple[ScoreMode, ...] = get_args(ScoreMode)
NUM_LEAKED = 100
"""Nevi of the training set that the released script puts among the test's normals."""


@dataclass(frozen=True)
class Experiment:
    """What is trained, and how the test sets are drawn."""

    name: str
    model: ModelSettings
    train: TrainSettings
    num_seeds: int
    num_normal: int = PAPER_NUM_NORMAL
    num_abnormal: int = PAPER_NUM_ABNORMAL
    num_draws: int = PAPER_NUM_DRAWS
    num_samples: int = 15

    @property
    def is_papers(self) -> bool:
        """Whether model and training are the paper's, whatever the file is called that they were read from."""
        without = {"seed", *WITHOUT_INFLUENCE}
        return self.model == ModelSettings() and self.train.model_dump(exclude=without) == TrainSettings().model_dump(
            exclude=without
        )

    @property
    def digest(self) -> str:
        """Of all that a seed's result depends on, but for the code."""
        described: list[Any] = [self.model.model_dump(), self.train.model_dump(exclude=set(WITHOUT_INFLUENCE))]
        described += [PREPROCESSING_VERSION, self.num_normal, self.num_abnormal, self.num_draws, self.num_samples]
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:8]


def run(
    experiment: Experiment,
    data: Data,
    *,
    split_by: SplitBy,
    seed: int,
    folder: Path,
    device: str,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """The seed's results as they stand in its JSON file; one that is there is not computed again."""
    kept = folder / f"{split_by}-{seed}.json"
    if kept.exists():
        found: dict[str, Any] = json.loads(kept.read_text())
        return found
    settings = experiment.train.model_copy(update={"seed": seed})
    normals = [name for name, label in zip(data.ids, data.label, strict=True) if label == NORMAL]
    split = split_normals(
        normals,
        groups=data.lesions if split_by == "lesion" else None,
        validation_fraction=settings.validation_fraction,
        seed=seed,
    )
    what = f"split by {split_by}, seed {seed}"
    started = time.monotonic()

    def on_epoch(trained: Row, validated: Row) -> None:
        say(f"{what}: {epoch_line(int(trained['epoch']), settings.num_epochs, trained=trained, validated=validated)}")

    ids = split["image_id"].tolist()
    fitted = fit_in_process(
        data.pixels_BHWC[data.where(ids)],
        ids,
        is_held_out=(split["split"] == "validation").to_numpy(),
        model=experiment.model,
        settings=settings,
        device=device,
        on_epoch=on_epoch,
    )
    trained_seconds = time.monotonic() - started
    say(f"{what}: scoring")
    scores = _scored(experiment, data, fitted, split, seed=seed, device=device)
    result = {
        "split_by": split_by,
        "seed": seed,
        "num_train": int((split["split"] == "train").sum()),
        "num_validation": int((split["split"] == "validation").sum()),
        "best_epoch": fitted.best_epoch,
        "history": fitted.history.to_dict("records"),
        "aurocs": _aurocs(experiment, scores, seed=seed),
        "training_seconds": round(trained_seconds, 1),
        "seconds": round(time.monotonic() - started, 1),
    }
    folder.mkdir(parents=True, exist_ok=True)
    scores.to_parquet(folder / f"{split_by}-{seed}.parquet")
    safetensors.torch.save_file(fitted.weights, folder / f"{split_by}-{seed}.safetensors")
    kept.write_text(json.dumps(result) + "\n")
    return result


def _scored(
    experiment: Experiment, data: Data, fitted: Fitted, split: pd.DataFrame, *, seed: int, device: str
) -> pd.DataFrame:
    """image_id, label, is_leaked and the six scores, in either mode, of all that test sets are drawn from."""
    side_of = split.set_index("image_id")["split"]
    held_out = side_of.index[side_of == "validation"].tolist()
    trained = side_of.index[side_of == "train"].to_numpy()
    leaked = np.random.default_rng([seed, 1]).choice(trained, size=min(NUM_LEAKED, len(trained)), replace=False)
    diseased = [name for name, label in zip(data.ids, data.label, strict=True) if label != NORMAL]
    ids = [*held_out, *leaked, *diseased]
    places = data.where(ids)
    frame = pd.DataFrame({"image_id": ids, "label": data.label[places]})
    frame["is_leaked"] = frame["image_id"].isin(leaked)
    found = []
    for mode in MODES:
        model = VAE(experiment.model)
        model.load_state_dict(fitted.weights)
        scoring = ScoringSettings(mode=mode, num_samples=experiment.num_samples, seed=seed)
        columns = Scorer(model, variance=fitted.variance, settings=scoring, device=device).score(
            data.pixels_BHWC[places]
        )
        found.append(frame.assign(mode=mode, **{name: columns[name] for name in SCORES}))
    return pd.concat(found, ignore_index=True)


def _aurocs(experiment: Experiment, scores: pd.DataFrame, *, seed: int) -> list[dict[str, Any]]:
    """AUROC by mode, leak, score and target: mean and standard deviation over the draws of test sets."""
    found = []
    for mode in MODES:
        of_mode = scores[scores["mode"] == mode]
        for leak in (False, True):
            protocol = paper_protocol(
                of_mode[~of_mode["is_leaked"]],
                normal=[NORMAL],
                seed=seed,
                num_draws=experiment.num_draws,
                num_normal=experiment.num_normal,
                num_abnormal=experiment.num_abnormal,
                also=of_mode[of_mode["is_leaked"]] if leak else None,
            )
            rows = protocol.frame.assign(mode=mode, leak=leak).to_dict("records")
            found += [{str(name): value for name, value in row.items()} for row in rows]
    return found
