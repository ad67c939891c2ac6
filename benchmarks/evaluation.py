"""`evaluate` on a table that memory should not hold: `python -m benchmarks.evaluation 20000000 [--no-lesions]`.

Scores are drawn: normal for normals, the same and 1 more for abnormal images, so that the AUROC is known. Labels and
lesions are Delta tables. Everything lies in a temporary folder (TMPDIR). Time and memory are those of the command as a
process of its own.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from deltalake import write_deltalake
from scipy.stats import norm

from benchmarks.audit import timed
from benchmarks.bundles import make_bundle
from benchmarks.harness import machine
from benchmarks.models import TINY
from skinvae.records import SCORE_SCHEMA, SCORES
from skinvae.storage.bundle import read_bundle_config
from skinvae.storage.filesystem import Location
from skinvae.storage.score_table import ScoreTable
from skinvae.storage.slice_ids import SliceId
from skinvae.storage.slices import write_slice

SLICE_SIZE = 500_000
SCORING_ID = "c" * 16
CLASSES = ("nv", "mel", "bcc", "bkl")
SHARES = (0.7, 0.1, 0.05, 0.15)
AUROC = float(norm.cdf(1 / np.sqrt(2)))
PHOTOS_PER_LESION = 2
NUM_IN_SPLIT = 64
"""Names in the bundle's split, every second one trained on: the first rows have them."""
REJECTED_EVERY, UNLABELLED_EVERY = 100, 50


def make_table(folder: Path, *, num_rows: int) -> tuple[str, str, str]:
    """Table, labels and lesions."""
    table_uri, labels, lesions = (str(folder / name) for name in ("scores", "labels", "lesions"))
    model = Location.parse(str(folder / "model"))
    make_bundle(model.uri, TINY)
    _, digest = read_bundle_config(model)
    table = ScoreTable.open_or_create(Location.parse(table_uri))
    for number, start in enumerate(range(0, num_rows, SLICE_SIZE)):
        stop = min(start + SLICE_SIZE, num_rows)
        rows, codes = _rows(start, stop, model_id=digest[:16])
        one = SliceId("a" * 16, SCORING_ID, start, stop)
        table.commit_slices([write_slice(table.location, one, rows, provenance={})], provenance={})
        names = rows["image_id"]
        is_labelled = np.arange(start, stop) % UNLABELLED_EVERY != 1
        dx = pa.array(np.array(CLASSES)[codes])
        labelled = pa.table({"image_id": names, "dx": dx}).filter(pa.array(is_labelled))
        lesion = pa.array([f"L{index // PHOTOS_PER_LESION}" for index in range(start, stop)])
        mode: Any = "append" if number else "overwrite"
        write_deltalake(labels, labelled, mode=mode)
        write_deltalake(lesions, pa.table({"image_id": names, "lesion_id": lesion}), mode=mode)
    copies = Path(table_uri, "_skinvae", digest[:16])
    copies.mkdir(parents=True)
    for name in ("config.json", "split.parquet"):
        shutil.copy(folder / "model" / name, copies / name)
    return table_uri, labels, lesions


def _rows(start: int, stop: int, *, model_id: str) -> tuple[pa.Table, np.ndarray]:
    rng, num = np.random.default_rng(start), stop - start
    # Photos of one lesion are of one class, and share half the variance of their scores.
    lesion = np.arange(num) // PHOTOS_PER_LESION
    codes = rng.choice(len(CLASSES), p=SHARES, size=num)[lesion]
    shared = rng.normal(size=num)[lesion]
    index = np.arange(start, stop)
    is_rejected = index % REJECTED_EVERY == REJECTED_EVERY - 1
    columns: dict[str, Any] = {
        "image_id": [f"normal-{i}" if i < NUM_IN_SPLIT else f"ISIC_{i:09d}" for i in range(start, stop)],
        "member_index": index,
        "status": np.where(is_rejected, "truncated", "ok"),
    }
    for score in SCORES:
        columns[score] = (codes > 0) + np.sqrt(0.5) * (shared + rng.normal(size=num))
    columns["p_value"] = norm.sf(columns["vae_reconst"])
    constants = {"model_id": model_id, "scoring_id": SCORING_ID, "precision": "float32"}

    def column(field: pa.Field) -> pa.Array:
        if field.name in columns:
            mask = is_rejected if field.nullable else None
            return pa.array(columns[field.name], field.type, mask=mask)
        if field.name in constants or not field.nullable:
            return pa.repeat(pa.scalar(constants.get(field.name, _filler(field.type)), field.type), num)
        return pa.nulls(num, field.type)

    return pa.Table.from_arrays([column(field) for field in SCORE_SCHEMA], schema=SCORE_SCHEMA), codes


def _filler(type_: pa.DataType) -> Any:
    return "x" if pa.types.is_string(type_) else 0


def numbers_are_right(document: dict[str, Any], *, num_rows: int, with_lesions: bool) -> Iterator[str]:
    """What is wrong with them; the AUROCs by five standard errors."""
    num_rejected = num_rows // REJECTED_EVERY
    num_unmatched = sum(1 for index in range(1, num_rows, UNLABELLED_EVERY) if index % REJECTED_EVERY != 99)
    join = document["join"]
    if join["num_rejected"] != {"truncated": num_rejected} or join["num_unmatched"] != num_unmatched:
        yield f"rejected {join['num_rejected']}, unmatched {join['num_unmatched']}"
    if not with_lesions and join["num_trained"] != NUM_IN_SPLIT // 2:
        yield f"{join['num_trained']} trained on"
    if document["num_evaluated"] + join["num_trained"] + join["num_trained_lesion"] != (
        num_rows - num_rejected - num_unmatched
    ):
        yield f"{document['num_evaluated']} evaluated"
    for row in document["auroc"]:
        if abs(row["auroc"] - AUROC) > 5 * (row["ci_high"] - row["ci_low"]) / 3.92:
            yield f"AUROC of {row['score']} against {row['target']} is {row['auroc']}, expected {AUROC}"


def main(arguments: Sequence[str]) -> None:
    """Make the table and time the command; fails on a wrong number."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluation", description=__doc__)
    parser.add_argument("num_rows", type=int, nargs="?", default=20_000_000)
    parser.add_argument("--no-lesions", action="store_true", help="images are independent: DeLong's intervals")
    parser.add_argument("--in-memory", action="store_true", help="evaluate it in memory, to compare with")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="evaluation-") as folder:
        started = time.monotonic()
        table, labels, lesions = make_table(Path(folder), num_rows=options.num_rows)
        print(f"{options.num_rows:,} rows, made in {time.monotonic() - started:.0f} s", flush=True)
        command = ["evaluate", "--table", table, "--labels", labels, "--out", f"{folder}/out"]
        command += [] if options.no_lesions else ["--groups", lesions]
        limit = options.num_rows if options.in_memory else 0
        command += ["--set", f"evaluate.max_rows_in_memory={limit}"]
        seconds, peak_mb, document = timed(*command)
    wrong = list(numbers_are_right(document, num_rows=options.num_rows, with_lesions=not options.no_lesions))
    assert not wrong, wrong
    pooled = next(row for row in document["auroc"] if (row["score"], row["target"]) == ("vae_reconst", "pooled"))
    about = machine()
    print(
        f"evaluate: {seconds:.0f} s, peak {peak_mb:,} MB, {options.num_rows / seconds:,.0f} rows/s\n"
        f"pooled AUROC {pooled['auroc']:.5f} ({pooled['ci_low']:.5f} to {pooled['ci_high']:.5f}) by "
        f"{pooled['ci_method']}; drawn with {AUROC:.5f}\n{about}"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
