"""The score table: one row per image member of an archive and scoring."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import pyarrow as pa
from pyarrow import dataset

from skinvae.records import SCORE_SCHEMA, Status
from skinvae.storage.slice_table import SliceTable

_BATCH_ROWS = 65_536


class ScoreTable(SliceTable):
    """Rows of SCORE_SCHEMA."""

    schema = SCORE_SCHEMA
    noun = "score table"
    command = "score"
    description = "Anomaly scores of dermoscopy images, one row per image; written by skinvae"

    def read(self, columns: Sequence[str], *, scoring_id: str | None = None) -> pa.Table:
        """The snapshot's rows of one scoring, or of all."""
        condition = None if scoring_id is None else dataset.field("scoring_id") == scoring_id
        return self._table.to_pyarrow_dataset().to_table(columns=list(columns), filter=condition)

    def scored_batches(self, scoring_id: str, *, source_ids: Collection[str]) -> Iterator[pa.RecordBatch]:
        """source_id, member_index and vae_reconst of the images of these archives that have scores, streamed."""
        condition = (
            (dataset.field("scoring_id") == scoring_id)
            & (dataset.field("status") == Status.OK.value)
            & dataset.field("source_id").isin(list(source_ids))
        )
        yield from self._table.to_pyarrow_dataset().to_batches(
            columns=["source_id", "member_index", "vae_reconst"],
            filter=condition,
            batch_size=_BATCH_ROWS,
            batch_readahead=1,
            fragment_readahead=1,
        )
