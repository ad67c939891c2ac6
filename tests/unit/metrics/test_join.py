"""Every row of the table is accounted for once, and nothing that was trained on is counted."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from skinvae.errors import LabelsError
from skinvae.metrics.join import join_labels, order_classes
from skinvae.records import SCORES


def score_rows(*rows: tuple[str, str, float], precision: str = "float32") -> pd.DataFrame:
    """Rows (image_id, status, score): all six scores alike."""
    frame = pd.DataFrame(rows, columns=["image_id", "status", "value"])
    scores = dict.fromkeys(SCORES, frame["value"])
    return frame.assign(precision=precision, p_value=0.5, **scores).drop(columns="value")


SCORED = score_rows(
    ("trained", "ok", 1.0),
    ("sibling", "ok", 2.0),  # another photo of the lesion of `trained`
    ("sibling_abnormal", "ok", 2.5),  # likewise, by the groups file
    ("valid", "ok", 3.0),
    ("fresh", "ok", 4.0),
    ("mel", "ok", 5.0),
    ("twice", "ok", 6.0),
    ("twice", "ok", 6.0 + 1e-9),
    ("clash", "ok", 7.0),
    ("clash", "ok", 9.0),
    ("stranger", "ok", 8.0),
    ("broken", "truncated", np.nan),
    ("broken2", "undecodable", np.nan),
)
LABELS = pd.DataFrame(
    [
        *[(name, "NV") for name in ("trained", "sibling", "valid", "fresh", "broken", "absent")],
        *[(name, "MEL") for name in ("sibling_abnormal", "mel", "twice")],
        ("clash", "DF"),
    ],
    columns=["image_id", "label"],
)
SPLIT = pd.DataFrame(
    [("trained", "L1", "train"), ("trained2", None, "train"), ("valid", "L2", "validation")],
    columns=["image_id", "group", "split"],
)
GROUPS = pd.Series({"sibling": "L1", "trained2": "L9", "sibling_abnormal": "L9", "fresh": "L3", "mel": "L4"})


def join(**changes):
    arguments = {"labels": LABELS, "normal": ["NV"], "split": SPLIT, "groups": GROUPS} | changes
    return join_labels(arguments.pop("scores", SCORED), **arguments)


def test_hand_made_example():
    result = join()
    assert result.evaluated["image_id"].tolist() == ["fresh", "mel", "twice", "valid"]
    assert result.evaluated["label"].tolist() == ["NV", "MEL", "MEL", "NV"]
    assert result.evaluated["group"].tolist()[:2] == ["L3", "L4"]
    assert pd.isna(result.evaluated["group"][2])
    assert list(result.evaluated.columns) == ["image_id", "label", "group", *SCORES, "p_value"]
    assert result.is_normal.tolist() == [True, False, False, True]
    assert result.num_rejected == {"truncated": 1, "undecodable": 1}
    assert (result.num_unmatched, result.unmatched_examples) == (1, ("stranger",))
    assert (result.num_labels_unmatched, result.labels_unmatched_examples) == (1, ("absent",))
    assert (result.num_trained, result.num_trained_lesion) == (1, 2)
    assert (result.num_labels_repeated, result.num_repeated, result.num_ambiguous) == (2, 1, 2)
    assert result.num_validation_normals == 1
    assert result.absent_classes == ("DF",)


def test_every_row_is_accounted_for_once():
    result = join()
    left_out = (
        sum(result.num_rejected.values())
        + result.num_unmatched
        + result.num_repeated
        + result.num_ambiguous
        + result.num_trained
        + result.num_trained_lesion
    )
    assert result.num_rows == left_out + result.num_evaluated == len(SCORED)
    assert result.num_evaluated == len(result.evaluated)
    assert result.num_normal == result.is_normal.sum()


def test_without_a_groups_file_the_split_still_knows_its_own_lesions():
    result = join(groups=None)
    assert result.groups_known
    assert result.num_without_lesion == {"normal": 2, "abnormal": 3}
    assert {"sibling", "sibling_abnormal"} <= set(result.evaluated["image_id"])  # nobody says whose lesion they show
    assert result.num_trained_lesion == 0
    assert not join(groups=None, split=SPLIT.assign(group=None)).groups_known


def test_row_order_does_not_matter():
    shuffled = SCORED.sample(frac=1.0, random_state=3)
    pd.testing.assert_frame_equal(join().evaluated, join(scores=shuffled).evaluated)


def test_unknown_normal_class_is_refused():
    with pytest.raises(LabelsError, match="normal class XX; the classes are MEL, NV, DF"):
        join(normal=["XX"])


def test_null_score_of_an_ok_row_is_refused():
    with pytest.raises(ValueError, match="null or not finite"):
        join(scores=score_rows(("fresh", "ok", np.nan)))


def test_classes_come_in_the_order_of_the_challenge():
    assert order_classes(["tattoo", "VASC", "MEL", "scar"]) == ("MEL", "VASC", "scar", "tattoo")


@pytest.mark.parametrize(("precision", "num_ambiguous"), [("float32", 2), ("bfloat16", 0), ("tf32", 0)])
def test_short_formats_may_differ_more_between_runs(precision: str, num_ambiguous: int) -> None:
    rows = score_rows(("fresh", "ok", 4.0), ("fresh", "ok", 4.004), ("mel", "ok", 5.0), precision=precision)
    joined = join_labels(rows, labels=LABELS, normal=["NV"], split=SPLIT)
    assert joined.num_ambiguous == num_ambiguous
