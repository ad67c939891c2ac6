"""Which images get an error map: those of a job's archives with the highest scores, and which of them have one."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from skinvae.config import ScoreSettings
from skinvae.metrics.highest import Highest, num_highest
from skinvae.pipelines.map_stage import ChosenMembers
from skinvae.pipelines.scoring_stages import ScoringJob
from skinvae.pipelines.slicing import OpenedArchive
from skinvae.records import Status
from skinvae.storage.map_table import MapTable, maps_location
from skinvae.storage.ranges import Ranges
from skinvae.storage.score_table import ScoreTable

_KEY = ["source_id", "member_index"]


@dataclass(frozen=True)
class Selection:
    """The chosen images."""

    rows: pd.DataFrame
    """source_id, member_index and score, ascending by the first two."""
    is_missing: NDArray[np.bool_]
    """Which of them have no map yet."""
    selection_id: str
    """Of all rows."""

    @property
    def threshold_nats(self) -> float | None:
        """The lowest score in nats; None without any."""
        return float(self.rows["score"].min()) if len(self.rows) else None

    @property
    def num_missing(self) -> int:
        return int(self.is_missing.sum())

    def by_source(self) -> dict[str, ChosenMembers]:
        """Whether they have a map or not."""
        return {
            str(source_id): ChosenMembers(its["member_index"].to_numpy(), its["score"].to_numpy())
            for source_id, its in self.rows.groupby("source_id", observed=True)
        }

    def narrowed(self, opened: Sequence[OpenedArchive]) -> list[OpenedArchive]:
        """The archives that have images without a map, narrowed to these."""
        missing = self.rows[self.is_missing].groupby("source_id", observed=True)["member_index"]
        ordinals = {str(source_id): its.to_numpy() for source_id, its in missing}
        return [
            dataclasses.replace(
                one,
                only=Ranges([(int(its[0]), int(its[-1]) + 1)]),
                wanted=Ranges((int(index), int(index) + 1) for index in its),
            )
            for one in opened
            if (its := ordinals.get(one.source.source_id)) is not None
        ]


def select(
    job: ScoringJob, opened: Sequence[OpenedArchive], table: ScoreTable, *, settings: ScoreSettings
) -> Selection:
    """Of the archives' images that the table has scores of; one pass over these, in memory for the highest."""
    source_ids = sorted(one.source.source_id for one in opened)
    highest = Highest(num_highest(num_scored(job, opened, table), percent=settings.maps_percent))
    highest.add(_coded(pa.table({"source_id": [], "member_index": [], "vae_reconst": []}), source_ids))
    for batch in table.scored_batches(job.scoring_id, source_ids=source_ids):
        highest.add(_coded(batch, source_ids))
    rows = highest.rows().sort_values(["source_id", "member_index"], ignore_index=True)
    maps = MapTable.open_if_exists(maps_location(job.table))
    is_missing = np.ones(len(rows), np.bool_)
    if maps is not None:
        mapped = maps.mapped(job.scoring_id, source_ids=source_ids, map_size=settings.maps_size)
        is_missing = ~pd.MultiIndex.from_frame(rows[_KEY]).isin(pd.MultiIndex.from_frame(mapped[_KEY]))
    return Selection(rows, is_missing, _digest(job, rows, source_ids=source_ids, map_size=settings.maps_size))


def num_scored(job: ScoringJob, opened: Sequence[OpenedArchive], table: ScoreTable) -> int:
    """Images of the archives that have scores."""
    counts = table.count_by_status(job.scoring_id, source_ids={one.source.source_id for one in opened})
    return counts.get(Status.OK.value, 0)


def _coded(rows: pa.RecordBatch | pa.Table, source_ids: Sequence[str]) -> pd.DataFrame:
    """As `Highest` takes it; source_id in codes, since so many strings would take most of the memory."""
    codes = pd.Categorical(rows["source_id"].to_pandas(), categories=list(source_ids))
    members, scores = rows["member_index"].to_numpy(), rows["vae_reconst"].to_numpy()
    return pd.DataFrame(
        {"source_id": codes, "member_index": members.astype(np.int64), "score": scores.astype(np.float64)}
    )


def _digest(job: ScoringJob, rows: pd.DataFrame, *, source_ids: Sequence[str], map_size: int) -> str:
    """16 hex digits that stand for what is chosen, whatever has a map of it already."""
    digest = hashlib.blake2b("\n".join([job.scoring_id, str(map_size), *source_ids]).encode(), digest_size=8)
    for values in (rows["source_id"].cat.codes, rows["member_index"]):
        digest.update(np.ascontiguousarray(values, np.int64).tobytes())
    return digest.hexdigest()
