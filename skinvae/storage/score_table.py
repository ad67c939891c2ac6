"""The score table: one row per image member of an archive and scoring."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import pyarrow as pa
from pyarrow import dataset

from skinvae.errors import TableError
from skinvae.records import SCORE_SCHEMA, Status
from skinvae.storage.slice_table import SliceTable

_BATCH_ROWS, _NUM_BATCHES_AHEAD = 65_536, 4
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
        if only is not None:
            condition &= only
        # File by file: a scanner of all of them reads a gigabyte ahead of a reader that is slower than itself.
        for fragment in self._table.to_pyarrow_dataset().get_fragments(filter=condition):
            yield from fragment.to_batches(
                schema=self.schema,
                columns=list(columns),
                filter=condition,
                batch_size=_BATCH_ROWS,
                batch_readahead=_NUM_BATCHES_AHEAD,
            )

    def scored_batches(self, scoring_id: str, *, source_ids: Collection[str]) -> Iterator[pa.RecordBatch]:
        """source_id, member_index and vae_reconst of the images of these archives that have scores, streamed."""
        only = (dataset.field("status") == Status.OK.value) & dataset.field("source_id").isin(list(source_ids))
        return self.batches(["source_id", "member_index", "vae_reconst"], scoring_id=scoring_id, only=only)

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
