"""What the JSON in benchmarks/results says, as unit costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

IMAGE = "600x450 q100 4:4:4"
"""The row of the bench's part `decode` that is nearest to the originals of ISIC."""

MB = 1 << 20
"""As the benchmarks count memory."""


@dataclass(frozen=True)
class Measurements:
    """What the JSON says, as unit costs."""

    driver: Mapping[str, Any]
    jobs: Mapping[str, Any]
    bench: Mapping[str, Mapping[str, Any]]

    @property
    def _phases(self) -> Mapping[str, Any]:
        phases: Mapping[str, Any] = self.driver["phases"]
        return phases

    def per_slice(self, many: Mapping[str, Any], few: Mapping[str, Any], key: str) -> float:
        """What one slice more adds to a figure, by two jobs of different size."""
        more: int = self.jobs["many"]["num_slices"] - self.jobs["few"]["num_slices"]
        return max(0.0, float(many.get(key, 0) - few.get(key, 0)) / more)

    def requests_per_slice(self, command: str, kind: str, *methods: str) -> float:
        """Requests that one slice more adds to a command."""
        many, few = (self.jobs[size][command]["requests"].get(kind, {}) for size in ("many", "few"))
        return sum(self.per_slice(many.get(one, {}), few.get(one, {}), "number") for one in methods)

    def cpu_seconds_per_slice(self, process: str) -> float:
        """Processor seconds that one slice more adds to a scoring job's process."""
        many, few = (self.jobs[size]["score"]["processes"].get(process, {}) for size in ("many", "few"))
        return self.per_slice(many, few, "cpu_seconds")

    def mb_per_slice(self, process: str) -> float:
        """MB that one slice more adds to a process of Ray's head."""
        many, few = (self.jobs[size]["score"]["processes"].get(process, {}) for size in ("many", "few"))
        return self.per_slice(many, few, "peak_mb")

    @property
    def plan_seconds_per_member(self) -> float:
        return float(self._phases["plan"]["seconds"] / self._phases["plan"]["num_members"])

    @property
    def driver_bytes_per_slice(self) -> float:
        """Of plan and table together, beyond what the process begins with."""
        grown = self.driver["commits"]["mb_behind"] - self._phases["begin"]["mb_behind"]
        return float(max(0, grown) * MB / self.driver["num_slices"])

    @property
    def input_bytes_per_slice(self) -> float:
        return float(self._phases["rows for Ray"]["num_bytes"] / self.driver["num_slices"])

    def commit_seconds(self, num_slices: float) -> float:
        """Of one commit to a table of so many slices; a line through the first and the last tenth of the run."""
        commits = self.driver["commits"]
        growth = (commits["last_tenth_seconds"] - commits["first_tenth_seconds"]) / (0.9 * self.driver["num_slices"])
        return float(commits["first_tenth_seconds"] + max(0.0, growth) * num_slices)

    @property
    def contended_commit_seconds(self) -> float:
        """Of a commit to the full table that finds another driver's before its own."""
        return float(self._phases["commit after another driver's"]["median_seconds"])

    @property
    def log_bytes_per_slice(self) -> float:
        return float(self.driver["log"]["entry_bytes"] / self.driver["num_slices"])

    @property
    def checkpoint_bytes_per_slice(self) -> float:
        return float(self.driver["log"]["newest_checkpoint_bytes"] / self.driver["num_slices"])

    @property
    def full_part(self) -> Mapping[str, float]:
        part: Mapping[str, float] = self._phases["a large file of full slices"]
        return part

    @property
    def resume_seconds_per_member(self) -> float:
        """Of a job half of which is done: to look what the table covers, and to plan the rest."""
        seconds = sum(self._phases[f"half: {one}"]["seconds"] for one in ("open table", "summarise, thrice", "plan"))
        return float(seconds / self._phases["plan"]["num_members"])

    @property
    def status_seconds(self) -> float:
        """A slice in the table, which held half of them when it was asked."""
        return float(self._phases["half: status"]["seconds"] / (self.driver["num_slices"] / 2))

    @property
    def process_bytes(self) -> float:
        """Of a driver before it has a plan."""
        return float(self._phases["begin"]["mb_behind"] * MB)

    @property
    def decoded_per_core(self) -> float:
        return float(self._decode["skinvae isolated"])

    @property
    def image_bytes(self) -> float:
        return float(self._decode["KB"] * 1000)

    @property
    def _decode(self) -> Mapping[str, Any]:
        row: Mapping[str, Any]
        (row,) = (row for row in self.bench["decode"]["rows"] if row["file"] == IMAGE)
        return row

    @property
    def share_of_limit(self) -> float:
        """Of a device's matrix rate that the scorer reaches in bfloat16, on the CPU where it was measured."""
        (row,) = (row for row in self.bench["kernel"]["rows"] if row["way"] == "skinvae, bfloat16")
        return float(row["of limit"])
