"""What is not as it should be: counted in full, the first few of each kind in words."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from enum import Enum

_MAX_EXAMPLES = 10


class Kind(str, Enum):
    """The kinds of difference, in the order in which they are told."""

    MISSING_FILE = "missing_file"
    ALTERED_FILE = "altered_file"
    ALTERED_SLICE = "altered_slice"
    OVERLAP = "overlap"
    DUPLICATE_ROW = "duplicate_row"
    WRONG_ROW = "wrong_row"
    WRONG_ID = "wrong_id"
    MISSING_ROW = "missing_row"
    SURPLUS_ROW = "surplus_row"
    REPLACED_ARCHIVE = "replaced_archive"
    INCOMPLETE = "incomplete"

    @property
    def noun(self) -> str:
        """What is counted of it."""
        return _NOUNS[self]


_NOUNS = {
    Kind.MISSING_FILE: "files are missing",
    Kind.ALTERED_FILE: "files are not what the log says",
    Kind.ALTERED_SLICE: "slices do not hold the rows that were written",
    Kind.OVERLAP: "slices overlap",
    Kind.DUPLICATE_ROW: "rows are there twice",
    Kind.WRONG_ROW: "rows contradict themselves",
    Kind.WRONG_ID: "identities do not fit",
    Kind.MISSING_ROW: "images have no row",
    Kind.SURPLUS_ROW: "rows belong to no image",
    Kind.REPLACED_ARCHIVE: "archives were replaced",
    Kind.INCOMPLETE: "archives are not done yet",
}


@dataclass
class Difference:
    """All differences of one kind."""

    kind: Kind
    count: int = 0
    examples: list[str] = field(default_factory=list)
    """One sentence each."""


class Differences:
    """Takes differences from several threads."""

    def __init__(self) -> None:
        self._by_kind: dict[Kind, Difference] = {}
        self._lock = threading.Lock()

    def add(self, kind: Kind, sentence: str, *, count: int = 1) -> None:
        """Note a difference that concerns `count` files, slices, rows or archives."""
        with self._lock:
            difference = self._by_kind.setdefault(kind, Difference(kind))
            difference.count += count
            if len(difference.examples) < _MAX_EXAMPLES:
                difference.examples.append(sentence)

    def listed(self) -> list[Difference]:
        """In the order of the kinds."""
        return [self._by_kind[kind] for kind in Kind if kind in self._by_kind]
