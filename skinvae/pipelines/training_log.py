"""What follows a training run epoch by epoch: TensorBoard logs beside the model, and MLflow where it is asked for."""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import ray.train
from ray.train import Checkpoint
from tensorboardX import SummaryWriter

from skinvae.errors import UsageError
from skinvae.pipelines import metrics
from skinvae.pipelines.metrics import RunMetrics
from skinvae.storage.filesystem import Location
from skinvae.training.history import Row

TENSORBOARD = "tensorboard"
"""Folder of the bundle."""

CURVES = ("loss", "reconst", "kl", "sigma")


def scalars_of(rows: Sequence[Row]) -> dict[str, float]:
    """'loss/train', 'loss/validation' and so on, and images/s, of one epoch's rows."""
    scalars = {f"{name}/{row['split']}": float(row[name]) for row in rows for name in CURVES}
    for row in rows:
        if float(row.get("seconds", 0)) > 0:
            scalars["images_per_second"] = float(row["num_images"]) / float(row["seconds"])
    return scalars


class Sink(Protocol):
    """Takes the curves of one epoch after the other."""

    name: str

    def write(self, epoch: int, scalars: dict[str, float]) -> None: ...


class EpochLog(ray.train.UserCallback):
    """Ray Train's callback behind every epoch, in the process that controls the workers.

    A log that cannot be written is no reason to end a run.
    """

    def __init__(self, sinks: Sequence[Sink], progress: Any | None = None) -> None:
        self._sinks = list(sinks)
        self._progress = progress

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
        """Called when all workers have reported and the checkpoint is stored."""
        rows: list[Row] = metrics[0]["rows"]
        for sink in list(self._sinks):
            try:
                if rows:
                    sink.write(metrics[0]["epoch"], scalars_of(rows))
            except Exception as error:  # noqa: BLE001 whatever it is, the training matters and its log does not
                self._sinks.remove(sink)
                self._note(f"no more {sink.name}: {type(error).__name__}: {error}")

    def _note(self, line: str) -> None:
        """By way of the driver: what this process prints is shown to nobody."""
        if self._progress is not None:
            self._progress.note.remote(line)


class TensorBoardLog:
    """One event file of this attempt in the folder; a resumed run adds another, and TensorBoard joins them."""

    name = "TensorBoard logs"

    def __init__(self, folder: Location) -> None:
        self._folder = folder
        self._name = f"events.out.tfevents.{int(time.time())}.{uuid.uuid4().hex[:8]}"
        self._epochs: list[tuple[int, float, dict[str, float]]] = []

    def write(self, epoch: int, scalars: dict[str, float]) -> None:
        """Store the whole file anew: object stores cannot append, and it is small."""
        self._epochs.append((epoch, time.time(), scalars))
        with tempfile.TemporaryDirectory(prefix="skinvae-tensorboard-") as folder:
            with SummaryWriter(folder) as writer:
                for step, wall_time, values in self._epochs:
                    for name, value in values.items():
                        writer.add_scalar(name, value, step, walltime=wall_time)
            (file,) = Path(folder).iterdir()
            (self._folder / self._name).write_bytes(file.read_bytes())


class MetricsLog:
    """The last epoch on Ray's Prometheus endpoint."""

    name = "metrics"

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._metrics: RunMetrics | None = None

    def write(self, epoch: int, scalars: dict[str, float]) -> None:
        """Set what there is of the epoch."""
        self._metrics = self._metrics or RunMetrics(run_id=self._run_id)
        self._metrics.set(metrics.TRAIN_EPOCH, epoch)
        for split in ("train", "validation"):
            self._metrics.set(metrics.TRAIN_LOSS, scalars[f"loss/{split}"], split=split)
        if "images_per_second" in scalars:
            self._metrics.set(metrics.TRAIN_SPEED, scalars["images_per_second"])


class MlflowLog:
    """One MLflow run for a training run, however often it is resumed; named by the training run's digest."""

    name = "MLflow logs"

    def __init__(self, tracking_uri: str, *, run: str, params: dict[str, Any], num_epochs: int) -> None:
        require_mlflow()
        self._tracking_uri, self._run, self._params = tracking_uri, run, params
        self._num_epochs = num_epochs
        self._client: Any = None
        self._run_id = ""

    def write(self, epoch: int, scalars: dict[str, float]) -> None:
        """Log the epoch's metrics."""
        if self._client is None:
            self._begin()
        for name, value in scalars.items():
            self._client.log_metric(self._run_id, name, value, step=epoch)
        if epoch == self._num_epochs:
            self._client.set_terminated(self._run_id)

    def _begin(self) -> None:
        import mlflow

        self._client = mlflow.MlflowClient(self._tracking_uri)
        found = self._client.get_experiment_by_name("skinvae")
        experiment = found.experiment_id if found else self._client.create_experiment("skinvae")
        runs = self._client.search_runs([experiment], f"attributes.run_name = '{self._run}'")
        if runs:
            self._run_id = runs[0].info.run_id
            return
        self._run_id = self._client.create_run(experiment, run_name=self._run).info.run_id
        for name, value in self._params.items():
            self._client.log_param(self._run_id, name, value)


def require_mlflow() -> None:
    """Raises UsageError where it is not installed."""
    import importlib.util

    if importlib.util.find_spec("mlflow") is None:
        raise UsageError("train.mlflow is set, but MLflow is not installed: pip install 'skinvae[mlflow]'")
