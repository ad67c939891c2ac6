"""The frame of auroc.csv: its columns, its laws, and its degenerate cases."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from skinvae.errors import LabelsError
from skinvae.metrics.evaluation import AUROC_COLUMNS, evaluate_scores
from skinvae.metrics.intervals import DELONG, LESION_BOOTSTRAP, TRIVIAL, ZERO_VARIANCE
from skinvae.records import SCORES
from tests.unit.metrics.examples import evaluated_frame

COUNTS = {"NV": 60, "MEL": 30, "DF": 12}


def evaluate(frame: pd.DataFrame, *, seed: int = 0, normal: tuple[str, ...] = ("NV",)) -> pd.DataFrame:
    return evaluate_scores(frame, normal=normal, scoring_id="s1", rng=np.random.default_rng(seed), num_resamples=300)


@pytest.mark.parametrize(("num_per_lesion", "method"), [(0, DELONG), (3, LESION_BOOTSTRAP)])
def test_columns_values_and_intervals(num_per_lesion, method):
    frame = evaluated_frame(COUNTS, seed=1, num_per_lesion=num_per_lesion)
    result = evaluate(frame)
    assert tuple(result.columns) == AUROC_COLUMNS
    assert ",".join(AUROC_COLUMNS) == "score,target,auroc,ci_low,ci_high,ci_method,num_normal,num_abnormal,scoring_id"
    assert list(zip(result["score"], result["target"], strict=True)) == [
        (score, target) for score in SCORES for target in ("MEL", "DF", "macro", "pooled")
    ]
    assert set(result["ci_method"]) == {method}
    assert set(result["scoring_id"]) == {"s1"}
    assert set(result["num_normal"]) == {60}
    assert result["num_abnormal"].tolist()[:4] == [30, 12, 42, 42]
    assert (result["ci_low"] < result["auroc"]).all()
    assert (result["auroc"] < result["ci_high"]).all()
    assert result[["ci_low", "ci_high"]].stack().between(0, 1).all()
    for score in SCORES:
        of = result[result["score"] == score].set_index("target")["auroc"]
        assert of["pooled"] == pytest.approx(roc_auc_score(frame["label"] != "NV", frame[score]), abs=1e-12)
        assert of["pooled"] == pytest.approx((30 * of["MEL"] + 12 * of["DF"]) / 42, abs=1e-12)
        assert of["macro"] == pytest.approx((of["MEL"] + of["DF"]) / 2, abs=1e-12)


def test_photos_of_one_lesion_widen_the_interval():
    frame = evaluated_frame({"NV": 300, "MEL": 150}, seed=2, num_per_lesion=5)
    widths = [
        (result["ci_high"] - result["ci_low"]).mean()
        for result in (evaluate(frame), evaluate(frame.assign(group=None)))
    ]
    assert widths[0] > 1.3 * widths[1]


def test_lesions_of_one_photo_each_give_delong_s_interval():
    """So the two methods measure the same thing; 300 resamples: 4 % standard error of a width."""
    frame = evaluated_frame({"NV": 200, "MEL": 100, "DF": 60}, seed=3)
    plain, by_lesion = evaluate(frame), evaluate(frame.assign(group=frame["image_id"]))
    ratio = (by_lesion["ci_high"] - by_lesion["ci_low"]) / (plain["ci_high"] - plain["ci_low"])
    assert ratio.between(0.85, 1.15).all()
    assert ratio.mean() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("num_per_lesion", [0, 2])
def test_perfect_separation(num_per_lesion):
    result = evaluate(evaluated_frame(COUNTS, seed=4, shift=100.0, num_per_lesion=num_per_lesion))
    assert (result["auroc"] == 1.0).all()
    assert set(result["ci_method"]) == {ZERO_VARIANCE}
    assert (result["ci_high"] == 1.0).all()
    assert result["ci_low"].between(0.3, 0.95).all()


def test_equal_scores_are_chance():
    frame = evaluated_frame(COUNTS, seed=5)
    result = evaluate(frame.assign(**dict.fromkeys(SCORES, 3.0)))
    assert (result["auroc"] == 0.5).all()
    assert set(result["ci_method"]) == {ZERO_VARIANCE}


@pytest.mark.parametrize("num_per_lesion", [0, 2])
def test_one_abnormal_image(num_per_lesion):
    result = evaluate(evaluated_frame({"NV": 20, "MEL": 10, "DF": 1}, seed=6, num_per_lesion=num_per_lesion))
    methods = result[result["score"] == "vae"].set_index("target")["ci_method"]
    assert methods["DF"] == methods["macro"] == TRIVIAL
    assert methods["MEL"] != TRIVIAL
    assert methods["pooled"] != TRIVIAL


def test_several_normal_classes_and_absent_ones():
    frame = evaluated_frame(COUNTS, seed=7)
    result = evaluate(frame, normal=("NV", "DF", "BKL"))
    assert set(result["target"]) == {"MEL", "macro", "pooled"}
    assert set(result["num_normal"]) == {72}


def test_row_order_does_not_matter():
    frame = evaluated_frame(COUNTS, seed=8)
    pd.testing.assert_frame_equal(evaluate(frame), evaluate(frame.sample(frac=1.0, random_state=1)))


@pytest.mark.parametrize(("counts", "message"), [({"MEL": 5}, "normal class NV"), ({"NV": 5}, "no abnormal image")])
def test_a_side_without_images_is_refused(counts, message):
    with pytest.raises(LabelsError, match=message):
        evaluate(evaluated_frame(counts, seed=9))


def test_nan_is_refused():
    frame = evaluated_frame(COUNTS, seed=10)
    frame.loc[0, "iwae"] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        evaluate(frame)
