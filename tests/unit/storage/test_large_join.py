"""The join on disk is the join in memory: the same account of every row, and the same images."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from skinvae.errors import LabelsError
from skinvae.metrics.bootstrap import effective_size, number_lesions
from skinvae.metrics.evaluation import abnormal_classes
from skinvae.metrics.highlights import find_highlights
from skinvae.metrics.join import LabelJoin, join_labels
from skinvae.records import SCORES
from skinvae.storage.large_join import (
    batch_sizes,
    join_scored,
    load_labels,
    load_lesions,
    number_classes,
    ordered_chunks,
    read_highlights,
)
from skinvae.storage.scratch import Scratch, open_scratch
from tests.unit.metrics.test_join import GROUPS, LABELS, SCORED, SPLIT


def many_rows(*, seed: int) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.Series]:
    """Rows, labels, split and lesions with all that can go wrong, at random."""
    rng = np.random.default_rng(seed)
    ids = np.array([f"I{number:04d}" for number in range(400)])
    picked = np.r_[ids, rng.choice(ids, 120)]
    rows = pd.DataFrame({"image_id": picked, "status": rng.choice(["ok", "ok", "ok", "truncated"], len(picked))})
    rows["precision"] = rng.choice(["float32", "bfloat16"], len(picked))
    base = pd.Series(rng.normal(size=400), index=ids).reindex(picked).to_numpy()
    jitter = rng.choice([0.0, 1e-9, 1e-4, 0.5], len(picked))
    for score in SCORES:
        rows[score] = np.where(rows["status"] == "ok", base + jitter, np.nan)
    rows["p_value"] = np.where(rows["status"] == "ok", rng.choice([0.1, np.nan], len(picked)), np.nan)
    labelled = rng.choice(ids, 350, replace=False)
    labels = pd.DataFrame(
        {"image_id": [*labelled, "absent"], "label": [*rng.choice(["NV", "MEL", "O'Neill"], 350), "DF"]}
    )
    split = pd.DataFrame({"image_id": ids[:60], "group": None, "split": ["train"] * 40 + ["validation"] * 20})
    split.loc[20:50, "group"] = "S1"
    lesions = pd.Series({name: f"L{number // 3}" for number, name in enumerate(ids[30:350], start=30)}, name="group")
    return rows, labels, split, lesions


def on_disk(
    scratch: Scratch, rows: pd.DataFrame, labels: pd.DataFrame, split: pd.DataFrame, groups: pd.Series | None
) -> LabelJoin:
    table = pa.Table.from_pandas(rows, preserve_index=False)
    # In pieces, as it is read.
    scratch.fill("scored", table.schema, table.to_batches(max_chunksize=37))
    load_labels(scratch, (labels.iloc[start : start + 50] for start in range(0, len(labels), 50)), origin="l.csv")
    parts = () if groups is None else (groups.iloc[start : start + 50] for start in range(0, len(groups), 50))
    load_lesions(scratch, parts, split=split, origin="g.csv")
    return join_scored(scratch, normal=["NV"], kinds=())


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("with_groups", [True, False])
def test_both_joins_agree(seed: int, with_groups: bool) -> None:
    rows, labels, split, lesions = many_rows(seed=seed)
    groups = lesions if with_groups else None
    expected = join_labels(rows, labels=labels, normal=["NV"], split=split, groups=groups)
    with open_scratch(memory_mb=200) as scratch:
        check(on_disk(scratch, rows, labels, split, groups), expected)
        number_classes(scratch, normal=["NV"], classes=["MEL", "O'Neill"])
        sizes = batch_sizes(scratch, num_classes=2)
        values, codes, _ = (np.concatenate(parts) for parts in zip(*ordered_chunks(scratch, "vae"), strict=True))
    frame = expected.evaluated.sort_values("vae")
    np.testing.assert_array_equal(values, frame["vae"])
    assert np.bincount(codes).tolist() == [(frame["label"] == name).sum() for name in ("NV", "MEL", "O'Neill")]
    held_out = split.loc[split["split"] == "validation", "image_id"]
    batch = frame[frame["p_value"].notna() & ~frame["image_id"].isin(held_out)]
    sides = [batch[batch["label"].isin(names)] for names in (["NV"], ["MEL"], ["O'Neill"], ["MEL", "O'Neill"])]
    assert sizes == [(len(side), pytest.approx(effective_size(number_lesions(side["group"])))) for side in sides]
    assert expected.num_ambiguous > 0
    assert expected.num_repeated > 0
    assert expected.num_trained > 0


def test_the_hand_made_example_too() -> None:
    expected = join_labels(SCORED, labels=LABELS, normal=["NV"], split=SPLIT, groups=GROUPS)
    with open_scratch(memory_mb=200) as scratch:
        check(on_disk(scratch, SCORED, LABELS, SPLIT, GROUPS), expected)


def check(found: LabelJoin, expected: LabelJoin) -> None:
    pd.testing.assert_frame_equal(found.evaluated, expected.evaluated, check_dtype=False)
    for field in dataclasses.fields(LabelJoin):
        if field.name != "evaluated":
            assert getattr(found, field.name) == getattr(expected, field.name), field.name


def test_wrong_inputs_are_the_same_errors() -> None:
    rows, labels, split, lesions = many_rows(seed=3)
    with (
        open_scratch(memory_mb=200) as scratch,
        pytest.raises(LabelsError, match=r"l\.csv: the image .* has several labels"),
    ):
        on_disk(scratch, rows, pd.concat([labels, labels.assign(label="DF")]), split, lesions)
    with open_scratch(memory_mb=200) as scratch, pytest.raises(LabelsError, match="no label is of the normal class NV"):
        on_disk(scratch, rows, labels.assign(label="DF"), split, lesions)
    rows.loc[rows.index[rows["status"] == "ok"][0], "vae"] = np.nan
    with open_scratch(memory_mb=200) as scratch, pytest.raises(ValueError, match="null or not finite"):
        on_disk(scratch, rows, labels, split, lesions)


def test_no_evaluated_image_is_an_empty_sample_with_its_columns() -> None:
    rows, labels, *_ = many_rows(seed=4)
    trained = pd.DataFrame({"image_id": rows["image_id"].unique(), "group": None, "split": "train"})
    expected = join_labels(rows, labels=labels, normal=["NV"], split=trained)
    with open_scratch(memory_mb=200) as scratch:
        found = on_disk(scratch, rows, labels, trained, None)
    check(found, expected)
    with pytest.raises(LabelsError, match="no image of the normal class NV is left to evaluate"):
        abnormal_classes(found.evaluated, normal=["NV"])


def test_highlights_on_disk_are_those_of_all_images() -> None:
    rows, labels, split, _ = many_rows(seed=0)
    # Equal scores too: names decide then.
    rows = rows.round(1)
    join = join_labels(rows, labels=labels, normal=["NV"], split=split)
    expected = find_highlights(join.evaluated, normal=join.normal, score="vae")
    classes = [one.label for one in expected.missed]
    with open_scratch(memory_mb=200) as scratch:
        read = on_disk(scratch, rows, labels, split, None)
        number_classes(scratch, normal=["NV"], classes=classes)
        found = read_highlights(scratch, read, classes=classes, score="vae")
    for name in ("normal", "num_normal", "missed", "false_alarms"):
        assert getattr(found, name) == getattr(expected, name)
    np.testing.assert_array_equal(found.normal_p_values, expected.normal_p_values)
    np.testing.assert_array_equal(found.abnormal_p_values, expected.abnormal_p_values)
    assert found.normal_p_values.sum() == join.evaluated.loc[join.is_normal, "p_value"].notna().sum() > 0
