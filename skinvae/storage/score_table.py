"""The score table: one row per image member of an archive and scoring."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
from pyarrow import dataset

from skinvae.records import SCORE_SCHEMA
from skinvae.storage.slice_table import SliceTable


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
