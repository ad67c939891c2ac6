"""Writes docs/score-table.md, docs/metrics.md and docs/hostile-corpus.md: `python -m tests.regenerate_docs`.

After any change of records.py, of metrics or events, of the hostile corpus, or of what becomes of it.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from skinvae.logs import EVENTS
from skinvae.pipelines.metrics import METRICS, TAGS, Metric
from skinvae.records import MAP_SCHEMA, SCORE_SCHEMA, SPLIT_SCHEMA, Status

ROOT = Path(__file__).parents[1]
SCORE_TABLE_PAGE = ROOT / "docs" / "score-table.md"
METRICS_PAGE = ROOT / "docs" / "metrics.md"
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

`skinvae.read_maps` gives them as an array in nats, (B, `map_size`, `map_size`), beside their rows, the highest first:

```python
import skinvae

rows, maps = skinvae.read_maps("out/isic/scores", limit=100)
```

{map_columns}

## split.parquet

The images that a model has seen. Leave those it was trained on out of every evaluation; `skinvae evaluate` does.

{split_columns}
"""


_METRICS = """\
<!-- Written by tests/regenerate_docs.py from skinvae/pipelines/metrics.py and skinvae/logs.py: change them. -->
# Metrics and logs

## Metrics

`score`, `prepare` and `train` hand these to Ray, which serves them to Prometheus beside its own, on every node: the
job's are on the node of its driver. Counters stay there when the job has ended; gauges go within seconds.

{metrics}

| tag | value |
|---|---|
{tags}

Images, rows and commits are counted where slices are committed, so they are the table's counts, whatever died on the
way. Bytes and stage seconds are of work that was done, which a lost worker makes to be done twice. Ray adds tags of its
own; among them is `WorkerId`, which differs from run to run anyway, so `run_id` costs Prometheus no series more. A
histogram's `_sum` is what Ray makes of its buckets, and so is coarse.

Where a cluster is yours to start, fix the port with `ray start --head --metrics-export-port=8080`; on Kubernetes,
KubeRay's is 8080. Ray's head writes the addresses of all nodes into a file, for Prometheus to find them: in
`scrape_configs`, name `prom_metrics_service_discovery.json` in Ray's temporary folder as one of the `file_sd_configs`.

A Ray that skinvae starts for one command has a port of Ray's choosing, and ends with the command. A driver that is
joined by `ray://` has no metrics. Metrics that cannot be written are said once and end no job.

`deploy/grafana/skinvae.json` shows all of them, and GPUs and CPUs from Ray's own: in Grafana, Dashboards, New, Import.

## Logs

With `--set log.format=json`, or `SKINVAE_LOG__FORMAT=json` in the job's environment, every line on stderr is one JSON
object, and there are no progress bars. Every line has `time` (UTC), `level`, `event`, `message`, `run_id` and
`scoring_id`, which are null where there is none yet; `run_id` is that of the rows, the metrics and `skinvae status`.
Here one is broken up to be read:

```json
{{
  "time": "2026-11-25T13:15:48.132+00:00", "level": "info",
  "event": "slice_committed", "message": "slice committed: 14 rows",
  "run_id": "20261125T131507Z-5fa8b0", "scoring_id": "021a93689e13b61e",
  "slice_id": "d063b602fa83a914-021a93689e13b61e-0-16", "rows_by_status": {{"ok": 14}}, "table_version": 2
}}
```

{events}

Which images were rejected, and why, is in the table: `error`, `status`, `slice_id`. What other libraries log or warn
of has the name of their logger as its event, and that of an error nobody foresaw its `traceback`. What workers print
goes to Ray's own log files; so does all that Ray says at work. Settings that cannot be used are told as text: the
format is one of them.
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


def metrics_page() -> str:
    """docs/metrics.md as the code has it."""
    rows = (
        (", ".join(f"`{name}`" for name in one.series), one.kind.value, one.unit, one.meaning, _tags(one))
        for one in METRICS
    )
    return _METRICS.format(
        metrics=_table(("on the endpoint", "type", "unit", "meaning", "tags"), rows),
        tags="\n".join(f"| `{tag}` | {meaning} |" for tag, meaning in TAGS.items()),
        events=_table(("event", "when, and its own fields"), ((f"`{name}`", about) for name, about in EVENTS.items())),
    )


def _tags(metric: Metric) -> str:
    return ", ".join(f"`{tag}`" for tag in metric.tags)


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
    METRICS_PAGE.write_text(metrics_page(), encoding="utf-8")
    HOSTILE_CORPUS_PAGE.write_text(hostile_corpus_page(), encoding="utf-8")
