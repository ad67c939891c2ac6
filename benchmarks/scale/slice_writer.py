"""Slice files without images: what the workers of a job would have written, at the least cost."""

from __future__ import annotations

import dataclasses
import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.pool import Pool
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from skinvae.records import SCORE_SCHEMA, SCORES
from skinvae.storage.filesystem import Location
from skinvae.storage.slice_ids import SliceFile, SliceId
from skinvae.storage.slices import write_slice

PROVENANCE = {"model_digest": "a" * 64, "scoring": "s" * 120, "versions": "v" * 200}
"""Of the usual size."""


class Order(NamedTuple):
    """Slices of one archive that are to be written."""

    table: Location
    source: str
    slice_ids: list[SliceId]
    num_rows: int
    """Of each."""


MODEL_ID = "b" * 16


def rows_of(slice_id: SliceId, source: str, count: int) -> pa.Table:
    """Rows of the first `count` members, all 'ok', with scores that compress as badly as real ones."""
    indices = np.arange(slice_id.start, slice_id.start + count)
    random = np.random.default_rng(slice_id.start)
    names = [f"ISIC_{index:09}" for index in indices.tolist()]
    columns = {
        "image_id": names,
        "member": [f"{name}.jpg" for name in names],
        "member_index": indices,
        "num_bytes": random.integers(200_000, 300_000, count),
        "scored_at": [datetime.datetime.now(datetime.timezone.utc)] * count,
        **{name: random.normal(5e4, 5e3, count) for name in (*SCORES, "ess", "p_value")},
    }
    constants = {
        "source": source,
        "source_id": slice_id.source_id,
        "width": 600,
        "height": 450,
        "status": "ok",
        "error": None,
        "num_samples": 15,
        "seed": 0,
        "score_mode": "exact",
        "noise": "independent",
        "precision": "bfloat16",
        "model_id": MODEL_ID,
        "scoring_id": slice_id.scoring_id,
        "slice_id": str(slice_id),
        "run_id": "20261125T000000Z-000000",
    }

    def column(field: pa.Field) -> pa.Array:
        if field.name in columns:
            return pa.array(columns[field.name], field.type)
        return pa.repeat(pa.scalar(constants[field.name], field.type), count)

    return pa.Table.from_arrays([column(field) for field in SCORE_SCHEMA], schema=SCORE_SCHEMA)


def write(order: Order) -> list[SliceFile]:
    """The slices' files, and what a worker would tell the driver of them."""
    return [
        write_slice(order.table, one, rows_of(one, order.source, order.num_rows), provenance=PROVENANCE)
        for one in order.slice_ids
    ]


def write_one_and_link(order: Order) -> list[SliceFile]:
    """The same for a table on local disk whose rows nobody looks at: all files are the first one, under their names."""
    (first,) = write(order._replace(slice_ids=order.slice_ids[:1]))
    files = [dataclasses.replace(first, slice_id=one) for one in order.slice_ids]
    for file in files[1:]:
        os.link((order.table / first.path).uri, (order.table / file.path).uri)
    return files


@contextmanager
def writers(number: int) -> Iterator[Pool]:
    """Processes of their own: what they take is not the driver's."""
    with get_context("spawn").Pool(number) as pool:
        yield pool
