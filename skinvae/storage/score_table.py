"""The score table: one row per image member of an archive and scoring."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa
from deltalake.exceptions import DeltaError
from pyarrow import dataset

from skinvae.errors import TableError, UsageError
from skinvae.records import SCORE_SCHEMA
from skinvae.storage.filesystem import Location
from skinvae.storage.slice_table import SliceTable
from skinvae.storage.slices import read_provenances
from skinvae.storage.storage_errors import delta_error_words

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

    def num_rows_of(self, scoring_id: str) -> int:
        """Rows of one scoring in the snapshot, from the log and the footers of large files."""
        total = 0
        for file in self.live_files():
            if not file.is_slice:
                slices = self.contents_in_part(file).items()
                total += sum(its.num_rows for slice_id, its in slices if slice_id.scoring_id == scoring_id)
            elif self.slices_in(file)[0].scoring_id == scoring_id:
                total += file.num_rows
        return total

    def model_id_of(self, scoring_id: str) -> str:
        """The model that made a scoring. Raises TableError if it has no rows."""
        with reading(self.location):
            condition = dataset.field("scoring_id") == scoring_id
            rows = self._table.to_pyarrow_dataset().head(1, columns=["model_id"], filter=condition)
        if not rows.num_rows:
            raise TableError(f"'{self.location}' holds no rows of scoring '{scoring_id}': the archives had no images")
        return str(rows["model_id"][0])

    def provenances_of(self, scoring_id: str) -> list[dict[str, str]]:
        """What made the rows of one scoring, as the large files say; where there are none yet, one of the slices."""
        files = self.live_files()
        parts = [file for file in files if not file.is_slice]
        asked = parts or [file for file in files if self.slices_in(file)[0].scoring_id == scoring_id][:1]
        found = [one for file in asked for one in read_provenances(self.location / file.path)]
        return [one for number, one in enumerate(found) if one not in found[:number] and _is_of(one, scoring_id)]

    def choose_scoring(self, scoring_id: str | None) -> str:
        """The one scoring that is meant, by default the only one.

        Raises TableError for an empty table, UsageError where there is a choice to make.
        """
        found = self.scoring_ids()
        if not found:
            raise TableError(f"the score table '{self.location}' is empty: run `skinvae score` first")
        listed = ", ".join(found)
        if scoring_id is not None and scoring_id not in found:
            raise UsageError(f"'{self.location}' holds no scoring '{scoring_id}': --scoring-id takes one of {listed}")
        if scoring_id is None and len(found) > 1:
            raise UsageError(f"'{self.location}' holds {len(found)} scorings: choose with --scoring-id one of {listed}")
        return scoring_id or found[0]


@contextmanager
def reading(table: Location) -> Iterator[None]:
    """Turn what reading a table's rows may raise into a TableError."""
    try:
        yield
    except (OSError, DeltaError, pa.ArrowException) as error:
        raise TableError(f"cannot read '{table}': {delta_error_words(table, error)}") from error


def _is_of(provenance: dict[str, str], scoring_id: str) -> bool:
    return provenance.get("scoring_id", scoring_id) == scoring_id
