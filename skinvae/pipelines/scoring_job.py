"""The identity of a scoring job: all that a score depends on beside the pixels."""

from __future__ import annotations

import hashlib
import json

from skinvae.config import Config
from skinvae.errors import UsageError
from skinvae.images.decode import DecodeSettings
from skinvae.model.noise import NOISE_KIND
from skinvae.model.scorer import ScoringSettings
from skinvae.pipelines.provenance import library_versions, new_run_id
from skinvae.pipelines.scoring_stages import ScoringJob
from skinvae.storage.bundle import BundleConfig, read_bundle
from skinvae.storage.filesystem import Location
from skinvae.storage.pixel_table import Preparation


def make_job(model: Location, table: Location, config: Config) -> ScoringJob:
    """The job's identity. Reads and verifies the whole bundle, so that no worker starts on an altered one.

    Raises BundleError, and UsageError where the settings contradict the bundle.
    """
    bundle = read_bundle(model)
    _require_same_images(config.images, bundle.config)
    scoring = config.score.scoring
    scoring_id = make_scoring_id(bundle.digest, bundle.config.preprocessing_version, scoring)
    provenance = {
        "model_digest": bundle.digest,
        "scoring_id": scoring_id,
        "scoring": scoring.model_dump_json(),
        "preprocessing_version": bundle.config.preprocessing_version,
        "versions": json.dumps(library_versions()),
    }
    return ScoringJob(
        run_id=new_run_id(),
        model=model,
        model_digest=bundle.digest,
        scoring_id=scoring_id,
        scoring=scoring,
        preparation=Preparation(
            image_size=bundle.config.model.image_size,
            preprocessing_version=bundle.config.preprocessing_version,
            decode=bundle.config.decode,
        ),
        max_seconds=config.images.max_seconds,
        table=table,
        provenance=provenance,
    )


def make_scoring_id(model_digest: str, preprocessing_version: str, scoring: ScoringSettings) -> str:
    """16 hex digits that stand for all that a score depends on beside the pixels."""
    described = json.dumps([model_digest, preprocessing_version, NOISE_KIND, scoring.model_dump()], sort_keys=True)
    return hashlib.blake2b(described.encode(), digest_size=8).hexdigest()


def _require_same_images(images: DecodeSettings, bundle: BundleConfig) -> None:
    if images.policy not in (DecodeSettings(), bundle.decode.policy):
        differing = [name for name, value in images.policy if value != getattr(bundle.decode, name)]
        raise UsageError(
            f"images.{differing[0]} = {getattr(images, differing[0])} differs from the model's "
            f"{getattr(bundle.decode, differing[0])}: images are decoded as they were for training; "
            "leave it out, or train a model with it"
        )
