"""A database that lives as long as one command: it sorts and joins on local disk what memory cannot hold."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import duckdb
import pyarrow as pa

from skinvae.errors import InputError, UsageError

_QUIET = "SET enable_progress_bar = false"
"""It would be drawn on stdout, which is for results."""


class Scratch:
    """Tables by name, filled in batches and read in batches."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def run(self, query: str) -> None:
        """A statement that gives nothing back."""
        self._connection.execute(query)

    def value(self, query: str) -> int:
        """The one number that the query gives."""
        ((number,),) = self._connection.execute(query).fetchall()
        return int(number)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """A result that is small."""
        return self._connection.execute(query).fetchall()

    def batches(self, query: str, *, num_rows: int) -> Iterator[pa.RecordBatch]:
        """A result of any size, `num_rows` at once."""
        # A cursor of its own: the connection stays free for other queries meanwhile.
        with self._connection.cursor() as cursor:
            cursor.execute(_QUIET)
            rows = cursor.sql(query)
            # DuckDB 2 renamed it, and is not for Python 3.10.
            read = rows.to_arrow_reader if hasattr(rows, "to_arrow_reader") else rows.fetch_arrow_reader
            yield from read(num_rows)

    def fill(self, name: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch | pa.Table]) -> None:
        """Make a table of all the batches. What goes wrong while they are made is raised as it is."""
        failed: list[Exception] = []
        rows = _until_failure(batches, failed)
        self._connection.register("incoming", pa.RecordBatchReader.from_batches(schema, rows))
        try:
            self._connection.execute(f"CREATE TABLE {name} AS SELECT * FROM incoming")
        except duckdb.Error:
            if failed:
                # DuckDB has only the text of it left.
                raise failed[0] from None
            raise
        finally:
            self._connection.unregister("incoming")


def _until_failure(batches: Iterable[pa.RecordBatch | pa.Table], failed: list[Exception]) -> Iterator[pa.RecordBatch]:
    """All the batches; an exception goes into `failed` too."""
    try:
        for batch in batches:
            yield from batch.to_batches() if isinstance(batch, pa.Table) else [batch]
    except Exception as error:
        failed.append(error)
        raise


@contextmanager
def open_scratch(*, memory_mb: int) -> Iterator[Scratch]:
    """In a temporary folder (TMPDIR says where), which is gone afterwards; what exceeds the memory goes to disk.

    Raises UsageError where the memory does not suffice to sort even so, InputError where the disk does not.
    """
    with tempfile.TemporaryDirectory(prefix="skinvae-") as folder:
        settings: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": f"{memory_mb}MiB",
            "temp_directory": f"{folder}/spilled",
            "preserve_insertion_order": False,
        }
        try:
            with duckdb.connect(f"{folder}/scratch.duckdb", config=settings) as connection:
                connection.execute(_QUIET)
                yield Scratch(connection)
        except duckdb.OutOfMemoryException as error:
            raise UsageError(
                f"{memory_mb} MiB are too little to sort and join this table, or '{folder}' is full: raise "
                "evaluate.memory_mb, or set TMPDIR to a larger disk"
            ) from error
        except duckdb.IOException as error:
            first_line = str(error).splitlines()[0]
            raise InputError(f"cannot sort and join on disk ({first_line}): set TMPDIR to another one") from error
