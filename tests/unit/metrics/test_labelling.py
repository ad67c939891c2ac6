"""Rows get the label, normality and split of their image, however they are cut into pieces."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from skinvae.metrics.labelling import LABEL_SCHEMA, Labelling

LABELS = pd.DataFrame({"image_id": ["a", "b", "c"], "label": ["NV", "MEL", "DF"]})
SPLIT = pd.DataFrame({"image_id": ["a", "d", "a"], "group": None, "split": ["validation", "validation", "train"]})
EXPECTED = {
    "a": ("NV", True, "train"),
    "b": ("MEL", False, None),
    "c": ("DF", False, None),
    "d": (None, None, "validation"),
    "e": (None, None, None),
}


@given(pieces=st.lists(st.lists(st.sampled_from(sorted(EXPECTED)))))
def test_each_row_by_its_image(pieces: list[list[str]]) -> None:
    labelling = Labelling(LABELS, normal=["NV"], split=SPLIT)
    for piece in pieces:
        columns = labelling.columns(pd.Series(piece, dtype=object))
        rows = pa.RecordBatch.from_arrays(columns, schema=LABEL_SCHEMA).to_pylist()
        assert [tuple(row.values()) for row in rows] == [EXPECTED[image_id] for image_id in piece]
    seen = [image_id for piece in pieces for image_id in piece]
    assert labelling.num_unmatched == sum(image_id in "de" for image_id in seen)
    assert labelling.num_labels_unmatched == len({"a", "b", "c"} - set(seen))


def test_columns_of_several_chunks_are_labels_too() -> None:
    """As pandas has them of a Parquet file of several row groups."""
    halves = pa.chunked_array([["NV", "MEL"], ["DF"]])
    labels = LABELS.assign(label=pd.Series(halves, dtype="str"))
    columns = Labelling(labels, normal=["NV"], split=SPLIT).columns(pd.Series(["c", "a"]))
    assert pa.RecordBatch.from_arrays(columns, schema=LABEL_SCHEMA).to_pydict()["label"] == ["DF", "NV"]
