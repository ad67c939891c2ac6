"""Extension headers of a tar: what GNU and PAX blocks in front of a member's own header say about it.

Formats: POSIX.1-2017, pax, "pax Extended Header"; GNU tar 1.35 manual, "Sparse Formats".
"""

from __future__ import annotations

import tarfile

MAX_MEMBER_BYTES = 1 << 63
"""No more fits into a row; a size of 8 EB or above is damage."""

_PAX_TYPES = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
EXTENSION_TYPES = (*_PAX_TYPES, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)


class Extensions:
    """What the headers in front of a member's own say about it; of two that contradict, the first, as in tarfile."""

    def __init__(self) -> None:
        self.are_void = True
        self.name: str | None = None
        self.num_bytes: int | None = None
        self.is_sparse = False

    def add(self, type_: bytes, body: bytes) -> None:
        """Raises ValueError, with a reason, where the body is malformed."""
        if type_ == tarfile.XGLTYPE:
            if any(_concerns_data(keyword) for keyword in _pax_records(body)):
                # Whoever resumes behind it would not know it.
                raise ValueError("a global header gives all members behind it one name or size")
            return
        self.are_void = False
        if type_ == tarfile.GNUTYPE_LONGNAME:
            self._take_name(body.partition(b"\0")[0])
        elif type_ in _PAX_TYPES:
            records = _pax_records(body)
            self._take_name(records.get("GNU.sparse.name") or records.get("path", b"").rstrip(b"/"))
            if self.num_bytes is None and records.get("size"):
                self.num_bytes = _number(records["size"])
            self.is_sparse |= any(keyword.startswith("GNU.sparse.") for keyword in records)

    def _take_name(self, name: bytes) -> None:
        if name and self.name is None:
            self.name = name.decode("utf-8", "replace")


def _concerns_data(keyword: str) -> bool:
    return keyword in ("path", "size") or keyword.startswith("GNU.sparse.")


def _pax_records(body: bytes) -> dict[str, bytes]:
    """Records "length keyword=value\\n", the length that of the whole record; some writers pad them with NULs."""
    records, position = {}, 0
    while position < len(body) and body[position]:
        space = body.find(b" ", position, position + 9)
        digits = body[position:space]
        stop = position + int(digits) if space > 0 and digits.isdigit() else 0
        keyword, equals, value = body[space + 1 : stop].partition(b"=")
        if not position < stop <= len(body) or not equals or not value.endswith(b"\n"):
            raise ValueError("a PAX extension header is malformed")
        records[keyword.decode("utf-8", "replace")] = value[:-1]
        position = stop
    return records


def _number(digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > 20 or int(digits) >= MAX_MEMBER_BYTES:
        raise ValueError(f"a PAX extension header gives {digits[:40]!r} as a size")
    return int(digits)
