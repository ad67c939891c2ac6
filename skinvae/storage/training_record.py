"""How far a training run is, written beside its checkpoints while it goes on: OUT.training/status.json."""

from __future__ import annotations

from typing import Literal

from pydantic import ValidationError

from skinvae.errors import BundleError, InputError
from skinvae.storage.filesystem import Location
from skinvae.storage.run_records import Sign

_STATUS = "status.json"

TrainingPhase = Literal["decoding", "training", "calibrating"]


class TrainingRecord(Sign):
    """The latest sign of a training run; `run_id` is the digest of its settings and data."""

    phase: TrainingPhase
    num_epochs: int
    num_workers: int
    """Of the last epoch that ended; before that, as many as were asked for."""
    num_done: int
    """Image passes, those of earlier attempts included."""
    num_planned: int
    epoch: int
    """Under way, 0 before the first."""
    last: list[dict[str, int | float | str]]
    """The history's rows of the last epoch that ended: training and validation."""
    best: dict[str, int | float | str] | None
    """The history's row of the epoch that is best so far."""

    @property
    def eta_seconds(self) -> float | None:
        """None where the speed is not known."""
        if self.images_per_second <= 0 or self.phase != "training":
            return None
        return max(0, self.num_planned - self.num_done) / self.images_per_second


def runs_of(out: Location) -> Location:
    """Where training keeps its state until the bundle at `out` is written."""
    return Location(f"{out.uri}.training", out.settings)


def write_training_record(out: Location, record: TrainingRecord) -> None:
    """Replace the last sign."""
    (runs_of(out) / _STATUS).write_bytes(record.model_dump_json(indent=2).encode())


def read_training_record(out: Location) -> TrainingRecord | None:
    """None where no training of `out` is under way. Raises BundleError if it cannot be read."""
    place = runs_of(out) / _STATUS
    if not place.exists():
        return None
    try:
        return TrainingRecord.model_validate_json(place.read_bytes())
    except (ValidationError, InputError) as error:
        raise BundleError(f"'{place}' is no record of a training run: delete it, or run the command again") from error
