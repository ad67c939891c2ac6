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
    INCOMPLETE = "incomplete_archive"


_NOUNS = {
    Kind.ALTERED_FILE: "files that are not what the log says",
    Kind.ALTERED_SLICE: "slices that are not as they were written",
    Kind.OVERLAP: "slices that overlap",
    Kind.WRONG_ROW: "rows that contradict themselves",
    Kind.WRONG_ID: "identities that do not fit",
    Kind.MISSING_ROW: "images without a row",
    Kind.SURPLUS_ROW: "rows without an image",
}


@dataclass
class Difference:
    """All differences of one kind."""

    kind: Kind
    count: int = 0
    examples: list[str] = field(default_factory=list)
    """One sentence each."""

    @property
    def title(self) -> str:
        """'images without a row (2)'."""
        noun = _NOUNS.get(self.kind, f"{self.kind.value.replace('_', ' ')}s")
        return f"{noun} ({self.count:,})"


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
