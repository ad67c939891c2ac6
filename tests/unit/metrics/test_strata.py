"""Strata: every image is in one of each kind, and none is shown without its interval."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from skinvae.errors import LabelsError
from skinvae.metrics.intervals import DELONG, TRIVIAL
from skinvae.metrics.labels import parse_metadata
from skinvae.metrics.strata import EMPTY, LESION_CLUSTERS, STRATA_COLUMNS, evaluate_strata, size_note
from tests.unit.metrics.examples import evaluated_frame

COUNTS = {"NV": 120, "MEL": 40, "DF": 20}


def metadata_of(frame: pd.DataFrame) -> pd.DataFrame:
    """Raw rows as HAM10000 has them; the last ten images are not among them."""
    rng = np.random.default_rng(0)
    raw = pd.DataFrame({"image_id": frame["image_id"], "age": rng.choice([0.0, 29, 30, 59, 60, 75, 85], len(frame))})
    raw["sex"] = np.where(np.arange(len(frame)) % 3, "female", "male")
    raw["dx_type"] = np.where(frame["label"] == "NV", "follow_up", "histo")
    raw.loc[frame.index[:30], "dx_type"] = "histo"
    raw.loc[frame.index[150:], "sex"] = "unknown"
    return raw.iloc[:-10]


def evaluate(frame: pd.DataFrame, raw: pd.DataFrame) -> pd.DataFrame:
    metadata = parse_metadata(raw, origin="m.csv")
    return evaluate_strata(frame, normal=["NV"], metadata=metadata, score="vae", scoring_id="s1")


def test_every_image_is_in_one_stratum_of_each_kind() -> None:
    frame = evaluated_frame(COUNTS, seed=0)
    found = evaluate(frame, metadata_of(frame))
    assert tuple(found.columns) == STRATA_COLUMNS
    assert list(found["variable"].unique()) == ["age", "sex", "dx_type"]
    sums = found.groupby("variable")[["num_normal", "num_abnormal"]].sum()
    assert (sums == [120, 60]).all(axis=None)
    ages = found.loc[found["variable"] == "age", "stratum"].tolist()
    assert ages == ["under 30", "30-44", "45-59", "60-74", "75 and over", "unknown"]
    raw = metadata_of(frame).set_index("image_id")
    chosen = frame[frame["image_id"].isin(raw.index[raw["sex"] == "male"])]
    row = found.query("stratum == 'male'").iloc[0]
    assert row["auroc"] == pytest.approx(roc_auc_score(chosen["label"] != "NV", chosen["vae"]), abs=1e-12)
    assert row["ci_method"] == DELONG
    assert row["ci_low"] < row["auroc"] < row["ci_high"]


def test_an_empty_side_is_listed_and_a_small_one_noted() -> None:
    frame = evaluated_frame(COUNTS, seed=1, num_per_lesion=2)
    found = evaluate(frame, metadata_of(frame)).set_index("stratum")
    follow_up = found.loc["follow_up"]
    assert (follow_up["num_normal"], follow_up["num_abnormal"]) == (90, 0)
    assert np.isnan(follow_up["auroc"])
    assert (follow_up["ci_method"], follow_up["note"]) == (EMPTY, "no abnormal")
    assert found.loc["histo", "ci_method"] == LESION_CLUSTERS
    assert found.loc["histo", "note"] == ""
    assert size_note(9, 2) == "only 9 normal, 2 abnormal"
    assert size_note(0, 0) == "no normal, no abnormal"


def test_one_lesion_on_a_side_tells_nothing() -> None:
    frame = evaluated_frame({"NV": 21, "MEL": 3}, seed=2, num_per_lesion=3)
    raw = pd.DataFrame({"image_id": frame["image_id"], "sex": "male"})
    row = evaluate(frame, raw).iloc[0]
    assert (row["ci_low"], row["ci_high"], row["ci_method"]) == (0.0, 1.0, TRIVIAL)


def test_metadata_that_cannot_be_used_are_refused_by_name() -> None:
    with pytest.raises(LabelsError, match=r"m\.csv has none of the columns age, sex, localization, dx_type"):
        parse_metadata(pd.DataFrame({"image_id": ["a"], "dx": ["nv"]}), origin="m.csv")
    with pytest.raises(LabelsError, match=r"m\.csv, data row 2: the age 'old' is no number"):
        parse_metadata(pd.DataFrame({"image_id": ["a", "b"], "age": ["5", "old"]}), origin="m.csv")
    with pytest.raises(LabelsError, match="describes the image a in several ways"):
        parse_metadata(pd.DataFrame({"image_id": ["a", "a"], "sex": ["male", "female"]}), origin="m.csv")


def test_what_is_missing_is_unknown() -> None:
    raw = pd.DataFrame({"image_id": ["a", "b", "c"], "age": [None, "unknown", "31.0"], "sex": ["male", None, " "]})
    found = parse_metadata(raw, origin="m.csv")
    assert found["age"].tolist() == ["unknown", "unknown", "30-44"]
    assert found["sex"].tolist() == ["male", "unknown", "unknown"]
