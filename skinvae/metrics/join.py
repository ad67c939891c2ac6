"""Score rows and labels -> the images whose scores may be counted, and an account of all the others.

An image the weights were fitted to, or another photo of a lesion they were fitted to, says nothing about unseen ones.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from skinvae.errors import LabelsError
from skinvae.records import CLASSES, SCORES, Status

SIDES = ("normal", "abnormal")
NUM_EXAMPLES = 5
SAME_SCORE_TOLERANCE = 1e-6
"""Relative: the same pixels in another batch or archive score within this (scores.md, oracle 8)."""

SAME_SHORT_SCORE_TOLERANCE = 1e-2
"""The same in bfloat16 and tf32: there 1e-3 was seen between batch sizes and numbers of threads."""


@dataclass(frozen=True)
class LabelJoin:
    """The evaluated images, one row each, and where every other row of the table went.

    num_rows = rejected + unmatched + repeated + ambiguous + trained + trained lesion + num_evaluated.
    """

    evaluated: pd.DataFrame
    """image_id, label, group (the lesion, null if not known), six scores in nats, p_value; sorted by image_id.

    A sample of them where the table is too large for memory: `num_evaluated_by_class` counts all.
    """
    num_evaluated_by_class: Mapping[str, int]
    normal: tuple[str, ...]
    num_rows: int
    num_rejected: Mapping[str, int]
    """Rows without scores, by status."""
    num_unmatched: int
    """Scored rows without a label."""
    unmatched_examples: tuple[str, ...]
    num_labels: int
    num_labels_unmatched: int
    """Labels whose image has no row in the table, scored or rejected."""
    labels_unmatched_examples: tuple[str, ...]
    num_labels_repeated: int
    """Labels that match several scored rows, ambiguous ones included."""
    num_repeated: int
    """Rows left out since another row holds the same image_id and the same scores."""
    num_ambiguous: int
    """Rows left out since rows of their image_id disagree: different pictures under one name, and one label."""
    num_trained: int
    """Rows left out since the weights were fitted to the image."""
    num_trained_lesion: int
    """Rows left out since the weights were fitted to another image of the lesion."""
    num_validation_normals: int
    """Evaluated normals that chose the epoch. They count: the weights were not fitted to them."""
    groups_known: bool
    num_without_lesion: Mapping[str, int]
    """Evaluated images of which no lesion is known, by side (SIDES): each counts as a lesion of its own."""
    absent_classes: tuple[str, ...]
    """Classes among the labels of which no image is left."""

    @property
    def num_evaluated(self) -> int:
        """Images that count."""
        return sum(self.num_evaluated_by_class.values())

    @property
    def num_normal(self) -> int:
        """Normals among them."""
        return sum(num for name, num in self.num_evaluated_by_class.items() if name in self.normal)

    @property
    def is_normal(self) -> np.ndarray:
        """Boolean mask over the rows of `evaluated`."""
        return self.evaluated["label"].isin(self.normal).to_numpy()


def join_labels(
    scores: pd.DataFrame,
    *,
    labels: pd.DataFrame,
    normal: Collection[str],
    split: pd.DataFrame,
    groups: pd.Series[str] | None = None,
) -> LabelJoin:
    """Join rows of SCORE_SCHEMA (one scoring_id) with `parse_labels`' frame and `parse_groups`' lesions.

    `split` has SPLIT_SCHEMA; its own groups are used too. Raises LabelsError where no label is a `normal` class.
    """
    check_normal(normal, classes=set(labels["label"]))
    is_ok = (scores["status"] == str(Status.OK)).to_numpy()
    rows = _scored_rows(scores[is_ok]).merge(labels, on="image_id", how="left", validate="many_to_one")
    unmatched = rows.loc[rows["label"].isna(), "image_id"]
    rows = rows[rows["label"].notna()]
    num_labels_repeated = int((rows["image_id"].value_counts() > 1).sum())
    rows, num_repeated, num_ambiguous = _one_row_per_image(rows)

    lesions = _lesions(split, groups=groups)
    rows = rows.assign(group=lesions.reindex(rows["image_id"]).to_numpy())
    was_trained, shares_lesion = _seen_in_training(rows, split=split, lesions=lesions)
    evaluated = rows.loc[~was_trained & ~shares_lesion, ["image_id", "label", "group", *SCORES, "p_value"]]
    evaluated = evaluated.sort_values("image_id").reset_index(drop=True)

    validated = split.loc[split["split"] == "validation", "image_id"]
    labels_unmatched = labels.loc[~labels["image_id"].isin(scores["image_id"]), "image_id"]
    return LabelJoin(
        evaluated=evaluated,
        num_evaluated_by_class={str(k): int(v) for k, v in evaluated["label"].value_counts().items()},
        normal=order_classes(normal),
        num_rows=len(scores),
        num_rejected={str(k): int(v) for k, v in scores.loc[~is_ok, "status"].value_counts().items()},
        num_unmatched=len(unmatched),
        unmatched_examples=_examples(unmatched),
        num_labels=len(labels),
        num_labels_unmatched=len(labels_unmatched),
        labels_unmatched_examples=_examples(labels_unmatched),
        num_labels_repeated=num_labels_repeated,
        num_repeated=num_repeated,
        num_ambiguous=num_ambiguous,
        num_trained=int(was_trained.sum()),
        num_trained_lesion=int(shares_lesion.sum()),
        num_validation_normals=int((evaluated["label"].isin(normal) & evaluated["image_id"].isin(validated)).sum()),
        groups_known=not lesions.empty,
        num_without_lesion=_count_without_lesion(evaluated, normal=normal),
        absent_classes=order_classes(set(labels["label"]) - set(evaluated["label"])),
    )


def order_classes(names: Collection[str]) -> tuple[str, ...]:
    """The classes of ISIC 2018 in the order of their CSV, then all others by name."""
    names = set(names)
    return (*(name for name in CLASSES if name in names), *sorted(names - set(CLASSES)))


def check_normal(normal: Collection[str], *, classes: Collection[str]) -> None:
    """Raise LabelsError where none of the labels' `classes` is normal."""
    if not set(normal) & set(classes):
        raise LabelsError(
            f"no label is of the normal class {' or '.join(sorted(normal))}; "
            f"the classes are {', '.join(order_classes(classes))}"
        )


def check_named(normal: Collection[str], *, classes: Collection[str], origin: str) -> None:
    """Raise LabelsError where a class that was called normal is none of the labels' `classes`."""
    if unknown := sorted(set(normal) - set(classes)):
        raise LabelsError(
            f"'{origin}' has no image of class {', '.join(unknown)}: there are {', '.join(order_classes(classes))}"
        )


def _scored_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Return image_id and the scores of rows whose status is ok; that they are finite is the table's promise."""
    if not np.isfinite(rows[list(SCORES)].to_numpy(dtype=float)).all():
        raise ValueError("a row with status ok holds a score that is null or not finite")
    return rows[["image_id", "precision", *SCORES, "p_value"]]


def _seen_in_training(
    rows: pd.DataFrame, *, split: pd.DataFrame, lesions: pd.Series[str]
) -> tuple[pd.Series[bool], pd.Series[bool]]:
    """Return masks over `rows`: the image itself was trained on; only another image of its lesion was."""
    trained = split[split["split"] == "train"]
    # Both sources, should the groups file and the split name a lesion differently.
    trained_lesions = set(trained["group"].dropna()) | set(lesions.reindex(trained["image_id"]).dropna())
    was_trained = rows["image_id"].isin(trained["image_id"])
    return was_trained, rows["group"].isin(trained_lesions) & ~was_trained


def _one_row_per_image(rows: pd.DataFrame) -> tuple[pd.DataFrame, int, int]:
    """Return one row per image_id, the number of repetitions and the number of rows that contradict each other."""
    low, high = (rows.groupby("image_id")[list(SCORES)].agg(how) for how in ("min", "max"))
    scale = np.maximum(1.0, np.maximum(low.abs(), high.abs()))
    is_short = rows["precision"].isin(["bfloat16", "tf32"]).groupby(rows["image_id"]).any()
    tolerance = np.where(is_short.reindex(low.index), SAME_SHORT_SCORE_TOLERANCE, SAME_SCORE_TOLERANCE)
    agrees = ((high - low) <= tolerance[:, None] * scale).all(axis=1)
    is_ambiguous = ~rows["image_id"].isin(agrees.index[agrees.to_numpy()])
    # Sorted, so that the row kept does not depend on the order in which the table's files were read.
    agreeing = rows[~is_ambiguous].sort_values(["image_id", *SCORES, "p_value"], kind="stable")
    kept = agreeing.drop_duplicates("image_id")
    return kept, len(agreeing) - len(kept), int(is_ambiguous.sum())


def _lesions(split: pd.DataFrame, *, groups: pd.Series[str] | None) -> pd.Series[str]:
    """Lesion by image_id: from the groups file, else from the split."""
    own: pd.Series[str] = split.drop_duplicates("image_id").set_index("image_id")["group"].dropna().astype(object)
    if groups is None:
        return own
    known: pd.Series[str] = pd.concat([groups.astype(object), own[~own.index.isin(groups.index)]])
    return known


def _count_without_lesion(evaluated: pd.DataFrame, *, normal: Collection[str]) -> dict[str, int]:
    is_alone, is_normal = evaluated["group"].isna(), evaluated["label"].isin(normal)
    return {side: int((is_alone & mask).sum()) for side, mask in zip(SIDES, (is_normal, ~is_normal), strict=True)}


def _examples(image_ids: pd.Series[str]) -> tuple[str, ...]:
    return tuple(str(image_id) for image_id in sorted(image_ids.unique())[:NUM_EXAMPLES])
