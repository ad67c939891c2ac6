"""The paired test is DeLong's: its value, its level, and the images it may look at."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from skinvae.errors import LabelsError
from skinvae.metrics.auroc import auroc
from skinvae.metrics.comparison import (
    COMPARISON_COLUMNS,
    NO_DIFFERENCE,
    PAIRED_DELONG,
    PAIRED_LESIONS,
    compare_scores,
    compare_scorings,
)
from skinvae.metrics.intervals import TRIVIAL, ZERO_VARIANCE, zero_variance_interval
from skinvae.records import SCORES
from tests.unit.metrics.examples import evaluated_frame

COUNTS = {"NV": 60, "MEL": 30, "DF": 12}


def delong_by_definition(normal: np.ndarray, abnormal: np.ndarray) -> tuple[float, float]:
    """Difference and variance for (2, n) and (2, m), every pair looked at: equation 5 of DeLong et al. 1988."""
    wins = (abnormal[:, :, None] > normal[:, None, :]) + 0.5 * (abnormal[:, :, None] == normal[:, None, :])
    areas = wins.mean(axis=(1, 2))
    covariance = np.cov(wins.mean(axis=2)) / abnormal.shape[1] + np.cov(wins.mean(axis=1)) / normal.shape[1]
    return areas[0] - areas[1], float(np.array([1, -1]) @ covariance @ np.array([1, -1]))


def test_a_difference_is_delong_s_by_its_definition() -> None:
    frame = evaluated_frame(COUNTS, seed=0).round(1)
    found = compare_scores(frame, normal=["NV"], score="vae_reconst", scoring_id="s1")
    assert tuple(found.columns) == COMPARISON_COLUMNS
    assert list(found["score_b"].unique()) == [score for score in SCORES if score != "vae_reconst"]
    row = found.query("score_b == 'vae_kl' and target == 'pooled'").iloc[0]
    both = frame[["vae_reconst", "vae_kl"]].to_numpy().T
    is_normal = (frame["label"] == "NV").to_numpy()
    difference, variance = delong_by_definition(both[:, is_normal], both[:, ~is_normal])
    assert row["difference"] == pytest.approx(difference, abs=1e-12)
    assert row["p_value"] == pytest.approx(2 * norm.sf(abs(difference) / np.sqrt(variance)), rel=1e-9)
    assert row["ci_high"] - row["ci_low"] == pytest.approx(2 * 1.959964 * np.sqrt(variance), rel=1e-6)
    assert row["ci_method"] == PAIRED_DELONG


def test_its_p_value_agrees_with_a_permutation_of_the_scores() -> None:
    """Swapping the two scores of an image at random is a test of its own: 4,000 draws, standard error below .008."""
    frame = evaluated_frame({"NV": 80, "MEL": 40}, seed=4)
    found = compare_scores(frame, normal=["NV"], score="vae_reconst", scoring_id="s1")
    row = found.query("score_b == 'iwae' and target == 'MEL'").iloc[0]
    rng = np.random.default_rng(0)
    both = np.stack([frame["vae_reconst"].rank(), frame["iwae"].rank()])
    is_normal = (frame["label"] == "NV").to_numpy()
    drawn = []
    for _ in range(4000):
        swapped = np.where(rng.random(len(frame)) < 0.5, both, both[::-1])
        areas = [auroc(one[is_normal], abnormal=one[~is_normal]) for one in swapped]
        drawn.append(abs(areas[0] - areas[1]))
    permuted = (np.array(drawn) >= abs(row["difference"])).mean()
    assert 0.02 < row["p_value"] < 0.98
    assert row["p_value"] == pytest.approx(permuted, abs=0.04)


@pytest.mark.parametrize("num_per_lesion", [1, 4])
def test_where_there_is_no_difference_five_percent_are_found(num_per_lesion: int) -> None:
    """Of 300 pairs of scores alike: standard error 1.3 %; as if images were independent it would be over 15 %."""
    found = []
    for seed in range(60):
        frame = evaluated_frame({"NV": 160, "MEL": 80}, seed=seed, num_per_lesion=num_per_lesion)
        rng = np.random.default_rng([seed, 1])
        if num_per_lesion > 1:  # each score has a term of its own that the photos of a lesion share
            lesion = frame["group"].factorize()[0]
            for score in SCORES:
                frame[score] += 2 * rng.normal(size=lesion.max() + 1)[lesion]
        rows = compare_scores(frame, normal=["NV"], score="vae", scoring_id="s1").query("target == 'MEL'")
        assert set(rows["ci_method"]) == {PAIRED_LESIONS}
        found.append((rows["p_value"] < 0.05).mean())
    assert np.mean(found) == pytest.approx(0.05, abs=0.04)


def test_two_scorings_are_compared_on_the_images_of_both() -> None:
    frame = evaluated_frame(COUNTS, seed=6)
    other = frame.assign(**{score: frame[score] + 0.5 * (frame["label"] == "DF") for score in SCORES})
    first = frame.iloc[5:].sample(frac=1.0, random_state=0)
    found = compare_scorings(first, other=other.iloc[:-2], normal=["NV"], scoring_ids=("s1", "s2"))
    assert list(found["score_a"].unique()) == list(found["score_b"].unique()) == list(SCORES)
    assert set(found["num_normal"]) == {55}
    sizes = found[found["score_a"] == "vae"].set_index("target")["num_abnormal"].to_dict()
    assert sizes == {"MEL": 30, "DF": 10, "macro": 40, "pooled": 40}
    by_target = found[found["score_a"] == "vae"].set_index("target")
    assert by_target.loc["MEL", "ci_method"] == NO_DIFFERENCE
    assert by_target.loc["MEL", "p_value"] == 1.0
    assert by_target.loc["DF", "difference"] < 0
    assert by_target.loc["macro", "difference"] == pytest.approx(by_target.loc["DF", "difference"] / 2)


def test_what_has_no_variance_is_not_called_certain() -> None:
    frame = evaluated_frame({"NV": 20, "MEL": 10, "DF": 1}, seed=7)
    rows = compare_scores(frame, normal=["NV"], score="vae", scoring_id="s1").query("target == 'DF'")
    assert set(rows["ci_method"]) == {TRIVIAL}
    assert rows["p_value"].isna().all()
    assert (rows["ci_low"] == -1.0).all()
    assert pd.api.types.is_float_dtype(rows["p_value"])


def test_perfect_separation_by_both_is_no_proof_that_they_are_the_same() -> None:
    frame = evaluated_frame({"NV": 20, "MEL": 10}, seed=8, shift=1000.0)
    rows = compare_scores(frame, normal=["NV"], score="vae", scoring_id="s1").query("target == 'MEL'")
    low, high = zero_variance_interval(1.0, num_pairs=10, num_terms=2)
    assert set(rows["ci_method"]) == {ZERO_VARIANCE}
    assert (rows["difference"] == 0).all()
    assert rows["p_value"].isna().all()
    assert rows[["ci_low", "ci_high"]].to_numpy() == pytest.approx(np.tile([low - high, high - low], (len(rows), 1)))
    assert high - low > 0.2


def test_scorings_with_nothing_in_common_are_told_so() -> None:
    frame = evaluated_frame(COUNTS, seed=9)
    is_normal = frame["label"] == "NV"
    for other, side in ((frame.iloc[:0], "normal"), (frame[~is_normal], "normal"), (frame[is_normal], "abnormal")):
        with pytest.raises(LabelsError, match=f"scorings s1 and s2 have no {side} image in common"):
            compare_scorings(frame, other=other, normal=["NV"], scoring_ids=("s1", "s2"))
