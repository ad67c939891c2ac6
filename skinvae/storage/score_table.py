"""The score table: one row per image member of an archive and scoring."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import pyarrow as pa
from pyarrow import dataset

from skinvae.errors import TableError, UsageError
from skinvae.records import SCORE_SCHEMA, Status
from skinvae.storage.slice_table import SliceTable
from skinvae.storage.slices import read_provenances
from skinvae.storage.table_rows import reading, row_batches


class ScoreTable(SliceTable):
    """Rows of SCORE_SCHEMA."""

    schema = SCORE_SCHEMA
    noun = "score table"
    command = "score"
    description = "Anomaly scores of dermoscopy images, one row per image; written by skinvae"

    def read(self, columns: Sequence[str], *, scoring_id: str | None = None) -> pa.Table:
        """The snapshot's rows of one scoring, or of all."""
        return pa.Table.from_batches(self.batches(columns, scoring_id=scoring_id), _schema_of(columns))

    def batches(
        self, columns: Sequence[str], *, scoring_id: str | None, only: dataset.Expression | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Rows of one scoring, or of all, or `only` some of them, in bounded memory, file after file.

        `only` may name the columns asked for, `scoring_id` and `status`.
        """
        files = self.live_files()
        if scoring_id is not None:
            files = [file for file in files if scoring_id in {one.scoring_id for one in self.slices_in(file)}]
            is_its = dataset.field("scoring_id") == scoring_id
            only = is_its if only is None else is_its & only
        schema = _schema_of(columns)
        return row_batches(self.location, files, schema, only=only, only_names=("scoring_id", "status"))

    def scored_batches(self, scoring_id: str, *, source_ids: Collection[str]) -> Iterator[pa.RecordBatch]:
        """source_id, member_index and vae_reconst of the images of these archives that have scores, streamed."""
        only = (dataset.field("status") == Status.OK.value) & dataset.field("source_id").isin(list(source_ids))
        return self.batches(["source_id", "member_index", "vae_reconst"], scoring_id=scoring_id, only=only)

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
            for batch in self.batches(["model_id"], scoring_id=scoring_id):
                if batch.num_rows:
                    return str(batch["model_id"][0])
        raise TableError(f"'{self.location}' holds no rows of scoring '{scoring_id}': the archives had no images")

    def provenances_of(self, scoring_id: str) -> list[dict[str, str]]:
        """What made the rows of one scoring, as the large files say; where there are none yet, one of the slices."""
        files = self.live_files()
        parts = [file for file in files if not file.is_slice]
        asked = parts or [file for file in files if self.slices_in(file)[0].scoring_id == scoring_id][:1]
        found = [one for file in asked for one in read_provenances(self.location / file.path)]
        return [one for number, one in enumerate(found) if one not in found[:number] and _is_of(one, scoring_id)]

    def choose_scoring(self, scoring_id: str | None, *, option: str = "--scoring-id") -> str:
        """The one scoring that is meant, by default the only one; `option` is what names it on the command line.

        Raises TableError for an empty table, UsageError where there is a choice to make.
        """
        found = self.scoring_ids()
        if not found:
            raise TableError(f"the score table '{self.location}' is empty: run `skinvae score` first")
        listed = ", ".join(found)
        if scoring_id is not None and scoring_id not in found:
            raise UsageError(f"'{self.location}' holds no scoring '{scoring_id}': {option} takes one of {listed}")
        if scoring_id is None and len(found) > 1:
            raise UsageError(f"'{self.location}' holds {len(found)} scorings: choose with {option} one of {listed}")
        return scoring_id or found[0]


def _is_of(provenance: dict[str, str], scoring_id: str) -> bool:
    return provenance.get("scoring_id", scoring_id) == scoring_id


def _schema_of(columns: Sequence[str]) -> pa.Schema:
    return pa.schema([SCORE_SCHEMA.field(name) for name in columns])
