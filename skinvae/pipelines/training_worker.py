"""What one data-parallel worker of a training run does: epochs, reported and saved by Ray Train."""

from __future__ import annotations

import functools
import tempfile
import time
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
from skinvae.training.history import Row, best_epoch, epoch_line
from skinvae.training.images import ImageStore
from skinvae.training.settings import TrainSettings
from skinvae.training.trainer import DivergedError, Trainer

_WORK = "training"
"""What the ProgressActor counts by."""

_LOOK_SECONDS = 0.05


@dataclass(frozen=True)
class WorkerSettings:
    """What the driver tells its workers."""

    model: ModelSettings
    train: TrainSettings
    num_threads: int
    progress: Any | None
    """ProgressActor; None where there is no epoch to show."""


def train_worker(config: dict[str, Any]) -> str | None:
    """Entry point for Ray Train; every worker runs it, and reports as often as the others.

    Returns why training cannot go on, None where it has come to its end.
    """
    settings: WorkerSettings = config["settings"]
    torch.set_num_threads(settings.num_threads)
    images, train, validation = _load_images()
    tell = functools.partial(_tell, settings.progress)
    trainer = Trainer(settings.model, settings.train, images, device=ray.train.torch.get_device(), tell=tell)
    checkpoints = _Checkpoints(trainer)
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            epoch = trainer.restore(Path(folder))
    _begin(settings.progress, trainer, num_done=(trainer.next_epoch - 1) * len(train))
    num_epochs = settings.train.num_epochs
    if num_epochs == 0 and checkpoint is None:
        checkpoints.report(0, [trainer.validate(0, validation)])
    for epoch in range(trainer.next_epoch, num_epochs + 1):
        try:
            trained, validated = trainer.run_epoch(epoch, train, validation)
        except DivergedError as error:
            # No checkpoint: the same command again begins with this epoch.
            return str(error)
        line = epoch_line(epoch, num_epochs, trained=trained, validated=validated)
        tell(0, epoch, line=line, event="epoch", best=best_epoch(trainer.history), last=[trained, validated])
        checkpoints.report(epoch, [trained, validated])
    return None


class _Checkpoints:
    """Hands every epoch's rows and state to Ray Train, which uploads the state while the next epoch is trained.

    There is one upload at a time: where storage is slower than training, training waits, so that no more than an epoch
    is lost with a worker and no more than two states lie on its disk.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._uploading: Path | None = None

    def report(self, epoch: int, rows: list[Row]) -> None:
        """Every worker calls it."""
        metrics = {"epoch": epoch, "validation_loss": float(rows[-1]["loss"]), "rows": rows}
        ray.train.report(
            metrics,
            checkpoint=self._saved(epoch) if self._trainer.rank == 0 else None,
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
            delete_local_checkpoint_after_upload=True,
        )

    def _saved(self, epoch: int) -> Checkpoint:
        while self._uploading is not None and self._uploading.exists():
            time.sleep(_LOOK_SECONDS)
        self._uploading = Path(tempfile.mkdtemp(prefix="skinvae-checkpoint-"))
        self._trainer.save(self._uploading, epoch=epoch)
        return Checkpoint.from_directory(self._uploading)


def _begin(progress: Any | None, trainer: Trainer, *, num_done: int) -> None:
    """The work begins, or begins anew behind what is done: nothing counts twice."""
    if progress is not None and trainer.rank == 0:
        progress.begin.remote(_WORK, num_done)


def _tell(progress: Any | None, num_images: int, epoch: int, **more: Any) -> None:
    if progress is not None and ray.train.get_context().get_world_rank() == 0:
        progress.advance_slice.remote(_WORK, num_images)
        progress.advance.remote(0, epoch=epoch, **more)


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
