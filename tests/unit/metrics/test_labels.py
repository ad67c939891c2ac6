"""Both published formats give the same labels; a wrong row is named, not guessed at."""

from __future__ import annotations

import io

import pandas as pd
import pytest

from skinvae.errors import LabelsError
from skinvae.metrics.labels import parse_groups, parse_label_parts, parse_labels, parse_metadata

ONE_HOT = """image,MEL,NV,BCC,AKIEC,BKL,DF,VASC
ISIC_1,0.0,1.0,0.0,0.0,0.0,0.0,0.0
ISIC_2,1.0,0.0,0.0,0.0,0.0,0.0,0.0
ISIC_3,0.0,0.0,0.0,0.0,0.0,0.0,1.0
"""
METADATA = """lesion_id,image_id,dx,dx_type,age,sex,localization
HAM_7,ISIC_1,nv,follow_up,45.0,male,trunk
HAM_8,ISIC_2,mel,histo,,female,back
HAM_8,ISIC_3,vasc,histo,50.0,male,back
"""


def frame(text: str) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(text))


def test_both_formats_agree():
    one_hot = parse_labels(frame(ONE_HOT), origin="gt.csv")
    pd.testing.assert_frame_equal(one_hot, parse_labels(frame(METADATA), origin="meta.csv"))
    assert one_hot.to_numpy().tolist() == [["ISIC_1", "NV"], ["ISIC_2", "MEL"], ["ISIC_3", "VASC"]]


def test_custom_one_hot_classes_and_integer_marks():
    labels = parse_labels(frame("image,scar,tattoo,site\na,1,0,arm\nb,0,1,leg\n"), origin="x")
    assert labels["label"].tolist() == ["scar", "tattoo"]


@pytest.mark.parametrize(
    ("row", "found"),
    [("ISIC_9,0,0,0,0,0,0,0", "NV=0"), ("ISIC_9,1,1,0,0,0,0,0", "NV=1"), ("ISIC_9,0,.5,.5,0,0,0,0", "BCC=0.5")],
)
def test_row_that_is_not_one_hot_is_named(row, found):
    with pytest.raises(LabelsError, match=r"gt\.csv, data row 4 \(image ISIC_9\)") as caught:
        parse_labels(frame(ONE_HOT + row + "\n"), origin="gt.csv")
    assert found in str(caught.value)


def test_word_in_a_known_class_is_reported_at_its_own_row():
    with pytest.raises(LabelsError, match=r"data row 2 \(image b\).*MEL=yes"):
        parse_labels(frame("image,MEL,NV\na,0,1\nb,yes,0\n"), origin="x")


def test_exact_duplicates_are_dropped_and_conflicts_refused():
    doubled = frame(ONE_HOT + "ISIC_1,0,1,0,0,0,0,0\n")
    assert len(parse_labels(doubled, origin="x")) == 3
    with pytest.raises(LabelsError, match=r"data row 4 \(image ISIC_1\): has several labels: NV, MEL"):
        parse_labels(frame(ONE_HOT + "ISIC_1,1,0,0,0,0,0,0\n"), origin="x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,NV\na,1\n", "no column 'image' or 'image_id'"),
        ("image,site\na,arm\n", "neither a column 'dx' nor numeric class columns"),
        ("image,NV\n", "holds no rows"),
        ("image,NV,MEL\n,1,0\n", "data row 1: the image id"),
        ("image_id,dx\na,nv\nb,\n", r"data row 2 \(image b\): column 'dx' is empty"),
    ],
)
def test_what_is_missing_is_said(text, message):
    with pytest.raises(LabelsError, match=message):
        parse_labels(frame(text), origin="x")


def test_groups_of_both_published_files():
    groups = parse_groups(frame(METADATA), origin="m")
    assert groups.to_dict() == {"ISIC_1": "HAM_7", "ISIC_2": "HAM_8", "ISIC_3": "HAM_8"}
    other = parse_groups(frame("image,lesion_id,diagnosis_confirm_type\nISIC_1,L1,x\nISIC_2,,x\n"), origin="g")
    assert other.to_dict() == {"ISIC_1": "L1"}


def test_groups_need_their_columns_and_one_lesion_per_image():
    with pytest.raises(LabelsError, match=r"gt\.csv has no column 'lesion_id'"):
        parse_groups(frame(ONE_HOT), origin="gt.csv")
    with pytest.raises(LabelsError, match="several groups: L1, L2"):
        parse_groups(frame("image,lesion_id\na,L1\na,L2\n"), origin="x")


def in_parts(text: str) -> pd.DataFrame:
    return pd.concat(parse_label_parts(pd.read_csv(io.StringIO(text), chunksize=2), origin="gt.csv"), ignore_index=True)


def test_parts_of_a_table_are_read_as_the_whole():
    """A column that is empty in one part, and one that is empty throughout, are no classes in either."""
    remarks = ["good", "", "", "", ""]
    lines = [f"I{row},{row % 2},{1 - row % 2},{remark}," for row, remark in enumerate(remarks)]
    text = "\n".join(["image,MEL,scar,remark,comment", *lines]) + "\n"
    pd.testing.assert_frame_equal(in_parts(text), parse_labels(frame(text), origin="gt.csv"))


@pytest.mark.parametrize("bad", ["I4,1,1", "I4,0,0", ",1,0", "I4,yes,0"])
def test_a_bad_row_of_a_later_part_has_its_number_in_the_file(bad: str):
    text = "\n".join(["image,MEL,NV", "I0,1,0", "I1,0,1", "I2,1,0", "I3,1,0", bad, "I5,0,1"]) + "\n"
    with pytest.raises(LabelsError) as whole:
        parse_labels(frame(text), origin="gt.csv")
    with pytest.raises(LabelsError) as parts:
        in_parts(text)
    assert "gt.csv, data row 5" in str(whole.value)
    assert str(parts.value).split(", found")[0] == str(whole.value).split(", found")[0]


def test_every_reader_counts_rows_from_the_start_of_the_file():
    part = pd.DataFrame({"image_id": ["a", "a"], "lesion_id": ["L1", "L2"], "dx": ["nv", None], "age": ["5", "old"]})
    for parse, row in ((parse_labels, 202), (parse_groups, 202), (parse_metadata, 202)):
        with pytest.raises(LabelsError, match=f"m.csv, data row {row}"):
            parse(part, origin="m.csv", first_row=200)


def test_no_part_at_all_is_refused():
    with pytest.raises(LabelsError, match=r"gt\.csv holds no rows"):
        list(parse_label_parts([], origin="gt.csv"))
