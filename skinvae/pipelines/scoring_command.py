"""What `score` and `plan` begin with: the bundle, the archives and the table that a command names, opened."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from skinvae.config import Config
from skinvae.logs import begin_run
from skinvae.model.precision import Precision, fastest_precision
from skinvae.pipelines.maps import check_map_size
from skinvae.pipelines.provenance import new_run_id
from skinvae.pipelines.scoring_job import make_job, precision_in, preparation_for
from skinvae.pipelines.scoring_stages import ScoringJob
from skinvae.pipelines.slicing import OpenedArchive, open_archives
from skinvae.storage.bundle import ModelBundle, read_bundle
from skinvae.storage.filesystem import Location
from skinvae.storage.pixel_table import Preparation
from skinvae.storage.score_table import ScoreTable


@dataclass(frozen=True)
class ScoringCommand:
    """The command's archives, model and table; nothing is done yet."""

    config: Config
    model: Location
    table_at: Location
    bundle: ModelBundle
    preparation: Preparation
    opened: list[OpenedArchive]
    table: ScoreTable | None
    """None where there is none, and none was to be made."""
    run_id: str
    begun: float
    """When the command did, by time.monotonic()."""

    def job_in(self, precision: Precision) -> ScoringJob:
        """The job, in this precision."""
        return make_job(
            self.bundle,
            self.config.score.scoring(precision),
            run_id=self.run_id,
            model=self.model,
            table=self.table_at,
            preparation=self.preparation,
            max_seconds=self.config.images.max_seconds,
            begun=self.begun,
        )

    @property
    def asked_precision(self) -> Precision | None:
        """That of the settings, or of the table's rows; None leaves it to the machines."""
        return self.config.score.asked_precision or precision_in(self.table, self.bundle, self.config.score)

    def job_from_here(self) -> ScoringJob:
        """The job as this machine sees it: where the precision is open, its own stands for the cluster's."""
        has_gpu = self.config.ray.device != "cpu" and torch.cuda.is_available()
        here = torch.device("cuda" if has_gpu else "cpu")
        return self.job_in(self.asked_precision or fastest_precision(here))


def open_scoring(
    archives: Sequence[str], *, model: str, table: str, config: Config, make_table: bool
) -> ScoringCommand:
    """Opens what the command names; from now on the log has the run's id.

    Raises InputError, BundleError or UsageError where something is not what the command takes it for.
    """
    begun = time.monotonic()
    run_id = new_run_id()
    begin_run(run_id)
    own = config.storage.with_credentials
    model_at, table_at = Location.parse(model, own), Location.parse(table, own)
    # The whole bundle is read and verified, so that no worker starts on an altered one.
    bundle = read_bundle(model_at)
    preparation = preparation_for(bundle, config.images)
    check_map_size(config.score, image_size=preparation.image_size)
    return ScoringCommand(
        config=config,
        model=model_at,
        table_at=table_at,
        bundle=bundle,
        preparation=preparation,
        opened=open_archives(archives, config=config, preparation=preparation),
        table=ScoreTable.open_or_create(table_at) if make_table else ScoreTable.open_if_exists(table_at),
        run_id=run_id,
        begun=begun,
    )
