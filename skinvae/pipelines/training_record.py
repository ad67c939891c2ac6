"""The signs of a training run."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Hashable, Iterator
from typing import Any

from skinvae.pipelines.progress import RateMeter, answer_of
from skinvae.pipelines.recorder import Recorder
from skinvae.pipelines.train_plan import TrainPlan
from skinvae.storage.training_record import TrainingPhase, TrainingRecord, write_training_record

_RATE_SECONDS = 300.0


class TrainingRecorder(Recorder):
    """Tells the phase, and of training itself what the workers told the ProgressActor."""

    def __init__(self, plan: TrainPlan, *, num_workers: int) -> None:
        super().__init__()
        self.phase: TrainingPhase = "decoding"
        self._plan, self._num_workers = plan, num_workers
        self._num_train = int((plan.split["split"] == "train").sum())
        self._rate = RateMeter(window_seconds=_RATE_SECONDS)
        self._progress: Any | None = None
        self._known: tuple[int, dict[str, Any]] = (0, {})

    @contextlib.contextmanager
    def training(self, progress: Any, *, num_train: int) -> Iterator[None]:
        """While the block runs, `progress` knows how far the workers are."""
        self._num_train, self._progress = num_train, progress
        self.phase = "training"
        try:
            yield
        finally:
            self._ask()
            self._progress = None

    def look(self) -> tuple[Hashable, Callable[[], object]]:
        """The end of an epoch is something new, and so is another phase."""
        self._ask()
        num_done, fields = self._known
        num_epochs = self._plan.config.train.num_epochs
        last = fields.get("last", [])
        record = TrainingRecord(
            **self.about_the_driver(),
            run_id=self._plan.digest,
            phase=self.phase,
            num_epochs=num_epochs,
            num_workers=int(last[0]["num_workers"]) if last else self._num_workers,
            num_done=num_done,
            num_planned=num_epochs * self._num_train,
            epoch=fields.get("epoch", 0),
            last=last,
            best=fields.get("best"),
            images_per_second=self._rate.update(num_done),
        )
        mark = self.phase, last[0]["epoch"] if last else 0
        return mark, functools.partial(write_training_record, self._plan.out, record)

    def _ask(self) -> None:
        if self._progress is not None:
            answer = answer_of(self._progress.state.remote(0), otherwise=None)
            self._known = self._known if answer is None else answer[:2]
