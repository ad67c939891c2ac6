"""Labels and lesions of images, out of the tables in which the datasets publish them.

Frames come in as read from CSV, image ids as strings; `origin` names the file in messages, `first_row` the place of a
frame in it where frames are parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import pandas as pd

from skinvae.errors import LabelsError
from skinvae.metrics.strata import UNKNOWN, VARIABLES, age_band
from skinvae.records import CLASSES

_ID_COLUMNS = ("image_id", "image")
_DIAGNOSIS_COLUMN = "dx"
_LESION_COLUMN = "lesion_id"


def parse_labels(
    frame: pd.DataFrame, *, origin: str, first_row: int = 0, class_columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """Return the columns image_id and label, one row per image, in the order of their first appearance.

    Reads HAM10000_metadata.csv (a column `dx`; its codes become upper case, so 'nv' is 'NV') and one-hot tables like
    ISIC 2018's ground truth (`image`, then one column per class; every numeric column is a class, custom ones too,
    unless `class_columns` say which are). Raises LabelsError, naming origin, row and image, where a row states no
    class, several, or contradicts another row.
    """
    image_id = _image_ids(frame, origin=origin, first_row=first_row)
    if _DIAGNOSIS_COLUMN in frame.columns:
        label = _diagnoses(frame, image_id=image_id, origin=origin, first_row=first_row)
    else:
        columns = find_class_columns(frame) if class_columns is None else class_columns
        label = _one_hot_classes(frame, image_id=image_id, columns=columns, origin=origin, first_row=first_row)
    rows = pd.DataFrame({"image_id": image_id, "label": label})
    return _one_row_per_image(rows, value="label", origin=origin, first_row=first_row)


def parse_label_parts(frames: Iterable[pd.DataFrame], *, origin: str) -> Iterator[pd.DataFrame]:
    """`parse_labels` of each part of one table; the first part says which columns are classes."""
    columns: list[str] | None = None
    for first_row, frame in number_rows(frames, origin=origin):
        columns = find_class_columns(frame) if columns is None else columns
        yield parse_labels(frame, origin=origin, first_row=first_row, class_columns=columns)


def number_rows(frames: Iterable[pd.DataFrame], *, origin: str) -> Iterator[tuple[int, pd.DataFrame]]:
    """Each part of one table with the number of rows before it. Raises LabelsError where there is none."""
    first_row, num_frames = 0, 0
    for frame in frames:
        yield first_row, frame
        first_row, num_frames = first_row + len(frame), num_frames + 1
    if not num_frames:
        raise LabelsError(f"{origin} holds no rows")


def find_class_columns(frame: pd.DataFrame) -> list[str]:
    """The columns of a one-hot table that are classes: numbers, but not a column that is empty throughout."""
    # A class of ISIC 2018 counts even if a stray word made its column text: the row that holds the word is reported.
    return [
        name
        for name in frame.columns
        if name not in _ID_COLUMNS
        and (name in CLASSES or (pd.api.types.is_numeric_dtype(frame[name]) and frame[name].notna().any()))
    ]


def parse_groups(frame: pd.DataFrame, *, origin: str, first_row: int = 0) -> pd.Series[str]:
    """Return the lesion of every image that has one: lesion ids, indexed by image_id.

    Reads HAM10000_metadata.csv and ISIC2018_Task3_Training_LesionGroupings.csv.
    Raises LabelsError where a column is missing or an image is said to show two lesions.
    """
    if _LESION_COLUMN not in frame.columns:
        raise LabelsError(
            f"{origin} has no column '{_LESION_COLUMN}', so it cannot say which images show the same lesion; "
            f"its columns are {_listed(frame.columns)}"
        )
    image_id = _image_ids(frame, origin=origin, first_row=first_row)
    rows = pd.DataFrame({"image_id": image_id, "group": frame[_LESION_COLUMN].to_numpy()})
    rows = rows[rows["group"].notna()].astype({"group": str})
    return _one_row_per_image(rows, value="group", origin=origin, first_row=first_row).set_index("image_id")["group"]


def parse_metadata(frame: pd.DataFrame, *, origin: str, first_row: int = 0) -> pd.DataFrame:
    """Return those of VARIABLES that the metadata have, as text, age in bands, indexed by image_id.

    Reads HAM10000_metadata.csv. Raises LabelsError where it has none of these columns, an age is no number, or an image
    is described in two ways.
    """
    found = [name for name in VARIABLES if name in frame.columns]
    if not found:
        raise LabelsError(
            f"{origin} has none of the columns {', '.join(VARIABLES)} to tell images apart by; "
            f"its columns are {_listed(frame.columns)}"
        )
    rows = pd.DataFrame({"image_id": _image_ids(frame, origin=origin, first_row=first_row)})
    for name in found:
        values = frame[name].reset_index(drop=True)
        rows[name] = age_band(_ages(values, origin=origin, first_row=first_row)) if name == "age" else _kinds(values)
    distinct = rows.drop_duplicates()
    repeated = distinct["image_id"].duplicated()
    if repeated.any():
        image = distinct.loc[repeated, "image_id"].iloc[0]
        raise LabelsError(f"{origin} describes the image {image} in several ways: keep one row for it")
    return distinct.set_index("image_id")


def _ages(values: pd.Series[str], *, origin: str, first_row: int) -> pd.Series[float]:
    ages = pd.to_numeric(values, errors="coerce")
    bad = ages.isna() & values.notna() & (_kinds(values) != UNKNOWN)
    if bad.any():
        row = _first(bad)
        raise LabelsError(f"{origin}, data row {first_row + row + 1}: the age '{values[row]}' is no number")
    return ages.astype(float)


def _kinds(values: pd.Series[str]) -> pd.Series[str]:
    text = values.astype(object).where(values.notna(), UNKNOWN).astype(str).str.strip()
    return text.where(text != "", UNKNOWN)


def _image_ids(frame: pd.DataFrame, *, origin: str, first_row: int) -> pd.Series[str]:
    column = next((name for name in _ID_COLUMNS if name in frame.columns), None)
    if column is None:
        raise LabelsError(
            f"{origin} has no column 'image' or 'image_id'; expected image,MEL,NV,... one-hot or image_id,dx, "
            f"found {_listed(frame.columns)}"
        )
    if frame.empty:
        raise LabelsError(f"{origin} holds no rows")
    values = frame[column].reset_index(drop=True)
    empty = values.isna() | (values.astype(str).str.strip() == "")
    if empty.any():
        row = first_row + _first(empty) + 1
        raise LabelsError(f"{origin}, data row {row}: the image id in column '{column}' is empty")
    return values.astype(str).str.strip().rename("image_id")


def _diagnoses(frame: pd.DataFrame, *, image_id: pd.Series[str], origin: str, first_row: int) -> pd.Series[str]:
    codes = frame[_DIAGNOSIS_COLUMN].reset_index(drop=True)
    empty = codes.isna() | (codes.astype(str).str.strip() == "")
    if empty.any():
        row = _first(empty)
        raise LabelsError(
            f"{origin}, data row {first_row + row + 1} (image {image_id[row]}): column '{_DIAGNOSIS_COLUMN}' is empty"
        )
    return codes.astype(str).str.strip().str.upper()


def _one_hot_classes(
    frame: pd.DataFrame, *, image_id: pd.Series[str], columns: Sequence[str], origin: str, first_row: int
) -> pd.Series[str]:
    if not columns:
        raise LabelsError(
            f"{origin} has neither a column '{_DIAGNOSIS_COLUMN}' nor numeric class columns; "
            f"its columns are {_listed(frame.columns)}"
        )
    marks = frame[list(columns)].apply(pd.to_numeric, errors="coerce").astype(float).reset_index(drop=True)
    bad = ~(marks.isin([0.0, 1.0]).all(axis=1) & (marks.sum(axis=1) == 1.0))
    if bad.any():
        row = _first(bad)
        found = ", ".join(f"{name}={frame[name].iloc[row]}" for name in columns)
        raise LabelsError(
            f"{origin}, data row {first_row + row + 1} (image {image_id[row]}): exactly one class must be 1 and all "
            f"others 0, found {found}"
        )
    label: pd.Series[str] = marks.idxmax(axis=1).astype(str)
    return label


def _one_row_per_image(rows: pd.DataFrame, *, value: str, origin: str, first_row: int) -> pd.DataFrame:
    """Drop exact repetitions; refuse an image with two different values."""
    distinct = rows.drop_duplicates(["image_id", value])
    conflict = distinct["image_id"].duplicated()
    if conflict.any():
        row = int(distinct.index[conflict.to_numpy()][0])
        image = distinct["image_id"].loc[row]
        values = distinct.loc[distinct["image_id"] == image, value]
        place = f"{origin}, data row {first_row + row + 1} (image {image})"
        raise LabelsError(f"{place}: has several {value}s: {', '.join(values)}")
    return distinct.reset_index(drop=True)


def _first(mask: pd.Series[bool]) -> int:
    return int(mask.to_numpy().argmax())


def _listed(names: pd.Index) -> str:
    return ", ".join(map(str, names)) or "none"
