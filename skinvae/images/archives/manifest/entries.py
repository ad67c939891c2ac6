"""What an entry of a manifest may be."""

from __future__ import annotations

from collections.abc import Sequence

from skinvae.errors import ArchiveError
from skinvae.images.archives.candidates import names_an_archive

URI_COLUMNS = ("uri", "url", "path", "key", "file", "filename", "file_name")
"""The column of a table that holds the URIs: the first of these that is there, in upper or lower case."""


def uri_column(names: Sequence[str]) -> str | None:
    """Which of the column names is that of the URIs, as it is written."""
    written = {name.strip().lower(): name for name in reversed(names)}
    return next((written[name] for name in URI_COLUMNS if name in written), None)


def check_entry(uri: str, *, manifest: str, place: str, column: str) -> None:
    """Raises ArchiveError for an entry that can name no image, whatever storage holds."""
    if not uri:
        raise ArchiveError(f"{manifest} has no {column} in {place}.")
    if names_an_archive(uri):
        raise ArchiveError(f"{manifest} lists archives ({uri!r} in {place}): name those on the command line.")
    if "://" in uri and not uri.startswith(("s3://", "file://")):
        raise ArchiveError(f"{manifest} names {uri!r} in {place}: only paths, file:// and s3:// can be read.")
    if uri.startswith("s3://") and uri[5:6] in ("", "/"):
        raise ArchiveError(f"{manifest} names {uri!r} in {place}, which has no bucket.")
    if "\0" in uri:
        raise ArchiveError(f"{manifest} is no text: {place} holds a NUL.")
