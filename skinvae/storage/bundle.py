"""The model bundle: weights, config, split, calibration and pictures in one folder, loaded by digest.

A bundle exists once config.json does: it is written last, only if absent, and holds the digests of the other files.
Weights are safetensors; nothing here ever loads a pickle.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from torch import Tensor

from skinvae.errors import BundleError, InputError
from skinvae.images.decode import PREPROCESSING_VERSION, DecodeSettings
from skinvae.metrics.p_values import NormalTail, PValues
from skinvae.model.objective import ObjectiveSettings
from skinvae.model.scorer import ScoringSettings
from skinvae.model.vae import VAE, ModelSettings
from skinvae.records import SPLIT_SCHEMA
from skinvae.storage.filesystem import Location

WEIGHTS, CONFIG, CALIBRATION, SPLIT = "model.safetensors", "config.json", "calibration.parquet", "split.parquet"


class BundleConfig(BaseModel):
    """config.json: all that is needed to load the model and to know how it came about."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
    model: ModelSettings
    decode: DecodeSettings
    preprocessing_version: str = PREPROCESSING_VERSION
    sigma: float = Field(gt=0, description="standard deviation of p(x|z), fixed or as it was learned")
    objective: ObjectiveSettings = Field(ObjectiveSettings(), description="what training minimised")
    normal_classes: list[str] = Field(description="the classes that training called normal")
    training: dict[str, Any] = Field(description="settings, seed, best epoch and losses of the training run")
    data: dict[str, Any] = Field(description="archives, counts and digest of the training set")
    calibration: ScoringSettings = Field(description="how the scores in calibration.parquet were computed")
    tail: NormalTail | None = Field(None, description="how those scores turn others into p-values; None = by ranks")
    versions: dict[str, str] = Field(description="skinvae and the libraries that trained the model")
    files: dict[str, str] = Field(default_factory=dict, description="SHA-256 of the files that loading depends on")

    @property
    def variance(self) -> float:
        """sigma^2 of p(x|z)."""
        return self.sigma**2


@dataclass(frozen=True)
class ModelBundle:
    """A bundle in memory."""

    config: BundleConfig
    weights: dict[str, Tensor]
    calibration: pd.DataFrame
    """The scores of the validation normals: the columns of records.SCORES, in nats."""
    split: pd.DataFrame
    """records.SPLIT_SCHEMA"""
    digest: str
    """SHA-256 of config.json, which holds those of the weights, the calibration and the split."""

    @property
    def model_id(self) -> str:
        return self.digest[:16]

    def build_model(self) -> VAE:
        """The VAE with the bundle's weights."""
        model = VAE(self.config.model)
        model.load_state_dict(self.weights)
        return model

    def p_values(self, scoring: ScoringSettings) -> PValues:
        """What gives p-values to scores that were computed like this: none, if the normals' were computed otherwise."""
        # Another precision moved no p-value of 700 by more than 0.014 (tests/unit/model/test_precision.py).
        is_comparable = self.config.calibration.model_copy(update={"precision": scoring.precision}) == scoring
        return PValues(
            normals=np.sort(self.calibration["vae_reconst"].to_numpy()) if is_comparable else None,
            tail=self.config.tail,
            trained_on=frozenset(self.split.loc[self.split["split"] == "train", "image_id"]),
        )


def write_bundle(
    location: Location,
    *,
    config: BundleConfig,
    weights: dict[str, Tensor],
    calibration: pd.DataFrame,
    split: pd.DataFrame,
    extras: dict[str, bytes],
) -> str:
    """Write a bundle and return its digest. `extras` (card, figures) are written beside it and not digested.

    Raises BundleError if another bundle is there already.
    """
    files = {
        WEIGHTS: safetensors.torch.save({name: tensor.contiguous() for name, tensor in weights.items()}),
        CALIBRATION: _parquet_bytes(pa.Table.from_pandas(calibration, preserve_index=False)),
        SPLIT: _parquet_bytes(pa.Table.from_pandas(split, schema=SPLIT_SCHEMA, preserve_index=False)),
    }
    digests = {name: _sha256(data) for name, data in files.items()}
    config_bytes = _canonical_json(config.model_copy(update={"files": digests}))
    if has_bundle(location):
        raise BundleError(f"'{location}' holds a model bundle already: choose another --out or delete it")
    for name, data in (files | extras).items():
        (location / name).write_bytes(data)
    written = location / CONFIG
    # What is there may be our own, whose answer was lost.
    if not written.create_bytes(config_bytes) and written.read_bytes() != config_bytes:
        raise BundleError(f"another run wrote a model bundle to '{location}' at the same time: choose another --out")
    return _sha256(config_bytes)


def has_bundle(location: Location) -> bool:
    """Whether a complete bundle is there."""
    return (location / CONFIG).exists()


def read_bundle_config(location: Location) -> tuple[BundleConfig, str]:
    """config.json and the bundle's digest. Raises BundleError if it is missing or malformed."""
    try:
        data = (location / CONFIG).read_bytes()
    except InputError as error:
        raise BundleError(f"no model bundle at '{location}' ({error})") from error
    try:
        config = BundleConfig.model_validate_json(data)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"]) or "the file"
        raise BundleError(f"'{location}/{CONFIG}' is no bundle config: {where}: {problem['msg']}") from error
    return config, _sha256(data)


def require_same_preprocessing(location: Location, config: BundleConfig) -> None:
    """Raises BundleError if this skinvae would show the model other pixels than it was trained on."""
    if config.preprocessing_version != PREPROCESSING_VERSION:
        raise BundleError(
            f"'{location}' was trained with preprocessing version {config.preprocessing_version}, and this skinvae "
            f"decodes with version {PREPROCESSING_VERSION}: use the skinvae that made it, or train again"
        )


def read_bundle(location: Location) -> ModelBundle:
    """Load a bundle, refusing any file whose SHA-256 is not the one in config.json. Raises BundleError."""
    config, digest = read_bundle_config(location)
    require_same_preprocessing(location, config)
    try:
        weights = safetensors.torch.load(_read_verified(location, WEIGHTS, config))
    except SafetensorError as error:
        raise BundleError(f"'{location}/{WEIGHTS}' is no safetensors file ({error}): train again") from error
    return ModelBundle(
        config=config,
        weights=weights,
        calibration=pq.read_table(io.BytesIO(_read_verified(location, CALIBRATION, config))).to_pandas(),
        split=read_split(location, config),
        digest=digest,
    )


def read_split(location: Location, config: BundleConfig) -> pd.DataFrame:
    """Only split.parquet, verified: records.SPLIT_SCHEMA as a frame."""
    split: pd.DataFrame = pq.read_table(io.BytesIO(_read_verified(location, SPLIT, config))).to_pandas()
    return split


def read_bundle_copy(table: Location, *, model_id: str) -> tuple[BundleConfig, pd.DataFrame]:
    """The config and split of a model, as `score` copied them beside a table. Raises BundleError if they differ."""
    copies = table / "_skinvae" / model_id
    config, digest = read_bundle_config(copies)
    if not digest.startswith(model_id):
        raise BundleError(f"'{copies}' belongs to another model than '{model_id}': copy the bundle's files there again")
    return config, read_split(copies, config)


def _read_verified(location: Location, name: str, config: BundleConfig) -> bytes:
    expected = config.files.get(name)
    if expected is None:
        raise BundleError(f"'{location}/{CONFIG}' has no digest of {name}: the bundle is incomplete, train again")
    try:
        data = (location / name).read_bytes()
    except InputError as error:
        raise BundleError(f"the model bundle at '{location}' is incomplete ({error})") from error
    if _sha256(data) != expected:
        raise BundleError(
            f"'{location}/{name}' was altered (its SHA-256 is not the one in the bundle): restore it or train again"
        )
    return data


def _parquet_bytes(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _canonical_json(config: BundleConfig) -> bytes:
    return (json.dumps(config.model_dump(mode="json"), indent=2, sort_keys=True) + "\n").encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
