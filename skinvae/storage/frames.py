"""Labels and lesion tables as data frames, from wherever they lie."""

from __future__ import annotations

import io
import zipfile

import pandas as pd

from skinvae.errors import LabelsError
from skinvae.storage.filesystem import Location


def read_csv(location: Location) -> pd.DataFrame:
    """A CSV file with a header line, or a zip with one CSV in it, as ISIC publishes its labels.

    Ids stay as they are written. Raises LabelsError if it is neither.
    """
    data = location.read_bytes()
    if data.startswith(b"PK"):
        data = _only_csv(data, location)
    try:
        # Ids may look like numbers; only true numbers, as in one-hot columns, become ones.
        return pd.read_csv(io.BytesIO(data), dtype=dict.fromkeys(("image", "image_id", "lesion_id"), str))
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise LabelsError(f"'{location}' is no CSV file with a header line: {error}") from error


def _only_csv(data: bytes, location: Location) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = [name for name in archive.namelist() if name.lower().endswith(".csv") and "__MACOSX" not in name]
            if len(names) != 1:
                raise LabelsError(f"'{location}' holds {len(names)} CSV files: give the one that is meant")
            return archive.read(names[0])
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise LabelsError(f"'{location}' is a zip that cannot be read ({error}): unpack it and give the CSV") from error
