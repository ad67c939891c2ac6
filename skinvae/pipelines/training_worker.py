"""What one data-parallel worker of a training run does: epochs, reported and saved by Ray Train."""

from __future__ import annotations

import functools
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import ray.train.torch
import torch
from numpy.typing import NDArray
from ray.train import Checkpoint, CheckpointUploadMode

from skinvae.model.vae import ModelSettings
from skinvae.training.images import ImageStore
from skinvae.training.settings import TrainSettings
from skinvae.training.trainer import DivergedError, Row, Trainer, best_epoch, epoch_line


@dataclass(frozen=True)
class WorkerSettings:
    """What the driver tells its workers."""

    model: ModelSettings
    train: TrainSettings
    batch_size: int
    """Of all workers together, however many there are at the moment."""
    num_threads: int
    progress: Any | None
    """ProgressActor; None where there is no epoch to show."""


def train_worker(config: dict[str, Any]) -> None:
    """Entry point for Ray Train; every worker runs it, and reports as often as the others."""
    settings: WorkerSettings = config["settings"]
    torch.set_num_threads(settings.num_threads)
    images, train, validation = _load_images()
    tell = functools.partial(_tell, settings.progress)
    trainer = Trainer(
        settings.model,
        settings.train,
        images,
        batch_size=settings.batch_size,
        device=ray.train.torch.get_device(),
        tell=tell,
    )
    if checkpoint := ray.train.get_checkpoint():
        with checkpoint.as_directory() as folder:
            epoch = trainer.restore(Path(folder))
        tell(epoch * len(train), epoch)
    num_epochs = settings.train.num_epochs
    if num_epochs == 0:
        _report(trainer, 0, [trainer.validate(0, validation)])
    for epoch in range(trainer.next_epoch, num_epochs + 1):
        try:
            trained, validated = trainer.run_epoch(epoch, train, validation)
        except DivergedError as error:
            # A run that ended is known by its newest checkpoint, so one that diverged leaves one as well.
            _report(trainer, epoch, [], diverged=str(error))
            return
        line = epoch_line(epoch, num_epochs, trained=trained, validated=validated)
        tell(0, epoch, line=line, best=best_epoch(trainer.history), last=[trained, validated])
        _report(trainer, epoch, [trained, validated])


def _report(trainer: Trainer, epoch: int, rows: list[Row], *, diverged: str | None = None) -> None:
    """Hand the epoch's rows and state to Ray Train, which uploads the state while the next epoch is trained."""
    validation_loss = float(rows[-1]["loss"]) if rows else math.inf
    metrics = {"epoch": epoch, "validation_loss": validation_loss, "diverged": diverged, "rows": rows}
    checkpoint = None
    if trainer.rank == 0:
        folder = Path(tempfile.mkdtemp(prefix="skinvae-checkpoint-"))
        trainer.save(folder, epoch=epoch)
        checkpoint = Checkpoint.from_directory(folder)
    ray.train.report(
        metrics,
        checkpoint=checkpoint,
        checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
        delete_local_checkpoint_after_upload=True,
    )


def _tell(progress: Any | None, num_images: int, epoch: int, **more: Any) -> None:
    if progress is not None and ray.train.get_context().get_world_rank() == 0:
        progress.advance.remote(num_images, epoch=epoch, **more)


def _load_images() -> tuple[ImageStore, NDArray[np.int64], NDArray[np.int64]]:
    """All blocks of the dataset, not this worker's share of them: every epoch shares the images out anew."""
    shard = ray.train.get_dataset_shard("images")
    assert shard is not None
    blocks, names, held_out = [], [], []
    for batch in shard.iter_batches(batch_size=None, batch_format="numpy"):
        blocks.append(batch["image"])
        names += list(batch["image_id"])
        held_out.append(batch["held_out"])
    mask = np.concatenate(held_out)
    return ImageStore(blocks, names), np.flatnonzero(~mask), np.flatnonzero(mask)
