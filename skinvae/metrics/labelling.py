"""What is known of images by their ids: the label, whether it is a normal class, and the part in the training."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

LABEL_SCHEMA = pa.schema(
    [
        pa.field("label", pa.string(), metadata={"meaning": "the diagnosis, from the labels; null if they have none"}),
        pa.field(
            "is_normal", pa.bool_(), metadata={"meaning": "whether the label is a normal class; null without a label"}
        ),
        pa.field(
            "split",
            pa.string(),
            metadata={
                "meaning": "'train' (the weights saw the image), 'validation' (it chose the epoch), or null: by "
                "split.parquet of the model"
            },
        ),
    ]
)
"""The columns that `Labelling` adds."""


class Labelling:
    """Adds LABEL_SCHEMA to rows, piece by piece, and counts what did not match.

    `labels` is the frame of `parse_labels`, `split` has records.SPLIT_SCHEMA.
    """

    def __init__(self, labels: pd.DataFrame, *, normal: Collection[str], split: pd.DataFrame) -> None:
        self._labels = pd.Index(labels["image_id"])
        self._label_of = _texts(labels["label"])
        self._is_normal_of = pa.array(labels["label"].isin(normal).to_numpy(bool))
        # An image that was both, under one id in two archives, was seen by the weights.
        split = split.sort_values("split").drop_duplicates("image_id")
        self._split = pd.Index(split["image_id"])
        self._split_of = _texts(split["split"])
        self._is_matched = np.zeros(len(labels), bool)
        self.num_unmatched = 0
        """Rows so far whose image has no label."""

    @property
    def num_labels_unmatched(self) -> int:
        """Labels whose image was in no row so far."""
        return int((~self._is_matched).sum())

    def columns(self, image_ids: pd.Series[str]) -> list[pa.Array]:
        """One array for each column of LABEL_SCHEMA."""
        found = self._labels.get_indexer(image_ids)
        self._is_matched[found[found >= 0]] = True
        self.num_unmatched += int((found < 0).sum())
        in_split = self._split.get_indexer(image_ids)
        return [
            self._label_of.take(_or_null(found)),
            self._is_normal_of.take(_or_null(found)),
            self._split_of.take(_or_null(in_split)),
        ]


def _texts(column: pd.Series[str]) -> pa.Array:
    """In one piece, which what pandas read from Parquet may not be."""
    return pa.array(column.to_numpy(object), pa.string())


def _or_null(found: NDArray[np.intp]) -> pa.Array:
    """Positions, those that are -1 as null."""
    return pa.array(found, pa.int64(), mask=found < 0)
