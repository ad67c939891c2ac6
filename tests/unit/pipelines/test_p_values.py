"""p-values are ranks among the held-out normals, and absent where they would mean nothing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skinvae.images.decode import DecodeSettings
from skinvae.model.scorer import ScoringSettings
from skinvae.model.vae import ModelSettings
from skinvae.pipelines.scoring_stages import PValues
from skinvae.records import SCORES
from skinvae.storage.bundle import BundleConfig, ModelBundle

SCORING = ScoringSettings(num_samples=4)


def bundle(normals: list[float], *, trained_on: tuple[str, ...] = ()) -> ModelBundle:
    config = BundleConfig(
        model=ModelSettings(),
        decode=DecodeSettings(),
        sigma=0.1,
        normal_classes=["NV"],
        training={},
        data={},
        calibration=SCORING,
        versions={},
    )
    split = pd.DataFrame(
        {"image_id": [*trained_on, "held-out"], "group": None, "split": ["train"] * len(trained_on) + ["validation"]}
    )
    # Only vae_reconst may count.
    calibration = pd.DataFrame({name: normals if name == "vae_reconst" else -1e9 for name in SCORES})
    return ModelBundle(config, {}, calibration, split, digest="0" * 64)


def p_values(
    scores: list[float], *, normals: list[float], image_ids: list[str] | None = None, trained_on: tuple[str, ...] = ()
) -> list[float]:
    frame = pd.DataFrame({"image_id": image_ids or [f"new{i}" for i in range(len(scores))], "vae_reconst": scores})
    return list(PValues(bundle(normals, trained_on=trained_on), scoring=SCORING)(frame))


def test_hand_computed_with_ties() -> None:
    # Of the normals 1, 2, 2, 3, at least as high: 4, 4, 3, 1, 1, 0; plus one, over five.
    found = p_values([0.5, 1.0, 2.0, 2.5, 3.0, 3.5], normals=[2.0, 3.0, 1.0, 2.0])
    assert found == [1.0, 1.0, 0.8, 0.4, 0.4, 0.2]


numbers = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=20)


@settings(deadline=None)
@given(scores=numbers, normals=numbers)
def test_the_definition(scores: list[float], normals: list[float]) -> None:
    """(1 + normals at least as high) / (1 + normals): never below 1/(n+1), never above 1."""
    found = p_values(scores, normals=normals)
    n = len(normals)
    assert found == [(1 + sum(normal >= score for normal in normals)) / (1 + n) for score in scores]
    assert all(1 / (n + 1) <= one <= 1 for one in found)


@settings(deadline=None)
@given(normals=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30, unique=True))
def test_of_an_exchangeable_normal_they_are_valid(normals: list[float]) -> None:
    """Each of n + 1 normals, ranked among the others: no level is reached more often than it says."""
    if len(normals) < 2:
        return
    found = [p_values([one], normals=[*normals[:i], *normals[i + 1 :]])[0] for i, one in enumerate(normals)]
    for level in (0.05, 0.1, 0.5, 0.9):
        assert np.mean(np.array(found) <= level) <= level + 1e-12


def test_images_that_the_model_was_trained_on_have_none() -> None:
    found = p_values([9.0] * 3, normals=[1.0], image_ids=["a", "held-out", "b"], trained_on=("a", "z"))
    assert np.isnan(found).tolist() == [True, False, False]


def test_images_without_scores_have_none() -> None:
    assert np.isnan(p_values([np.nan, 2.0], normals=[1.0])).tolist() == [True, False]


@pytest.mark.parametrize("changed", [{"seed": 1}, {"num_samples": 5}, {"mode": "released"}, {"noise": "lhs"}])
def test_scores_of_other_settings_are_not_comparable(changed: dict[str, object]) -> None:
    frame = pd.DataFrame({"image_id": ["x"], "vae_reconst": [2.0]})
    other = SCORING.model_copy(update=changed)
    assert np.isnan(PValues(bundle([1.0, 3.0]), scoring=other)(frame)).all()


def test_scores_in_another_precision_are_comparable() -> None:
    frame = pd.DataFrame({"image_id": ["x"], "vae_reconst": [2.0]})
    other = SCORING.model_copy(update={"precision": "bfloat16"})
    assert list(PValues(bundle([1.0, 3.0]), scoring=other)(frame)) == [2 / 3]


def test_without_held_out_normals_there_are_none() -> None:
    assert np.isnan(p_values([1.0, 2.0], normals=[])).all()
