"""What a scoring would have to do, as `plan` found it: the record that its page and its JSON are made from."""

from __future__ import annotations

from dataclasses import dataclass

from skinvae.audit.forecast import Forecast, Speed
from skinvae.storage.slice_ids import Counts


@dataclass(frozen=True)
class KindOfArchive:
    """All archives of one kind that a command names."""

    kind: str
    num_archives: int
    num_bytes: int
    num_members: int
    """As far as they are known: streams tell only at their end."""
    num_images: int
    """Of these members; what has no suffix counts as an image."""
    num_images_left: int
    """Of these, still to be scored."""
    num_bytes_unread: int
    """Of streams."""
    num_images_in_streams: int | None
    """A guess at what these bytes hold, by what was read of them; None where nothing was."""

    @property
    def num_images_expected(self) -> int:
        """Still to be scored, with the guess."""
        return self.num_images_left + (self.num_images_in_streams or 0)


@dataclass(frozen=True)
class Output:
    """What the table grows by."""

    num_rows: int
    bytes_per_row: float
    is_measured: bool
    """From the table's own files; else what rows of other tables took."""
    num_slice_bytes: int
    """Of the slice files, which stay beside the large ones for `score.retention_hours`."""

    @property
    def num_bytes(self) -> float:
        return self.num_rows * self.bytes_per_row


@dataclass(frozen=True)
class Plan:
    """What `score` would do with the same words."""

    table: str
    scoring_id: str
    precision: str
    num_members: int
    num_members_done: int
    num_stream_bytes: int
    by_kind: list[KindOfArchive]
    in_table: Counts
    """Rows that the table holds of these archives, by status."""
    num_slices: int
    slice_size: int
    num_slices_written: int
    """By an earlier run that did not commit them: they are adopted."""
    num_commits: int | None
    cluster: str
    """In words."""
    is_hypothetical: bool
    speed: Speed | None
    forecast: Forecast | None
    unknown: str
    """Why there is no forecast, and what to do about it."""
    output: Output

    @property
    def num_images_left(self) -> int:
        return sum(one.num_images_expected for one in self.by_kind)

    @property
    def is_guess(self) -> bool:
        """Whether bytes of streams stand for images that nobody has counted."""
        return any(one.num_bytes_unread for one in self.by_kind)

    @property
    def num_rejected(self) -> int:
        return sum(count for status, count in self.in_table.items() if status != "ok")
