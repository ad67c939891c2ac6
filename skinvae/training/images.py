"""The decoded images of a run, and the batches that all workers take of them together."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


class ImageStore:
    """The decoded images of the run: blocks in shared memory, indexed as one array."""

    def __init__(self, blocks: list[NDArray[np.uint8]], names: list[str]) -> None:
        self._blocks = blocks
        self._starts = np.cumsum([0, *map(len, blocks)])
        self.names = names
        """image_id of each."""
        assert self._starts[-1] == len(names)

    def __getitem__(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """A copy of the images (len(indices), H, W, 3)."""
        owners = np.searchsorted(self._starts, indices, side="right") - 1
        offsets = indices - self._starts[owners]
        return np.stack([self._blocks[owner][offset] for owner, offset in zip(owners, offsets, strict=True)])


def epoch_order(indices: NDArray[np.int64], *, seed: int, epoch: int) -> NDArray[np.int64]:
    """The images in the order of the epoch, which hangs on nothing else."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(indices)


def global_batches(order: NDArray[np.int64], *, size: int) -> list[NDArray[np.int64]]:
    """The images that all workers take together, step by step: at most `size` each.

    Batches differ by at most one image: none is left out, and none is a small rest, whose batch norm would be noise.
    """
    return np.array_split(order, max(1, math.ceil(len(order) / size)))


def share_of(batch: NDArray[np.int64], *, rank: int, num_workers: int) -> NDArray[np.int64]:
    """One worker's part; parts differ by at most one image, and are empty only where images are too few for all."""
    return np.array_split(batch, num_workers)[rank]
