"""A training run's name."""

from __future__ import annotations

import itertools

import pandas as pd
import pytest

from skinvae.config import Config
from skinvae.pipelines import train_plan
from tests.conftest import config, train_config


def test_a_run_s_name_stands_for_all_that_the_bundle_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    split = pd.DataFrame({"image_id": ["a", "b"], "split": ["train", "validation"]})

    def digest(*, settings: Config | None = None, normal: tuple[str, ...] = ("NV", "BKL")) -> str:
        return train_plan.run_digest(["source"], split=split, normal=normal, config=settings or config())

    same = [digest(), digest(normal=("BKL", "NV")), digest(settings=config(slice_size=7))]
    assert len({*same, digest(settings=train_config(max_failures=7, num_workers=2, mlflow="http://host"))}) == 1
    others = [
        digest(settings=train_config(num_epochs=3)),
        digest(settings=config(num_samples=77)),
        digest(settings=config(seed=5)),
        digest(normal=("NV",)),
    ]
    monkeypatch.setattr(train_plan, "PREPROCESSING_VERSION", "another")
    others.append(digest())
    for one, another in itertools.combinations([same[0], *others], 2):
        assert one != another
