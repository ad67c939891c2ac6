"""Labels and lesions of images, out of the tables in which the datasets publish them.

Frames come in as read from CSV, image ids as strings; `origin` names the file in messages.
"""

from __future__ import annotations

import pandas as pd

from skinvae.errors import LabelsError
from skinvae.metrics.strata import UNKNOWN, VARIABLES, age_band
from skinvae.records import CLASSES

_ID_COLUMNS = ("image_id", "image")
_DIAGNOSIS_COLUMN = "dx"
_LESION_COLUMN = "lesion_id"


def parse_labels(frame: pd.DataFrame, *, origin: str) -> pd.DataFrame:
    """Return the columns image_id and label, one row per image, in the order of their first appearance.

    Reads HAM10000_metadata.csv (a column `dx`; its codes become upper case, so 'nv' is 'NV') and one-hot tables like
    ISIC 2018's ground truth (`image`, then one column per class; every numeric column is a class, custom ones too).
    Raises LabelsError, naming origin, row and image, where a row states no class, several, or contradicts another row.
    """
    image_id = _image_ids(frame, origin=origin)
    label = (
        _diagnoses(frame, origin=origin)
        if _DIAGNOSIS_COLUMN in frame.columns
        else _one_hot_classes(frame, image_id=image_id, origin=origin)
    )
    return _one_row_per_image(pd.DataFrame({"image_id": image_id, "label": label}), value="label", origin=origin)


def parse_groups(frame: pd.DataFrame, *, origin: str) -> pd.Series[str]:
    """Return the lesion of every image that has one: lesion ids, indexed by image_id.

    Reads HAM10000_metadata.csv and ISIC2018_Task3_Training_LesionGroupings.csv.
    Raises LabelsError where a column is missing or an image is said to show two lesions.
    """
    if _LESION_COLUMN not in frame.columns:
        raise LabelsError(
            f"{origin} has no column '{_LESION_COLUMN}', so it cannot say which images show the same lesion; "
            f"its columns are {_listed(frame.columns)}"
        )
    rows = pd.DataFrame({"image_id": _image_ids(frame, origin=origin), "group": frame[_LESION_COLUMN].to_numpy()})
    rows = rows[rows["group"].notna()].astype({"group": str})
    return _one_row_per_image(rows, value="group", origin=origin).set_index("image_id")["group"]


def parse_metadata(frame: pd.DataFrame, *, origin: str) -> pd.DataFrame:
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
    rows = pd.DataFrame({"image_id": _image_ids(frame, origin=origin)})
    for name in found:
        values = frame[name].reset_index(drop=True)
        rows[name] = age_band(_ages(values, origin=origin)) if name == "age" else _kinds(values)
    distinct = rows.drop_duplicates()
    repeated = distinct["image_id"].duplicated()
    if repeated.any():
        image = distinct.loc[repeated, "image_id"].iloc[0]
        raise LabelsError(f"{origin} describes the image {image} in several ways: keep one row for it")
    return distinct.set_index("image_id")


def _ages(values: pd.Series[str], *, origin: str) -> pd.Series[float]:
    ages = pd.to_numeric(values, errors="coerce")
    bad = ages.isna() & values.notna() & (_kinds(values) != UNKNOWN)
    if bad.any():
        raise LabelsError(f"{origin}, data row {_first(bad) + 1}: the age '{values[_first(bad)]}' is no number")
    return ages.astype(float)


def _kinds(values: pd.Series[str]) -> pd.Series[str]:
    text = values.astype(object).where(values.notna(), UNKNOWN).astype(str).str.strip()
    return text.where(text != "", UNKNOWN)


def _image_ids(frame: pd.DataFrame, *, origin: str) -> pd.Series[str]:
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
        raise LabelsError(f"{origin}, data row {_first(empty) + 1}: the image id in column '{column}' is empty")
    return values.astype(str).str.strip().rename("image_id")


def _diagnoses(frame: pd.DataFrame, *, origin: str) -> pd.Series[str]:
    codes = frame[_DIAGNOSIS_COLUMN].reset_index(drop=True)
    empty = codes.isna() | (codes.astype(str).str.strip() == "")
    if empty.any():
        row = _first(empty)
        image = frame[next(name for name in _ID_COLUMNS if name in frame.columns)].iloc[row]
        raise LabelsError(f"{origin}, data row {row + 1} (image {image}): column '{_DIAGNOSIS_COLUMN}' is empty")
    return codes.astype(str).str.strip().str.upper()


def _one_hot_classes(frame: pd.DataFrame, *, image_id: pd.Series[str], origin: str) -> pd.Series[str]:
    # A class of ISIC 2018 counts even if a stray word made its column text: the row that holds the word is reported.
    names = [
        name
        for name in frame.columns
        if name not in _ID_COLUMNS and (name in CLASSES or pd.api.types.is_numeric_dtype(frame[name]))
    ]
    if not names:
        raise LabelsError(
            f"{origin} has neither a column '{_DIAGNOSIS_COLUMN}' nor numeric class columns; "
            f"its columns are {_listed(frame.columns)}"
        )
    marks = frame[names].apply(pd.to_numeric, errors="coerce").astype(float).reset_index(drop=True)
    bad = ~(marks.isin([0.0, 1.0]).all(axis=1) & (marks.sum(axis=1) == 1.0))
    if bad.any():
        row = _first(bad)
        found = ", ".join(f"{name}={frame[name].iloc[row]}" for name in names)
        raise LabelsError(
            f"{origin}, data row {row + 1} (image {image_id[row]}): exactly one class must be 1 and all others 0, "
            f"found {found}"
        )
    label: pd.Series[str] = marks.idxmax(axis=1).astype(str)
    return label


def _one_row_per_image(rows: pd.DataFrame, *, value: str, origin: str) -> pd.DataFrame:
    """Drop exact repetitions; refuse an image with two different values."""
    distinct = rows.drop_duplicates(["image_id", value])
    conflict = distinct["image_id"].duplicated()
    if conflict.any():
        row = int(distinct.index[conflict.to_numpy()][0])
        image = distinct["image_id"].loc[row]
        values = distinct.loc[distinct["image_id"] == image, value]
        raise LabelsError(f"{origin}, data row {row + 1} (image {image}): has several {value}s: {', '.join(values)}")
    return distinct.reset_index(drop=True)


def _first(mask: pd.Series[bool]) -> int:
    return int(mask.to_numpy().argmax())


def _listed(names: pd.Index) -> str:
    return ", ".join(map(str, names)) or "none"
