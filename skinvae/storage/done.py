"""What is done of one archive, and what that says of the rest of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from skinvae.storage.ranges import Ranges


@dataclass(frozen=True)
class Done:
    """What a table holds of one archive."""

    members: Ranges = field(default_factory=Ranges)
    offsets: Mapping[int, int] = field(default_factory=dict)
    """Of a stream: byte offsets of members at the borders of what is done."""

    def num_members(self, declared: int | None, *, num_bytes: int) -> int | None:
        """All members of the archive of `num_bytes`: as `declared`, or where a slice ends with the stream.

        None of a stream whose end is not done yet.
        """
        if declared is not None:
            return declared
        return max((member for member, offset in self.offsets.items() if offset == num_bytes), default=None)

    def num_bytes_unread(self, declared: int | None, *, num_bytes: int) -> int:
        """Of a stream whose end is not known: the bytes behind what is done; 0 for all else."""
        if self.num_members(declared, num_bytes=num_bytes) is not None:
            return 0
        return num_bytes - self.offsets.get(self.members.stop, 0)
