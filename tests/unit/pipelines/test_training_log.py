"""Logs of a training run, as TensorBoard and MLflow read them."""

from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from skinvae.pipelines.training_log import EpochLog, MlflowLog, TensorBoardLog, scalars_of
from skinvae.storage.filesystem import Location
from skinvae.training.history import Row


def rows(epoch: int) -> list[Row]:
    common: Row = {"epoch": epoch, "reconst": 2.0, "kl": 3.0, "sigma": 0.1, "num_images": 40}
    return [
        common | {"split": "train", "loss": 100.0 / epoch, "seconds": 8.0},
        common | {"split": "validation", "loss": 110.0 / epoch},
    ]


def report(log: EpochLog, *epochs: int) -> None:
    for epoch in epochs:
        log.after_report(None, [{"epoch": epoch, "rows": rows(epoch)}, {"epoch": epoch, "rows": []}], None)


def test_the_curves_of_an_epoch() -> None:
    scalars = scalars_of(rows(4))
    assert scalars["loss/train"] == 25.0
    assert scalars["loss/validation"] == 27.5
    assert scalars["images_per_second"] == 5.0
    assert len(scalars) == 9


def test_tensorboard_reads_a_run_and_its_continuation(tmp_path: Path) -> None:
    folder = Location.parse(str(tmp_path / "logs"))
    for epochs in ((1, 2), (3,)):
        # Pickled, as on the way to the process that controls the workers.
        log: EpochLog = pickle.loads(pickle.dumps(EpochLog([TensorBoardLog(folder)])))
        report(log, *epochs)
    found: dict[int, float] = {}
    for file in (tmp_path / "logs").iterdir():
        events = EventAccumulator(str(file))
        events.Reload()
        found |= {event.step: event.value for event in events.Scalars("loss/validation")}
    assert found == pytest.approx({1: 110.0, 2: 55.0, 3: 110 / 3})


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="MLflow is not installed")
def test_mlflow_has_one_run_however_often_it_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "mlruns").as_uri()
    for epochs in ((1, 2), (3,)):
        log = MlflowLog(uri, run="digest", params={"train.seed": 3}, num_epochs=3)
        report(pickle.loads(pickle.dumps(EpochLog([log]))), *epochs)
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("skinvae")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.params == {"train.seed": "3"}
    assert run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "loss/train")
    assert {one.step: one.value for one in history} == pytest.approx({1: 100.0, 2: 50.0, 3: 100 / 3})


def test_a_log_that_fails_is_told_once_and_ends_nothing(tmp_path: Path) -> None:
    lines: list[str] = []
    progress = SimpleNamespace(note=SimpleNamespace(remote=lines.append))

    class Broken(TensorBoardLog):
        def write(self, epoch: int, scalars: dict[str, float]) -> None:
            raise ConnectionError("no such luck")

    sinks = [Broken(Location.parse(str(tmp_path / "a"))), TensorBoardLog(Location.parse(str(tmp_path / "b")))]
    report(EpochLog(sinks, progress), 1, 2)
    assert lines == ["no more TensorBoard logs: ConnectionError: no such luck"]
    assert list((tmp_path / "b").iterdir())


def test_an_epoch_without_rows_writes_nothing(tmp_path: Path) -> None:
    log = EpochLog([TensorBoardLog(Location.parse(str(tmp_path / "logs")))])
    metrics: list[dict[str, Any]] = [{"epoch": 1, "rows": []}]
    log.after_report(None, metrics, None)
    assert not (tmp_path / "logs").exists()
