"""export: one scoring of a table -> a fresh folder of plain Parquet or CSV, joined with labels if there are any."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

import skinvae
from skinvae.errors import UsageError
from skinvae.metrics.labelling import LABEL_SCHEMA, Labelling
from skinvae.records import SCORE_SCHEMA, Status
from skinvae.storage.export import FILE_BYTES, Export, Format
from skinvae.storage.filesystem import Location, StorageSettings
from skinvae.storage.labels import read_labelling
from skinvae.storage.score_table import ScoreTable
from skinvae.storage.table_rows import reading

OnStep = Callable[[str, int, int], None]
"""Is told what is being done, how much of it is, and of how much."""


@dataclass(frozen=True)
class Wanted:
    """Which rows and columns of a table."""

    scoring_id: str | None = None
    """By default the only one."""
    columns: Sequence[str] = ()
    """By default all."""
    statuses: Sequence[str] = ()
    """By default all."""

    def __post_init__(self) -> None:
        """Raises UsageError for names that no table has."""
        for option, given, known in (
            ("--columns", self.columns, SCORE_SCHEMA.names),
            ("--status", self.statuses, [status.value for status in Status]),
        ):
            if unknown := [name for name in given if name not in known]:
                raise UsageError(f"{option}: there is no '{unknown[0]}'; there are {', '.join(known)}")
            if repeated := [name for name, count in Counter(given).items() if count > 1]:
                raise UsageError(f"{option}: '{repeated[0]}' is named twice")


@dataclass(frozen=True)
class ExportSummary:
    """What `export` wrote."""

    to: str
    table: str
    table_version: int
    scoring_id: str
    num_rows: int
    num_bytes: int
    files: list[str]
    left_out: dict[str, int] = field(default_factory=dict)
    """Rows with other statuses than those asked for, by status."""
    num_unmatched: int | None = None
    """Rows without a label; None where no labels were given."""
    num_labels_unmatched: int | None = None
    """Labels whose image is in no row that was written."""
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def export(
    table: str,
    *,
    to: str,
    wanted: Wanted,
    format_: Format,
    labels: str | None,
    normal: Sequence[str],
    storage: StorageSettings,
    on_step: OnStep,
    file_bytes: int = FILE_BYTES,
) -> ExportSummary:
    """Stream the rows of the table's newest snapshot into files of about `file_bytes`.

    With labels, rows get the columns of LABEL_SCHEMA; `normal` = () takes the classes that training called normal.
    Raises UsageError if `to` is not empty or in the table, or if there are several scorings and none is chosen,
    LabelsError if the labels do not fit.
    """
    begun = time.monotonic()
    if normal and labels is None:
        raise UsageError("--normal says which labels are normal: give --labels, too")
    own = storage.with_credentials
    scores = ScoreTable.open(Location.parse(table, own))
    scores.check_schema()
    target = Location.parse(to, own)
    if f"{target}/".startswith(f"{scores.location}/"):
        raise UsageError(f"--to '{target}' lies in the table, whose readers would take its files for the table's")
    scoring_id = scores.choose_scoring(wanted.scoring_id)
    labelling = None
    if labels is not None:
        labelling = read_labelling(scores, scoring_id, Location.parse(labels, storage), normal=normal)
    fields = [SCORE_SCHEMA.field(name) for name in wanted.columns or SCORE_SCHEMA.names]
    about = {
        "table": scores.location.uri,
        "table_version": scores.version,
        "scoring_id": scoring_id,
        "statuses": list(wanted.statuses),
        "labels": labels,
        "skinvae": skinvae.__version__,
        "provenance": scores.provenances_of(scoring_id),
    }
    schema = pa.schema([*fields, *(LABEL_SCHEMA if labelling else [])])
    written = Export(target, schema, format_=format_, about=about, file_bytes=file_bytes)
    left_out: Counter[str] = Counter()
    for batch in _batches(scores, scoring_id, schema, statuses=wanted.statuses, left_out=left_out, on_step=on_step):
        written.add(_labelled(batch, schema, labelling))
    num_unmatched = None if labelling is None else labelling.num_unmatched
    num_labels_unmatched = None if labelling is None else labelling.num_labels_unmatched
    written.finish(left_out=left_out, num_unmatched=num_unmatched, num_labels_unmatched=num_labels_unmatched)
    return ExportSummary(
        to=written.location.uri,
        table=scores.location.uri,
        table_version=scores.version,
        scoring_id=scoring_id,
        num_rows=written.num_rows,
        num_bytes=written.num_bytes,
        files=written.files,
        left_out=dict(left_out),
        num_unmatched=num_unmatched,
        num_labels_unmatched=num_labels_unmatched,
        seconds=time.monotonic() - begun,
    )


def _batches(
    scores: ScoreTable,
    scoring_id: str,
    schema: pa.Schema,
    *,
    statuses: Sequence[str],
    left_out: Counter[str],
    on_step: OnStep,
) -> Iterator[pa.RecordBatch]:
    """The wanted rows; the others are counted in `left_out`."""
    names = [name for name in SCORE_SCHEMA.names if name in {*schema.names, "image_id", "status"}]
    num_read, num_rows = 0, scores.num_rows_of(scoring_id)
    with reading(scores.location):
        for batch in scores.batches(names, scoring_id=scoring_id):
            num_read += batch.num_rows
            on_step("rows", num_read, num_rows)
            if statuses:
                is_wanted = pc.is_in(batch["status"], pa.array(statuses))
                left_out.update(batch["status"].filter(pc.invert(is_wanted)).to_pylist())
                yield batch.filter(is_wanted)
            else:
                yield batch


def _labelled(batch: pa.RecordBatch, schema: pa.Schema, labelling: Labelling | None) -> pa.RecordBatch:
    added = labelling.columns(batch["image_id"].to_pandas()) if labelling else []
    own = [batch[name] for name in schema.names[: len(schema.names) - len(added)]]
    return pa.RecordBatch.from_arrays([*own, *added], schema=schema)
