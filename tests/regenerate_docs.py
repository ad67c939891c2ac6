"""Writes docs/score-table.md and docs/hostile-corpus.md: `python -m tests.regenerate_docs`.

After any change of records.py, of the hostile corpus, or of what becomes of it.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from skinvae.records import SCORE_SCHEMA, SPLIT_SCHEMA, Status

ROOT = Path(__file__).parents[1]
SCORE_TABLE_PAGE = ROOT / "docs" / "score-table.md"
HOSTILE_CORPUS_PAGE = ROOT / "docs" / "hostile-corpus.md"

_PAGE = """\
<!-- Written by tests/regenerate_docs.py from skinvae/records.py: change them, not this page. -->
# The score table

One row for each image of each archive, scored or not. A member of an archive that is no image (a directory, a licence
text) has no row; an image that cannot be read or decoded has one, with its reason.

- Key: `source_id`, `scoring_id`, `member_index`. It is unique, whatever was interrupted or run twice.
- Join labels on `image_id`. It is a file stem: two archives may hold different images under one.
- Compare scores within one `scoring_id` only. A table may hold several, one for each model and each way of scoring.

## Columns

{columns}

Each column carries its unit and meaning in the metadata of the Parquet files, too.

## Status codes

{statuses}

A row whose status is not `ok` has no scores; `error` says in words what was found.

## The folder

| path | what |
|---|---|
| `_delta_log/` | the Delta table's log: which files count, since when, made by which model and versions |
| `part-*.parquet` | the rows, once a job has ended; what plain Parquet readers see |
| `_slices/` | one file for each unit of work; Delta readers see them as soon as they are committed |
| `_skinvae/MODEL_ID/` | `config.json` and `split.parquet` of each model whose scores are here |

## split.parquet

The images that a model has seen. Leave those it was trained on out of every evaluation; `skinvae evaluate` does.

{split_columns}
"""


_HOSTILE_CORPUS = """\
<!-- Written by tests/regenerate_docs.py from a run of tests/hostile: change that, not this page. -->
# Broken and hostile files

What the tests in `tests/hostile` make, what must become of it and what did: a status code for an image, the codes of
an archive's rows, and whether the archive as a whole is refused behind them. None of them costs a worker, and reading
and decoding them all takes less than 1 GiB.

{tables}"""


def score_table_page() -> str:
    """docs/score-table.md as the code has it."""
    return _PAGE.format(
        columns=_columns(SCORE_SCHEMA),
        statuses=_table(("code", "meaning"), ((f"`{status}`", status.meaning) for status in Status)),
        split_columns=_columns(SPLIT_SCHEMA),
    )


def hostile_corpus_page() -> str:
    """docs/hostile-corpus.md as a run of the corpus has it."""
    tables = subprocess.run(
        [sys.executable, "-m", "tests.hostile"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return _HOSTILE_CORPUS.format(tables=tables.stdout)


def _columns(schema: pa.Schema) -> str:
    rows = []
    for field in schema:
        about = {key.decode(): value.decode() for key, value in field.metadata.items()}
        null = "yes" if field.nullable else ""
        rows.append((f"`{field.name}`", str(field.type), about.get("unit", ""), null, about["meaning"]))
    return _table(("column", "type", "unit", "may be null", "meaning"), rows)


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines)


if __name__ == "__main__":
    SCORE_TABLE_PAGE.write_text(score_table_page(), encoding="utf-8")
    HOSTILE_CORPUS_PAGE.write_text(hostile_corpus_page(), encoding="utf-8")
