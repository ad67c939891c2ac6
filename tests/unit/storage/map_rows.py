"""Error maps for tests, stored as a job stores them."""

from __future__ import annotations

import datetime

import numpy as np
import pyarrow as pa

from skinvae.records import MAP_SCHEMA
from skinvae.storage.filesystem import Location
from skinvae.storage.map_table import MapTable, maps_location, packed
from skinvae.storage.slice_ids import SliceId
from skinvae.storage.slices import write_slice

RANDOM = np.random.default_rng(0)


def store_maps(
    table: Location, scores: list[float], *, selection: str = "dd", scoring: str = "cc", size: int = 4, bad: int = 0
) -> np.ndarray:
    """Maps of members 0, 1, ... of one archive; the last `bad` of them rejected."""
    maps = RANDOM.random((len(scores), size, size))
    columns, nats = packed(maps)
    slice_id = SliceId("aa", selection, 0, len(scores))
    is_ok = [index < len(scores) - bad for index in range(len(scores))]
    values = {
        "source_id": ["aa"] * len(scores), "member_index": range(len(scores)), "vae_reconst": scores,
        "status": ["ok" if ok else "timeout" for ok in is_ok],
        "map": [one if ok else None for one, ok in zip(columns, is_ok, strict=True)],
        "map_nats": [float(one) if ok else None for one, ok in zip(nats, is_ok, strict=True)],
        "map_size": [size] * len(scores), "scoring_id": [scoring] * len(scores),
        "made_at": [datetime.datetime.now(datetime.timezone.utc)] * len(scores),
    }  # fmt: skip

    def column(field: pa.Field) -> pa.Array:
        filler = ["x" if field.type == pa.string() else 1] * len(scores)
        return pa.array(values.get(field.name, filler), field.type)

    rows = pa.Table.from_arrays([column(field) for field in MAP_SCHEMA], schema=MAP_SCHEMA)
    location = maps_location(table)
    file = write_slice(location, slice_id, rows, provenance={})
    MapTable.open_or_create(location).commit_slices([file], provenance={})
    return maps
