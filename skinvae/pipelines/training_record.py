"""The signs of a training run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import Any

from skinvae.pipelines.progress import RateMeter, answer_of
from skinvae.pipelines.recorder import Recorder
from skinvae.pipelines.train_plan import TrainPlan
from skinvae.storage.training_record import TrainingRecord, write_training_record

_RATE_SECONDS = 300.0


class TrainingRecorder(Recorder):
    """Writes what the workers told the ProgressActor."""

    def __init__(self, plan: TrainPlan, progress: Any, *, num_train: int, num_workers: int) -> None:
        super().__init__()
        self._plan, self._progress = plan, progress
        self._num_train, self._num_workers = num_train, num_workers
        self._rate = RateMeter(window_seconds=_RATE_SECONDS)
        self._known: tuple[int, dict[str, Any]] = (0, {})

    def look(self) -> tuple[Hashable, Callable[[], object]]:
        """The end of an epoch is something new."""
        answer = answer_of(self._progress.state.remote(0), otherwise=None)
        if answer is not None:
            self._known = answer[:2]
        num_done, fields = self._known
        num_epochs = self._plan.config.train.num_epochs
        last = fields.get("last", [])
        record = TrainingRecord(
            **self.about_the_driver(),
            run_id=self._plan.digest,
            num_epochs=num_epochs,
            num_workers=self._num_workers,
            num_done=num_done,
            num_planned=num_epochs * self._num_train,
            epoch=fields.get("epoch", 0),
            last=last,
            best=fields.get("best"),
            images_per_second=self._rate.update(num_done),
        )
        return len(last) and last[0]["epoch"], functools.partial(write_training_record, self._plan.out, record)
