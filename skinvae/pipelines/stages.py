"""The first stages of every job on archives, one row per slice: part of an archive -> bytes -> uint8 pixels.

Rows are one pickled record beside one flat buffer of uint8 pixels: never float, never full size.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from skinvae.images.archives import image_id
from skinvae.images.archives.base import storable
from skinvae.pipelines.decoding import (
    DecodedMember,
    DecodedSlice,
    RawSlice,
    Unreadable,
    decode_slice,
    decode_slices,
    read_slices,
)
from skinvae.pipelines.progress import report_retries, report_seconds
from skinvae.pipelines.slice_job import SliceJob
from skinvae.pipelines.slicing import ArchivePart, Slice
from skinvae.pipelines.stage_times import Stage, StageClock

Row = dict[str, Any]


@dataclass(frozen=True)
class SliceHead:
    """What is known of a decoded slice beside its pixels."""

    slice: Slice
    members: list[DecodedMember]
    """Without their pixels."""


def input_row(part: ArchivePart) -> Row:
    """The pipeline's input: one part of an archive."""
    return {"work": pickle.dumps(part)}


def read_stage(row: Row, *, job: SliceJob, progress: Any) -> Iterator[Row]:
    """Read a stream slice by slice, so that several tasks share its decoding; let all else pass."""
    part: ArchivePart = pickle.loads(row["work"])
    if not part.part.is_stream:
        yield row
        return
    clock = StageClock()
    for item in read_slices(part, settings=job.decode, clock=clock):
        report_retries(progress)
        report_seconds(progress, clock.take())
        yield {"work": pickle.dumps(item)}


def decode_stage(row: Row, *, job: SliceJob, progress: Any) -> Iterator[Row]:
    """Decode, per slice: the pixels of its good images as one buffer, and what is known of every image."""
    work: ArchivePart | RawSlice | Unreadable = pickle.loads(row["work"])
    clock = StageClock()
    if isinstance(work, ArchivePart):
        for item in decode_slices(work, size=job.image_size, settings=job.decode, wanted=work.wanted, clock=clock):
            yield _reported(item, clock, job=job, progress=progress)
    elif isinstance(work, RawSlice):
        with clock.measured(Stage.DECODE):
            decoded = decode_slice(work, size=job.image_size, settings=job.decode)
        yield _reported(decoded, clock, job=job, progress=progress)
    else:
        yield _decoded_row(work, size=job.image_size)


def _reported(item: DecodedSlice | Unreadable, clock: StageClock, *, job: SliceJob, progress: Any) -> Row:
    with clock.measured(Stage.DECODE):
        row = _decoded_row(item, size=job.image_size)
    if isinstance(item, DecodedSlice):
        num_bytes = sum(one.num_bytes or 0 for one in item.members)
        progress.decoded.remote(str(job.slice_id(item.slice)), num_bytes)
    report_retries(progress)
    report_seconds(progress, clock.take())
    return row


def _decoded_row(item: DecodedSlice | Unreadable, *, size: int) -> Row:
    if isinstance(item, Unreadable):
        return {"head": pickle.dumps(item), "pixels": b""}
    head = SliceHead(item.slice, [_without_pixels(member) for member in item.members])
    return {"head": pickle.dumps(head), "pixels": item.stacked_pixels(size=size).tobytes()}


def opened_row(row: Row, *, size: int) -> tuple[SliceHead | Unreadable, NDArray[np.uint8]]:
    """What `decode_stage` put into a row: pixels (B, size, size, 3)."""
    head: SliceHead | Unreadable = pickle.loads(row["head"])
    return head, np.frombuffer(row["pixels"], np.uint8).reshape(-1, size, size, 3)


def image_columns(head: SliceHead) -> pd.DataFrame:
    """The columns that tables of scores and of pixels share: what is known of each image of the slice."""
    members = head.members
    return pd.DataFrame(
        {
            "image_id": [image_id(one.name) for one in members],
            "source": storable(head.slice.source.uri),
            "source_id": head.slice.source.source_id,
            "member": [one.name for one in members],
            "member_index": [one.index for one in members],
            "width": pd.array([one.image.width for one in members], dtype="Int32"),
            "height": pd.array([one.image.height for one in members], dtype="Int32"),
            "num_bytes": pd.array([one.num_bytes for one in members], dtype="Int64"),
            "status": [one.image.status.value for one in members],
            "error": pd.array([one.image.error for one in members], dtype=object),
        }
    )


def table_of(frame: pd.DataFrame, *, schema: pa.Schema) -> pa.Table:
    """The frame's columns that the schema names."""
    # from_pandas: NaN in a score column is how pandas says null.
    columns = [pa.Array.from_pandas(frame[field.name], type=field.type) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def _without_pixels(member: DecodedMember) -> DecodedMember:
    return replace(member, image=replace(member.image, pixels=None))
