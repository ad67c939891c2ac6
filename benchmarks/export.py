"""`export` of a large score table on local disk, with and without labels: `python -m benchmarks.export 2000000`.

Rows are made from arithmetic, their scores from a seed. Time and memory are those of the command as a process of its
own; fails if its memory grows with the table.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from benchmarks.audit import timed
from skinvae.records import SCORE_SCHEMA, SCORES, SPLIT_SCHEMA
from skinvae.storage.compaction import swap_slices_for_parts, write_part
from skinvae.storage.filesystem import Location
from skinvae.storage.score_table import ScoreTable
from skinvae.storage.slice_ids import SliceFile, SliceId
from skinvae.storage.slices import write_slice
from tests.finished_table import write_model

SLICE_ROWS = 100_000
MAX_MB = 1400
"""The libraries (700), a file of 128 MB that is written, and batches on their way; without labels."""


def make_table(folder: Path, *, num_rows: int) -> ScoreTable:
    """A finished table of one scoring, and one-hot labels of all its images."""
    split = pd.DataFrame({name: pd.Series([], dtype=object) for name in SPLIT_SCHEMA.names})
    _, model_id = write_model(folder / "scores" / "_skinvae" / "model", split)
    (folder / "scores" / "_skinvae" / "model").rename(folder / "scores" / "_skinvae" / model_id)
    table = ScoreTable.open_or_create(Location.parse(str(folder / "scores")))
    files = [_slice(table.location, start, model_id) for start in range(0, num_rows, SLICE_ROWS)]
    table.commit_slices(files, provenance={})
    swap_slices_for_parts(
        table, provenance={}, write_all=lambda parts: [write_part(table.location, part) for part in parts]
    )
    pd.DataFrame({"image_id": _image_ids(0, num_rows), "dx": "nv"}).to_parquet(folder / "labels.parquet")
    return table


def _image_ids(start: int, stop: int) -> list[str]:
    return [f"ISIC_{index:09d}" for index in range(start, stop)]


def _slice(table: Location, start: int, model_id: str) -> SliceFile:
    source_id = hashlib.sha256(b"%d" % (start // 1_000_000)).hexdigest()[:16]
    one = SliceId(source_id, "c" * 16, start % 1_000_000, start % 1_000_000 + SLICE_ROWS)
    scores = np.random.default_rng(start).gamma(4, 3000, (len(SCORES) + 2, SLICE_ROWS))
    values = dict(zip((*SCORES, "ess", "p_value"), scores, strict=True)) | {
        "image_id": _image_ids(start, start + SLICE_ROWS),
        "member": [f"images/{image_id}.jpg" for image_id in _image_ids(start, start + SLICE_ROWS)],
        "member_index": np.arange(one.start, one.stop),
    }
    alike = {
        "source": f"s3://bucket/{source_id}.zip",
        "source_id": source_id,
        "status": "ok",
        "error": None,
        "model_id": model_id,
        "scoring_id": one.scoring_id,
        "slice_id": str(one),
        "scored_at": datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc),
    }

    def column(field: pa.Field) -> pa.Array:
        if field.name in values:
            return pa.array(values[field.name], field.type)
        return pa.array([alike.get(field.name, "x" if field.type == pa.string() else 7)] * SLICE_ROWS, field.type)

    rows = pa.Table.from_arrays([column(field) for field in SCORE_SCHEMA], schema=SCORE_SCHEMA)
    return write_slice(table, one, rows, provenance={})


def main(arguments: Sequence[str]) -> None:
    """Make the table and time the exports; fails on a wrong count, and on too much memory."""
    num_rows = int(arguments[0]) if arguments else 2_000_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_table(folder, num_rows=num_rows)
        for what, options in (
            ("parquet", []),
            ("csv", ["--format", "csv"]),
            ("parquet with labels", ["--labels", str(folder / "labels.parquet")]),
        ):
            to = folder / what.replace(" ", "-")
            seconds, peak_mb, document = timed("export", str(folder / "scores"), "--to", str(to), *options)
            assert document["num_rows"] == num_rows == json.loads((to / "_export.json").read_text())["num_rows"]
            speed, files = f"{num_rows / seconds:,.0f} rows/s", len(document["files"])
            print(f"{what}: {seconds:.1f} s, {speed}, {peak_mb} MB; {files} files of {document['num_bytes']:,} bytes")
            assert options[:1] == ["--labels"] or peak_mb < MAX_MB, f"{peak_mb} MB"


if __name__ == "__main__":
    main(sys.argv[1:])
