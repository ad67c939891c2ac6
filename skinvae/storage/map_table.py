"""The table of error maps, which lies below its score table: one row per image that was among the most anomalous."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import dataset

from skinvae.errors import TableError, UsageError
from skinvae.records import MAP_SCHEMA, Status
from skinvae.storage.filesystem import Location
from skinvae.storage.slice_table import SliceTable
from skinvae.storage.table_rows import reading, row_batches

_FOLDER = "_maps"
"""Plain Parquet readers of the score table ignore names that begin with an underscore."""

_CONDITIONED = ("source_id", "scoring_id", "map_size", "status", "vae_reconst")

_SHARE = np.dtype("<f2")


class MapTable(SliceTable):
    """Rows of MAP_SCHEMA."""

    schema = MAP_SCHEMA
    noun = "table of error maps"
    command = "score --set score.maps=true"
    description = "Error maps of the most anomalous dermoscopy images, one row per image; written by skinvae"

    def mapped(self, scoring_id: str, *, source_ids: Sequence[str], map_size: int) -> pd.DataFrame:
        """source_id and member_index of the images of these archives that have a map of this size."""
        condition = (dataset.field("scoring_id") == scoring_id) & (dataset.field("map_size") == map_size)
        condition &= dataset.field("source_id").isin(list(source_ids))
        return self.read(["source_id", "member_index"], condition=condition)

    def read(self, columns: Sequence[str], *, condition: dataset.Expression) -> pd.DataFrame:
        """The snapshot's rows that meet the condition, which may name these columns and _CONDITIONED."""
        schema = pa.schema([MAP_SCHEMA.field(name) for name in columns])
        with reading(self.location):
            batches = row_batches(self.location, self.live_files(), schema, only=condition, only_names=_CONDITIONED)
            frame: pd.DataFrame = pa.Table.from_batches(batches, schema).to_pandas()
        return frame


def maps_location(score_table: Location) -> Location:
    """Where the maps of a score table lie."""
    return score_table / _FOLDER


def packed(maps_BSS: NDArray[np.float64]) -> tuple[list[bytes], NDArray[np.float64]]:
    """The columns `map` and `map_nats` of maps in nats."""
    nats_B = maps_BSS.sum((1, 2))
    shares_BSS = maps_BSS / np.where(nats_B > 0, nats_B, 1.0)[:, None, None]
    return [share.tobytes() for share in shares_BSS.astype(_SHARE)], nats_B


def unpacked(maps: Sequence[bytes], nats: NDArray[np.float64], *, map_size: int) -> NDArray[np.float32]:
    """The inverse of `packed`: nats of each cell, (B, map_size, map_size)."""
    shares_BSS = np.frombuffer(b"".join(maps), _SHARE).reshape(-1, map_size, map_size)
    return (shares_BSS * nats[:, None, None]).astype(np.float32)


def read_maps(
    score_table: Location, *, limit: int | None = None, scoring_id: str | None = None, map_size: int | None = None
) -> tuple[pd.DataFrame, NDArray[np.float32]]:
    """The maps of a score table, the highest vae_reconst first, all or as many as `limit` says.

    Returns the rows of MAP_SCHEMA but for `map`, and the maps in nats a cell, (B, map_size, map_size). Raises
    TableError if there are none, UsageError where there are several scorings or sizes and none is chosen.
    """
    table = MapTable.open(maps_location(score_table))
    is_ok = dataset.field("status") == Status.OK.value
    kinds = {"scoring_id": scoring_id, "map_size": map_size}
    found = table.read(["source_id", "member_index", "vae_reconst", *kinds], condition=is_ok)
    for name, chosen in kinds.items():
        values = sorted(map(str, found[name].unique()))
        if chosen is None and len(values) > 1:
            raise UsageError(f"'{table.location}' holds maps of several {name}: choose one of {', '.join(values)}")
        found = found if chosen is None else found[found[name] == chosen]
    if found.empty:
        raise TableError(f"'{table.location}' holds no such error maps")
    # Two jobs that chose among different archives at the same time may both have stored a map.
    found = found.drop_duplicates(["source_id", "member_index"])
    found = found.sort_values(["vae_reconst", "source_id", "member_index"], ascending=[False, True, True])[:limit]
    lowest, size = found["vae_reconst"].min(), int(found["map_size"].iloc[0])
    condition = is_ok & (dataset.field("vae_reconst") >= lowest) & (dataset.field("map_size") == size)
    condition &= dataset.field("scoring_id") == found["scoring_id"].iloc[0]
    rows = table.read(MAP_SCHEMA.names, condition=condition)
    rows = found[["source_id", "member_index"]].merge(
        rows.drop_duplicates(["source_id", "member_index"]), how="left", validate="one_to_one"
    )
    maps = unpacked(rows["map"].tolist(), rows["map_nats"].to_numpy(), map_size=size)
    return rows[[name for name in MAP_SCHEMA.names if name != "map"]], maps
