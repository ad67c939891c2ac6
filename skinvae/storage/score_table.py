"""The score table: one row per image member of an archive and scoring."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
from pyarrow import dataset

from skinvae.errors import TableError
from skinvae.records import SCORE_SCHEMA
from skinvae.storage.slice_table import SliceTable

_BATCH_SIZE = 100_000


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

    def batches(self, columns: Sequence[str], *, scoring_id: str) -> Iterator[pa.RecordBatch]:
        """The same, some rows at a time: memory does not grow with the table."""
        scanner = self._table.to_pyarrow_dataset().scanner(
            columns=list(columns),
            filter=dataset.field("scoring_id") == scoring_id,
            batch_size=_BATCH_SIZE,
            # What is read ahead lies in memory: by default it would be 64 batches.
            batch_readahead=2,
            fragment_readahead=1,
        )
        return iter(scanner.to_batches())

    def num_rows(self) -> int:
        """Rows of the snapshot, of all scorings; from the files' footers."""
        return int(self._table.to_pyarrow_dataset().count_rows())

    def model_id(self, scoring_id: str) -> str:
        """The model that made a scoring. Raises TableError if it has no rows."""
        rows = self._table.to_pyarrow_dataset().head(
            1, columns=["model_id"], filter=dataset.field("scoring_id") == scoring_id
        )
        if not rows.num_rows:
            raise TableError(f"'{self.location}' holds no rows of scoring '{scoring_id}': the archives had no images")
        return str(rows["model_id"][0].as_py())
