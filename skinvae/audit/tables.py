"""Open whatever kind of table lies at a place."""

from __future__ import annotations

from skinvae.errors import TableError
from skinvae.storage.filesystem import Location
from skinvae.storage.map_table import MapTable
from skinvae.storage.pixel_table import PixelTable, is_prepared
from skinvae.storage.score_table import ScoreTable
from skinvae.storage.slice_table import SliceTable


def table_kind(location: Location) -> type[SliceTable]:
    """A prepared archive where `prepare` began one, else a score table, whether it is there or not."""
    return PixelTable if is_prepared(location) else ScoreTable


def open_table(location: Location) -> SliceTable | None:
    """The table, or None if there is none, or only the beginnings of one.

    Raises TableError for a table of others, and for one of error maps, which has no row of most images.
    """
    table = table_kind(location).open_if_exists(location)
    if table is not None and table.has_columns(MapTable):
        raise TableError(f"'{location}' holds the error maps of a score table: name that table, the folder above")
    if table is not None:
        table.check_schema()
    return table
