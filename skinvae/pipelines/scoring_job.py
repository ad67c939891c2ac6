"""The identity of a scoring job, all that a score depends on beside the pixels, and how its actors come by it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter

from skinvae.config import ScoreSettings
from skinvae.errors import UsageError
from skinvae.images.decode import DecodeSettings
from skinvae.model.precision import DTYPES, Precision
from skinvae.model.scorer import ScoringSettings
from skinvae.pipelines.image_scorer import MakeScorer, Placement, ScorerRecipe, make_vae_scorer
from skinvae.pipelines.provenance import library_versions
from skinvae.pipelines.runtime import Resources
from skinvae.pipelines.scoring_stages import ScoringJob
from skinvae.storage.bundle import ModelBundle
from skinvae.storage.filesystem import Location
from skinvae.storage.pixel_table import Preparation
from skinvae.storage.score_table import ScoreTable


def make_job(
    bundle: ModelBundle,
    scoring: ScoringSettings,
    *,
    run_id: str,
    model: Location,
    table: Location,
    preparation: Preparation,
    max_seconds: float,
    begun: float,
) -> ScoringJob:
    """The job's identity; `begun` is when its command did, by time.monotonic()."""
    scoring_id = make_scoring_id(bundle, scoring)
    provenance = {
        "model_digest": bundle.digest,
        "scoring_id": scoring_id,
        "scoring": scoring.model_dump_json(),
        "preprocessing_version": bundle.config.preprocessing_version,
        "versions": json.dumps(library_versions()),
    }
    return ScoringJob(
        run_id=run_id,
        model=model,
        model_digest=bundle.digest,
        scoring_id=scoring_id,
        scoring=scoring,
        preparation=preparation,
        max_seconds=max_seconds,
        table=table,
        provenance=provenance,
        verb="score",
        begun=begun,
    )


def recipe_of(
    job: ScoringJob, resources: Resources, *, settings: ScoreSettings, make_scorer: MakeScorer = make_vae_scorer
) -> ScorerRecipe:
    """How the job's actors come by what scores."""
    placement = Placement(
        resources.device, resources.threads_per_actor, settings.batch_size, settings.decode_batch_size
    )
    return ScorerRecipe(job.model, job.model_digest, job.scoring, placement, make_scorer)


def preparation_for(bundle: ModelBundle, images: DecodeSettings) -> Preparation:
    """How the model's images are decoded. Raises UsageError where the settings contradict that."""
    if images.policy not in (DecodeSettings(), bundle.config.decode.policy):
        differing = [name for name, value in images.policy if value != getattr(bundle.config.decode, name)]
        raise UsageError(
            f"images.{differing[0]} = {getattr(images, differing[0])} differs from the model's "
            f"{getattr(bundle.config.decode, differing[0])}: images are decoded as they were for training; "
            "leave it out, or train a model with it"
        )
    return Preparation(
        image_size=bundle.config.model.image_size,
        preprocessing_version=bundle.config.preprocessing_version,
        decode=bundle.config.decode,
    )


def precision_in(table: ScoreTable | None, bundle: ModelBundle, settings: ScoreSettings) -> Precision | None:
    """That of most rows that the table holds of this model and these draws; None if there are none.

    A job that goes on elsewhere, on other hardware, goes on in the precision it began in.
    """
    rows: Counter[str] = Counter()
    for (_, scoring_id), members in ({} if table is None else table.covered()).items():
        rows[scoring_id] += len(members)
    by_rows = {rows[make_scoring_id(bundle, settings.scoring(one))]: one for one in DTYPES}
    return by_rows[max(by_rows)] if max(by_rows) else None


def make_scoring_id(bundle: ModelBundle, scoring: ScoringSettings) -> str:
    """16 hex digits that stand for all that a score depends on beside the pixels."""
    parts = [bundle.digest, bundle.config.preprocessing_version, scoring.model_dump()]
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=8).hexdigest()
