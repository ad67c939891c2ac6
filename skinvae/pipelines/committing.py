"""The driver's side of the table: collect written slices, commit them every few seconds, count what came in."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from skinvae.logs import tell
from skinvae.records import Status
from skinvae.storage.slice_ids import SliceFile
from skinvae.storage.slice_table import SliceTable


class Committer:
    """Commits written slices; counts the rows that this run made and those it only adopted."""

    def __init__(self, table: SliceTable, *, provenance: dict[str, str], seconds: float) -> None:
        self.table = table
        self._provenance = provenance
        self._seconds = seconds
        self._pending: list[SliceFile] = []
        self._last_commit = time.monotonic()
        self.made: Counter[str] = Counter()
        """Rows that this run made and committed, by status."""
        self.adopted: Counter[str] = Counter()
        """Rows that an earlier run had written and this one committed, by status."""
        self.num_slices = 0
        """That this run committed, made or adopted."""
        self.commit_seconds: list[float] = []
        """What each commit took."""

    @property
    def poll_seconds(self) -> float:
        """How often to ask whether a commit is due."""
        return min(1.0, self._seconds)

    @property
    def num_rejected(self) -> int:
        return self.made.total() - self.made[Status.OK.value]

    def add(self, file: SliceFile) -> None:
        """Take a slice that was just written."""
        self._pending.append(file)

    def flush_if_due(self) -> None:
        """Commit what is pending if the last commit was long enough ago."""
        if self._pending and time.monotonic() - self._last_commit >= self._seconds:
            self.flush()

    def flush(self) -> None:
        """Commit what is pending; what another driver committed first is not counted as ours."""
        for file in self._commit(self._pending, event="slice_committed"):
            self.made.update(file.counts)
        self._pending = []

    def adopt(self, files: Sequence[SliceFile]) -> None:
        """Commit slices that an earlier run wrote."""
        for file in self._commit(files, event="slice_adopted"):
            self.adopted.update(file.counts)

    def _commit(self, files: Sequence[SliceFile], *, event: str) -> list[SliceFile]:
        if not files:
            return []
        started = self._last_commit = time.monotonic()
        committed = self.table.commit_slices(files, provenance=self._provenance)
        self.commit_seconds.append(time.monotonic() - started)
        self.num_slices += len(committed)
        for file in committed:
            tell(
                f"{event.replace('_', ' ')}: {file.num_rows:,} rows",
                event=event,
                slice_id=str(file.slice_id),
                rows_by_status=file.counts,
                table_version=self.table.version,
            )
        return committed
