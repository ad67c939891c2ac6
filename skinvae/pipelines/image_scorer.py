"""What scores images in a worker, described by what it takes to build it: a model itself is never shipped."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from skinvae.errors import BundleError
from skinvae.model.device_errors import is_device_lost, is_out_of_memory
from skinvae.model.scorer import Scorer, ScoringSettings
from skinvae.storage.bundle import ModelBundle, read_bundle
from skinvae.storage.filesystem import Location

Columns = dict[str, NDArray[np.float64]]
"""The six scores and `ess`, by name."""


class ImageScorer(Protocol):
    """Pixels -> scores, in one process."""

    @property
    def batch_size(self) -> int:
        """A good number of images for `score`; may shrink while it works."""
        ...

    def score(self, images_BHWC: NDArray[np.uint8]) -> Columns:
        """The scores of uint8 images (B, H, W, 3), each float64 (B,)."""
        ...


@dataclass(frozen=True)
class Placement:
    """Where and in what pieces a scorer works: of no influence on a score but for its last digits."""

    device: str
    num_threads: int
    batch_size: int
    decode_batch_size: int


MakeScorer = Callable[[ModelBundle, ScoringSettings, Placement], ImageScorer]


def make_vae_scorer(bundle: ModelBundle, scoring: ScoringSettings, placement: Placement) -> Scorer:
    """The bundle's own model."""
    return Scorer(
        bundle.build_model(),
        variance=bundle.config.variance,
        settings=scoring,
        device=placement.device,
        batch_size=placement.batch_size,
        decode_batch_size=placement.decode_batch_size,
    )


@dataclass(frozen=True)
class ScorerRecipe:
    """All that any process needs to build the scorer of a job; small and picklable."""

    model: Location
    model_digest: str
    scoring: ScoringSettings
    placement: Placement
    make_scorer: MakeScorer = make_vae_scorer

    def read_bundle(self) -> ModelBundle:
        """Raises BundleError if the model is not the one that the job began with."""
        bundle = read_bundle(self.model)
        if bundle.digest != self.model_digest:
            raise BundleError(f"'{self.model}' was replaced while the job ran: run the command again")
        return bundle

    def build(self, bundle: ModelBundle) -> ImageScorer:
        """The scorer, and this process's threads set for it."""
        torch.set_num_threads(self.placement.num_threads)
        return self.make_scorer(bundle, self.scoring, self.placement)


@contextlib.contextmanager
def fatal_errors_end_the_process() -> Iterator[None]:
    """Die at once of errors behind which a process is of no more use: a fresh one takes the slice."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not (is_out_of_memory(error) or is_device_lost(error)):
            raise
        sys.stderr.write(f"the scoring process ends itself: {error!r}\n")
        sys.stderr.flush()
        os._exit(1)
