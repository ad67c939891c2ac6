"""A finished score table whose every number is known, made in a second and without Ray: two archives, two scorings."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from skinvae.images.decode import DecodeSettings
from skinvae.model.scorer import ScoringSettings
from skinvae.model.vae import VAE, ModelSettings
from skinvae.records import CLASSES, SCORE_SCHEMA, SCORES
from skinvae.storage.bundle import BundleConfig, write_bundle
from skinvae.storage.compaction import swap_slices_for_parts, write_part
from skinvae.storage.filesystem import Location
from skinvae.storage.score_table import ScoreTable
from skinvae.storage.slice_ids import SliceId
from skinvae.storage.slices import write_slice

SCORING, OTHER_SCORING = "f7ec5a991f4a9c77", "0b1d3c5e7f90a2b4"
ARCHIVES = {"a" * 16: "s3://bucket/shard-000.zip", "b" * 16: "s3://bucket/shard-001.zip"}
ONE_HOT, METADATA = "ISIC2018_Task3_Training_GroundTruth.csv", "HAM10000_metadata.csv"
NUM_PER_ARCHIVE = 150
NUM_TRAINED, NUM_VALIDATION = 20, 30


@dataclass(frozen=True)
class FinishedTable:
    """Where it lies, and what is in it."""

    folder: Path
    uri: str
    model: str
    model_id: str
    rows: pd.DataFrame
    """Every row of both scorings."""
    labels: pd.DataFrame
    """image_id and label, of all images but two, and of one more."""
    split: pd.DataFrame

    @property
    def one_hot(self) -> str:
        """The labels as ISIC publishes them."""
        return str(self.folder / ONE_HOT)

    @property
    def metadata(self) -> str:
        """The labels as HAM10000 has them, in lower case and with lesions of two images each."""
        return str(self.folder / METADATA)

    def of(self, scoring_id: str = SCORING) -> pd.DataFrame:
        return self.rows[self.rows["scoring_id"] == scoring_id].reset_index(drop=True)


def make_finished_table(folder: Path, *, swapped: bool = True) -> FinishedTable:
    """Scores are whole nats, so that many are equal; every tenth image is rejected, and has none."""
    rng = np.random.default_rng(5)
    image_ids = np.array([f"ISIC_{index:07d}" for index in range(len(ARCHIVES) * NUM_PER_ARCHIVE)])
    classes = rng.choice(CLASSES, len(image_ids), p=[0.1, 0.58, 0.08, 0.06, 0.08, 0.05, 0.05])
    is_normal = classes == "NV"
    normals = image_ids[is_normal]
    split = pd.DataFrame(
        {
            "image_id": normals[: NUM_TRAINED + NUM_VALIDATION],
            "group": None,
            "split": ["train"] * NUM_TRAINED + ["validation"] * NUM_VALIDATION,
        }
    )
    model, model_id = write_model(folder / "model", split)
    table = ScoreTable.open_or_create(Location.parse(str(folder / "scores")))
    frames = []
    for number, scoring_id in enumerate((SCORING, OTHER_SCORING)):
        levels = np.random.default_rng(7).integers(0, 30, len(image_ids)) + 8 * ~is_normal + 1000.0
        frame = _rows(image_ids, levels + number * rng.integers(0, 6, len(image_ids)), scoring_id, model_id, split)
        frames.append(frame)
        for source_id, rows in frame.groupby("source_id"):
            one = SliceId(str(source_id), scoring_id, 0, len(rows))
            written = pa.Table.from_pandas(rows, schema=SCORE_SCHEMA, preserve_index=False)
            provenance = {"scoring_id": scoring_id, "model_digest": model_id * 4}
            table.commit_slices(
                [write_slice(table.location, one, written, provenance=provenance)], provenance=provenance
            )
    if swapped:
        swap_slices_for_parts(
            table, provenance={}, write_all=lambda parts: [write_part(table.location, part) for part in parts]
        )
    for name in ("config.json", "split.parquet"):
        (folder / "scores" / "_skinvae" / model_id).mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "model" / name, folder / "scores" / "_skinvae" / model_id / name)
    labels = pd.DataFrame({"image_id": image_ids, "label": classes})[2:]
    labels.loc[len(image_ids)] = ["ISIC_9999999", "NV"]
    _write_labels(folder, labels)
    return FinishedTable(folder, table.location.uri, model, model_id, pd.concat(frames), labels, split)


def _write_labels(folder: Path, labels: pd.DataFrame) -> None:
    one_hot = pd.DataFrame({name: (labels["label"] == name).astype(float) for name in CLASSES})
    one_hot.insert(0, "image", labels["image_id"])
    one_hot.to_csv(folder / ONE_HOT, index=False)
    lesions = [f"HAM_{number // 2:07d}" for number in range(len(labels))]
    metadata = pd.DataFrame({"lesion_id": lesions, "image_id": labels["image_id"], "dx": labels["label"].str.lower()})
    metadata.to_csv(folder / METADATA, index=False)


def write_model(folder: Path, split: pd.DataFrame) -> tuple[str, str]:
    """An untrained model of the smallest size."""
    settings = ModelSettings(image_size=32, base_channels=2, num_latents=3)
    torch.manual_seed(0)
    digest = write_bundle(
        Location.parse(str(folder)),
        config=BundleConfig(
            model=settings,
            decode=DecodeSettings(),
            sigma=0.125,
            normal_classes=["NV"],
            training={},
            data={},
            calibration=ScoringSettings(num_samples=4),
            versions={},
        ),
        weights=VAE(settings).state_dict(),
        calibration=pd.DataFrame({name: np.arange(1000.0, 1030.0) for name in SCORES}),
        split=split,
        extras={},
    )
    return str(folder), digest[:16]


def _rows(image_ids: np.ndarray, nats: np.ndarray, scoring_id: str, model_id: str, split: pd.DataFrame) -> pd.DataFrame:
    indices = np.arange(len(image_ids))
    is_ok = indices % 10 != 9
    source_ids = np.array(list(ARCHIVES))[indices // NUM_PER_ARCHIVE]
    trained = split.loc[split["split"] == "train", "image_id"]
    normals = np.arange(1000.0, 1030.0)
    at_least = len(normals) - np.searchsorted(normals, nats)
    p_values = np.where(np.isin(image_ids, trained), np.nan, (1 + at_least) / (1 + len(normals)))
    frame = pd.DataFrame(
        {
            "image_id": image_ids,
            "source": [ARCHIVES[one] for one in source_ids],
            "source_id": source_ids,
            "member": [f"images/{one}.jpg" for one in image_ids],
            "member_index": indices % NUM_PER_ARCHIVE,
            "width": pd.array(np.where(is_ok, 600, 0), dtype="Int32"),
            "height": pd.array(np.where(is_ok, 450, 0), dtype="Int32"),
            "num_bytes": indices + 10_000,
            "status": np.where(is_ok, "ok", np.where(indices % 20 == 9, "truncated", "undecodable")),
            "error": [None if ok else "the bytes end before the image does, it seems" for ok in is_ok],
            "num_samples": 15,
            "seed": 0,
            "score_mode": "exact",
            "noise": "independent",
            "precision": "float32",
            "model_id": model_id,
            "scoring_id": scoring_id,
            "slice_id": [f"{one}-{scoring_id}-0-{NUM_PER_ARCHIVE}" for one in source_ids],
            "run_id": "20260101T000000Z-000000",
            "scored_at": pd.Timestamp("2026-01-01", tz="UTC"),
        }
    )
    for number, name in enumerate(SCORES):
        frame[name] = np.where(is_ok, nats + number, np.nan) if name != "vae_reconst" else np.where(is_ok, nats, np.nan)
    frame["ess"] = np.where(is_ok, 1 + indices % 7 / 3, np.nan)
    frame["p_value"] = np.where(is_ok, p_values, np.nan)
    return frame
