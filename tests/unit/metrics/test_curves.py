"""Average precision and sensitivities: scikit-learn's numbers, and intervals that know lesions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_curve

from skinvae.metrics.bootstrap import Sample
from skinvae.metrics.curve_bootstrap import bootstrap_curves
from skinvae.metrics.curves import IMAGE_BOOTSTRAP, OPERATING_COLUMNS, PRECISION_COLUMNS, Curves, evaluate_curves
from skinvae.metrics.intervals import LESION_BOOTSTRAP, TRIVIAL
from skinvae.metrics.operating_points import ORDER_STATISTICS
from skinvae.records import SCORES
from tests.unit.metrics.examples import evaluated_frame

COUNTS = {"NV": 60, "MEL": 30, "DF": 12}


def evaluate(frame: pd.DataFrame) -> Curves:
    return evaluate_curves(frame, normal=["NV"], scoring_id="s1", rng=np.random.default_rng(0), num_resamples=300)


@pytest.mark.parametrize(
    ("num_per_lesion", "methods"),
    [(0, {IMAGE_BOOTSTRAP, ORDER_STATISTICS}), (3, {LESION_BOOTSTRAP})],
)
def test_values_are_scikit_learn_s(num_per_lesion: int, methods: set[str]) -> None:
    frame = evaluated_frame(COUNTS, seed=1, num_per_lesion=num_per_lesion).round({"vae": 1})
    found = evaluate(frame)
    assert tuple(found.average_precision.columns) == PRECISION_COLUMNS
    assert tuple(found.operating_points.columns) == OPERATING_COLUMNS
    assert len(found.average_precision) == len(SCORES) * 4
    assert set(found.average_precision["ci_method"]) | set(found.operating_points["ci_method"]) == methods
    for row in found.average_precision.itertuples():
        if row.target == "macro":
            continue
        chosen = frame if row.target == "pooled" else frame[frame["label"].isin(["NV", row.target])]
        truth = chosen["label"] != "NV"
        assert row.average_precision == pytest.approx(average_precision_score(truth, chosen[row.score]), abs=1e-12)
        assert row.prevalence == pytest.approx(truth.mean())
        assert 0 < row.ci_low < row.average_precision < row.ci_high < 1
    for row in found.operating_points.query("target == 'pooled'").itertuples():
        false, true, cuts = roc_curve(frame["label"] != "NV", frame[row.score], drop_intermediate=False)
        allowed = false <= 1 - row.specificity + 1e-12
        assert row.sensitivity == pytest.approx(true[allowed].max())
        assert row.specificity_here == pytest.approx(1 - false[allowed].max())
        assert (frame.loc[frame["label"] == "NV", row.score] <= row.threshold_nats).mean() == row.specificity_here
        assert row.ci_low <= row.sensitivity <= row.ci_high
        assert cuts[allowed][-1] > row.threshold_nats


def test_a_resample_is_the_metric_of_the_images_drawn() -> None:
    """Weights against images that are really repeated: the variance of the same draws by another way."""
    rng = np.random.default_rng(2)
    normal = Sample(scores=rng.normal(size=(1, 30)).round(1), lesions=np.arange(30) // 2)
    classes = [
        Sample(scores=rng.normal(loc=1, size=(1, size)).round(1), lesions=np.arange(size) // 3) for size in (12, 9)
    ]
    found = bootstrap_curves(
        normal, abnormal=classes, specificities=[0.9], num_resamples=40, rng=np.random.default_rng(3)
    )
    precision, sensitivity = [], []
    draw = np.random.default_rng(3)
    # The same draws, in the order in which the code asks for them.
    sizes = [one.num_lesions for one in (normal, *classes)]
    chosen = [draw.integers(size, size=(40, size)) for size in sizes]
    for number in range(40):
        sides = [
            np.concatenate([one.scores[0][one.lesions == lesion] for lesion in picked[number]])
            for one, picked in zip((normal, *classes), chosen, strict=True)
        ]
        cut = np.sort(sides[0])[int(np.ceil(0.9 * len(sides[0]) - 1e-9)) - 1]
        by_class = [
            average_precision_score(np.r_[np.zeros(len(sides[0])), np.ones(len(side))], np.r_[sides[0], side])
            for side in sides[1:]
        ]
        pooled = np.concatenate(sides[1:])
        all_at_once = average_precision_score(
            np.r_[np.zeros(len(sides[0])), np.ones(len(pooled))], np.r_[sides[0], pooled]
        )
        precision.append([*by_class, np.mean(by_class), all_at_once])
        shares = [(side > cut).mean() for side in sides[1:]]
        sensitivity.append([*shares, np.mean(shares), (pooled > cut).mean()])
    np.testing.assert_allclose(found.average_precision[0], np.var(precision, axis=0, ddof=1), rtol=1e-9)
    np.testing.assert_allclose(found.sensitivity[0, :, 0], np.var(sensitivity, axis=0, ddof=1), rtol=1e-9)


def test_perfect_scores_are_not_called_certain() -> None:
    found = evaluate(evaluated_frame(COUNTS, seed=3, shift=100.0, num_per_lesion=2))
    assert found.average_precision["average_precision"].to_numpy() == pytest.approx(1.0)
    assert set(found.average_precision["ci_method"]) == {TRIVIAL}
    assert (found.operating_points["sensitivity"] == 1.0).all()
    assert set(found.operating_points["ci_method"]) == {ORDER_STATISTICS}
    assert (found.operating_points["ci_low"] < 0.98).all()


def test_a_score_that_says_nothing_has_the_prevalence() -> None:
    frame = evaluated_frame(COUNTS, seed=4)
    rows = evaluate(frame.assign(**dict.fromkeys(SCORES, 3.0))).average_precision
    np.testing.assert_allclose(rows["average_precision"], rows["prevalence"])
