"""The score table: one row per image member of an archive and scoring."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
from pyarrow import dataset

from skinvae.records import SCORE_SCHEMA
from skinvae.storage.slice_table import SliceTable

_BATCH_ROWS, _NUM_BATCHES_AHEAD, _NUM_FILES_AHEAD = 65_536, 4, 1
"""Of a table that is read in batches: few tens of megabytes in memory, however many rows it has."""


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

    def batches(
        self, columns: Sequence[str], *, scoring_id: str, only: dataset.Expression | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Rows of one scoring, or `only` some of them, in bounded memory and no set order."""
        condition = dataset.field("scoring_id") == scoring_id
        batches: Iterator[pa.RecordBatch] = self._table.to_pyarrow_dataset().to_batches(
            columns=list(columns),
            filter=condition if only is None else condition & only,
            batch_size=_BATCH_ROWS,
            batch_readahead=_NUM_BATCHES_AHEAD,
            fragment_readahead=_NUM_FILES_AHEAD,
        )
        return batches
