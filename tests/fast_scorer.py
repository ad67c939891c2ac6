"""A scorer of no cost, for tests of what happens around it: its scores are a digest of the pixels.

Images of one certain colour make it misbehave, as a real one may at certain pixels. Workers and the fresh processes
of isolated scoring import it by name.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
import signal
import time
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skinvae.model.scorer import ScoringSettings
from skinvae.pipelines.image_scorer import Columns, MakeScorer, Placement
from skinvae.records import SCORES
from skinvae.storage.bundle import ModelBundle

UInt8Array = NDArray[np.uint8]


class Mischief(Enum):
    """What an image does to its scorer; the value is its colour."""

    SIGKILL = (250, 1, 0)
    SIGSEGV = (250, 2, 0)
    HANG = (250, 3, 0)
    """In native code that never lets go of the interpreter."""
    MEMORY_ERROR = (250, 4, 0)
    NAN = (250, 5, 0)


def mischievous_image(mischief: Mischief, *, size: int) -> UInt8Array:
    """(size, size, 3)"""
    return np.full((size, size, 3), mischief.value, np.uint8)


class FastScorer:
    """Scores in nats that are anything but that; bit for bit the same in any batch and on any machine."""

    def __init__(
        self, *, batch_size: int = 8, seconds_per_image: float = 0.0, is_broken: bool = False, journal: str = ""
    ) -> None:
        """`journal` is a file to which all scorers append, of each batch, when it was scored and how large it was."""
        self._batch_size = batch_size
        self._journal = journal
        self._is_broken = is_broken
        self._seconds_per_image = seconds_per_image

    @property
    def batch_size(self) -> int:
        return self._batch_size

    def score(self, images_BHWC: UInt8Array) -> Columns:
        scores = np.array([self._score_image(image) for image in images_BHWC]).reshape(-1, len(SCORES) + 1)
        if self._journal and len(images_BHWC):
            with open(self._journal, "a") as journal:
                journal.write(f"{time.time()} {len(images_BHWC)}\n")
        return dict(zip((*SCORES, "ess"), scores.T, strict=True))

    def _score_image(self, image_HWC: UInt8Array) -> NDArray[np.float64]:
        time.sleep(self._seconds_per_image)
        if self._is_broken:
            misbehave(Mischief.SIGKILL)
        if (image_HWC == image_HWC[0, 0]).all() and tuple(image_HWC[0, 0]) in {one.value for one in Mischief}:
            misbehave(Mischief(tuple(map(int, image_HWC[0, 0]))))
            return np.full(len(SCORES) + 1, np.nan)
        digest = hashlib.blake2b(np.ascontiguousarray(image_HWC).tobytes(), digest_size=8 * (len(SCORES) + 1)).digest()
        return np.frombuffer(digest, np.uint64) / 2.0**64


def misbehave(mischief: Mischief) -> None:
    """Returns for NAN alone."""
    if mischief is Mischief.SIGKILL:
        os.kill(os.getpid(), signal.SIGKILL)
    elif mischief is Mischief.SIGSEGV:
        ctypes.string_at(0)
    elif mischief is Mischief.HANG:
        re.match(r"(a+)+$", "a" * 64 + "b")
    elif mischief is Mischief.MEMORY_ERROR:
        raise MemoryError("as if there were none left")


def make_fast_scorer(_: ModelBundle, __: ScoringSettings, placement: Placement, **settings: Any) -> FastScorer:
    """For `make_scorer` of `skinvae.pipelines.score`; `settings` are FastScorer's."""
    return FastScorer(batch_size=placement.batch_size or 8, **settings)


def fast_scorer(**settings: Any) -> MakeScorer:
    """`make_fast_scorer` with these settings."""
    return functools.partial(make_fast_scorer, **settings)
