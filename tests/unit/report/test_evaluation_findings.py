"""What is found, compared and split is said in sentences and tables that hold the frames' numbers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from skinvae.metrics.comparison import compare_scores, compare_scorings
from skinvae.metrics.detection import Detection, HeldOut, detect
from skinvae.records import SCORES
from skinvae.report.evaluation_findings import comparison_tables, detection_sentences, finding_table, strata_table
from tests.unit.metrics.examples import HELD_OUT, evaluated_frame
from tests.unit.report.test_evaluation import evaluate, printed

COUNTS = {"NV": 400, "MEL": 60, "DF": 5}


def found_in(frame) -> Detection:
    detection = detect(frame, normal=["NV"], false_positive_rate=0.05, false_discovery_rate=0.1, held_out=HELD_OUT)
    assert detection is not None
    return detection


def test_the_table_of_findings_holds_every_target_and_number() -> None:
    evaluation = evaluate(COUNTS)
    text = printed(finding_table(evaluation.curves, evaluation.detection))
    for frame, column in (
        (evaluation.curves.average_precision, "average_precision"),
        (evaluation.curves.average_precision, "prevalence"),
        (evaluation.curves.operating_points, "sensitivity"),
    ):
        for value in frame.loc[frame["score"] == "vae_reconst", column]:
            assert f"{value:.3f}".removeprefix("0") in text
    assert [line.split()[0] for line in text.splitlines() if line.startswith((" normal", " DF", " macro"))] == [
        "normal",
        "DF",
        "macro",
    ]
    assert "flagged" not in printed(finding_table(evaluation.curves, None))


def test_a_kept_promise_and_a_broken_one_are_told_apart() -> None:
    frame = evaluated_frame(COUNTS, seed=0, shift=2.0)
    kept, batch = detection_sentences(found_in(frame))
    assert "compatible with p-values, where 2,000 held-out normals promise 5 % to within 4.09 % to 6" in kept
    assert batch.startswith("Benjamini and Hochberg's procedure at a false discovery rate of 10 % calls ")
    assert "of these are normals" in batch
    broken = detection_sentences(found_in(frame.assign(p_value=frame["p_value"] / 5)))[0]
    assert "more than p-values allow" in broken
    fewer = detection_sentences(found_in(frame.assign(p_value=np.minimum(1, frame["p_value"] * 5))))[0]
    assert "fewer than p-values allow" in fewer


def test_a_floor_that_hides_everything_is_said() -> None:
    frame = evaluated_frame(COUNTS, seed=0)
    sentence = detection_sentences(found_in(frame.assign(p_value=np.where(frame["label"] == "MEL", 1 / 31, 0.5))))[1]
    assert "calls 0 of 465 images: the smallest p-value is 0.0323" in sentence
    assert "at least 150 images would have to reach it" in sentence
    assert "floor 1/(n + 1)" in sentence


def test_a_gamma_distribution_has_another_promise_and_no_floor() -> None:
    frame = evaluated_frame(COUNTS, seed=0)
    gamma = dataclasses.replace(found_in(frame.assign(p_value=0.5)), tail="gamma")
    promise, batch = detection_sentences(gamma)
    assert "a Gamma distribution that fits 2,000 held-out normals keeps 5 % at least as well as ranks" in promise
    assert promise.endswith("or the distribution does not fit them.")
    assert "floor" not in batch


def test_normals_that_made_the_p_values_are_said_to_test_nothing() -> None:
    frame = evaluated_frame(COUNTS, seed=0, shift=3.0)
    held_out = HeldOut(set(frame.loc[frame["label"] == "NV", "image_id"]), tail="empirical")
    found = detect(frame, normal=["NV"], false_positive_rate=0.05, false_discovery_rate=0.1, held_out=held_out)
    promise, batch, left_out = detection_sentences(found)
    assert "is not tested here" in promise
    assert "normals" not in batch
    assert left_out.startswith("400 evaluated images made the p-values and are left out")
    evaluation = evaluate(COUNTS)
    lines = printed(finding_table(evaluation.curves, found)).splitlines()
    (line,) = (one for one in lines if one.startswith(" normal"))
    assert line.split()[-2:] == ["-", "-"]


def test_missing_p_values_are_explained() -> None:
    assert "no evaluated image has one" in detection_sentences(None)[0]
    some = dataclasses.replace(found_in(evaluated_frame(COUNTS, seed=1)), num_without=7)
    assert detection_sentences(some)[-1] == "7 evaluated images have no p-value and are left out of this."


def test_comparisons_within_and_between_scorings_are_two_tables() -> None:
    frame = evaluated_frame(COUNTS, seed=2)
    other = frame.assign(**{score: -frame[score] for score in SCORES})
    within = compare_scores(frame, normal=["NV"], score="vae_reconst", scoring_id="s1")
    between = compare_scorings(frame, other=other, normal=["NV"], scoring_ids=("s1", "s2"))
    first, second = comparison_tables(within), comparison_tables(between)
    assert len(first[0].rows) == 5
    assert len(second[0].rows) == 6
    text = printed(first[0])
    for row in within.itertuples():
        assert f"{row.difference:+.3f}" in text
    assert "less that of s2" in printed(second[0]).replace("\n", " ")
    assert "p<.001" in printed(second[0])


@pytest.mark.parametrize("width", [80, 120])
def test_strata_never_stand_without_their_interval(width: int) -> None:
    strata = evaluate(COUNTS).strata
    assert strata is not None
    text = printed(strata_table(strata), width=width)
    for row in strata.itertuples():
        (line,) = (line for line in text.splitlines() if row.stratum in line)
        assert (f"({row.ci_low:.2f}-".replace("(0", "(") in line) != np.isnan(row.auroc)
        assert ("few" if row.note.startswith("only") else row.note) in line
    assert "no normal" in text


def test_the_longest_names_of_the_archive_fit_into_80_columns() -> None:
    row = {
        "score": "vae_reconst", "variable": "localization", "stratum": "upper extremity", "num_normal": 100_000,
        "num_abnormal": 1_000_000, "note": "only 9 normal", "auroc": 0.463, "ci_low": 0.16, "ci_high": 0.81,
    }  # fmt: skip
    text = printed(strata_table(pd.DataFrame([row])), width=80)
    for word in ("localization", "upper extremity", "100,000", "1,000,000", ".463 (.16-.81)", "few"):
        assert word in text
    assert "…" not in text
