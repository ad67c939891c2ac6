"""Frames from ordered passes are those from memory: the values equal, the laws of intervals the same."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest

from skinvae.metrics.comparison import compare_scores
from skinvae.metrics.curves import evaluate_curves
from skinvae.metrics.detection import detect
from skinvae.metrics.evaluation import evaluate_scores
from skinvae.metrics.intervals import DELONG, TRIVIAL, ZERO_VARIANCE
from skinvae.metrics.ordered import NUM_GROUPS, Chunk, ordered_scores
from skinvae.metrics.ordered_frames import Sides, auroc_frame, comparison_frame, curve_frames, ordered_detection
from skinvae.records import SCORES
from tests.unit.metrics.examples import HELD_OUT, evaluated_frame

COUNTS = {"NV": 900, "MEL": 300, "DF": 90}
METHODS = ["ci_low", "ci_high", "ci_method"]


def sides_of(counts: dict[str, int], *, num_per_lesion: int = 1) -> Sides:
    sizes = tuple(counts.values())
    lesions = tuple(size // num_per_lesion for size in sizes)
    return Sides(tuple(counts)[1:], sizes, tuple(map(float, lesions)), lesions, lesions_known=num_per_lesion > 1)


def chunks_of(frame: pd.DataFrame, column: str) -> Iterator[Chunk]:
    names = frame["group"].fillna(frame["image_id"])
    groups = np.random.default_rng(0).integers(0, NUM_GROUPS, size=len(frame))[names.factorize()[0]]
    codes = frame["label"].map({"NV": 0, "MEL": 1, "DF": 2}).to_numpy()
    order = np.argsort(frame[column].to_numpy())
    for part in np.array_split(order, 7):
        yield frame[column].to_numpy()[part], codes[part], groups[part]


def passes_of(frame: pd.DataFrame, sides: Sides):
    return {
        score: ordered_scores(chunks_of(frame, score), counts=sides.counts, ranks=sides.ranks()) for score in SCORES
    }


@pytest.mark.parametrize("num_per_lesion", [1, 3])
def test_values_are_those_from_memory(num_per_lesion: int) -> None:
    frame = evaluated_frame(COUNTS, seed=0, num_per_lesion=num_per_lesion)
    frame = frame if num_per_lesion > 1 else frame.assign(group=None)
    sides = sides_of(COUNTS, num_per_lesion=num_per_lesion)
    passes = passes_of(frame, sides)
    asked = {"normal": ["NV"], "scoring_id": "s1"}
    auroc = evaluate_scores(frame, **asked, rng=np.random.default_rng(0))
    curves = evaluate_curves(frame, **asked, rng=np.random.default_rng(0), num_resamples=100)
    compared = compare_scores(frame, **asked, score="vae_kl")
    found = curve_frames(passes, sides=sides, scoring_id="s1")
    for from_passes, from_memory in (
        (auroc_frame(passes, sides=sides, scoring_id="s1"), auroc),
        (found.average_precision, curves.average_precision),
        (found.operating_points, curves.operating_points),
        (comparison_frame(passes, score="vae_kl", sides=sides, scoring_id="s1"), compared),
    ):
        columns = [name for name in from_memory if name not in (*METHODS, "p_value")]
        pd.testing.assert_frame_equal(from_passes[columns], from_memory[columns], rtol=1e-11, check_dtype=False)
        assert (from_passes["ci_low"] <= from_passes["ci_high"]).all()
    if num_per_lesion == 1:  # both are DeLong's, and the order statistics' the same
        own = auroc_frame(passes, sides=sides, scoring_id="s1")
        assert set(own["ci_method"]) == {DELONG}
        pd.testing.assert_frame_equal(own, auroc, rtol=1e-9, check_dtype=False)
        pd.testing.assert_frame_equal(found.operating_points, curves.operating_points, rtol=1e-9, check_dtype=False)


def test_detection_is_that_from_memory() -> None:
    frame = evaluated_frame(COUNTS, seed=1, shift=2.5).round({"p_value": 3}).assign(group=None)
    rates = (0.05, 0.1)
    expected = detect(
        frame, normal=["NV"], false_positive_rate=rates[0], false_discovery_rate=rates[1], held_out=HELD_OUT
    )
    sizes = [(900, 900.0), (300, 300.0), (90, 90.0), (390, 390.0)]
    asked = {"sides": sides_of(COUNTS), "rates": rates, "held_out": HELD_OUT, "num_held_out_evaluated": 0}
    found = ordered_detection(chunks_of(frame, "p_value"), sizes=sizes, **asked)
    assert expected is not None
    assert found is not None
    pd.testing.assert_frame_equal(found.frame, expected.frame)
    assert found.num_called == expected.num_called > 0
    assert found.smallest_p_value == expected.smallest_p_value
    assert ordered_detection([], sizes=[(0, 0.0)] * 4, **asked) is None


def test_degenerate_scores_get_the_same_bounds() -> None:
    frame = evaluated_frame(COUNTS, seed=2, shift=1000.0).assign(group=None)
    sides = sides_of(COUNTS)
    passes = passes_of(frame, sides)
    auroc = auroc_frame(passes, sides=sides, scoring_id="s1")
    expected = evaluate_scores(frame, normal=["NV"], scoring_id="s1", rng=np.random.default_rng(0))
    pd.testing.assert_frame_equal(auroc, expected, rtol=1e-12, check_dtype=False)
    assert set(auroc["ci_method"]) == {ZERO_VARIANCE}
    compared = compare_scores(frame, normal=["NV"], score="vae", scoring_id="s1")
    from_passes = comparison_frame(passes, score="vae", sides=sides, scoring_id="s1")
    pd.testing.assert_frame_equal(from_passes, compared, rtol=1e-12, check_dtype=False)
    assert set(compared["ci_method"]) == {ZERO_VARIANCE}
    assert set(curve_frames(passes, sides=sides, scoring_id="s1").average_precision["ci_method"]) == {TRIVIAL}
