"""Writes docs/score-table.md and docs/hostile-corpus.md: `python -m tests.regenerate_docs`.

After any change of records.py, of the hostile corpus, or of what becomes of it.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from skinvae.records import MAP_SCHEMA, SCORE_SCHEMA, SPLIT_SCHEMA, Status

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
| `_maps/` | error maps of the highest scores, a table of its own: see below |

## Error maps

`skinvae score ... --set score.maps=true` stores where the error of the most anomalous images lies: of the images with
scores in the command's archives the `score.maps_percent` with the highest `vae_reconst`, rounded up, and all that share
the last place. They lie in `_maps`, a Delta table of the same make.

A map has `score.maps_size` cells a side. A cell holds the nats of its pixels: the sum over them and their channels of
(1/k) sum_i (x - m(z_i))^2 / (2 sigma^2), x in [-1, 1], under the k draws z_i that the scores are made of. So the cells
add up to `map_nats`, and that is `vae_reconst` less its constant: the map says where the score comes from. Maps are
computed in float32 at least; where the scores are in bfloat16, the two agree to 1e-3 only.

- Key: `source_id`, `scoring_id`, `map_size`, `member_index`. Two jobs that choose among different archives of one table
  at the same time may both store a map; `read_maps` returns one.
- Running the command again adds the maps that are missing. With more archives, or another `score.maps_percent`, other
  images are among the highest: theirs are added, and the maps of those that no longer are stay. Ordered by
  `vae_reconst`, the first rows are those of the highest scores without a gap.
- An image that could not be read again has a row without a map, its reason in `error`.

`read_maps` gives them as an array in nats, (B, `map_size`, `map_size`), beside their rows, the highest first:

```python
from skinvae.storage.filesystem import Location
from skinvae.storage.map_table import read_maps

rows, maps = read_maps(Location.parse("out/isic/scores"), limit=100)
```

{map_columns}

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
        map_columns=_columns(MAP_SCHEMA),
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
