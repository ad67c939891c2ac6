"""How far a training run is, or the model that it made, as storage alone tells it."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from skinvae.audit.tables import open_table
from skinvae.errors import BundleError, InputError
from skinvae.storage.bundle import BundleConfig, has_bundle, read_bundle_config
from skinvae.storage.filesystem import Location
from skinvae.storage.training_record import TrainingRecord, read_training_record


@dataclass(frozen=True)
class Training:
    """What lies at the `--out` of a training: `record` of a run that has not ended, or `model`."""

    out: str
    now: datetime.datetime
    record: TrainingRecord | None = None
    model: BundleConfig | None = None
    model_id: str = ""


def read_training(place: Location) -> Training | None:
    """None where there is neither a run nor a model, such as at a table. Raises BundleError for a broken one."""
    now = datetime.datetime.now(datetime.timezone.utc)
    if open_table(place) is not None:
        return None
    if has_bundle(place):
        model, digest = read_bundle_config(place)
        return Training(place.uri, now, model=model, model_id=digest[:16])
    try:
        record = read_training_record(place)
    except BundleError:
        raise
    except InputError:
        # It lies beside the place that was asked for: who reads tables need not be let in there.
        return None
    return None if record is None else Training(place.uri, now, record=record)
