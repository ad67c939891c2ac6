"""One Ray Train run: the decoded normals -> the best epoch's weights and the losses of all epochs."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import ray
import ray.train
import ray.train.torch

from skinvae.errors import TrainingError, UsageError
from skinvae.logs import say
from skinvae.pipelines.progress import shown_progress
from skinvae.pipelines.runtime import Resources
from skinvae.pipelines.train_images import TrainImages
from skinvae.pipelines.train_plan import TrainPlan
from skinvae.pipelines.training_log import TENSORBOARD, EpochLog, MetricsLog, MlflowLog, Sink, TensorBoardLog
from skinvae.pipelines.training_record import TrainingRecorder
from skinvae.pipelines.training_worker import WorkerSettings, train_worker
from skinvae.storage.checkpoints import load_state, load_weights
from skinvae.training.fitting import Fitted
from skinvae.training.history import Row
from skinvae.training.images import global_batches
from skinvae.training.settings import TrainSettings
from skinvae.training.trainer import only_vae


def fit(plan: TrainPlan, images: TrainImages, resources: Resources, recorder: TrainingRecorder) -> Fitted:
    """Train with one worker per share of `resources`, going on where an interrupted run of the same name stopped.

    Raises UsageError for more workers than a step has images, TrainingError if workers keep dying or the loss stops
    being finite.
    """
    settings = plan.config.train
    require_work_for_all(images.num_train, settings=settings, num_workers=resources.num_actors)
    say(
        f"training run {plan.digest}: {settings.num_epochs} epochs on {resources.num_actors} worker(s)",
        event="training_begun",
        num_epochs=settings.num_epochs,
    )
    with ExitStack() as stack:
        progress = None
        if settings.num_epochs:
            total = settings.num_epochs * images.num_train
            shown = shown_progress(
                "training", total=lambda: total, unit="images", describe=_describe(settings.num_epochs)
            )
            progress = stack.enter_context(shown)
            stack.enter_context(recorder.training(progress, num_train=images.num_train))
        trainer = _make_trainer(plan, images, resources, progress)
        try:
            with interruptible():
                result = trainer.fit()
        except ray.train.TrainingFailedError as error:
            raise TrainingError(f"training failed: {_root_message(error)}; run the command again to resume") from error
    return _fitted(result, settings)


def require_work_for_all(num_train: int, *, settings: TrainSettings, num_workers: int) -> None:
    """Raises UsageError if a worker would get no image in some step."""
    batches = global_batches(np.arange(num_train), size=settings.batch_size)
    smallest = min(map(len, batches))
    if num_workers > smallest:
        raise UsageError(
            f"{num_workers} training workers are more than the {smallest} image(s) of the smallest step, with "
            f"{num_train:,} training images and train.batch_size={settings.batch_size}: lower train.num_workers or "
            "raise train.batch_size"
        )


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGINT and SIGTERM end the block with KeyboardInterrupt, and their handlers are afterwards what they were before.

    Ray Train's own handler of SIGINT stops the workers, ends the process as if all were well, and stays installed. It
    is let do the first; a thread of its own would keep it away, but crashes the process when Ray shuts down beside it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    except SystemExit as error:
        raise KeyboardInterrupt from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _make_trainer(
    plan: TrainPlan, images: TrainImages, resources: Resources, progress: Any
) -> ray.train.torch.TorchTrainer:
    settings, num_workers = plan.config.train, resources.num_actors
    worker = WorkerSettings(
        model=plan.config.model,
        train=settings.model_copy(update={"mlflow": None}),
        num_threads=resources.threads_per_actor,
        progress=progress,
    )
    is_elastic = 0 < settings.min_workers < num_workers
    # Training starts when decoding is over, so the workers take what scoring actors would.
    request = {"CPU": resources.cpus_per_actor}
    if resources.gpus_per_actor:
        request["GPU"] = resources.gpus_per_actor
    return ray.train.torch.TorchTrainer(
        cast(Any, train_worker),  # Ray hands on what it returns, and says so everywhere but in this signature
        train_loop_config={"settings": worker},
        datasets={"images": images.dataset},
        dataset_config=ray.train.DataConfig(datasets_to_split=[]),
        scaling_config=ray.train.ScalingConfig(
            # Ray takes a range, and says so everywhere but in this signature.
            num_workers=cast(int, (settings.min_workers, num_workers)) if is_elastic else num_workers,
            use_gpu=bool(resources.gpus_per_actor),
            resources_per_worker=request,
        ),
        run_config=_run_config(plan, progress),
    )


def _run_config(plan: TrainPlan, progress: Any | None) -> ray.train.RunConfig:
    filesystem, path = plan.runs.arrow_filesystem()
    return ray.train.RunConfig(
        name=plan.digest,
        storage_path=path,
        storage_filesystem=filesystem,
        failure_config=ray.train.FailureConfig(max_failures=plan.config.train.max_failures),
        checkpoint_config=ray.train.CheckpointConfig(
            # The best; Ray Train keeps the last beside it.
            num_to_keep=1,
            checkpoint_score_attribute="validation_loss",
            checkpoint_score_order="min",
        ),
        callbacks=[EpochLog(_sinks(plan), progress)],  # type: ignore[list-item]  # a UserCallback, as it wants at run time
    )


def _sinks(plan: TrainPlan) -> list[Sink]:
    settings = plan.config.train
    sinks: list[Sink] = [MetricsLog(plan.digest)]
    if settings.tensorboard:
        sinks.append(TensorBoardLog(plan.out / TENSORBOARD / plan.digest))
    if settings.mlflow:
        params = {f"train.{name}": value for name, value in settings.model_dump(exclude={"mlflow"}).items()}
        params |= {f"model.{name}": value for name, value in plan.config.model.model_dump().items()}
        sinks.append(MlflowLog(settings.mlflow, run=plan.digest, params=params, num_epochs=settings.num_epochs))
    return sinks


def _fitted(result: ray.train.Result, settings: TrainSettings) -> Fitted:
    diverged: str | None = cast(Any, result).return_value
    if diverged is not None:
        raise TrainingError(
            f"training diverged: {diverged}; lower train.learning_rate (now "
            f"{settings.learning_rate:g}), set train.clip_grad_norm, or check the images"
        )
    assert result.best_checkpoints, "every epoch reports a checkpoint"
    assert result.checkpoint
    with result.checkpoint.as_directory() as folder:
        history: list[Row] = load_state(Path(folder))["history"]
    kept, metrics = min(result.best_checkpoints, key=lambda pair: (pair[1]["validation_loss"], pair[1]["epoch"]))
    (best,) = (row for row in history if row["split"] == "validation" and row["epoch"] == metrics["epoch"])
    with kept.as_directory() as folder:
        weights = only_vae(load_weights(Path(folder)))
    return Fitted(weights, best, pd.DataFrame(history))


def _describe(num_epochs: int) -> Callable[[dict[str, Any]], str]:
    def words(fields: dict[str, Any]) -> str:
        return f"epoch {fields['epoch']}/{num_epochs}" if "epoch" in fields else ""

    return words


def _root_message(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
