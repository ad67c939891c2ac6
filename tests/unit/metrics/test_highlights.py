"""Highlights are the lowest of each disease and the highest normals, with counts of all images."""

from __future__ import annotations

import numpy as np

from skinvae.metrics.highlights import NUM_HIGHLIGHTS, NUM_P_BINS, find_highlights
from tests.unit.metrics.examples import evaluated_frame


def test_each_class_has_its_lowest_and_the_normals_their_highest() -> None:
    frame = evaluated_frame({"NV": 60, "MEL": 20, "DF": 3}, seed=0)
    found = find_highlights(frame, normal=["NV"], score="vae")
    assert [(one.label, one.num_images, len(one.image_ids)) for one in found.missed] == [("MEL", 20, 6), ("DF", 3, 3)]
    scores = frame.set_index("image_id")["vae"]
    normals = scores[frame.loc[frame["label"] == "NV", "image_id"]]
    for one in found.missed:
        of_class = scores[frame.loc[frame["label"] == one.label, "image_id"]]
        assert list(one.image_ids) == list(of_class.nsmallest(NUM_HIGHLIGHTS).index)
        assert one.num_normals_above == (normals >= of_class.min()).sum()
    assert list(found.false_alarms) == list(normals.nlargest(NUM_HIGHLIGHTS).index)
    assert (found.num_normal, found.normal) == (60, ("NV",))


def test_p_values_are_counted_in_equal_bars_and_missing_ones_not() -> None:
    frame = evaluated_frame({"NV": 4, "MEL": 2}, seed=0)
    frame["p_value"] = [0.01, 0.04, 1.0, np.nan, 0.06, np.nan]
    found = find_highlights(frame, normal=["NV"], score="vae")
    assert (found.normal_p_values[0], found.normal_p_values[-1], found.normal_p_values.sum()) == (2, 1, 3)
    assert (found.abnormal_p_values[1], found.abnormal_p_values.sum()) == (1, 1)
    assert len(found.normal_p_values) == NUM_P_BINS
