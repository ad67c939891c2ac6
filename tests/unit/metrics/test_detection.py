"""Flagging by p-value: the shares, the promise they are held to, and Benjamini and Hochberg's calls."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from skinvae.metrics.detection import (
    CLOPPER_PEARSON,
    CLOPPER_PEARSON_LESIONS,
    DETECTION_COLUMNS,
    Detection,
    HeldOut,
    detect,
)
from tests.unit.metrics.examples import HELD_OUT, evaluated_frame

COUNTS = {"NV": 400, "MEL": 60, "DF": 20}


def found_in(frame: pd.DataFrame) -> Detection:
    detection = detect(frame, normal=["NV"], false_positive_rate=0.05, false_discovery_rate=0.1, held_out=HELD_OUT)
    assert detection is not None
    return detection


def test_shares_are_counted_and_bounded() -> None:
    frame = evaluated_frame(COUNTS, seed=0, shift=2.0)
    detection = found_in(frame)
    assert tuple(detection.frame.columns) == DETECTION_COLUMNS
    rows = detection.frame.set_index("target")
    assert list(rows.index) == ["normal", "MEL", "DF", "pooled"]
    for target, chosen in (("normal", frame["label"] == "NV"), ("MEL", frame["label"] == "MEL")):
        flagged = int((frame.loc[chosen, "p_value"] <= 0.05).sum())
        assert rows.loc[target, "num_flagged"] == flagged
        exact = binomtest(flagged, int(chosen.sum())).proportion_ci(0.95, method="exact")
        assert (rows.loc[target, "ci_low"], rows.loc[target, "ci_high"]) == pytest.approx(exact)
    assert set(rows["ci_method"]) == {CLOPPER_PEARSON}
    assert detection.is_compatible
    assert (detection.num_images, detection.num_without) == (480, 0)


def test_calls_are_benjamini_and_hochberg_s_by_their_definition() -> None:
    frame = evaluated_frame(COUNTS, seed=1, shift=2.5)
    detection = found_in(frame)
    ordered = np.sort(frame["p_value"])
    allowed = np.flatnonzero(ordered <= 0.1 * np.arange(1, 481) / 480)
    called = frame["p_value"] <= ordered[allowed[-1]]
    assert detection.num_called == called.sum() > 0
    assert detection.false_discovery_proportion == (frame.loc[called, "label"] == "NV").mean()
    rows = detection.frame.set_index("target")
    assert rows.loc["DF", "share_called"] == called[frame["label"] == "DF"].mean()


def test_the_floor_of_empirical_p_values_can_hide_everything() -> None:
    frame = evaluated_frame(COUNTS, seed=2, shift=2.0)
    detection = found_in(frame.assign(p_value=np.where(frame["label"] == "MEL", 1 / 31, 0.5)))
    assert detection.num_called == 0
    assert detection.false_discovery_proportion == 0.0
    assert detection.num_needed == 155  # 480 / 31 / 0.1, rounded up
    assert found_in(frame.assign(p_value=np.where(frame.index < 155, 1 / 31, 0.5))).num_called == 155
    assert found_in(frame.assign(p_value=np.where(frame.index < 154, 1 / 31, 0.5))).num_called == 0


def test_other_normals_than_those_of_the_training_break_the_promise() -> None:
    frame = evaluated_frame(COUNTS, seed=3)
    assert not found_in(frame.assign(p_value=frame["p_value"] / 4)).is_compatible


def test_few_held_out_normals_promise_little() -> None:
    """The share of new normals beyond the largest of 19 is at most 5 % half of the time only."""
    detection = dataclasses.replace(found_in(evaluated_frame(COUNTS, seed=3)), num_held_out=19)
    low, high = detection.promised_range
    assert (low, high) == pytest.approx((1 - 0.975 ** (1 / 19), 1 - 0.025 ** (1 / 19)))
    too_many = found_in(evaluated_frame(COUNTS, seed=3).assign(p_value=lambda rows: rows["p_value"] / 2))
    assert not too_many.is_compatible
    assert dataclasses.replace(too_many, num_held_out=19).is_compatible


def test_photos_of_a_lesion_count_as_fewer() -> None:
    frame = evaluated_frame(COUNTS, seed=4, num_per_lesion=4)
    by_lesion, alone = (found_in(one).frame.iloc[0] for one in (frame, frame.assign(group=None)))
    assert by_lesion["ci_method"] == CLOPPER_PEARSON_LESIONS
    assert by_lesion["ci_high"] - by_lesion["ci_low"] > 1.7 * (alone["ci_high"] - alone["ci_low"])


def test_images_without_a_p_value_are_counted_and_left_out() -> None:
    frame = evaluated_frame(COUNTS, seed=5)
    some = found_in(frame.assign(p_value=frame["p_value"].where(frame["label"] != "DF")))
    assert (some.num_images, some.num_without) == (460, 20)
    row = some.frame.set_index("target").loc["DF"]
    assert row["num_images"] == 0
    assert np.isnan(row["share_flagged"])
    assert (row["ci_low"], row["ci_high"]) == (0.0, 1.0)
    nothing = frame.assign(p_value=np.nan)
    assert detect(nothing, normal=["NV"], false_positive_rate=0.05, false_discovery_rate=0.1, held_out=HELD_OUT) is None


def test_normals_that_made_the_p_values_are_no_test_of_them() -> None:
    """Their ranks among themselves keep every promise; the other normals score unlike them."""
    frame = evaluated_frame(COUNTS, seed=6, shift=2.0)
    is_held_out = frame.index < 300
    ranks = (1 + np.arange(300)) / 301
    other = np.where(frame["label"] == "NV", frame["p_value"] / 5, frame["p_value"])
    frame["p_value"] = np.r_[ranks, other[300:]]
    held_out = HeldOut(set(frame.loc[is_held_out, "image_id"]), tail="empirical")
    asked = {"normal": ["NV"], "false_positive_rate": 0.05, "false_discovery_rate": 0.1}
    found = detect(frame, **asked, held_out=held_out)
    assert found is not None
    assert (found.num_held_out, found.num_held_out_evaluated, found.num_images) == (300, 300, 180)
    assert found.frame["num_images"].tolist() == [100, 60, 20, 80]
    assert found.is_compatible is False
    alone = detect(frame[~is_held_out], **asked, held_out=held_out)
    assert alone is not None
    pd.testing.assert_frame_equal(found.frame, alone.frame)
    none_left = detect(frame[is_held_out | (frame["label"] != "NV")], **asked, held_out=held_out)
    assert none_left is not None
    assert none_left.is_compatible is None
    assert np.isnan(none_left.false_discovery_proportion)
    assert none_left.frame["num_images"].tolist() == [0, 60, 20, 80]
    assert detect(frame[is_held_out], **asked, held_out=held_out) is None
