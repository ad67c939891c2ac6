"""Text manifests: one URI a line, or a column of a CSV or TSV file; one scan finds where slices begin.

A plain list may have blank lines and comments (#). The URIs are never all in memory: of 256 entries one byte offset
is kept.
"""

from __future__ import annotations

import csv
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

from skinvae.errors import ArchiveError
from skinvae.images.archives.base import RangeReader, read_exactly
from skinvae.images.archives.coalesce import MAX_READ_BYTES, Batch, read_ahead
from skinvae.images.archives.manifest.entries import URI_COLUMNS, check_entry, uri_column

SUFFIXES = (".txt", ".csv", ".tsv", ".lst", ".manifest")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_ENTRIES_PER_OFFSET = 256
_MAX_LINE_BYTES = 128 << 10  # also the csv module's limit of a field
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class TextFormat:
    """How a line is read."""

    delimiter: str | None
    """None: the line is the URI."""
    column: int  # 0 where there is no delimiter
    name: str
    start: int  # of the first line behind the header, in bytes


@dataclass(frozen=True)
class Lines:
    """Some entries of a text manifest: `count` of them behind the first `skip` in the bytes [start, stop)."""

    start: int
    stop: int
    skip: int
    count: int
    format: TextFormat


def is_text_manifest(uri: str, head: bytes) -> bool:
    """Whether the name says so and the object's first bytes are UTF-8 without NUL."""
    if not uri.lower().endswith(SUFFIXES) or b"\0" in head:
        return False
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start >= len(head) - 3 and error.reason == "unexpected end of data"  # the head's end cuts one
    return True


class TextManifest:
    """The entries of a text manifest. The constructor reads nothing."""

    def __init__(self, reader: RangeReader) -> None:
        self._reader = reader

    def locate(self) -> TextFormat:
        return self._format

    @property
    def num_entries(self) -> int:
        return self._index[0]

    def uris(self) -> Iterator[str]:
        return (uri for _, _, uri in entries(self._reader, self._format.start, self._reader.size, self._format))

    def lines(self, start: int, stop: int) -> Lines:
        """Where the entries [start, stop) are."""
        _, offsets = self._index
        first, behind = start // _ENTRIES_PER_OFFSET, -(-stop // _ENTRIES_PER_OFFSET)
        end = offsets[behind] if behind < len(offsets) else self._reader.size
        return Lines(offsets[first], end, start - first * _ENTRIES_PER_OFFSET, stop - start, self._format)

    @cached_property
    def _format(self) -> TextFormat:
        """Raises ArchiveError if a CSV or TSV file has no column of URIs."""
        uri = self._reader.uri
        head = read_exactly(self._reader, 0, min(_MAX_LINE_BYTES, self._reader.size))
        start = len(_BYTE_ORDER_MARK) if head.startswith(_BYTE_ORDER_MARK) else 0
        delimiter = _DELIMITERS.get(uri[uri.rfind(".") :].lower())
        if delimiter is None:
            return TextFormat(None, 0, "URI", start)
        header = next(iter(head[start:].splitlines(keepends=True)), b"")
        text = header.decode("utf-8", "replace")
        if delimiter not in text:  # spreadsheets of many countries write semicolons into a CSV
            delimiter = next((other for other in ";\t," if other in text), delimiter)
        names = next(csv.reader([text], delimiter=delimiter), [])
        name = uri_column(names)
        if name is None:
            raise ArchiveError(
                f"{uri} is no manifest: none of its columns {', '.join(names)[:200]} is named"
                f" {', '.join(URI_COLUMNS[:-1])} or {URI_COLUMNS[-1]}."
            )
        return TextFormat(delimiter, names.index(name), name, start + len(header))

    @cached_property
    def _index(self) -> tuple[int, array[int]]:
        """(number of entries, byte offset of every 256th); raises ArchiveError at the first that cannot be meant."""
        count, offsets, format_ = 0, array("Q"), self._format
        first_line = 1 if format_.delimiter is None else 2
        for offset, line, uri in entries(self._reader, format_.start, self._reader.size, format_):
            if count % _ENTRIES_PER_OFFSET == 0:
                offsets.append(offset)
            check_entry(uri, manifest=self._reader.uri, place=f"line {first_line + line}", column=format_.name)
            count += 1
        return count, offsets


def read_lines(reader: RangeReader, lines: Lines) -> Iterator[str]:
    """The URIs of these lines, in order."""
    found = entries(reader, lines.start, lines.stop, lines.format)
    return (uri for _, _, uri in islice(found, lines.skip, lines.skip + lines.count))


def entries(reader: RangeReader, start: int, stop: int, format_: TextFormat) -> Iterator[tuple[int, int, str]]:
    """(byte offset, line counted from `start`, URI) of every entry that begins in [start, stop)."""
    if format_.delimiter is None:
        for number, (offset, line) in enumerate(_walk_lines(reader, start, stop)):
            entry = line.strip()
            if entry and not entry.startswith(b"#"):
                yield offset, number, entry.decode("utf-8", "surrogateescape")
        return
    walked = _WalkedLines(reader, start, stop)
    records = csv.reader(walked, delimiter=format_.delimiter, strict=True)
    number = 0
    while True:
        offset = walked.end
        try:
            fields = next(records, None)
        except csv.Error as error:
            reason = "a quote is never closed" if "end of data" in str(error) or "limit" in str(error) else error
            raise ArchiveError(f"{reader.uri} is no CSV file behind its byte {offset}: {reason}.") from None
        if fields is None:
            return
        if any(fields):
            yield offset, number, fields[format_.column].strip() if format_.column < len(fields) else ""
        number = records.line_num


class _WalkedLines(Iterator[str]):
    """Lines as text for the csv module, which takes several for a quoted line break; `end`: behind the last taken."""

    def __init__(self, reader: RangeReader, start: int, stop: int) -> None:
        self._lines = _walk_lines(reader, start, stop)
        self.end = start

    def __next__(self) -> str:
        offset, line = next(self._lines)
        self.end = offset + len(line)
        return line.decode("utf-8", "surrogateescape")


def _walk_lines(reader: RangeReader, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
    """(byte offset, line with its end) of the lines in [start, stop), read in large pieces, one ahead."""
    windows = (Batch[None](first, min(first + MAX_READ_BYTES, stop)) for first in range(start, stop, MAX_READ_BYTES))
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="manifest-read") as executor:
        offset, rest = start, b""
        for window, data in read_ahead(windows, reader=reader, executor=executor):
            lines = (rest + data).splitlines(keepends=True)
            # The last line may go on, and a line feed may follow a carriage return.
            rest = lines.pop() if window.stop < stop and not lines[-1].endswith(b"\n") else b""
            for line in lines:
                yield offset, line
                offset += len(line)
            if len(rest) > _MAX_LINE_BYTES:
                raise ArchiveError(f"{reader.uri} has a line of more than {_MAX_LINE_BYTES} bytes: it is no manifest.")
