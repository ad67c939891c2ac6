"""What every row must say, whatever the image: rules on one batch of rows, each with its sentence."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from skinvae.records import PIXEL_SCHEMA, SCORES, Status

CONSTANTS = ("model_id", "num_samples", "seed", "score_mode", "noise", "precision")
"""Columns that are the same in all rows of one scoring."""

_NUMBERS = (*SCORES, "ess")

Mask = NDArray[np.bool_]


def scoring_column(schema: pa.Schema) -> str:
    """The column that holds what a slice's name calls scoring_id."""
    return "preparation_id" if schema.names == PIXEL_SCHEMA.names else "scoring_id"


def wrong_rows(rows: pa.RecordBatch, schema: pa.Schema) -> Iterator[tuple[str, Mask]]:
    """Every rule that some row breaks, and which rows do."""
    for rule, mask in _broken(rows, schema):
        if mask.any():
            yield rule, mask


def _broken(rows: pa.RecordBatch, schema: pa.Schema) -> Iterator[tuple[str, Mask]]:
    is_ok = _mask(pc.equal(rows["status"], Status.OK.value))
    known = pa.array([status.value for status in Status])
    yield "its status is no known code", ~_mask(pc.is_in(rows["status"], value_set=known))
    yield "its image was rejected, and 'error' gives no reason", ~is_ok & _is_null(rows["error"])
    if scoring_column(schema) == "preparation_id":
        yield "status ok without pixels", is_ok & _is_null(rows["pixels"])
        yield "pixels of a rejected image", ~is_ok & ~_is_null(rows["pixels"])
        return
    for name in _NUMBERS:
        # NaN and infinity are no scores.
        is_finite = _mask(pc.is_finite(rows[name]))
        yield f"status ok without a finite {name}", is_ok & ~is_finite
        yield f"{name} of a rejected image", ~is_ok & ~_is_null(rows[name])


def _is_null(array: pa.Array) -> Mask:
    return _mask(pc.is_null(array))


def _mask(array: pa.Array) -> Mask:
    no = pa.scalar(value=False)
    mask: Mask = pc.fill_null(array, no).to_numpy(zero_copy_only=False)
    return mask
