"""What a scoring job is to do: its identity, and the slices that neither the table nor an earlier run has."""

from __future__ import annotations

import datetime
import hashlib
import json
import secrets
from dataclasses import dataclass

from skinvae.config import Config
from skinvae.errors import UsageError
from skinvae.images.decode import DecodeSettings
from skinvae.model.noise import NOISE_KIND
from skinvae.model.scorer import ScoringSettings
from skinvae.pipelines.provenance import library_versions
from skinvae.pipelines.slicing import OpenedArchive, Slice, plan_slices
from skinvae.pipelines.stages import ScoringJob
from skinvae.storage.bundle import BundleConfig, read_bundle
from skinvae.storage.filesystem import Location
from skinvae.storage.ranges import Ranges
from skinvae.storage.score_table import Coverage, ScoreTable, covered_ranges
from skinvae.storage.slices import SliceFile, adopt_slice, slices_written
from skinvae.storage.sources import Source


@dataclass(frozen=True)
class ScorePlan:
    """What is left to do of a job's archives, seen from one snapshot of the table."""

    adoptable: list[SliceFile]
    """Slices that an earlier run wrote and did not commit."""
    slices: list[Slice]
    """What nobody has scored, in archive order."""

    @property
    def num_missing(self) -> int:
        """Members in `slices`."""
        return sum(one.num_members for one in self.slices)


def make_plan(job: ScoringJob, opened: list[OpenedArchive], table: ScoreTable | None, *, slice_size: int) -> ScorePlan:
    """Subtract from the archives what the table covers and what an earlier run wrote; None is an empty table."""
    covered: Coverage = dict(table.covered()) if table else {}
    adoptable = _adoptable(job, opened, covered) if table else []
    for key, ranges in covered_ranges(one.slice_id for one in adoptable).items():
        covered[key] = covered.get(key, Ranges()).union(ranges)

    def covered_of(source: Source) -> Ranges:
        return covered.get((source.source_id, job.scoring_id), Ranges())

    return ScorePlan(adoptable, plan_slices(opened, slice_size=slice_size, covered=covered_of))


def count_covered(job: ScoringJob, opened: list[OpenedArchive], table: ScoreTable) -> int:
    """Members of the archives that the table covers."""
    covered = table.covered()
    return sum(len(covered.get((one.source.source_id, job.scoring_id), Ranges())) for one in opened)


def make_job(model: Location, table: Location, config: Config) -> ScoringJob:
    """The job's identity. Reads and verifies the whole bundle, so that no worker starts on an altered one.

    Raises BundleError, and UsageError where the settings contradict the bundle.
    """
    bundle = read_bundle(model)
    _require_same_images(config.images, bundle.config)
    scoring = config.score.scoring
    scoring_id = make_scoring_id(bundle.digest, bundle.config.preprocessing_version, scoring)
    now = datetime.datetime.now(datetime.timezone.utc)
    provenance = {
        "model_digest": bundle.digest,
        "scoring_id": scoring_id,
        "scoring": scoring.model_dump_json(),
        "preprocessing_version": bundle.config.preprocessing_version,
        "versions": json.dumps(library_versions()),
    }
    return ScoringJob(
        run_id=f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}",
        model=model,
        model_digest=bundle.digest,
        scoring_id=scoring_id,
        scoring=scoring,
        image_size=bundle.config.model.image_size,
        decode=bundle.config.decode,
        table=table,
        provenance=provenance,
    )


def make_scoring_id(model_digest: str, preprocessing_version: str, scoring: ScoringSettings) -> str:
    """16 hex digits that stand for all that a score depends on beside the pixels."""
    described = json.dumps([model_digest, preprocessing_version, NOISE_KIND, scoring.model_dump()], sort_keys=True)
    return hashlib.blake2b(described.encode(), digest_size=8).hexdigest()


def _require_same_images(images: DecodeSettings, bundle: BundleConfig) -> None:
    if images not in (DecodeSettings(), bundle.decode):
        differing = [name for name, value in images if value != getattr(bundle.decode, name)]
        raise UsageError(
            f"images.{differing[0]} = {getattr(images, differing[0])} differs from the model's "
            f"{getattr(bundle.decode, differing[0])}: images are decoded as they were for training; "
            "leave it out, or train a model with it"
        )


def _adoptable(job: ScoringJob, opened: list[OpenedArchive], covered: Coverage) -> list[SliceFile]:
    keys = {(one.source.source_id, job.scoring_id) for one in opened}
    taken = dict(covered)
    found = []
    for slice_id in slices_written(job.table):
        key = (slice_id.source_id, slice_id.scoring_id)
        if key in keys and not taken.get(key, Ranges()).intersects(slice_id.start, slice_id.stop):
            found.append(adopt_slice(job.table, slice_id))
            taken[key] = taken.get(key, Ranges()).union(Ranges([(slice_id.start, slice_id.stop)]))
    return found
