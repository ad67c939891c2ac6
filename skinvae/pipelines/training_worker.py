"""What one data-parallel worker of a training run does: epochs over images that lie decoded in shared memory.

Order, noise and weights are functions of (seed, epoch, image), never of the worker, so a resumed run goes on as the
interrupted one would have.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import ray.train.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skinvae.config import TrainSettings
from skinvae.model.noise import draw_noise
from skinvae.model.objective import Loss, vae_loss
from skinvae.model.vae import VAE, ModelSettings, to_unit_range
from skinvae.storage.checkpoints import load_checkpoint, save_checkpoint

VALIDATION_STREAM = 0
"""The same draws in every epoch, so that epochs are compared on equal terms; epoch e trains on stream e >= 1."""


@dataclass(frozen=True)
class WorkerSettings:
    """What the driver tells its workers."""

    model: ModelSettings
    train: TrainSettings
    num_threads: int
    progress: Any | None
    """ProgressActor; None where there is no epoch to show."""


class ImageStore:
    """The decoded images of the run: blocks in Ray's shared memory, indexed as one array."""

    def __init__(self, blocks: list[NDArray[np.uint8]]) -> None:
        self._blocks = blocks
        self._starts = np.cumsum([0, *map(len, blocks)])

    def __getitem__(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """A copy of the images (len(indices), H, W, 3)."""
        owners = np.searchsorted(self._starts, indices, side="right") - 1
        offsets = indices - self._starts[owners]
        return np.stack([self._blocks[owner][offset] for owner, offset in zip(owners, offsets, strict=True)])


def train_worker(config: dict[str, Any]) -> None:
    """Entry point for Ray Train; every worker runs it, and reports as often as the others."""
    settings: WorkerSettings = config["settings"]
    torch.set_num_threads(settings.num_threads)
    torch.manual_seed(settings.train.seed)
    images, train_indices, validation_indices = _load_images()
    # Channels last: 1.3 times the steps per second on CPUs, and what tensor cores want.
    model = ray.train.torch.prepare_model(VAE(settings.model).to(memory_format=torch.channels_last))
    trainer = _Trainer(model, settings, images)
    trainer.resume(num_train=len(train_indices))
    if settings.train.num_epochs == 0:
        trainer.report(0, trainer.validate(validation_indices))
    for epoch in range(trainer.next_epoch, settings.train.num_epochs + 1):
        trained = trainer.train_epoch(epoch, train_indices)
        if not trainer.report(epoch, trainer.validate(validation_indices), trained):
            return


class _Trainer:
    def __init__(self, model: nn.Module, settings: WorkerSettings, images: ImageStore) -> None:
        context = ray.train.get_context()
        self._rank, self._world_size = context.get_world_rank(), context.get_world_size()
        self._model = model
        self._settings = settings
        self._images = images
        self._device = ray.train.torch.get_device()
        self._optimizer = torch.optim.Adam(model.parameters(), lr=settings.train.learning_rate)
        self._history: list[dict[str, float | str]] = []
        self._input_seconds = 0.0
        """Of the pass under way: gathering and drawing, while the device has nothing new to do."""
        self.next_epoch = 1

    @property
    def _vae(self) -> VAE:
        inner = self._model.module if isinstance(self._model, nn.parallel.DistributedDataParallel) else self._model
        assert isinstance(inner, VAE)
        return inner

    def resume(self, *, num_train: int) -> None:
        """Go on behind the newest epoch that was reported, if there is one."""
        if checkpoint := ray.train.get_checkpoint():
            with checkpoint.as_directory() as folder:
                state = load_checkpoint(Path(folder), model=self._vae, optimizer=self._optimizer)
            self._history = state["history"]
            self.next_epoch = state["epoch"] + 1
            self._tell(state["epoch"] * num_train, epoch=state["epoch"])

    def train_epoch(self, epoch: int, indices: NDArray[np.int64]) -> dict[str, float]:
        """One pass over all training images in a new order: their mean losses, and its seconds."""
        started, self._input_seconds = time.perf_counter(), 0.0
        settings = self._settings.train
        self._model.train()
        order = np.random.Generator(np.random.Philox(key=[settings.seed, epoch])).permutation(indices)
        sums = torch.zeros(4, dtype=torch.float64, device=self._device)
        for batch, num_global in self._shares(order):
            loss = self._loss(batch, stream=epoch)
            self._optimizer.zero_grad(set_to_none=True)
            # DDP averages over workers, whose batches may differ by an image: weigh by images, not by workers.
            (loss.total * (len(batch) * self._world_size / num_global)).backward()
            self._optimizer.step()
            sums += _weighted(loss, len(batch))
            self._tell(num_global, epoch=epoch)
        means = self._means(sums)  # reads them, which waits for the device
        return means | self._mean_seconds(time.perf_counter() - started)

    def validate(self, indices: NDArray[np.int64]) -> dict[str, float]:
        """Mean losses of the held-out images, with the same draws in every epoch."""
        self._share_buffers()
        self._model.eval()
        sums = torch.zeros(4, dtype=torch.float64, device=self._device)
        with torch.inference_mode():
            for batch, _ in self._shares(indices):
                # Of a few held-out images there may be none for this worker.
                if len(batch):
                    sums += _weighted(self._loss(batch, stream=VALIDATION_STREAM, model=self._vae), len(batch))
        return self._means(sums)

    def _share_buffers(self) -> None:
        """Give every worker the batch norm statistics of rank 0: the ones that the checkpoint holds."""
        if self._world_size > 1:
            for buffer in self._vae.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def report(self, epoch: int, validated: dict[str, float], trained: dict[str, float] | None = None) -> bool:
        """Hand the epoch's losses and state to Ray Train; False if training must end because a loss is not finite."""
        if trained is not None:
            self._history.append({"epoch": epoch, "split": "train", **trained})
        self._history.append({"epoch": epoch, "split": "validation", **validated})
        finite = all(math.isfinite(value) for value in [*validated.values(), *(trained or {}).values()])
        # A run that ended is known by its newest checkpoint, so one that diverged leaves one as well.
        validation_loss = validated["loss"] if finite else math.inf
        metrics = {"epoch": epoch, "validation_loss": validation_loss, "diverged": not finite}
        if self._rank != 0:
            ray.train.report(metrics)
            return finite
        if trained is not None:
            line = epoch_line(epoch, self._settings.train.num_epochs, trained=trained, validated=validated)
            self._tell(0, epoch=epoch, line=line)
        with tempfile.TemporaryDirectory() as folder:
            state = {"epoch": epoch, "history": self._history}
            save_checkpoint(Path(folder), model=self._vae, optimizer=self._optimizer, state=state)
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))
        return finite

    def _loss(self, batch: NDArray[np.int64], *, stream: int, model: nn.Module | None = None) -> Loss:
        settings = self._settings
        started = time.perf_counter()
        pixels = self._images[batch]
        eps_BKD = draw_noise(
            pixels, seed=settings.train.seed, num_samples=1, num_latents=settings.model.num_latents, stream=stream
        )
        x_BCHW = to_unit_range(torch.from_numpy(pixels).to(self._device))
        eps_BD = torch.from_numpy(eps_BKD[:, 0]).to(self._device)
        self._input_seconds += time.perf_counter() - started
        x_hat_BCHW, mu_BD, logvar_BD = (model or self._model)(x_BCHW, eps_BD)
        return vae_loss(x_BCHW, x_hat_BCHW, mu_BD, logvar_BD, beta=settings.train.beta)

    def _shares(self, order: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], int]]:
        """This worker's share of every global batch, and the global batch's size."""
        for batch in global_batches(order, batch_size=self._settings.train.batch_size, num_workers=self._world_size):
            yield np.array_split(batch, self._world_size)[self._rank], len(batch)

    def _tell(self, amount: int, **fields: object) -> None:
        if self._rank == 0 and self._settings.progress is not None:
            self._settings.progress.advance.remote(amount, **fields)

    def _means(self, sums: Tensor) -> dict[str, float]:
        if self._world_size > 1:
            torch.distributed.all_reduce(sums)
        total, reconst, kl, count = sums.tolist()
        return {"loss": total / count, "reconst": reconst / count, "kl": kl / count, "num_images": int(count)}

    def _mean_seconds(self, seconds: float) -> dict[str, float]:
        """Of a pass and of its input, means over the workers."""
        both = torch.tensor([seconds, self._input_seconds], dtype=torch.float64, device=self._device)
        if self._world_size > 1:
            torch.distributed.all_reduce(both)
        seconds, input_seconds = (both / self._world_size).tolist()
        return {"seconds": seconds, "input_seconds": input_seconds}


def global_batches(order: NDArray[np.int64], *, batch_size: int, num_workers: int) -> list[NDArray[np.int64]]:
    """The images that all workers take together, step by step: at most `batch_size` each.

    Batches differ by at most one image, and so do the workers' shares of one: no image is left out, and a share is
    empty only where its batch has fewer images than there are workers.
    """
    return np.array_split(order, max(1, math.ceil(len(order) / (batch_size * num_workers))))


def epoch_line(epoch: int, num_epochs: int, *, trained: dict[str, float], validated: dict[str, float]) -> str:
    """One epoch's result for people: means per image, kl not weighted by beta."""
    words = [
        f"{name} loss {one['loss']:.1f} (reconst {one['reconst']:.1f}, kl {one['kl']:.1f})"
        for name, one in (("train", trained), ("validation", validated))
    ]
    return f"epoch {epoch} of {num_epochs}: {', '.join(words)}"


def _weighted(loss: Loss, count: int) -> Tensor:
    values = torch.stack([*loss]).detach().double() * count
    return torch.cat([values, values.new_tensor([count])])


def _load_images() -> tuple[ImageStore, NDArray[np.int64], NDArray[np.int64]]:
    """All blocks of the dataset, not this worker's share of them: every epoch shares the images out anew."""
    shard = ray.train.get_dataset_shard("images")
    assert shard is not None
    blocks, held_out = [], []
    for batch in shard.iter_batches(batch_size=None, batch_format="numpy"):
        blocks.append(batch["image"])
        held_out.append(batch["held_out"])
    mask = np.concatenate(held_out)
    return ImageStore(blocks), np.flatnonzero(~mask), np.flatnonzero(mask)
